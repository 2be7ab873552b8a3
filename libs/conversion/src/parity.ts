import { topOf, type Parity } from '@reefkeeper/bundle';
import { cosine } from '@reefkeeper/inference';
import type { BuildRequest } from './job.ts';
import { findings } from './parity-findings.ts';
import { compareBoxes, compareMasks } from './parity-heads.ts';
import { fewSamples, percent, share, type Labelled, type ParityOptions, type SamplePair } from './parity-samples.ts';

/** Most cells of the confusion matrix that a report keeps; the largest come first. */
const mostConfusions = 500;

/** Compares the two models over all samples. Pure. */
export function compare(samples: readonly SamplePair[], options: ParityOptions): Parity {
  const classifies = options.task === 'classification';
  const tops = samples.map((sample) => ({ float: topOf(sample.float[0]!), int8: topOf(sample.int8[0]!), label: sample.label }));
  const labelled = classifies ? tops.filter((top) => top.label !== null) : [];
  const boxes = options.task === 'detection' ? compareBoxes(samples, options) : null;
  const masks = options.task === 'segmentation' ? compareMasks(samples, options) : null;
  const agreement = boxes?.agreement ?? masks?.agreement ?? (classifies && samples.length > 0 ? share(tops.filter((top) => top.float === top.int8).length, samples.length) : null);
  const nameOf = (label: number) => options.labels?.[label] ?? `${label}`;
  return {
    samples: samples.length,
    agreement,
    accuracy: labelled.length === 0 ? null : {
      labelled: labelled.length,
      float: share(labelled.filter((top) => top.float === top.label).length, labelled.length),
      int8: share(labelled.filter((top) => top.int8 === top.label).length, labelled.length),
    },
    outputs: options.outputs.map(({ name }, index) => ({ name, ...distance(samples, index) })),
    perClass: [...new Set(labelled.map((top) => top.label!))].sort((a, b) => a - b).map((label) => {
      const own = labelled.filter((top) => top.label === label);
      return { label: nameOf(label), count: own.length, float: share(own.filter((top) => top.float === label).length, own.length), int8: share(own.filter((top) => top.int8 === label).length, own.length) };
    }),
    ...(labelled.length > 0 ? { confusions: confusionsOf(labelled as Labelled[], nameOf) } : {}),
    ...(boxes ? { boxes } : {}),
    ...(masks ? { masks } : {}),
    findings: findings(samples, labelled as Labelled[], options),
  };
}

/** The confusion matrix of the quantised model, without its empty cells. */
function confusionsOf(labelled: readonly Labelled[], nameOf: (label: number) => string): NonNullable<Parity['confusions']> {
  const cells = new Map<string, { truth: string; answer: string; count: number }>();
  for (const { label, int8 } of labelled) {
    const cell = cells.get(`${label} ${int8}`) ?? { truth: nameOf(label), answer: nameOf(int8), count: 0 };
    cell.count += 1;
    cells.set(`${label} ${int8}`, cell);
  }
  return [...cells.values()].sort((a, b) => b.count - a.count).slice(0, mostConfusions);
}

const defaultAgreement = 0.9;
const defaultAccuracyDrop = 0.05;

export type ParityVerdict = { ok: true } | { ok: false; code: string; message: string; numbers: Record<string, number> };

/** Whether the quantised model is close enough to the original to be published. Without samples there is nothing to hold against it. */
export function judgeParity(parity: Parity, thresholds: BuildRequest['thresholds']): ParityVerdict {
  const least = thresholds.agreement ?? defaultAgreement;
  const most = thresholds.accuracyDrop ?? defaultAccuracyDrop;
  const refuse = (message: string, numbers: Record<string, number>, code = 'verify.disagrees'): ParityVerdict => ({ ok: false, code, message, numbers });
  const hint = 'Give more, and more typical, calibration samples, check mean and std of the preprocessing, or set allowWorse.';
  const fault = parity.findings?.find(({ severity }) => severity === 'error');
  if (fault) return refuse(fault.message, {}, fault.code);
  if (parity.agreement !== null && !(parity.agreement >= least)) {
    const what = parity.boxes ? `on ${percent(parity.agreement)} of the boxes in` : parity.masks ? `on ${percent(parity.agreement)} of the pixels of` : `on ${percent(parity.agreement)} of`;
    const rough = parity.samples < fewSamples && !parity.boxes && !parity.masks ? ` With so few samples each weighs ${percent(1 / parity.samples)}: give more evaluation samples.` : '';
    return refuse(`The quantised model agrees with the original ${what} ${parity.samples} samples; ${percent(least)} are asked for.${rough} ${hint}`, { agreement: parity.agreement, threshold: least });
  }
  if (parity.accuracy && !(parity.accuracy.float - parity.accuracy.int8 <= most)) {
    return refuse(`Quantisation costs ${percent(parity.accuracy.float - parity.accuracy.int8)} of accuracy (${percent(parity.accuracy.float)} to ${percent(parity.accuracy.int8)}); ${percent(most)} are allowed. ${hint}`, { ...parity.accuracy, threshold: most });
  }
  const worst = parity.agreement === null ? parity.outputs.find((output) => output.cosine !== null && !(output.cosine >= least)) : undefined;
  if (worst) return refuse(`The output "${worst.name}" of the quantised model has a cosine similarity of ${worst.cosine!.toFixed(3)} to the original's; ${least} is asked for. ${hint}`, { cosine: worst.cosine!, threshold: least });
  return { ok: true };
}

/** Mean cosine, largest and mean absolute error of one output over all samples; null where nothing was measured, or an answer is not a finite number. */
function distance(samples: readonly SamplePair[], index: number): { cosine: number | null; maxError: number | null; meanError: number | null } {
  if (samples.length === 0) return { cosine: null, maxError: null, meanError: null };
  let [cosines, max, sum, count] = [0, 0, 0, 0];
  for (const sample of samples) {
    const [a, b] = [sample.float[index]!, sample.int8[index]!];
    for (let at = 0; at < a.length; at += 1) {
      const error = Math.abs(a[at]! - b[at]!);
      max = Math.max(max, error);
      sum += error;
    }
    count += a.length;
    cosines += cosine(a, b);
  }
  if (!Number.isFinite(cosines + sum)) return { cosine: null, maxError: null, meanError: null };
  return { cosine: cosines / samples.length, maxError: max, meanError: sum / Math.max(1, count) };
}
