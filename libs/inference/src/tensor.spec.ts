import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { cosine } from './tensor.ts';

const number = fc.double({ noNaN: true, noDefaultInfinity: true });
const vector = fc.array(number, { minLength: 1, maxLength: 8 });

describe('cosine', () => {
  it('of a vector and itself is 1, and -1 turned round, however small or large', () => {
    fc.assert(fc.property(vector, (values) => {
      expect(cosine(values, values)).toBeCloseTo(1, 12);
      if (values.some((value) => value !== 0)) expect(cosine(values, values.map((value) => -value))).toBeCloseTo(-1, 12);
    }), { examples: [[[1.1310411971273393e-161, 0]], [[5e-324, 0]], [[1.7e308, -1.7e308]], [[0, 0]]] });
  });

  it('goes by the direction alone', () => {
    const whole = fc.array(fc.integer({ min: -1_000, max: 1_000 }), { minLength: 3, maxLength: 3 });
    fc.assert(fc.property(whole, whole, fc.integer({ min: -900, max: 900 }), (a, b, exponent) => {
      expect(cosine(a.map((value) => value * 2 ** exponent), b)).toBe(cosine(a, b));
      expect(cosine(a, b)).toBe(cosine(b, a));
      expect(Math.abs(cosine(a, b))).toBeLessThanOrEqual(1);
    }));
    expect(cosine([1, 0], [1, 1])).toBeCloseTo(Math.SQRT1_2, 15);
  });

  it('takes nothing for like nothing only, and says where there is no answer', () => {
    expect([cosine([0, 0], [0, 0]), cosine([0, 0], [1, 0]), cosine([1], [1, 1])]).toEqual([1, 0, 0]);
    expect([cosine([Number.NaN, 1], [1, 1]), cosine([Infinity, 1], [1, 1])]).toEqual([Number.NaN, Number.NaN]);
  });
});
