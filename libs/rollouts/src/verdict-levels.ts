import type { MetricMoments } from '@reefkeeper/protocol';
import type { CustomGate } from './gates.ts';
import { around, blankVerdict, finish, mean, meanOrNull, moreOf, round, settle, tooFew } from './judging.ts';
import { devicesIn, type DeviceSample, type Settings } from './rollout.ts';
import type { Verdict } from './verdict.ts';

/** Gates on a level per device: temperature, score drift, and the numbers of a site's own program. */

/** Thermal sensors tell whole degrees, and a room warms by one while a wave soaks. */
const temperatureNoiseC = 1;
const temperatureDisasterC = 20;

/** A device without a sensor is not judged; a sensor that fell silent is a missing sample. */
export function judgeTemperature(settings: Settings, samples: readonly DeviceSample[], soaked: boolean): Verdict | undefined {
  const gate = settings.gates.temperature;
  if (!gate) return undefined;
  const limitOf = ({ baseline }: DeviceSample): number | null => {
    const before = baseline?.temperatureC ?? null;
    const limits = [gate.maxC, gate.maxIncreaseC === null || before === null ? null : before + gate.maxIncreaseC].filter((limit) => limit !== null);
    return limits.length > 0 ? Math.min(...limits) : null;
  };
  const known = ({ current, baseline }: DeviceSample): boolean => (current.temperatureC ?? baseline?.temperatureC ?? null) !== null;
  const expected = samples.filter((sample) => known(sample) && limitOf(sample) !== null);
  const judged = expected.filter(({ current }) => (current.temperatureC ?? null) !== null && current.inferences >= settings.minSamples);
  const blank = blankVerdict('temperature', 'celsius', { limit: gate.maxC, basis: `mean of ${devicesIn(judged.length)}`, sample: { devices: judged.length, inferences: 0 } });
  if (samples.length > 0 && expected.length === 0) {
    return { ...blank, verdict: 'NOT_APPLICABLE', message: samples.some(known) ? 'These devices have no earlier temperature to compare with, and no absolute limit is set.' : 'No temperature is known of these devices.' };
  }
  const short = tooFew(settings, blank, expected.length, judged.length, 'inferences with a temperature', { inferencesPerDevice: settings.minSamples });
  if (short) return short;
  const value = mean(judged.map(({ current }) => current.temperatureC!));
  const excess = judged.map((sample) => sample.current.temperatureC! - limitOf(sample)!);
  const outcome = settle(excess, mean(excess), { alpha: settings.alpha, soaked, disaster: temperatureDisasterC, sdFloor: temperatureNoiseC, noise: () => temperatureNoiseC });
  const limit = value - mean(excess);
  const baseline = meanOrNull(judged.map((sample) => sample.baseline?.temperatureC));
  return finish({ ...blank, ...outcome, value, baseline, limit, interval: around(limit, outcome.interval) },
    `The devices are at ${round(value, 1)} °C${baseline === null ? '' : `, ${round(baseline, 1)} °C before`}; the limit is ${round(limit, 1)} °C`);
}

export function judgeDrift(settings: Settings, samples: readonly DeviceSample[], soaked: boolean): Verdict | undefined {
  const gate = settings.gates.scoreDrift;
  if (!gate) return undefined;
  const judged = samples.flatMap(({ current: { drift } }) => (drift && drift.scores >= gate.minScores ? [drift] : []));
  const blank = blankVerdict('score_drift', 'psi', { limit: gate.maxPsi, basis: `mean of ${devicesIn(judged.length)}`, sample: { devices: judged.length, inferences: samples.reduce((sum, { current }) => sum + (current.drift?.scores ?? 0), 0) } });
  const short = tooFew(settings, blank, samples.length, judged.length, 'scores against a reference', { scoresPerDevice: gate.minScores });
  if (short) return short;
  const value = mean(judged.map(({ psi }) => psi));
  const excess = judged.map(({ psi }) => psi - gate.maxPsi);
  // Without drift the index of ten bins spreads by about sqrt(2 * 9) / scores around its mean.
  const spread = Math.sqrt(18) / mean(judged.map(({ scores }) => scores));
  const outcome = settle(excess, mean(excess), { alpha: settings.alpha, soaked, disaster: Infinity, sdFloor: spread, noise: () => (2 * spread) / Math.sqrt(judged.length) });
  return finish({ ...blank, ...outcome, value: Math.max(0, value), interval: around(gate.maxPsi, outcome.interval) }, `The top-1 scores moved by ${round(Math.max(0, value), 3)} (population stability index); the limit is ${gate.maxPsi}`);
}

const meanOf = ({ count, sum }: MetricMoments): number => sum / count;
/** Squared standard error of the mean; rounding must not make it negative. */
const errorOf = ({ count, sum, sumSquares }: MetricMoments): number => (count > 1 ? Math.max(0, sumSquares - (sum * sum) / count) / (count - 1) / count : 0);

/** A number that the site's own program pushes: the mean per device, against the same device's own baseline, an absolute limit, or both. */
export function judgeCustom(gate: CustomGate, settings: Settings, samples: readonly DeviceSample[], soaked: boolean): Verdict {
  const { metric, minCount } = gate;
  /** Turned so that more is worse. */
  const worse = gate.better === 'lower' ? 1 : -1;
  const absolute = (gate.better === 'lower' ? gate.max : gate.min) ?? null;
  const relative = (gate.better === 'lower' ? gate.maxIncreasePercent : gate.maxDropPercent) ?? null;
  const moments = (sample: DeviceSample['current'] | null): MetricMoments | null => {
    const found = sample?.metrics?.[metric];
    return found && found.count >= minCount ? found : null;
  };
  const expected = samples.filter(({ first }) => absolute !== null || !first);
  const judged = expected.flatMap(({ current, baseline }) => {
    const now = moments(current);
    const before = relative === null ? null : moments(baseline);
    if (!now || (absolute === null && !before)) return [];
    const value = worse * meanOf(now);
    const base = before ? worse * meanOf(before) : null;
    // Per cent of how far the baseline is from zero, so that it also means something for negative numbers.
    const limit = Math.min(absolute === null ? Infinity : worse * absolute, base === null ? Infinity : base + (Math.abs(base) * relative!) / 100);
    return [{ value, base, limit, error: errorOf(now) + (before ? errorOf(before) : 0), count: now.count }];
  });
  const blank = blankVerdict(`custom_${metric}`, 'number', { limit: absolute, basis: `mean of ${devicesIn(judged.length)}`, sample: { devices: judged.length, inferences: samples.reduce((sum, { current }) => sum + (current.metrics?.[metric]?.count ?? 0), 0) } });
  if (samples.length > 0 && expected.length === 0) return { ...blank, verdict: 'NOT_APPLICABLE', message: `First installation on these devices: there is no earlier ${metric} to compare with.` };
  const short = tooFew(settings, blank, expected.length, judged.length, `numbers of ${metric}${absolute === null ? ' with this version and with the one before' : ''}`, { numbersPerDevice: minCount });
  if (short) return short;
  const excess = judged.map(({ value, limit }) => value - limit);
  const limit = mean(judged.map((one) => one.limit));
  const outcome = settle(excess, mean(excess), {
    alpha: settings.alpha, soaked, disaster: Infinity, sdFloor: Math.max(Math.sqrt(mean(judged.map(({ error }) => error))), Math.abs(limit) / 1_000, Number.MIN_VALUE),
    noise: () => 2 * Math.sqrt(mean(judged.map(({ error }) => error)) / judged.length),
  });
  const value = worse * mean(judged.map((one) => one.value));
  const turned = meanOrNull(judged.map(({ base }) => base));
  const baseline = turned === null ? null : worse * turned;
  const perDevice = mean(judged.map(({ count }) => count));
  return finish({ ...blank, ...outcome, needed: moreOf(outcome, perDevice, 'numbersPerDevice'), value, baseline, limit: worse * limit, interval: around(worse * limit, outcome.interval, worse > 0 ? 'more' : 'less') },
    `${metric} is ${round(value)}${baseline === null ? '' : `, ${round(baseline)} before on the same devices`}; the limit is ${round(worse * limit)}`);
}
