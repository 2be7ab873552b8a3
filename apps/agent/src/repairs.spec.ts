import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Repairs } from './repairs.ts';

beforeEach(() => { vi.useFakeTimers(); });
afterEach(() => { vi.useRealTimers(); });

it('what is mended before anybody could be told is still said, for a moment', () => {
  const poke = vi.fn();
  const repairs = new Repairs(poke);
  repairs.met('classifier');
  expect([[...repairs.workloads], [...repairs.due]]).toEqual([['classifier'], ['classifier']]);
  repairs.mended('classifier');
  expect([[...repairs.workloads], [...repairs.due]]).toEqual([['classifier'], []]);
  poke.mockClear();
  vi.advanceTimersByTime(3_000);
  expect([...repairs.workloads]).toEqual([]);
  expect(poke).toHaveBeenCalledOnce();
  // Nothing was damaged, so nothing is said.
  repairs.mended('classifier');
  expect([...repairs.workloads]).toEqual([]);
});

it('damage that comes back at once is mended again, and a stop leaves no timer', () => {
  const repairs = new Repairs(() => {}, { firstMs: 10, maxMs: 10 });
  repairs.met('classifier');
  repairs.mended('classifier');
  repairs.met('classifier');
  expect([...repairs.due]).toEqual(['classifier']);
  expect(repairs.failed('classifier')).toBe(1);
  expect([...repairs.due]).toEqual([]);
  repairs.stop();
  expect(vi.getTimerCount()).toBe(0);
});
