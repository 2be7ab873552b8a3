import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { TelemetryLink, type TelemetryLinkOptions } from './telemetry-link.ts';

beforeEach(() => { vi.useFakeTimers(); });
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

it('a site that gets its power back does not close its windows in step: each device keeps a step of its own', () => {
  const state = { config: { telemetryWindowS: 60 } } as unknown as TelemetryLinkOptions['state'];
  const closed = Array.from({ length: 200 }, (): number[] => []);
  const start = Date.now();
  const links = closed.map((at) => new TelemetryLink({ state, closeWindows: () => at.push((Date.now() - start) / 1_000) } as unknown as TelemetryLinkOptions));
  for (const link of links) link.openWindows();
  vi.advanceTimersByTime(180_000);

  for (let minute = 0; minute < 3; minute += 1) {
    for (let quarter = 0; quarter < 4; quarter += 1) {
      const [from, to] = [60 * minute + 15 * quarter, 60 * minute + 15 * (quarter + 1)];
      // Fewer than 20 of 200 where 50 are due: less than once in 10^8 by chance.
      expect(closed.filter((at) => at.some((s) => s >= from && s < to)).length, `from ${from} to ${to} s`).toBeGreaterThan(20);
    }
  }
  for (const at of closed) expect(at.slice(1).map((s, index) => Math.round(s - at[index]!))).toEqual(Array.from({ length: at.length - 1 }, () => 60));

  for (const link of links) link.stop();
  const before = closed.flat().length;
  vi.advanceTimersByTime(180_000);
  expect(closed.flat().length).toBe(before);
});

it('another length of window begins at once, and only then', () => {
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  const config = { telemetryWindowS: 60 };
  let closed = 0;
  const link = new TelemetryLink({ state: { config }, closeWindows: () => { closed += 1; } } as unknown as TelemetryLinkOptions);
  link.openWindows();
  vi.advanceTimersByTime(600_000);
  expect(closed).toBe(10);
  link.openWindows();
  vi.advanceTimersByTime(60_000);
  expect(closed).toBe(11);
  config.telemetryWindowS = 1;
  link.openWindows();
  vi.advanceTimersByTime(10_000);
  expect(closed).toBe(21);
  link.stop();
});
