import { devicesIn, type DeviceSample, type RolloutExecutionState, type Settings } from './rollout.ts';
import { meanSequence, median, proportionSet, sampleToSettle, type Interval } from './statistics.ts';

/**
 * The verdict of each gate on one wave, from numbers only. The unit is the device, never the single inference: ten thousand frames of
 * one camera are one witness. From `sequentialFrom` devices on, the interval that holds at every look decides; below, a threshold at the
 * end of the soak, and the verdict says which of the two it was.
 */
export type GateName = 'install_failures' | 'error_rate' | 'latency_p95' | 'accuracy';
export type VerdictWord = 'PASSED' | 'FAILED' | 'INCONCLUSIVE' | 'PENDING' | 'NOT_APPLICABLE';

export interface Verdict {
  gate: GateName;
  verdict: VerdictWord;
  value: number | null;
  baseline: number | null;
  limit: number | null;
  unit: 'percent' | 'ms';
  /** What the value is a share or a mean of, in words. */
  basis: string;
  method: 'threshold' | 'sequential';
  /** Around `value`, in its unit; null with the threshold method. */
  interval: Interval | null;
  sample: { devices: number; inferences: number };
  /** What is missing for a verdict; null when nothing is. */
  needed: { devices?: number; inferencesPerDevice?: number; labelledPerDevice?: number; answers?: number } | null;
  message: string;
}

export type Counts = Record<RolloutExecutionState, number>;
export const noCounts = (): Counts => ({ PENDING: 0, QUEUED: 0, IN_PROGRESS: 0, SUCCEEDED: 0, FAILED: 0, TIMED_OUT: 0, REJECTED: 0, REMOVED: 0, CANCELED: 0 });
export const openCount = (counts: Counts): number => counts.PENDING + counts.QUEUED + counts.IN_PROGRESS;

/** Below this, the central limit theorem behind the interval of a mean is not to be relied on. */
const sequentialFrom = 20;
/** So far beyond its limit, a share is not waited for until the soak ends. Latency is: just after a switch it is noisy. */
const disasterPoints = 20;

const round = (value: number, digits = 3): number => Number(value.toFixed(digits));

export function judgeInstall(settings: Settings, counts: Counts): Verdict | undefined {
  const gate = settings.gates.installFailures;
  if (!gate) return undefined;
  const failures = counts.FAILED + counts.REJECTED;
  const answered = failures + counts.SUCCEEDED;
  // Devices that were retired or taken over by a newer rollout are no witnesses.
  const group = answered + counts.TIMED_OUT + openCount(counts);
  const open = openCount(counts);
  const denominator = gate.basis === 'group' ? group : answered;
  const sequential = answered >= sequentialFrom;
  const interval: Interval | null = sequential ? proportionSet(failures, answered, settings.alpha).map((p) => round(p * 100)) as Interval : null;
  const verdict: Verdict = {
    gate: 'install_failures', verdict: 'PENDING',
    value: denominator > 0 ? round((failures / denominator) * 100) : null, baseline: null, limit: gate.maxPercent, unit: 'percent',
    basis: `${gate.basis} (${devicesIn(denominator)})`, method: sequential ? 'sequential' : 'threshold', interval,
    sample: { devices: answered, inferences: 0 }, needed: null, message: '',
  };
  const said = `${failures} of ${devicesIn(denominator)} (${gate.basis}) failed to install, ${gate.maxPercent} % allowed`;
  // Failed of the whole group is failed of any part of it; of the executed alone it is certain only when all have answered.
  const spent = failures * 100 > gate.maxPercent * group || (gate.basis === 'executed' && open === 0 && failures * 100 > gate.maxPercent * answered);
  if (spent) return { ...verdict, verdict: 'FAILED', message: `${said}.` };
  if (interval && interval[0] > gate.maxPercent) return { ...verdict, verdict: 'FAILED', message: `${said} of all; ${failures} of the first ${answered} answers failed, so the share is above ${interval[0]} %.` };
  if (open > 0) return { ...verdict, needed: { answers: open }, message: `${devicesIn(open)} yet to answer.` };
  if (counts.TIMED_OUT * 100 > gate.maxUnansweredPercent * group) {
    const answers = counts.TIMED_OUT - Math.floor((gate.maxUnansweredPercent * group) / 100);
    return { ...verdict, verdict: 'INCONCLUSIVE', needed: { answers }, message: `${counts.TIMED_OUT} of ${devicesIn(group)} did not answer in ${settings.installTimeoutS} s, ${gate.maxUnansweredPercent} % allowed; ${answers} more answers are needed. Advance past them, or roll back.` };
  }
  return { ...verdict, verdict: 'PASSED', message: `${said}.` };
}

/** `samples`: every device of the wave that has been updated, those without telemetry too. */
export function judgeSamples(settings: Settings, samples: readonly DeviceSample[], soaked: boolean): Verdict[] {
  return [judgeErrors(settings, samples, soaked), judgeLatency(settings, samples, soaked), judgeAccuracy(settings, samples, soaked)].filter((one) => one !== undefined);
}

const attempts = (sample: { inferences: number; errors: number }): number => Math.max(sample.inferences, sample.errors);
const percent = (part: number, whole: number): number => (whole === 0 ? 0 : (part / whole) * 100);
const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
const inferencesOf = (samples: readonly DeviceSample[]): number => samples.reduce((sum, { current }) => sum + current.inferences, 0);

function judgeErrors(settings: Settings, samples: readonly DeviceSample[], soaked: boolean): Verdict | undefined {
  const gate = settings.gates.errorRate;
  if (!gate) return undefined;
  const usable = samples.filter(({ current }) => attempts(current) >= settings.minSamples);
  const based = usable.filter(({ baseline }) => baseline && attempts(baseline) >= settings.minSamples);
  const blank: Verdict = {
    gate: 'error_rate', verdict: 'PENDING', value: null, baseline: null, limit: gate.maxPercent, unit: 'percent', basis: `mean of ${devicesIn(usable.length)}`,
    method: 'threshold', interval: null, sample: { devices: usable.length, inferences: inferencesOf(samples) }, needed: null, message: '',
  };
  const short = tooFew(settings, blank, samples.length, usable.length, 'inferences', { inferencesPerDevice: settings.minSamples });
  if (short) return short;
  const judged = usable.map(({ baseline, current }) => {
    const rate = percent(current.errors, attempts(current));
    const own = baseline && attempts(baseline) >= settings.minSamples ? percent(baseline.errors, attempts(baseline)) : null;
    return { rate, own, excess: rate - (own === null ? gate.maxPercent : own + gate.maxIncreasePoints) };
  });
  const value = mean(judged.map(({ rate }) => rate));
  const excess = judged.map((one) => one.excess);
  const baseline = based.length > 0 ? mean(judged.filter(({ own }) => own !== null).map(({ own }) => own!)) : null;
  const outcome = settle(excess, mean(excess), {
    alpha: settings.alpha, soaked, disaster: disasterPoints, sdFloor: 100 / mean(usable.map(({ current }) => attempts(current))),
    noise: twoStandardErrors(usable, (sample) => [sample.errors, attempts(sample)]),
  });
  const limit = value - mean(excess);
  return finish({ ...blank, ...outcome, value, baseline, limit, interval: outcome.interval && [limit + outcome.interval[0], limit + outcome.interval[1]] },
    `${round(value, 2)} % of inferences fail per device${baseline === null ? '' : `, ${round(baseline, 2)} % before`}; the limit is ${round(limit, 2)} %`);
}

function judgeLatency(settings: Settings, samples: readonly DeviceSample[], soaked: boolean): Verdict | undefined {
  const gate = settings.gates.latencyP95;
  if (!gate) return undefined;
  const expected = samples.filter(({ first }) => !first || gate.maxMs !== null);
  const blank: Verdict = {
    gate: 'latency_p95', verdict: 'PENDING', value: null, baseline: null, limit: gate.maxMs, unit: 'ms', basis: '', method: 'threshold', interval: null,
    sample: { devices: 0, inferences: inferencesOf(samples) }, needed: null, message: '',
  };
  if (samples.length > 0 && expected.length === 0) return { ...blank, verdict: 'NOT_APPLICABLE', basis: 'own baseline', message: 'First installation on these devices: there is no earlier latency to compare with.' };
  const judged = expected.flatMap(({ baseline, current, first }): { p95: number; base: number | null; limit: number; middle: number }[] => {
    if (current.p95Us === null || current.inferences < settings.minSamples) return [];
    if (first) return [{ p95: current.p95Us, base: null, limit: gate.maxMs! * 1_000, middle: 0 }];
    if (!baseline || baseline.p95Us === null || baseline.inferences < settings.minSamples) return [];
    return [{
      p95: current.p95Us, base: baseline.p95Us,
      limit: Math.max(baseline.p95Us * (1 + gate.maxIncreasePercent / 100), baseline.p95Us + gate.minIncreaseMs * 1_000),
      middle: Math.log((current.p50Us ?? current.p95Us) / (baseline.p50Us ?? baseline.p95Us)),
    }];
  });
  const found = { ...blank, basis: `own baseline of ${devicesIn(judged.length)}`, sample: { ...blank.sample, devices: judged.length } };
  const short = tooFew(settings, found, expected.length, judged.length, 'latency on both bundles', { inferencesPerDevice: settings.minSamples });
  if (short) return short;
  const excess = judged.map(({ p95, limit }) => Math.log(p95 / limit));
  // One noisy neighbour must not decide a small wave: the median there, the mean where the interval needs one.
  const centre = excess.length >= sequentialFrom ? mean(excess) : median(excess);
  let outcome = settle(excess, centre, { alpha: settings.alpha, soaked, disaster: Infinity, sdFloor: 0.02, noise: 0 });
  const bases = judged.flatMap(({ base }) => (base === null ? [] : [base]));
  const limitMs = Math.exp(mean(judged.map(({ limit }) => Math.log(limit)))) / 1_000;
  const value = limitMs * Math.exp(centre);
  const baseline = bases.length > 0 ? Math.exp(mean(bases.map(Math.log))) / 1_000 : null;
  let aside = '';
  // A slower model moves its median too; a busy machine moves the tail alone.
  if (outcome.verdict === 'FAILED' && outcome.method === 'threshold' && bases.length > 0 && median(judged.map(({ middle }) => middle)) < Math.log1p(gate.maxIncreasePercent / 400)) {
    outcome = { ...outcome, verdict: 'PENDING' };
    aside = ', but the median latency did not rise with it: noise on so few devices cannot be ruled out';
  }
  return finish({ ...found, ...outcome, value, baseline, limit: limitMs, interval: outcome.interval && [limitMs * Math.exp(outcome.interval[0]), limitMs * Math.exp(outcome.interval[1])] },
    `p95 is ${round(value, 2)} ms${baseline === null ? '' : `, ${round(baseline, 2)} ms before on the same devices`}; the limit is ${round(limitMs, 2)} ms${aside}`);
}

function judgeAccuracy(settings: Settings, samples: readonly DeviceSample[], soaked: boolean): Verdict | undefined {
  const gate = settings.gates.accuracy;
  if (!gate) return undefined;
  const own = ({ baseline }: DeviceSample): number | null => (baseline && baseline.labelled >= gate.minLabelled ? percent(baseline.correct, baseline.labelled) : null);
  const expected = samples.filter((sample) => gate.required || gate.minPercent !== null || own(sample) !== null);
  const labelled = expected.filter(({ current }) => current.labelled >= gate.minLabelled);
  const blank: Verdict = {
    gate: 'accuracy', verdict: 'PENDING', value: null, baseline: null, limit: gate.minPercent, unit: 'percent', basis: `labelled frames of ${devicesIn(labelled.length)}`, method: 'threshold',
    interval: null, sample: { devices: labelled.length, inferences: samples.reduce((sum, { current }) => sum + current.labelled, 0) }, needed: null, message: '',
  };
  if (samples.length > 0 && expected.length === 0) return { ...blank, verdict: 'NOT_APPLICABLE', message: 'These devices have no labelled frames of the bundle before, and no floor is set.' };
  const short = tooFew(settings, blank, expected.length, labelled.length, 'labelled frames', { labelledPerDevice: gate.minLabelled });
  if (short) return short;
  const judged = labelled.flatMap((sample) => {
    const accuracy = percent(sample.current.correct, sample.current.labelled);
    const before = own(sample);
    const floors = [gate.minPercent, before === null ? null : before - gate.maxDropPoints].filter((floor) => floor !== null);
    return floors.length === 0 ? [] : [{ accuracy, before, excess: Math.max(...floors) - accuracy, sample }];
  });
  if (judged.length === 0) return { ...blank, verdict: 'NOT_APPLICABLE', message: 'There is no accuracy of the bundle before to compare with, and no floor is set.' };
  const excess = judged.map((one) => one.excess);
  const value = mean(judged.map(({ accuracy }) => accuracy));
  const befores = judged.flatMap(({ before }) => (before === null ? [] : [before]));
  const outcome = settle(excess, mean(excess), {
    alpha: settings.alpha, soaked, disaster: disasterPoints, sdFloor: 100 / mean(judged.map(({ sample }) => sample.current.labelled)),
    noise: twoStandardErrors(judged.map(({ sample }) => sample), (sample) => [sample.correct, sample.labelled]),
  });
  const limit = value + mean(excess);
  const baseline = befores.length > 0 ? mean(befores) : null;
  return finish({ ...blank, ...outcome, value, baseline, limit, interval: outcome.interval && [limit - outcome.interval[1], limit - outcome.interval[0]] },
    `${round(value, 1)} % of labelled frames are right${baseline === null ? '' : `, ${round(baseline, 1)} % before on the same devices`}; the limit is ${round(limit, 1)} %`);
}

function tooFew(settings: Settings, blank: Verdict, expected: number, present: number, what: string, each: NonNullable<Verdict['needed']>): Verdict | undefined {
  const required = Math.max(1, Math.ceil((settings.minReportingPercent / 100) * expected));
  if (present >= required) return undefined;
  const [amount] = Object.values(each);
  return { ...blank, needed: { devices: required - present, ...each }, message: `${present} of ${expected} updated devices sent at least ${amount} ${what}; ${required} are required.` };
}

/** Excess above 0 is bad. */
function settle(excess: readonly number[], centre: number, options: { alpha: number; soaked: boolean; disaster: number; sdFloor: number; noise: number }): Pick<Verdict, 'verdict' | 'method' | 'interval' | 'needed'> {
  if (excess.length >= sequentialFrom) {
    const { interval, mean, sd, n } = meanSequence(excess, options.alpha, { sdFloor: options.sdFloor, tuneFor: tunedToDevices });
    const verdict = interval[1] <= 0 ? 'PASSED' : interval[0] > 0 ? 'FAILED' : 'PENDING';
    const total = verdict === 'PENDING' ? sampleToSettle(mean, sd, options.alpha) : null;
    return { verdict, method: 'sequential', interval, needed: total === null ? null : { devices: Math.max(1, total - n) } };
  }
  const beyondNoise = centre > options.noise;
  if (!options.soaked) return { verdict: beyondNoise && centre > options.disaster ? 'FAILED' : 'PENDING', method: 'threshold', interval: null, needed: null };
  return { verdict: centre <= 0 ? 'PASSED' : beyondNoise ? 'FAILED' : 'PENDING', method: 'threshold', interval: null, needed: null };
}

/** The tuning must not follow the data, or the interval loses its guarantee: one constant, tight around this many devices. */
const tunedToDevices = 50;

/**
 * Two standard errors of a difference of pooled shares: what chance alone can do to so few frames. A floor below which no threshold
 * decides; not a claim of significance, since frames of one device hang together.
 */
function twoStandardErrors(samples: readonly DeviceSample[], parts: (sample: DeviceSample['current']) => [number, number]): number {
  const total = (pick: (sample: DeviceSample) => DeviceSample['current'] | null): [number, number] => samples.reduce<[number, number]>(([hits, all], sample) => {
    const one = pick(sample);
    if (!one) return [hits, all];
    const [hit, n] = parts(one);
    return [hits + hit, all + n];
  }, [0, 0]);
  const [hits, n] = total(({ current }) => current);
  const [hitsBefore, nBefore] = total(({ baseline }) => baseline);
  const p = (hits + hitsBefore) / Math.max(1, n + nBefore);
  return 200 * Math.sqrt(p * (1 - p) * (1 / Math.max(1, n) + (nBefore > 0 ? 1 / nBefore : 0)));
}

function finish(verdict: Verdict, said: string): Verdict {
  const tail = verdict.verdict === 'PENDING' ? ', which the sample does not settle yet' : '';
  return {
    ...verdict, message: `${said}${tail}.`,
    value: verdict.value === null ? null : round(verdict.value), baseline: verdict.baseline === null ? null : round(verdict.baseline), limit: verdict.limit === null ? null : round(verdict.limit),
    interval: verdict.interval && [round(verdict.interval[0]), round(verdict.interval[1])],
  };
}
