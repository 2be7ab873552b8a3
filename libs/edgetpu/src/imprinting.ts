import { ReefError } from '@reefkeeper/platform/errors';
import { dot, normalised, type Head } from './head.ts';

export interface Embedded {
  label: string;
  /** Real numbers, not normalised. */
  embedding: ArrayLike<number>;
}

/**
 * Logits are so many times the cosine. Without it softmax of cosines is nearly flat; Qi et al. learn the factor by back-propagation, which a single
 * image per class gives nothing to go by for.
 */
export const cosineScale = 16;

/**
 * A class whose embeddings point every way has no direction: what is left of their sum is rounding. Below this mean resultant length (Mardia and Jupp,
 * "Directional Statistics"; by chance alone it takes a million images to come below it) its row gets shorter instead of saying something that is not there.
 */
const leastConcentration = 1e-3;

/**
 * Weight imprinting (Qi, Brown and Lowe, "Low-Shot Learning with Imprinted Weights", 2018): a class is the direction of the mean of its normalised
 * embeddings. More images and more classes can be added to a head from before; the order in which they come does not matter.
 * @throws ReefError `learn.head_differs`: `before` is of another kind or another extractor
 */
export function imprint(samples: readonly Embedded[], { before = null, nonNegative = false }: { before?: Head | null; nonNegative?: boolean } = {}): Head {
  if (before && !before.sums) throw new ReefError('learn.head_differs', 'conflict', `More can be added only to an imprinted head; this one was learnt by ${before.method}. Learn all classes anew.`);
  const features = samples[0]?.embedding.length ?? before?.weights[0]?.length ?? 0;
  if (before?.sums?.some((sum) => sum.length !== features)) throw new ReefError('learn.head_differs', 'conflict', `The head from before is for embeddings of ${before.sums[0]!.length} values, these have ${features}. Learn all classes anew.`);
  const labels = [...new Set([...(before?.labels ?? []), ...samples.map(({ label }) => label)])];
  const sums = labels.map((_, at) => Float64Array.from(before?.sums?.[at] ?? new Float32Array(features)));
  const counts = labels.map((_, at) => before?.samples[at] ?? 0);
  for (const { label, embedding } of samples) {
    const at = labels.indexOf(label);
    const unit = normalised(embedding);
    const sum = sums[at]!;
    for (let column = 0; column < features; column += 1) sum[column]! += unit[column]!;
    counts[at]! += 1;
  }
  const kept = sums.map((sum) => Float32Array.from(sum));
  const rowOf = (sum: Float32Array, images: number): Float32Array => {
    const length = Math.max(Math.sqrt(dot(sum, sum)), leastConcentration * images);
    return sum.map((value) => (length === 0 ? 0 : (value / length) * cosineScale));
  };
  return {
    method: 'imprinting', labels, samples: counts, sums: kept, bias: new Float32Array(labels.length),
    // Of what is kept, so that a class to which nothing is added keeps its row to the bit.
    weights: kept.map((sum, at) => rowOf(sum, counts[at]!)),
    // The range cosines can have at all: what is added later then fits, too.
    logits: { low: nonNegative ? 0 : -cosineScale, high: cosineScale },
  };
}
