import type { LatencyGate } from './gates.ts';
import { around, blankVerdict, finish, mean, round, sequentialFrom, settle, tooFew } from './judging.ts';
import type { DeviceSample, Sample, Settings } from './rollout.ts';
import { median } from './statistics.ts';
import type { GateName, Verdict } from './verdict.ts';

const quantiles = {
  latencyP50: { gate: 'latency_p50', name: 'p50', q: 0.5, of: (sample: Sample) => sample.p50Us },
  latencyP95: { gate: 'latency_p95', name: 'p95', q: 0.95, of: (sample: Sample) => sample.p95Us },
  latencyP99: { gate: 'latency_p99', name: 'p99', q: 0.99, of: (sample: Sample) => sample.p99Us ?? null },
} as const satisfies Record<LatencyGate, { gate: GateName; name: string; q: number; of: (sample: Sample) => number | null }>;

/** So many values lie beyond a quantile before it is one: fewer, and it is the largest value by another name. */
const beyond = 2;

/** One quantile of the latency of each device, against the same device's own baseline and an absolute limit, in logarithms: what counts is the factor. */
export function judgeLatency(which: LatencyGate, settings: Settings, samples: readonly DeviceSample[], soaked: boolean): Verdict | undefined {
  const gate = settings.gates[which];
  if (!gate) return undefined;
  const { gate: gateName, name, q, of } = quantiles[which];
  const enough = Math.max(settings.minSamples, Math.round(beyond / (1 - q)));
  const ceiling = gate.maxMs === null ? Infinity : gate.maxMs * 1_000;
  const excess: number[] = [];
  const judged: { sample: DeviceSample; base: number | null }[] = [];
  let [expected, inferences, limits, bases, based] = [0, 0, 0, 0, 0];
  for (const sample of samples) {
    const { baseline, current, first } = sample;
    inferences += current.inferences;
    if (first && gate.maxMs === null) continue;
    expected += 1;
    const now = of(current);
    if (now === null || current.inferences < enough) continue;
    const base = !first && baseline && baseline.inferences >= enough ? of(baseline) : null;
    if (base === null && !first) continue;
    // Over an absolute limit it does not matter what rose.
    const limit = base === null ? ceiling : Math.min(Math.max(base * (1 + gate.maxIncreasePercent / 100), base + gate.minIncreaseMs * 1_000), ceiling);
    judged.push({ sample, base });
    excess.push(Math.log(now / limit));
    limits += Math.log(limit);
    if (base !== null) [bases, based] = [bases + Math.log(base), based + 1];
  }
  const blank = blankVerdict(gateName, 'ms', { limit: gate.maxMs, basis: 'own baseline', sample: { devices: 0, inferences } });
  if (samples.length > 0 && expected === 0) return { ...blank, verdict: 'NOT_APPLICABLE', message: 'First installation on these devices: there is no earlier latency to compare with.' };
  const found = { ...blank, basis: `own baseline of ${judged.length} ${judged.length === 1 ? 'device' : 'devices'}`, sample: { ...blank.sample, devices: judged.length } };
  const short = tooFew(settings, found, expected, judged.length, 'inferences with this version and with the one before', { inferencesPerDevice: enough });
  if (short) return short;
  // One noisy neighbour must not decide a small wave: the median there, the mean where the interval needs one.
  const centre = excess.length >= sequentialFrom ? mean(excess) : median(excess);
  let outcome = settle(excess, centre, { alpha: settings.alpha, soaked, disaster: Infinity, sdFloor: 0.02, noise: () => 0 });
  const limitMs = Math.exp(limits / judged.length) / 1_000;
  const baseline = based > 0 ? Math.exp(bases / based) / 1_000 : null;
  const value = limitMs * Math.exp(centre);
  let aside = '';
  // By how much the middle of a device's latency rose, as a logarithm.
  const middle = ({ sample: { baseline: before, current }, base }: (typeof judged)[number]): number => {
    const now = of(current)!;
    return base === null || now > ceiling ? Infinity : Math.log((current.p50Us ?? now) / (before!.p50Us ?? base));
  };
  // A slower model moves its median too; a busy machine moves the tail alone.
  if (outcome.verdict === 'FAILED' && outcome.method === 'threshold' && median(judged.map(middle)) < Math.log1p(gate.maxIncreasePercent / 400)) {
    outcome = { ...outcome, verdict: 'PENDING', needed: { devices: sequentialFrom - judged.length } };
    aside = ', but the median latency did not rise with it: noise on so few devices cannot be ruled out';
  }
  const interval = outcome.interval && around(0, [limitMs * Math.exp(outcome.interval[0]), limitMs * Math.exp(outcome.interval[1])]);
  return finish({ ...found, ...outcome, value, baseline, limit: limitMs, interval },
    `${name} is ${round(value, 2)} ms${baseline === null ? '' : `, ${round(baseline, 2)} ms before on the same devices`}; the limit is ${round(limitMs, 2)} ms${aside}`);
}
