/**
 * Statistics that may be looked at as often as one likes: the chance that an interval here EVER misses the truth, over all
 * looks together, is at most alpha. Intervals of the usual kind hold for one look only, and an engine looks every second.
 */

/** ln Gamma(x) for x > 0: Lanczos' approximation (g = 7, n = 9), relative error below 1e-13. */
export function logGamma(x: number): number {
  if (x < 0.5) return Math.log(Math.PI / Math.sin(Math.PI * x)) - logGamma(1 - x);
  const c = [0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059, 12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7];
  const t = x + 6.5;
  let sum = c[0]!;
  for (let i = 1; i < 9; i++) sum += c[i]! / (x - 1 + i);
  return 0.5 * Math.log(2 * Math.PI) + (x - 0.5) * Math.log(t) - t + Math.log(sum);
}

const logBeta = (a: number, b: number): number => logGamma(a) + logGamma(b) - logGamma(a + b);

export type Interval = [low: number, high: number];

/**
 * Confidence set for a proportion at every n at once: Robbins' beta-binomial mixture martingale (Robbins 1970, "Statistical
 * methods related to the law of the iterated logarithm"; Howard et al. 2021, "Time-uniform Chernoff bounds").
 * It is every p with  B(a+S, b+n-S) / B(a, b) / (p^S (1-p)^(n-S)) < 1/alpha.  The left side is convex in p with its
 * minimum at S/n, so both ends are found by bisection.
 */
export function proportionSet(successes: number, n: number, alpha: number, a = 1, b = 1): Interval {
  if (n === 0) return [0, 1];
  const evidence = logBeta(a + successes, b + n - successes) - logBeta(a, b);
  const inside = (p: number): boolean => {
    if ((p <= 0 && successes > 0) || (p >= 1 && successes < n)) return false;
    const likelihood = (successes > 0 ? successes * Math.log(p) : 0) + (successes < n ? (n - successes) * Math.log1p(-p) : 0);
    return evidence - likelihood < Math.log(1 / alpha);
  };
  const mode = successes / n;
  return [successes === 0 ? 0 : edge(inside, mode, 0), successes === n ? 1 : edge(inside, mode, 1)];
}

function edge(inside: (p: number) => boolean, from: number, to: number): number {
  let good = from;
  let bad = to;
  for (let i = 0; i < 60; i++) {
    const middle = (good + bad) / 2;
    if (inside(middle)) good = middle;
    else bad = middle;
  }
  return good;
}

/**
 * The tuning that makes the mean's interval tightest near `n` (Waudby-Smith et al., appendix "Optimizing rho"). The interval is
 * valid for every n whatever is chosen; only its width depends on it.
 */
export function tunedFor(n: number, alpha: number): number {
  const l = -2 * Math.log(alpha);
  return Math.sqrt((l + Math.log(l) + 1) / n);
}

/**
 * Half width of the asymptotic confidence sequence for a mean: sd * sqrt(2(n r^2+1) / (n^2 r^2) * ln(sqrt(n r^2+1) / alpha))
 * (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory", arXiv 2103.06476, theorem 2.2).
 */
export function meanHalfWidth(sd: number, n: number, alpha: number, r: number): number {
  const k = n * r * r + 1;
  return sd * Math.sqrt(((2 * k) / (n * n * r * r)) * Math.log(Math.sqrt(k) / alpha));
}

export interface MeanSequence { mean: number; sd: number; n: number; interval: Interval }

/** `sdFloor`: the resolution of the measurement. Equal values do not prove that there is no spread. */
export function meanSequence(values: readonly number[], alpha: number, options: { sdFloor: number; tuneFor: number }): MeanSequence {
  const n = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const variance = n > 1 ? values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1) : Infinity;
  const sd = Math.max(Math.sqrt(variance), options.sdFloor);
  const half = meanHalfWidth(sd, n, alpha, tunedFor(options.tuneFor, alpha));
  return { mean, sd, n, interval: [mean - half, mean + half] };
}

/** How many values in all would settle on which side of zero a mean lies, if mean and spread stay as they are; null when out of reach. */
export function sampleToSettle(mean: number, sd: number, alpha: number, atMost = 100_000): number | null {
  const settled = (n: number): boolean => meanHalfWidth(sd, n, alpha, tunedFor(n, alpha)) < Math.abs(mean);
  if (!settled(atMost)) return null;
  let low = 1;
  let high = atMost;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (settled(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
