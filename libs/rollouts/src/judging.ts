import type { DeviceSample, Settings } from './rollout.ts';
import { meanSequence, sampleToSettle, type Interval } from './statistics.ts';
import type { Verdict } from './verdict.ts';

/** What every gate over devices shares: one value per device, its excess over that device's limit, and a verdict on the mean of the excesses. */

/** Below this, the central limit theorem behind the interval of a mean is not to be relied on. */
export const sequentialFrom = 20;
/** The tuning must not follow the data, or the interval loses its guarantee: one constant, tight around this many devices. */
const tunedToDevices = 50;

export const round = (value: number, digits = 3): number => Number(value.toFixed(digits));
export const percent = (part: number, whole: number): number => (whole === 0 ? 0 : (part / whole) * 100);
export const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
export const meanOrNull = (values: readonly (number | null | undefined)[]): number | null => {
  const known = values.filter((value) => value !== null && value !== undefined);
  return known.length > 0 ? mean(known) : null;
};
export const inferencesOf = (samples: readonly DeviceSample[]): number => samples.reduce((sum, { current }) => sum + current.inferences, 0);

export const blankVerdict = (gate: Verdict['gate'], unit: Verdict['unit'], some: Partial<Verdict>): Verdict => ({
  gate, verdict: 'PENDING', value: null, baseline: null, limit: null, unit, basis: '', method: 'threshold', interval: null, sample: { devices: 0, inferences: 0 }, needed: null, message: '', ...some,
});

/** No data is not good news: undecided until enough of the expected devices have sent enough. */
export function tooFew(settings: Settings, blank: Verdict, expected: number, present: number, what: string, each: Omit<NonNullable<Verdict['needed']>, 'soak'>): Verdict | undefined {
  const required = Math.max(1, Math.ceil((settings.minReportingPercent / 100) * expected));
  if (present >= required) return undefined;
  const [amount] = Object.values(each);
  return { ...blank, needed: { devices: required - present, ...each }, message: `${present} of ${expected} updated devices sent at least ${amount} ${what}; it takes ${required}.` };
}

export interface Outcome extends Pick<Verdict, 'verdict' | 'method' | 'interval' | 'needed'> { /** How many times the sample of each device would lift the excess out of the noise. */ times: number | null }

/** Excess above 0 is bad. */
export function settle(excess: readonly number[], centre: number, options: { alpha: number; soaked: boolean; disaster: number; sdFloor: number; /** What chance alone can do to few devices; asked for only where it decides. */ noise: () => number }): Outcome {
  if (excess.length >= sequentialFrom) {
    const { interval, mean: middle, sd, n } = meanSequence(excess, options.alpha, { sdFloor: options.sdFloor, tuneFor: tunedToDevices });
    const verdict = interval[1] <= 0 ? 'PASSED' : interval[0] > 0 ? 'FAILED' : 'PENDING';
    const total = verdict === 'PENDING' ? sampleToSettle(middle, sd, options.alpha) : null;
    return { verdict, method: 'sequential', interval, needed: total === null ? null : { devices: Math.max(1, total - n) }, times: null };
  }
  const noise = options.noise();
  const beyondNoise = centre > noise;
  const threshold = { method: 'threshold', interval: null, needed: null, times: null } as const;
  if (!options.soaked) {
    return beyondNoise && centre > options.disaster ? { ...threshold, verdict: 'FAILED' } : { ...threshold, verdict: 'PENDING', needed: { soak: true } };
  }
  if (centre <= 0 || beyondNoise) return { ...threshold, verdict: centre <= 0 ? 'PASSED' : 'FAILED' };
  // Noise shrinks with the root of the sample.
  return { ...threshold, verdict: 'PENDING', times: (noise / centre) ** 2 };
}

/** What each device would need in all, where more of the same would settle it; a thousand times as much is as good as never. */
export function moreOf(outcome: Outcome, perDevice: number, unit: 'inferencesPerDevice' | 'labelledPerDevice' | 'shadowFramesPerDevice' | 'numbersPerDevice'): Verdict['needed'] {
  return outcome.times === null || outcome.times > 1_000 ? outcome.needed : { [unit]: Math.ceil(perDevice * outcome.times) + 1 };
}

/**
 * Two standard errors of a difference of pooled shares, in percentage points: what chance alone can do to so few frames. A floor below which
 * no threshold decides; not a claim of significance, since frames of one device hang together.
 */
export function twoStandardErrors(now: readonly [hits: number, of: number][], before: readonly [hits: number, of: number][] = []): number {
  const total = (parts: readonly [number, number][]): [number, number] => parts.reduce<[number, number]>(([hits, all], [hit, n]) => [hits + hit, all + n], [0, 0]);
  const [hits, n] = total(now);
  const [hitsBefore, nBefore] = total(before);
  const p = (hits + hitsBefore) / Math.max(1, n + nBefore);
  return 200 * Math.sqrt(p * (1 - p) * (1 / Math.max(1, n) + (nBefore > 0 ? 1 / nBefore : 0)));
}

/** What an undecided gate still waits for, in words; null where it has decided. */
export function stillNeeded({ verdict, needed }: Pick<Verdict, 'verdict' | 'needed'>): string | null {
  if (verdict !== 'PENDING' && verdict !== 'INCONCLUSIVE') return null;
  if (!needed) return 'out of reach: the value is too near its limit for any sample';
  if (needed.soak) return 'the end of the soak';
  if (needed.answers !== undefined) return `${needed.answers} more ${needed.answers === 1 ? 'answer' : 'answers'}`;
  const each = Object.entries(units).flatMap(([key, unit]) => { const n = needed[key as keyof typeof units]; return n === undefined ? [] : [`${n} ${unit}`]; }).join(', ');
  if (needed.devices === undefined) return `${each} on each device`;
  return `${needed.devices} more ${needed.devices === 1 ? 'device' : 'devices'}${each ? ` with ${each} each` : ''}`;
}

const units = { inferencesPerDevice: 'inferences', labelledPerDevice: 'labelled frames', shadowFramesPerDevice: 'shadow frames', scoresPerDevice: 'scores', numbersPerDevice: 'numbers' } as const;

/** The interval of the excess, seen from the value: around the limit when more is worse, mirrored when less is. */
export const around = (limit: number, interval: Interval | null, worse: 'more' | 'less' = 'more'): Interval | null => interval && (worse === 'more' ? [limit + interval[0], limit + interval[1]] : [limit - interval[1], limit - interval[0]]);

export function finish(judged: Verdict & Partial<Outcome>, said: string): Verdict {
  const verdict = { ...judged };
  delete verdict.times;
  const tail = verdict.verdict !== 'PENDING' ? '' : verdict.needed?.soak ? '; it is judged when the wave has soaked' : ', which the sample does not settle yet';
  return {
    ...verdict, message: `${said}${tail}.`,
    value: verdict.value === null ? null : round(verdict.value), baseline: verdict.baseline === null ? null : round(verdict.baseline), limit: verdict.limit === null ? null : round(verdict.limit),
    interval: verdict.interval && [round(verdict.interval[0]), round(verdict.interval[1])],
  };
}
