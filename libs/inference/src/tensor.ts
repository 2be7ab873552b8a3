/** TfLiteType (tensorflow/lite/c/c_api_types.h, 2.9) by number. */
const typeNames = ['none', 'float32', 'int32', 'uint8', 'int64', 'string', 'bool', 'int16', 'complex64', 'int8', 'float16', 'float64'] as const;

export type TensorType = (typeof typeNames)[number];

export interface TensorInfo {
  name: string;
  shape: number[];
  dtype: TensorType;
  /** real = (quantised - zeroPoint) * scale; null for tensors that are not quantised per tensor. */
  scale: number | null;
  zeroPoint: number | null;
  bytes: number;
}

/** Tensors as a bundle's manifest describes them. */
export interface ExpectedTensors {
  inputs: readonly ExpectedTensor[];
  outputs: readonly ExpectedTensor[];
}
export type ExpectedTensor = { shape: readonly number[]; dtype: string; scale: number | null; zeroPoint: number | null };

/**
 * How a model's tensors differ from what was promised, in words. Names are not compared: converters rename tensors freely, while
 * another shape, type or quantisation makes every answer wrong without any error.
 */
export function differences(model: { inputs: readonly TensorInfo[]; outputs: readonly TensorInfo[] }, promised: ExpectedTensors): string[] {
  return (['inputs', 'outputs'] as const).flatMap((side) => {
    if (model[side].length !== promised[side].length) return [`${model[side].length} ${side} instead of ${promised[side].length}`];
    return model[side].flatMap((tensor, index) => {
      const wanted = promised[side][index]!;
      const what = `${side.slice(0, -1)} ${index}`;
      const faults: string[] = [];
      if (tensor.dtype !== wanted.dtype) faults.push(`${what} is ${tensor.dtype} instead of ${wanted.dtype}`);
      if (tensor.shape.join('x') !== wanted.shape.join('x')) faults.push(`${what} has shape ${tensor.shape.join('x')} instead of ${wanted.shape.join('x')}`);
      // TFLite holds scales as float32; a manifest may have them with fewer or more digits.
      if (wanted.scale !== null && Math.abs((tensor.scale ?? 0) - wanted.scale) > 1e-6 * wanted.scale) faults.push(`${what} has scale ${tensor.scale} instead of ${wanted.scale}`);
      if (wanted.zeroPoint !== null && tensor.zeroPoint !== wanted.zeroPoint) faults.push(`${what} has zero point ${tensor.zeroPoint} instead of ${wanted.zeroPoint}`);
      return faults;
    });
  });
}

export function typeName(code: number): TensorType {
  return typeNames[code] ?? 'none';
}

/** The tensor's bytes (little-endian, as TFLite holds them) as real numbers. Shape is flattened. */
export function dequantise(bytes: Uint8Array, info: Pick<TensorInfo, 'dtype' | 'scale' | 'zeroPoint'>): Float32Array {
  const raw = numbersOf(bytes, info.dtype);
  const out = new Float32Array(raw.length);
  const scale = info.scale ?? 1;
  const zeroPoint = info.scale === null ? 0 : (info.zeroPoint ?? 0);
  for (let at = 0; at < raw.length; at += 1) out[at] = (raw[at]! - zeroPoint) * scale;
  return out;
}

/** Real numbers as a tensor's bytes: round(real / scale) + zeroPoint, clamped to the type. Float tensors take them as they are. @throws RangeError for types other than int8, uint8 and float32 */
export function quantiseTensor(values: ArrayLike<number>, info: Pick<TensorInfo, 'dtype' | 'scale' | 'zeroPoint'>): Buffer {
  if (info.dtype === 'float32') return Buffer.from(Float32Array.from(values).buffer);
  if ((info.dtype !== 'int8' && info.dtype !== 'uint8') || info.scale === null) throw new RangeError(`real numbers cannot be given to a tensor of type ${info.dtype}`);
  const [low, high] = info.dtype === 'int8' ? [-128, 127] : [0, 255];
  const out = Buffer.allocUnsafe(values.length);
  for (let at = 0; at < values.length; at += 1) out[at] = Math.min(high, Math.max(low, Math.round(values[at]! / info.scale) + (info.zeroPoint ?? 0))) & 0xff;
  return out;
}

/** The tensor's bytes (little-endian) as the numbers they stand for, not dequantised. @throws RangeError for types without numbers */
export function numbersOf(bytes: Uint8Array, dtype: TensorType): ArrayLike<number> {
  switch (dtype) {
    case 'int8': return new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    case 'uint8': case 'bool': return bytes;
    default: {
      // A copy, since a view of wider numbers must begin at an aligned offset.
      const copy = Uint8Array.from(bytes).buffer;
      if (dtype === 'float32') return new Float32Array(copy);
      if (dtype === 'int32') return new Int32Array(copy);
      if (dtype === 'int16') return new Int16Array(copy);
      if (dtype === 'float64') return new Float64Array(copy);
      if (dtype === 'int64') return Array.from(new BigInt64Array(copy), Number);
      throw new RangeError(`tensors of type ${dtype} have no numbers`);
    }
  }
}

/** The `k` highest values with their indexes, highest first; equal values in index order. */
export function topK(values: ArrayLike<number>, k: number): { index: number; score: number }[] {
  // Sorting a thousand classes for the sake of two would cost a small board more than the rest of the answer.
  const best: { index: number; score: number }[] = [];
  for (let index = 0; index < values.length; index += 1) {
    const score = values[index]!;
    if (best.length >= k && !(score > (best.at(-1)?.score ?? Infinity))) continue;
    let at = best.length;
    while (at > 0 && best[at - 1]!.score < score) at -= 1;
    best.splice(at, 0, { index, score });
    if (best.length > k) best.pop();
  }
  return best;
}

/** Scores that sum to 1 from a classifier's raw outputs; subtracting the highest keeps exp() from overflowing. */
export function softmax(values: ArrayLike<number>): Float32Array {
  const highest = Array.from(values).reduce((one, other) => Math.max(one, other), -Infinity);
  const powers = Float32Array.from(values, (value) => Math.exp(value - highest));
  const sum = powers.reduce((one, other) => one + other, 0);
  return powers.map((power) => power / sum);
}

/**
 * Of the angle between two vectors, -1 to 1: two zero vectors are alike, one is nothing like any other. Numbers so small (or large) that their squares would be
 * rounded away count as well; NaN where one of them is not finite.
 */
export function cosine(one: ArrayLike<number>, other: ArrayLike<number>): number {
  if (one.length !== other.length) return 0;
  const [scaleOne, scaleOther] = [largest(one), largest(other)];
  if (scaleOne === 0 || scaleOther === 0) return scaleOne === scaleOther ? 1 : 0;
  let [dot, aa, bb] = [0, 0, 0];
  for (let at = 0; at < one.length; at += 1) {
    const [a, b] = [one[at]! / scaleOne, other[at]! / scaleOther];
    dot += a * b;
    aa += a * a;
    bb += b * b;
  }
  return Math.min(1, Math.max(-1, dot / Math.sqrt(aa * bb)));
}

function largest(values: ArrayLike<number>): number {
  let most = 0;
  for (let at = 0; at < values.length; at += 1) most = Math.max(most, Math.abs(values[at]!));
  return most;
}

/**
 * A classifier's output as labelled scores, best first. Outputs that are no distribution already (all in 0..1 and summing to 1, within
 * what quantisation can shift the sum) are taken for logits.
 */
export function classify(bytes: Uint8Array, output: Pick<TensorInfo, 'dtype' | 'scale' | 'zeroPoint'>, options: { labels?: readonly string[] | null; k?: number } = {}): { index: number; label: string; score: number }[] {
  const values = dequantise(bytes, output);
  const sum = values.reduce((one, other) => one + other, 0);
  const slack = 0.01 + ((output.scale ?? 0) * values.length) / 2;
  const distribution = values.every((value) => value >= 0 && value <= 1.01) && Math.abs(sum - 1) <= slack;
  return topK(distribution ? values : softmax(values), options.k ?? 5).map(({ index, score }) => ({ index, score, label: options.labels?.[index] ?? String(index) }));
}
