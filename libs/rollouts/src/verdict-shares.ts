import { around, blankVerdict, finish, inferencesOf, mean, meanOrNull, moreOf, percent, round, settle, tooFew, twoStandardErrors } from './judging.ts';
import { devicesIn, type DeviceSample, type Settings } from './rollout.ts';
import type { Verdict } from './verdict.ts';

/** Gates on a share per device: failed inferences, right answers, agreement in shadow. */

/** So far beyond its limit, a share is not waited for until the soak ends. Latency is: just after a switch it is noisy. */
const disasterPoints = 20;

const attempts = (sample: { inferences: number; errors: number }): number => Math.max(sample.inferences, sample.errors);

export function judgeErrors(settings: Settings, samples: readonly DeviceSample[], soaked: boolean): Verdict | undefined {
  const gate = settings.gates.errorRate;
  if (!gate) return undefined;
  const usable = samples.filter(({ current }) => attempts(current) >= settings.minSamples);
  const blank = blankVerdict('error_rate', 'percent', { limit: gate.maxPercent, basis: `mean of ${devicesIn(usable.length)}`, sample: { devices: usable.length, inferences: inferencesOf(samples) } });
  const short = tooFew(settings, blank, samples.length, usable.length, 'inferences', { inferencesPerDevice: settings.minSamples });
  if (short) return short;
  const judged = usable.map(({ baseline, current }) => {
    const rate = percent(current.errors, attempts(current));
    const own = baseline && attempts(baseline) >= settings.minSamples ? percent(baseline.errors, attempts(baseline)) : null;
    return { rate, own, excess: rate - (own === null ? gate.maxPercent : own + gate.maxIncreasePoints) };
  });
  const value = mean(judged.map(({ rate }) => rate));
  const excess = judged.map((one) => one.excess);
  const baseline = meanOrNull(judged.map(({ own }) => own));
  const perDevice = mean(usable.map(({ current }) => attempts(current)));
  const outcome = settle(excess, mean(excess), {
    alpha: settings.alpha, soaked, disaster: disasterPoints, sdFloor: 100 / perDevice,
    noise: twoStandardErrors(usable.map(({ current }) => [current.errors, attempts(current)]), usable.flatMap(({ baseline: before }) => (before ? [[before.errors, attempts(before)]] : []))),
  });
  const limit = value - mean(excess);
  return finish({ ...blank, ...outcome, needed: moreOf(outcome, perDevice, 'inferencesPerDevice'), value, baseline, limit, interval: around(limit, outcome.interval) },
    `${round(value, 2)} % of inferences fail per device${baseline === null ? '' : `, ${round(baseline, 2)} % before`}; the limit is ${round(limit, 2)} %`);
}

export function judgeAccuracy(settings: Settings, samples: readonly DeviceSample[], soaked: boolean): Verdict | undefined {
  const gate = settings.gates.accuracy;
  if (!gate) return undefined;
  const own = ({ baseline }: DeviceSample): number | null => (baseline && baseline.labelled >= gate.minLabelled ? percent(baseline.correct, baseline.labelled) : null);
  const expected = samples.filter((sample) => gate.required || gate.minPercent !== null || own(sample) !== null);
  const labelled = expected.filter(({ current }) => current.labelled >= gate.minLabelled);
  const blank = blankVerdict('accuracy', 'percent', { limit: gate.minPercent, basis: `labelled frames of ${devicesIn(labelled.length)}`, sample: { devices: labelled.length, inferences: samples.reduce((sum, { current }) => sum + current.labelled, 0) } });
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
  const perDevice = mean(judged.map(({ sample }) => sample.current.labelled));
  const outcome = settle(excess, mean(excess), {
    alpha: settings.alpha, soaked, disaster: disasterPoints, sdFloor: 100 / perDevice,
    noise: twoStandardErrors(judged.map(({ sample: { current } }) => [current.correct, current.labelled]), judged.flatMap(({ sample: { baseline } }) => (baseline ? [[baseline.correct, baseline.labelled]] : []))),
  });
  const limit = value + mean(excess);
  const baseline = meanOrNull(judged.map(({ before }) => before));
  return finish({ ...blank, ...outcome, needed: moreOf(outcome, perDevice, 'labelledPerDevice'), value, baseline, limit, interval: around(limit, outcome.interval, 'less') },
    `${round(value, 1)} % of labelled frames are right${baseline === null ? '' : `, ${round(baseline, 1)} % before on the same devices`}; the limit is ${round(limit, 1)} %`);
}

/** Who asks for it wants every device to have shadowed: without frames it is undecided, never left out. */
export function judgeShadow(settings: Settings, samples: readonly DeviceSample[], soaked: boolean): Verdict | undefined {
  const gate = settings.gates.shadowAgreement;
  if (!gate) return undefined;
  const judged = samples.flatMap(({ current: { shadow } }) => (shadow && shadow.frames >= gate.minFrames ? [shadow] : []));
  const blank = blankVerdict('shadow_agreement', 'percent', { limit: gate.minPercent, basis: `shadow frames of ${devicesIn(judged.length)}`, sample: { devices: judged.length, inferences: samples.reduce((sum, { current }) => sum + (current.shadow?.frames ?? 0), 0) } });
  const short = tooFew(settings, blank, samples.length, judged.length, 'shadow frames', { shadowFramesPerDevice: gate.minFrames });
  if (short) return short;
  const shares = judged.map(({ agreed, frames }) => percent(agreed, frames));
  const excess = shares.map((share) => gate.minPercent - share);
  const perDevice = mean(judged.map(({ frames }) => frames));
  const outcome = settle(excess, mean(excess), { alpha: settings.alpha, soaked, disaster: disasterPoints, sdFloor: 100 / perDevice, noise: twoStandardErrors(judged.map(({ agreed, frames }) => [agreed, frames])) });
  return finish({ ...blank, ...outcome, needed: moreOf(outcome, perDevice, 'shadowFramesPerDevice'), value: mean(shares), interval: around(gate.minPercent, outcome.interval, 'less') },
    `${round(mean(shares), 1)} % of shadow frames were answered as the active model did; the limit is ${gate.minPercent} %`);
}
