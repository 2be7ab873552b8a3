import type { Parity } from '@reefkeeper/bundle';
import { detectionHead, matchBoxes } from '@reefkeeper/inference';
import type { ParityOptions, SamplePair } from './parity-samples.ts';

type BoxParity = NonNullable<Parity['boxes']>;
type MaskParity = NonNullable<Parity['masks']>;

/**
 * Boxes of both models, matched greedily by overlap where the class is the same. Needs no ground truth: `agreement` is the F1 of the quantised
 * model's boxes against the original's. null where the outputs are not boxes that can be read (offsets to anchors, for example).
 */
export function compareBoxes(samples: readonly SamplePair[], { outputs }: Pick<ParityOptions, 'outputs'>): BoxParity | null {
  const head = detectionHead(outputs, samples.map(({ float }) => float));
  if (!head) return null;
  let [original, quantised, matched, overlap] = [0, 0, 0, 0];
  for (const sample of samples) {
    const [a, b] = [head(sample.float), head(sample.int8)];
    original += a.length;
    quantised += b.length;
    const pairs = matchBoxes(a, b);
    matched += pairs.matched;
    overlap += pairs.overlap;
  }
  if (original + quantised === 0) return { agreement: null, original, quantised, matched, meanIou: null };
  return { agreement: (2 * matched) / (original + quantised), original, quantised, matched, meanIou: matched === 0 ? null : overlap / matched };
}

/** Class per pixel of both models: share of equal pixels, and the overlap (intersection over union) of each class's area. */
export function compareMasks(samples: readonly SamplePair[], { outputs, labels }: Pick<ParityOptions, 'outputs' | 'labels'>): MaskParity | null {
  const shape = outputs[0]?.shape ?? [];
  if (samples.length === 0 || shape.length < 3) return null;
  const depth = shape.length === 4 ? shape[3]! : 1;
  const pixels = shape.slice(0, 3).reduce((product, part) => product * part, 1);
  // One number per pixel is the class itself, or the chance of the foreground.
  const isClass = depth === 1 && samples.every(({ float }) => Array.from(float[0]!).every((value) => Number.isInteger(value)));
  const classAt = (values: ArrayLike<number>, pixel: number) => {
    if (depth === 1) return isClass ? Math.round(values[pixel]!) : Number(values[pixel]! >= 0.5);
    let best = 0;
    for (let next = 1; next < depth; next += 1) if (values[pixel * depth + next]! > values[pixel * depth + best]!) best = next;
    return best;
  };
  let equal = 0;
  const areas = new Map<number, { both: number; either: number }>();
  const areaOf = (kind: number) => {
    const known = areas.get(kind) ?? { both: 0, either: 0 };
    areas.set(kind, known);
    return known;
  };
  for (const sample of samples) {
    for (let pixel = 0; pixel < pixels; pixel += 1) {
      const [a, b] = [classAt(sample.float[0]!, pixel), classAt(sample.int8[0]!, pixel)];
      areaOf(a).either += 1;
      if (a === b) {
        equal += 1;
        areaOf(a).both += 1;
      } else {
        areaOf(b).either += 1;
      }
    }
  }
  const perClass = [...areas].sort(([a], [b]) => a - b).map(([kind, { both, either }]) => ({ label: labels?.[kind] ?? `${kind}`, iou: both / either, pixels: either }));
  return { agreement: equal / (samples.length * pixels), meanIou: perClass.reduce((sum, one) => sum + one.iou, 0) / perClass.length, perClass };
}
