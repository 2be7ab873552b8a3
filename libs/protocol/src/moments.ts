import type { MetricMoments } from './messages.ts';

/** Of the numbers behind both. Absent = none. */
export function addMoments(one: MetricMoments | undefined, other: MetricMoments): MetricMoments {
  return one ? { count: one.count + other.count, sum: one.sum + other.sum, sumSquares: one.sumSquares + other.sumSquares } : other;
}
