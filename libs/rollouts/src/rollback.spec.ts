import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { longestBackS, rollbackPlan, tellNow, type RollbackCounts } from './rollback.ts';

const counts = (some: Partial<RollbackCounts>): RollbackCounts => ({ pending: 0, open: 0, done: 0, failed: 0, unanswered: 0, ...some });

describe('how many are told to go back now', () => {
  it.each<[string, object, Partial<RollbackCounts>, number]>([
    ['a small set all at once', {}, { pending: 30 }, 30],
    ['a big one as many as may be on the way', {}, { pending: 2_000 }, 500],
    ['and one more for each that is back', {}, { pending: 1_500, open: 480, done: 15, unanswered: 5 }, 20],
    ['none while as many are on the way', { maxInProgress: 10 }, { pending: 5, open: 10 }, 0],
    ['the first wave', { waves: [{ count: 1 }, { percent: 50 }] }, { pending: 10 }, 1],
    ['no second wave before the first is back', { waves: [{ count: 1 }, { percent: 50 }] }, { pending: 9, open: 1 }, 0],
    ['the second one, cumulative', { waves: [{ count: 1 }, { percent: 50 }] }, { pending: 9, done: 1 }, 4],
    ['it opens after devices that failed or never answered, too', { waves: [{ count: 1 }, { percent: 50 }] }, { pending: 9, unanswered: 1 }, 4],
    ['whoever is left is the last wave', { waves: [{ count: 1 }, { percent: 50 }] }, { pending: 5, done: 5 }, 5],
    ['a wave of more than may be on the way goes on as they come back', { maxInProgress: 2, waves: [{ percent: 50 }] }, { pending: 7, open: 1, done: 2 }, 1],
    ['nobody is left', {}, { done: 5 }, 0],
  ])('%s', (_what, plan, state, expected) => expect(tellNow(rollbackPlan.parse(plan), counts(state))).toBe(expected));

  it('always ends, within the stated time, and never with more on the way than may be', () => {
    fc.assert(fc.property(
      fc.record({ maxInProgress: fc.integer({ min: 1, max: 40 }), waves: fc.option(fc.array(fc.oneof(fc.record({ percent: fc.integer({ min: 1, max: 100 }) }), fc.record({ count: fc.integer({ min: 1, max: 30 }) })), { minLength: 1, maxLength: 4 }), { nil: undefined }) }),
      fc.integer({ min: 0, max: 200 }), fc.infiniteStream(fc.integer({ min: 1, max: 60 })),
      (some, devices, answers) => {
        const plan = rollbackPlan.parse(some);
        const now = counts({ pending: devices });
        for (let step = 0; now.pending + now.open > 0; step += 1) {
          const told = tellNow(plan, now);
          now.pending -= told;
          now.open += told;
          if (now.open > plan.maxInProgress || (told === 0 && now.open === 0) || step > 2_000) return false;
          const back = Math.min(now.open, answers.next().value!);
          now.open -= back;
          now.done += back;
        }
        return now.done === devices && longestBackS(plan, devices, 60) >= 60 * Math.ceil(devices / plan.maxInProgress);
      },
    ), { numRuns: 300 });
  });
});

it('a wave has one size; the longest time counts the batches', () => {
  expect(rollbackPlan.safeParse({ waves: [{ percent: 10, count: 1 }] }).success).toBe(false);
  expect(longestBackS(rollbackPlan.parse({}), 500, 300)).toBe(300);
  expect(longestBackS(rollbackPlan.parse({}), 501, 300)).toBe(600);
  expect(longestBackS(rollbackPlan.parse({ waves: [{ count: 1 }, { percent: 50 }] }), 10, 300)).toBe(900);
});
