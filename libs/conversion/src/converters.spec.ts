import { describe, expect, it } from 'vitest';
import { ReefError } from '@reefkeeper/platform/errors';
import { better, flawOf, type Attempt } from './converters.ts';

const output = {} as NonNullable<Attempt['output']>;
const one = (about: Partial<Attempt>): Attempt => ({ converter: 'tf2.21', output, cpuOps: 0, agreement: 1, disagrees: null, ...about });
const error = new ReefError('convert.failed', 'invalid', 'no');

describe('of two converters', () => {
  it.each<[string, Partial<Attempt>, string | null]>([
    ['a fully mapped result that agrees', {}, null],
    ['no result', { error }, 'no'],
    ['operators on the CPU', { cpuOps: 2 }, '2 operator(s) stay on the CPU'],
    ['a comparison that would refuse it', { disagrees: 'agreement 0.5' }, 'agreement 0.5'],
    ['a result that was not measured', { cpuOps: undefined as never, disagrees: undefined as never }, null],
  ])('%s: what is worth another try', (_what, about, flaw) => expect(flawOf(one(about))).toBe(flaw));

  it.each<[string, Partial<Attempt>, Partial<Attempt>]>([
    ['a result before none', { cpuOps: 40, disagrees: 'x' }, { output: undefined as never, error }],
    ['one that agrees before one that is fully mapped', { cpuOps: 3 }, { disagrees: 'x' }],
    ['less on the CPU before a little more agreement', { agreement: 0.97 }, { cpuOps: 2, agreement: 0.99 }],
    ['more agreement', { agreement: 0.99 }, { agreement: 0.97 }],
  ])('keeps %s, whichever came first', (_what, good, bad) => {
    const [kept, left] = [one({ ...good, converter: 'tf2.15' }), one(bad)];
    expect(better(kept, left)).toBe(kept);
    expect(better(left, kept)).toBe(kept);
  });

  it('keeps the first where they are alike', () => {
    const [first, second] = [one({}), one({ converter: 'tf2.15' })];
    expect(better(first, second)).toBe(first);
  });
});
