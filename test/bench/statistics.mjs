/**
 * 99 % interval of the median by order statistics (binomial, normal approximation): one slow round moves it by one place at most. Wider than the
 * usual 95 %, since it is looked at after every round.
 */
export function interval(values) {
  const sorted = Float64Array.from(values).sort();
  const half = 1.29 * Math.sqrt(sorted.length);
  return [sorted[Math.max(0, Math.floor(sorted.length / 2 - half))], sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length / 2 + half))]];
}

export function least(values) {
  return values.reduce((one, other) => Math.min(one, other), Infinity);
}

export function median(values) {
  const sorted = Float64Array.from(values).sort();
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** @param q 0 to 1 @returns the value that this share of them is below; of few, the greatest */
export function quantile(values, q) {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
}
