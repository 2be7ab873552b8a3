import { topOf, type Parity, type Task } from '@reefkeeper/bundle';
import type { BuildRequest } from './job.ts';

/** What float original and quantised model answered to one sample; outputs as real numbers. */
export interface SamplePair {
  float: ArrayLike<number>[];
  int8: ArrayLike<number>[];
  /** Index of the true class; null where it is not known. */
  label: number | null;
}

export interface ParityOptions {
  task: Task;
  outputNames: string[];
  labels: readonly string[] | null;
  /** The samples also measured the activation ranges, so the comparison is kinder than real life. */
  sameAsCalibration: boolean;
}

/** Compares the two models over all samples. Pure. */
export function compare(samples: readonly SamplePair[], options: ParityOptions): Parity {
  const classifies = options.task === 'classification';
  const tops = samples.map((sample) => ({ float: topOf(sample.float[0]!), int8: topOf(sample.int8[0]!), label: sample.label }));
  const labelled = classifies ? tops.filter((top) => top.label !== null) : [];
  const share = (hits: number, of: number) => (of === 0 ? 0 : hits / of);
  const outputs = options.outputNames.map((name, index) => ({ name, ...distance(samples, index) }));
  const constant = samples.length > 1 && samples.every((sample) => same(sample.int8[0]!, samples[0]!.int8[0]!)) && !samples.every((sample) => same(sample.float[0]!, samples[0]!.float[0]!));
  const warnings = [
    ...(constant ? ['The quantised model gives the same answer to every sample.'] : []),
    ...(options.sameAsCalibration ? ['Measured on the calibration samples; give held-out evaluation samples for an honest number.'] : []),
    ...(samples.length < fewSamples ? [`Only ${samples.length} samples: the shares are rough.`] : []),
  ];
  return {
    samples: samples.length,
    agreement: classifies && samples.length > 0 ? share(tops.filter((top) => top.float === top.int8).length, samples.length) : null,
    accuracy: labelled.length === 0 ? null : {
      labelled: labelled.length,
      float: share(labelled.filter((top) => top.float === top.label).length, labelled.length),
      int8: share(labelled.filter((top) => top.int8 === top.label).length, labelled.length),
    },
    outputs,
    perClass: [...new Set(labelled.map((top) => top.label!))].sort((a, b) => a - b).map((label) => {
      const own = labelled.filter((top) => top.label === label);
      return { label: options.labels?.[label] ?? `${label}`, count: own.length, float: share(own.filter((top) => top.float === label).length, own.length), int8: share(own.filter((top) => top.int8 === label).length, own.length) };
    }),
    warnings,
  };
}

const fewSamples = 20;
const defaultAgreement = 0.9;
const defaultAccuracyDrop = 0.05;

export type ParityVerdict = { ok: true } | { ok: false; message: string; numbers: Record<string, number> };

/** Whether the quantised model is close enough to the original to be published. Without samples there is nothing to hold against it. */
export function judgeParity(parity: Parity, thresholds: BuildRequest['thresholds']): ParityVerdict {
  const least = thresholds.agreement ?? defaultAgreement;
  const most = thresholds.accuracyDrop ?? defaultAccuracyDrop;
  const hint = 'Give more, and more typical, calibration samples, check mean and std of the preprocessing, or set allowWorse.';
  const broken = parity.samples > 0 ? parity.outputs.find((output) => output.cosine === null) : undefined;
  if (broken) return { ok: false, message: `The output "${broken.name}" holds values that are not finite numbers. Check the original model, and that its inputs are scaled as it was trained.`, numbers: {} };
  if (parity.agreement !== null && !(parity.agreement >= least)) {
    return { ok: false, message: `The quantised model agrees with the original on ${percent(parity.agreement)} of ${parity.samples} samples; ${percent(least)} are asked for.${parity.samples < fewSamples ? ` With so few samples each weighs ${percent(1 / parity.samples)}: give more evaluation samples.` : ''} ${hint}`, numbers: { agreement: parity.agreement, threshold: least } };
  }
  if (parity.accuracy && !(parity.accuracy.float - parity.accuracy.int8 <= most)) {
    return { ok: false, message: `Quantisation costs ${percent(parity.accuracy.float - parity.accuracy.int8)} of accuracy (${percent(parity.accuracy.float)} to ${percent(parity.accuracy.int8)}); ${percent(most)} are allowed. ${hint}`, numbers: { ...parity.accuracy, threshold: most } };
  }
  const worst = parity.agreement === null ? parity.outputs.find((output) => output.cosine !== null && !(output.cosine >= least)) : undefined;
  if (worst) return { ok: false, message: `The output "${worst.name}" of the quantised model has a cosine similarity of ${worst.cosine!.toFixed(3)} to the original's; ${least} is asked for. ${hint}`, numbers: { cosine: worst.cosine!, threshold: least } };
  return { ok: true };
}

/** Mean cosine, largest and mean absolute error of one output over all samples; null where nothing was measured, or an answer is not a finite number. */
function distance(samples: readonly SamplePair[], index: number): { cosine: number | null; maxError: number | null; meanError: number | null } {
  if (samples.length === 0) return { cosine: null, maxError: null, meanError: null };
  let [cosines, max, sum, count] = [0, 0, 0, 0];
  for (const sample of samples) {
    const [a, b] = [sample.float[index]!, sample.int8[index]!];
    let [dot, aa, bb] = [0, 0, 0];
    for (let at = 0; at < a.length; at += 1) {
      dot += a[at]! * b[at]!;
      aa += a[at]! ** 2;
      bb += b[at]! ** 2;
      const error = Math.abs(a[at]! - b[at]!);
      max = Math.max(max, error);
      sum += error;
    }
    count += a.length;
    // Two zero vectors are alike; one is nothing like the other.
    cosines += aa === 0 && bb === 0 ? 1 : aa === 0 || bb === 0 ? 0 : dot / Math.sqrt(aa) / Math.sqrt(bb);
  }
  if (!Number.isFinite(cosines + sum)) return { cosine: null, maxError: null, meanError: null };
  return { cosine: cosines / samples.length, maxError: max, meanError: sum / Math.max(1, count) };
}

function same(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
  for (let at = 0; at < a.length; at += 1) if (a[at] !== b[at]) return false;
  return true;
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}
