import { topOf, type ParityFinding } from '@reefkeeper/bundle';
import { fewSamples, percent, share, type Labelled, type ParityOptions, type SamplePair } from './parity-samples.ts';

/** Share of values at which a range counts as too narrow. */
const clippedShare = 0.01;
/** Samples of a class from which on its loss is worth a word. */
const fewOfClass = 5;

/** Known ways in which a conversion goes wrong, each named by a stable code with what to do. An `error` keeps the version from being published. */
export function findings(samples: readonly SamplePair[], labelled: readonly Labelled[], options: ParityOptions): ParityFinding[] {
  if (samples.length === 0) return [];
  return [
    ...notFinite(samples, options),
    ...constantAnswers(samples, options),
    ...clippedInputs(samples, options),
    ...saturatedOutputs(samples, options),
    ...labelOrder(labelled, options),
    ...lostClasses(labelled, options),
    ...oneClassOnly(samples, options),
    ...options.conversionWarnings.map((message) => warning('convert.warning', message)),
    ...(options.sameAsCalibration ? [warning('verify.not_held_out', 'Measured on the calibration samples; give held-out evaluation samples for an honest number.')] : []),
    ...(samples.length < fewSamples ? [warning('verify.few_samples', `Only ${samples.length} ${samples.length === 1 ? 'sample' : 'samples'}: the shares are rough.`)] : []),
  ];
}

function warning(code: string, message: string): ParityFinding {
  return { code, severity: 'warning', message };
}

function error(code: string, message: string): ParityFinding {
  return { code, severity: 'error', message };
}

function notFinite(samples: readonly SamplePair[], { outputs }: ParityOptions): ParityFinding[] {
  return outputs.flatMap(({ name }, index) => {
    const finite = (values: ArrayLike<number>) => { for (let at = 0; at < values.length; at += 1) if (!Number.isFinite(values[at])) return false; return true; };
    const who = !samples.every(({ float }) => finite(float[index]!)) ? 'original' : !samples.every(({ int8 }) => finite(int8[index]!)) ? 'quantised model' : null;
    return who ? [error('verify.not_finite', `The output "${name}" of the ${who} holds values that are not finite numbers. Check the original model, and that its inputs are scaled as it was trained.`)] : [];
  });
}

/** One answer to everything, where the original tells its samples apart by more than a quantisation step. */
function constantAnswers(samples: readonly SamplePair[], { outputs }: ParityOptions): ParityFinding[] {
  if (samples.length < 2) return [];
  return outputs.flatMap(({ name, range }, index) => {
    const spread = (kind: 'float' | 'int8') => Math.max(...samples.map((sample) => largestDifference(sample[kind][index]!, samples[0]![kind][index]!)));
    if (spread('int8') > 0 || spread('float') <= 2 * (range?.step ?? 0)) return [];
    return [error('verify.constant_output', `The quantised model gives the same answer "${name}" to every sample, the original does not. Its calibration set does not show what the model will see: give about 100 typical, different samples, and check mean and std.`)];
  });
}

/** Inputs that the quantised input tensor cannot hold: it was calibrated on other values than it is given. */
function clippedInputs(samples: readonly SamplePair[], { inputs }: ParityOptions): ParityFinding[] {
  return inputs.flatMap(({ name, range }, index) => {
    if (!range) return [];
    const outside = shareOf(samples, ({ inputs: values }) => values[index]!, (value) => value < range.low - range.step || value > range.high + range.step);
    if (outside < clippedShare) return [];
    return [warning('verify.input_clipped', `${percent(outside)} of the values given to "${name}" lie outside what its quantisation can hold (${rounded(range.low)} to ${rounded(range.high)}). The calibration set is too narrow (one-coloured, too dark, too few), or it was scaled in another way than these samples.`)];
  });
}

/** Answers of the original that the quantised output cannot express. */
function saturatedOutputs(samples: readonly SamplePair[], { outputs }: ParityOptions): ParityFinding[] {
  return outputs.flatMap(({ name, range }, index) => {
    if (!range) return [];
    const beyond = shareOf(samples, ({ float }) => float[index]!, (value) => value < range.low - 2 * range.step || value > range.high + 2 * range.step);
    if (beyond < clippedShare) return [];
    return [warning('verify.saturated_output', `${percent(beyond)} of the original's values in "${name}" lie outside what the quantised output can express (${rounded(range.low)} to ${rounded(range.high)}): they are cut off. Calibrate with samples as varied as the ones the model will see.`)];
  });
}

/**
 * Labels in another order than the outputs: the original is wrong on most labelled samples, and right on most once its answers are renamed,
 * one class to one class. A model that merely takes one class for another is no such case: all classes are moved, or some among themselves.
 * Needs three samples of a class to believe it.
 */
function labelOrder(labelled: readonly Labelled[], { labels }: ParityOptions): ParityFinding[] {
  const byTruth = Map.groupBy(labelled, ({ label }) => label);
  const classes = [...byTruth].filter(([, own]) => own.length >= 3);
  if (classes.length < 2) return [];
  const usual = classes.map(([truth, own]) => ({ truth, own, ...mostFrequent(own.map(({ float }) => float)) }));
  if (new Set(usual.map(({ value }) => value)).size < usual.length) return [];
  const judged = usual.flatMap(({ own }) => own);
  const right = share(judged.filter(({ float, label }) => float === label).length, judged.length);
  const renamed = share(usual.reduce((sum, { count }) => sum + count, 0), judged.length);
  if (renamed < 0.6 || right > renamed / 2) return [];
  const nameOf = (label: number) => labels?.[label] ?? `class ${label}`;
  const moved = usual.filter(({ truth, value }) => truth !== value);
  const shift = moved[0]!.value - moved[0]!.truth;
  const shifted = usual.every(({ truth, value }) => value - truth === shift);
  const among = moved.length > 1 && moved.every(({ value }) => byTruth.has(value));
  if (!shifted && !among && !(moved.length === usual.length && usual.length > 2)) return [];
  const advice = shifted ? `They are shifted by ${shift}${shift === 1 ? ': the model probably has a background class, which belongs first in the labels' : ''}.` : 'Give the labels in the order of the model\'s outputs.';
  return [error('verify.label_order', `The labels are in another order than the outputs: samples of ${moved.slice(0, 3).map(({ truth, value }) => `"${nameOf(truth)}" are answered "${nameOf(value)}"`).join(', ')}. As given, the original is right on ${percent(right)}; renamed it would be on ${percent(renamed)}. ${advice}`)];
}

function lostClasses(labelled: readonly Labelled[], { labels }: ParityOptions): ParityFinding[] {
  const lost = [...Map.groupBy(labelled, ({ label }) => label)].filter(([truth, own]) => {
    const rightOf = (kind: 'float' | 'int8') => own.filter((one) => one[kind] === truth).length;
    return own.length >= fewOfClass && rightOf('float') >= own.length / 2 && rightOf('int8') <= rightOf('float') / 2;
  });
  if (lost.length === 0) return [];
  return [warning('verify.class_lost', `Quantisation costs most of ${lost.length === 1 ? 'a class' : `${lost.length} classes`}: ${lost.slice(0, 5).map(([truth]) => `"${labels?.[truth] ?? truth}"`).join(', ')}. Add calibration samples of ${lost.length === 1 ? 'it' : 'them'}.`)];
}

/** Agreement is easy where the original always answers the same. */
function oneClassOnly(samples: readonly SamplePair[], { task }: ParityOptions): ParityFinding[] {
  if (task !== 'classification' || samples.length < fewSamples) return [];
  const { count, value } = mostFrequent(samples.map(({ float }) => topOf(float[0]!)));
  return count < samples.length ? [] : [warning('verify.one_class', `The original gives class ${value} to every sample, so that agreement proves little. Give samples of several classes, and check mean and std.`)];
}

function mostFrequent(values: readonly number[]): { value: number; count: number } {
  const [value, all] = [...Map.groupBy(values, (one) => one)].reduce((best, next) => (next[1].length > best[1].length ? next : best));
  return { value, count: all.length };
}

function shareOf(samples: readonly SamplePair[], valuesOf: (sample: SamplePair) => ArrayLike<number>, is: (value: number) => boolean): number {
  let [hits, count] = [0, 0];
  for (const sample of samples) {
    const values = valuesOf(sample);
    for (let at = 0; at < values.length; at += 1) if (is(values[at]!)) hits += 1;
    count += values.length;
  }
  return share(hits, count);
}

function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let largest = 0;
  for (let at = 0; at < a.length; at += 1) largest = Math.max(largest, Math.abs(a[at]! - b[at]!));
  return largest;
}

function rounded(value: number): string {
  return value.toPrecision(3).replace(/\.?0+$/, '');
}
