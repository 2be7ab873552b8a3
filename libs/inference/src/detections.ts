/** Box found by a detector: two corners (top, left, bottom, right), a class and a score 0 to 1. */
export interface Detection { box: [number, number, number, number]; kind: number; score: number }

/** A detector's weak answers are mostly noise; what users see starts about here. */
export const leastScore = 0.5;
/** Overlap from which on two boxes mean the same thing (PASCAL VOC). */
export const leastIou = 0.5;

/**
 * Reads the detections out of a model's outputs, told apart by shape: N boxes of 4, and either N classes and N scores or N rows of class scores.
 * @param samples answers (one array of real numbers per output) from which the order of the outputs and of the corners is judged
 * @returns a reader of answers; null where the outputs are not boxes that can be read (offsets to anchors, for example)
 */
export function detectionHead(outputs: readonly { shape: readonly number[] }[], samples: readonly (readonly ArrayLike<number>[])[], least = leastScore): ((answer: readonly ArrayLike<number>[]) => Detection[]) | null {
  const boxes = outputs.findIndex(({ shape }) => shape.length === 3 && shape[2] === 4);
  const count = outputs[boxes]?.shape[1] ?? 0;
  if (boxes < 0 || count === 0) return null;
  const corners = cornersOf(samples.map((answer) => answer[boxes]!), count);
  if (!corners) return null;
  const rows = outputs.findIndex(({ shape }, index) => index !== boxes && shape.length === 3 && shape[1] === count);
  if (rows >= 0) {
    const kinds = outputs[rows]!.shape[2]!;
    return (answer) => Array.from({ length: count }, (_, at): Detection => {
      let kind = 0;
      for (let next = 1; next < kinds; next += 1) if (answer[rows]![at * kinds + next]! > answer[rows]![at * kinds + kind]!) kind = next;
      return { box: corners(answer[boxes]!, at), kind, score: answer[rows]![at * kinds + kind]! };
    }).filter(({ score }) => score >= least);
  }
  // Post-processed: of the two lists as long as the boxes, the classes are whole numbers and the scores are not.
  const lists = outputs.flatMap(({ shape }, index) => (shape.length === 2 && shape[1] === count ? [index] : []));
  const whole = (index: number) => samples.every((answer) => Array.from(answer[index]!).every((value) => Number.isInteger(value)));
  let [kinds, scores] = [lists.find(whole), lists.find((index) => !whole(index))];
  // Nothing found: every score is 0. The order is then that of TFLite_Detection_PostProcess, boxes, classes, scores.
  if (scores === undefined && lists.length === 2) [kinds, scores] = lists;
  if (scores === undefined) return null;
  const [kindsAt, scoresAt] = [kinds, scores];
  return (answer) => Array.from({ length: count }, (_, at): Detection => ({ box: corners(answer[boxes]!, at), kind: kindsAt === undefined ? 0 : Math.round(answer[kindsAt]![at]!), score: answer[scoresAt]![at]! }))
    .filter(({ score }) => score >= least);
}

/** Pairs boxes of the same class greedily by overlap, the surest first; `overlap` is the sum of the matched pairs' IoU. */
export function matchBoxes(ones: readonly Detection[], others: readonly Detection[]): { matched: number; overlap: number } {
  let [matched, overlap] = [0, 0];
  const free = new Set(others);
  for (const one of ones.toSorted((x, y) => y.score - x.score)) {
    const best = [...free].filter(({ kind }) => kind === one.kind).map((other) => ({ other, iou: iou(one.box, other.box) })).sort((x, y) => y.iou - x.iou)[0];
    if (!best || best.iou < leastIou) continue;
    free.delete(best.other);
    matched += 1;
    overlap += best.iou;
  }
  return { matched, overlap };
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
  const either = area(a) + area(b) - common;
  return either === 0 ? 0 : common / either;
}
