import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { randomOf } from '@reefkeeper/platform/random';
import { logGamma, meanHalfWidth, meanSequence, median, proportionSet, sampleToSettle, tunedFor } from './statistics.ts';

describe('log gamma', () => {
  it.each([[1, 0], [2, 0], [0.5, Math.log(Math.sqrt(Math.PI))], [5, Math.log(24)], [11, Math.log(3_628_800)], [101, 363.7393755555635]])('of %d', (x, expected) => {
    expect(logGamma(x)).toBeCloseTo(expected, 10);
  });
});

describe('confidence set of a proportion', () => {
  it('with a flat prior and no success solves 1/(n+1) / (1-p)^n = 1/alpha in closed form', () => {
    const [low, high] = proportionSet(0, 20, 0.05);
    expect(low).toBe(0);
    expect(high).toBeCloseTo(1 - (0.05 / 21) ** (1 / 20), 8);
  });

  it('is symmetric, holds the estimate, and says nothing without data', () => {
    const [low, high] = proportionSet(3, 10, 0.05);
    const [mirroredLow, mirroredHigh] = proportionSet(7, 10, 0.05);
    expect(low).toBeCloseTo(1 - mirroredHigh, 8);
    expect(high).toBeCloseTo(1 - mirroredLow, 8);
    expect(proportionSet(0, 0, 0.05)).toEqual([0, 1]);
    fc.assert(fc.property(fc.integer({ min: 1, max: 2_000 }), fc.double({ min: 0, max: 1, noNaN: true }), (n, share) => {
      const s = Math.round(n * share);
      const [lo, hi] = proportionSet(s, n, 0.05);
      return lo <= s / n && s / n <= hi && lo >= 0 && hi <= 1;
    }));
  });

  it('covers the truth at every one of 300 looks together in at least 95 % of runs', () => {
    for (const p of [0.02, 0.1, 0.5]) {
      let missed = 0;
      for (let seed = 1; seed <= 300; seed++) {
        const next = randomOf(seed * 7_919);
        let s = 0;
        for (let n = 1; n <= 300; n++) {
          if (next() < p) s++;
          // The cheap form of the same test: is the true p still inside?
          const logE = logGamma(1 + s) + logGamma(1 + n - s) - logGamma(2 + n) - s * Math.log(p) - (n - s) * Math.log1p(-p);
          if (logE >= Math.log(20)) { missed++; break; }
        }
      }
      expect(missed / 300, `p = ${p}`).toBeLessThanOrEqual(0.05);
    }
  });
});

describe('confidence sequence of a mean', () => {
  it('has the half width of the formula', () => {
    // n = 100, r = 0.3: k = 10; sqrt(2*10 / (10000*0.09) * ln(sqrt(10)/0.05))
    expect(meanHalfWidth(1, 100, 0.05, 0.3)).toBeCloseTo(Math.sqrt((20 / 900) * Math.log(Math.sqrt(10) / 0.05)), 12);
    expect(tunedFor(100, 0.05)).toBeCloseTo(Math.sqrt((5.991465 + Math.log(5.991465) + 1) / 100), 6);
  });

  it('from 20 values on, covers the truth at every look together in at least 93 % of runs (it is asymptotic)', () => {
    let missed = 0;
    const runs = 400;
    for (let seed = 1; seed <= runs; seed++) {
      const next = randomOf(seed * 104_729);
      const values: number[] = [];
      for (let n = 1; n <= 200; n++) {
        // log ratio around 0.1: skewed noise, as latencies are
        values.push(0.1 + 0.2 * (-Math.log(1 - next()) - 1));
        if (n < 20 || n % 3 !== 0) continue;
        const { interval } = meanSequence(values, 0.05, { sdFloor: 0.001, tuneFor: 50 });
        if (interval[0] > 0.1 || interval[1] < 0.1) { missed++; break; }
      }
    }
    expect(missed / runs).toBeLessThanOrEqual(0.07);
  });

  it('the naive 1.96 standard errors would have missed in far more runs: why this is needed', () => {
    let missed = 0;
    for (let seed = 1; seed <= 200; seed++) {
      const next = randomOf(seed * 31);
      let sum = 0;
      let squares = 0;
      for (let n = 1; n <= 200; n++) {
        const x = next() + next() + next() - 1.5;
        sum += x;
        squares += x * x;
        if (n >= 20 && Math.abs(sum / n) > 1.96 * Math.sqrt((squares / n - (sum / n) ** 2) / n)) { missed++; break; }
      }
    }
    expect(missed / 200).toBeGreaterThan(0.15);
  });

  it('says how many values would settle it, and that a mean of nothing never will', () => {
    const needed = sampleToSettle(0.1, 0.2, 0.05)!;
    expect(needed).toBeGreaterThan(20);
    expect(meanHalfWidth(0.2, needed, 0.05, tunedFor(needed, 0.05))).toBeLessThan(0.1);
    expect(meanHalfWidth(0.2, needed - 1, 0.05, tunedFor(needed - 1, 0.05))).toBeGreaterThanOrEqual(0.1);
    expect(sampleToSettle(0, 0.2, 0.05)).toBeNull();
  });
});

it('median', () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([4, 1, 2, 3])).toBe(2.5);
});
