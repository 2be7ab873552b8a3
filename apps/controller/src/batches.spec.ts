import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { Batches } from './batches.ts';

const gone = () => Object.assign(new Error('terminating connection'), { code: '57P01' });

function opened(store: (batch: number[]) => Promise<unknown>, most = 3) {
  const stop = new AbortController();
  return { stop, batches: new Batches(store, { most, waitMs: 1, signal: stop.signal }) };
}

it('stores one batch at a time, in the order of arrival, none larger than allowed; each caller waits for its own', async () => {
  const stored: number[][] = [];
  let busy = 0;
  const { batches } = opened(async (batch) => {
    expect(++busy).toBe(1);
    await sleep(2);
    stored.push(batch);
    busy -= 1;
  });
  const done: number[] = [];
  await Promise.all([1, 2, 3, 4, 5, 6, 7].map(async (n) => { await batches.add(n); done.push(n); }));
  expect(stored.flat()).toEqual([1, 2, 3, 4, 5, 6, 7]);
  expect(Math.max(...stored.map(({ length }) => length))).toBe(3);
  expect(done).toEqual([1, 2, 3, 4, 5, 6, 7]);
});

it('keeps the order over a database that goes away meanwhile', async () => {
  const stored: number[] = [];
  let failures = 2;
  const { batches } = opened(async (batch) => {
    if (failures-- > 0) throw gone();
    stored.push(...batch);
  });
  const first = batches.add(1);
  await sleep(10);
  const second = batches.add(2);
  await Promise.all([first, second]);
  expect(stored).toEqual([1, 2]);
});

it('one that cannot be stored fails alone', async () => {
  const stored: number[] = [];
  const { batches } = opened(async (batch) => {
    if (batch.includes(2)) throw new Error('no such value');
    stored.push(...batch);
  });
  const settled = await Promise.allSettled([1, 2, 3].map((n) => batches.add(n)));
  expect(settled.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
  expect(stored).toEqual([1, 3]);
});

it('does not wait for the database when it is to stop', async () => {
  const { batches, stop } = opened(async () => { throw gone(); });
  const adding = batches.add(1);
  adding.catch(() => {});
  await sleep(20);
  stop.abort();
  await expect(adding).rejects.toThrow('terminating');
});
