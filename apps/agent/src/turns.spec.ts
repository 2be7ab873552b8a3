import { expect, it } from 'vitest';
import { Turns } from './turns.ts';

const never = new AbortController().signal;

it('turns go in the order asked, one at a time', async () => {
  const turns = new Turns();
  const seen: number[] = [];
  let inside = 0;
  await Promise.all(Array.from({ length: 20 }, async (_, number) => {
    const over = await turns.take(never);
    expect(inside += 1).toBe(1);
    await new Promise((resolve) => { setTimeout(resolve, number % 3); });
    seen.push(number);
    inside -= 1;
    over();
  }));
  expect(seen).toEqual(Array.from({ length: 20 }, (_, number) => number));
});

it('who leaves the line does not hold it up, and gets no turn', async () => {
  const turns = new Turns();
  const first = await turns.take(never);
  const impatient = new AbortController();
  const second = turns.take(impatient.signal);
  const third = turns.take(never);
  impatient.abort(new Error('enough'));
  await expect(second).rejects.toThrow('enough');
  first();
  (await third)();
  await expect(turns.take(AbortSignal.abort(new Error('late')))).rejects.toThrow('late');
  (await turns.take(never))();
  expect(turns.waiting).toBe(0);
});

it('as many at once as are allowed, and fewer again when it is narrowed', async () => {
  const turns = new Turns();
  turns.allow(2);
  const [first, second] = [await turns.take(never), await turns.take(never)];
  const begun: number[] = [];
  const others = [3, 4].map(async (number) => {
    const over = await turns.take(never);
    begun.push(number);
    return over;
  });
  turns.allow(1);
  first();
  await Promise.resolve();
  expect([begun, turns.waiting]).toEqual([[], 2]);
  second();
  (await others[0]!)();
  (await others[1]!)();
  expect(begun).toEqual([3, 4]);
  const waits = [await turns.take(never), turns.take(never)] as const;
  turns.allow(2);
  (await waits[1])();
  waits[0]();
});
