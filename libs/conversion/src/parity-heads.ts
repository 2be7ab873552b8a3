import type { Parity } from '@reefkeeper/bundle';
import { share, type ComparedTensor, type ParityOptions, type SamplePair } from './parity-samples.ts';

/** Box found by a detector: two corners, a class and a score 0 to 1. */
interface Detection { box: [number, number, number, number]; kind: number; score: number }

type BoxParity = NonNullable<Parity['boxes']>;
type MaskParity = NonNullable<Parity['masks']>;

/** A detector's weak answers are mostly noise; what users see starts about here. */
const leastScore = 0.5;
/** Overlap from which on two boxes mean the same thing (PASCAL VOC). */
const leastIou = 0.5;

/**
 * Boxes of both models, matched greedily by overlap where the class is the same. Needs no ground truth: `agreement` is the F1 of the quantised
 * model's boxes against the original's. null where the outputs are not boxes that can be read (offsets to anchors, for example).
 */
export function compareBoxes(samples: readonly SamplePair[], { outputs }: Pick<ParityOptions, 'outputs'>): BoxParity | null {
  const head = detectionHead(outputs, samples);
  if (!head) return null;
  let [original, quantised, matched, overlap] = [0, 0, 0, 0];
  for (const sample of samples) {
    const [a, b] = [head(sample.float), head(sample.int8)];
    original += a.length;
    quantised += b.length;
    const free = new Set(b);
    for (const one of a.toSorted((x, y) => y.score - x.score)) {
      const best = [...free].filter(({ kind }) => kind === one.kind).map((other) => ({ other, iou: iou(one.box, other.box) })).sort((x, y) => y.iou - x.iou)[0];
      if (!best || best.iou < leastIou) continue;
      free.delete(best.other);
      matched += 1;
      overlap += best.iou;
    }
  }
  if (original + quantised === 0) return { agreement: null, original, quantised, matched, meanIou: null };
  return { agreement: (2 * matched) / (original + quantised), original, quantised, matched, meanIou: matched === 0 ? null : overlap / matched };
}

/** Reads the detections out of a model's outputs, told apart by shape: N boxes of 4, and either N classes and N scores or N rows of class scores. */
function detectionHead(outputs: readonly ComparedTensor[], samples: readonly SamplePair[]): ((answer: ArrayLike<number>[]) => Detection[]) | null {
  const boxes = outputs.findIndex(({ shape }) => shape.length === 3 && shape[2] === 4);
  const count = outputs[boxes]?.shape[1] ?? 0;
  if (boxes < 0 || count === 0) return null;
  const corners = cornersOf(samples.map(({ float }) => float[boxes]!), count);
  if (!corners) return null;
  const rows = outputs.findIndex(({ shape }, index) => index !== boxes && shape.length === 3 && shape[1] === count);
  if (rows >= 0) {
    const kinds = outputs[rows]!.shape[2]!;
    return (answer) => Array.from({ length: count }, (_, at): Detection => {
      let kind = 0;
      for (let next = 1; next < kinds; next += 1) if (answer[rows]![at * kinds + next]! > answer[rows]![at * kinds + kind]!) kind = next;
      return { box: corners(answer[boxes]!, at), kind, score: answer[rows]![at * kinds + kind]! };
    }).filter(({ score }) => score >= leastScore);
  }
  // Post-processed: of the two lists as long as the boxes, the classes are whole numbers and the scores are not.
  const lists = outputs.flatMap(({ shape }, index) => (shape.length === 2 && shape[1] === count ? [index] : []));
  const whole = (index: number) => samples.every(({ float }) => Array.from(float[index]!).every((value) => Number.isInteger(value)));
  const [kinds, scores] = [lists.find(whole), lists.find((index) => !whole(index))];
  if (scores === undefined) return null;
  return (answer) => Array.from({ length: count }, (_, at): Detection => ({ box: corners(answer[boxes]!, at), kind: kinds === undefined ? 0 : Math.round(answer[kinds]![at]!), score: answer[scores]![at]! }))
    .filter(({ score }) => score >= leastScore);
}

/** How four numbers make two corners: as they are, or as centre and size. null for neither. */
function cornersOf(answers: readonly ArrayLike<number>[], count: number): ((values: ArrayLike<number>, at: number) => Detection['box']) | null {
  let [ordered, sized, all] = [0, 0, 0];
  for (const values of answers) {
    for (let at = 0; at < count; at += 1) {
      const [a, b, c, d] = four(values, at);
      // Rows beyond the ones found are zero.
      if (a === 0 && b === 0 && c === 0 && d === 0) continue;
      all += 1;
      if (c >= a && d >= b) ordered += 1;
      if (c > 0 && d > 0) sized += 1;
    }
  }
  if (ordered >= 0.95 * all) return four;
  if (sized < all) return null;
  return (values, at) => {
    const [y, x, height, width] = four(values, at);
    return [y - height / 2, x - width / 2, y + height / 2, x + width / 2];
  };
}

function four(values: ArrayLike<number>, at: number): Detection['box'] {
  return [values[at * 4]!, values[at * 4 + 1]!, values[at * 4 + 2]!, values[at * 4 + 3]!];
}

function iou(a: Detection['box'], b: Detection['box']): number {
  const area = ([top, left, bottom, right]: Detection['box']) => Math.max(0, bottom - top) * Math.max(0, right - left);
  const common = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  return share(common, area(a) + area(b) - common);
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
