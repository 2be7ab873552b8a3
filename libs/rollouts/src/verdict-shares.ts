import { around, blankVerdict, finish, inferencesOf, mean, meanOrNull, moreOf, percent, round, settle, tooFew, twoStandardErrors } from './judging.ts';
import { devicesIn, type DeviceSample, type Settings } from './rollout.ts';
import type { Verdict } from './verdict.ts';

/** Gates on a share per device: failed inferences, right answers, agreement in shadow. */

/** So far beyond its limit, a share is not waited for until the soak ends. Latency is: just after a switch it is noisy. */
const disasterPoints = 20;

const attempts = (sample: { inferences: number; errors: number }): number => Math.max(sample.inferences, sample.errors);

// One pass over the devices each: a wave of thousands is judged every few seconds.

export function judgeErrors(settings: Settings, samples: readonly DeviceSample[], soaked: boolean): Verdict | undefined {
  const gate = settings.gates.errorRate;
  if (!gate) return undefined;
  const excess: number[] = [];
  const before: number[] = [];
  let [rates, tried] = [0, 0];
  for (const { baseline, current } of samples) {
    const n = attempts(current);
    if (n < settings.minSamples) continue;
    const rate = percent(current.errors, n);
    const own = baseline && attempts(baseline) >= settings.minSamples ? percent(baseline.errors, attempts(baseline)) : null;
    if (own !== null) before.push(own);
    excess.push(rate - (own === null ? gate.maxPercent : own + gate.maxIncreasePoints));
    rates += rate;
    tried += n;
  }
  const usable = excess.length;
  const blank = blankVerdict('error_rate', 'percent', { limit: gate.maxPercent, basis: `mean of ${devicesIn(usable)}`, sample: { devices: usable, inferences: inferencesOf(samples) } });
  const short = tooFew(settings, blank, samples.length, usable, 'inferences', { inferencesPerDevice: settings.minSamples });
  if (short) return short;
  const value = rates / usable;
  const baseline = meanOrNull(before);
  const perDevice = tried / usable;
  const outcome = settle(excess, mean(excess), {
    alpha: settings.alpha, soaked, disaster: disasterPoints, sdFloor: 100 / perDevice,
    noise: () => {
      const those = samples.filter(({ current }) => attempts(current) >= settings.minSamples);
      return twoStandardErrors(those.map(({ current }) => [current.errors, attempts(current)]), those.flatMap(({ baseline: one }) => (one ? [[one.errors, attempts(one)]] : [])));
    },
  });
  const limit = value - mean(excess);
  return finish({ ...blank, ...outcome, needed: moreOf(outcome, perDevice, 'inferencesPerDevice'), value, baseline, limit, interval: around(limit, outcome.interval) },
    `${round(value, 2)} % of inferences fail per device${baseline === null ? '' : `, ${round(baseline, 2)} % before`}; the limit is ${round(limit, 2)} %`);
}

export function judgeAccuracy(settings: Settings, samples: readonly DeviceSample[], soaked: boolean): Verdict | undefined {
  const gate = settings.gates.accuracy;
  if (!gate) return undefined;
  const excess: number[] = [];
  const judged: DeviceSample[] = [];
  const own: number[] = [];
  let [expected, labelled, accuracies, frames, framesOfAll] = [0, 0, 0, 0, 0];
  for (const sample of samples) {
    const { baseline, current } = sample;
    framesOfAll += current.labelled;
    const before = baseline && baseline.labelled >= gate.minLabelled ? percent(baseline.correct, baseline.labelled) : null;
    if (!gate.required && gate.minPercent === null && before === null) continue;
    expected += 1;
    if (current.labelled < gate.minLabelled) continue;
    labelled += 1;
    const floor = Math.max(gate.minPercent ?? -Infinity, before === null ? -Infinity : before - gate.maxDropPoints);
    if (floor === -Infinity) continue;
    const accuracy = percent(current.correct, current.labelled);
    judged.push(sample);
    excess.push(floor - accuracy);
    if (before !== null) own.push(before);
    accuracies += accuracy;
    frames += current.labelled;
  }
  const blank = blankVerdict('accuracy', 'percent', { limit: gate.minPercent, basis: `labelled frames of ${devicesIn(labelled)}`, sample: { devices: labelled, inferences: framesOfAll } });
  if (samples.length > 0 && expected === 0) return { ...blank, verdict: 'NOT_APPLICABLE', message: 'These devices have no labelled frames of the bundle before, and no floor is set.' };
  const short = tooFew(settings, blank, expected, labelled, 'labelled frames', { labelledPerDevice: gate.minLabelled });
  if (short) return short;
  if (judged.length === 0) return { ...blank, verdict: 'NOT_APPLICABLE', message: 'There is no accuracy of the bundle before to compare with, and no floor is set.' };
  const value = accuracies / judged.length;
  const perDevice = frames / judged.length;
  const outcome = settle(excess, mean(excess), {
    alpha: settings.alpha, soaked, disaster: disasterPoints, sdFloor: 100 / perDevice,
    noise: () => twoStandardErrors(judged.map(({ current }) => [current.correct, current.labelled]), judged.flatMap(({ baseline }) => (baseline ? [[baseline.correct, baseline.labelled]] : []))),
  });
  const limit = value + mean(excess);
  const baseline = meanOrNull(own);
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
  const outcome = settle(excess, mean(excess), { alpha: settings.alpha, soaked, disaster: disasterPoints, sdFloor: 100 / perDevice, noise: () => twoStandardErrors(judged.map(({ agreed, frames }) => [agreed, frames])) });
  return finish({ ...blank, ...outcome, needed: moreOf(outcome, perDevice, 'shadowFramesPerDevice'), value: mean(shares), interval: around(gate.minPercent, outcome.interval, 'less') },
    `${round(mean(shares), 1)} % of shadow frames were answered as the active model did; the limit is ${gate.minPercent} %`);
}
