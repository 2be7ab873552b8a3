import { ReefError } from '@reefkeeper/platform/errors';
import { elementsOf, type Operator, type Quantisation, type Subgraph, type Tensor, type TfliteModel } from './model.ts';
import { writeModel } from './write-model.ts';

export const headMethods = ['imprinting', 'softmax-regression'] as const;
export type HeadMethod = (typeof headMethods)[number];

/** A classifier on embeddings: scores = softmax(weights . e/|e| + bias), all in real numbers. */
export interface Head {
  method: HeadMethod;
  labels: string[];
  /** One row per class, as long as the embedding. */
  weights: Float32Array[];
  bias: Float32Array;
  /** What the logits are quantised to; holds 0. */
  logits: { low: number; high: number };
  /** Images each class was learnt from. */
  samples: number[];
  /** Imprinting: per class the sum of its normalised embeddings, from which more can be added later without a loss. */
  sums: Float32Array[] | null;
}

/** Where a model gives its embedding, and the head that was learnt on it before. */
export interface Extractor {
  /** Index among the model's outputs. */
  output: number;
  tensor: Tensor;
  features: number;
  /** Its values cannot be below 0 (it comes out of a ReLU). */
  nonNegative: boolean;
  head: Head | null;
}

/** What `appendHead` leaves in the file about the head, so that it can be read, replaced and taken off again. */
interface HeadNote { schema: 1; method: HeadMethod; labels: string[]; samples: number[]; logits: Head['logits']; tensors: number; operators: number }

const noteName = 'reef.head';
const sumsName = 'reef.head.sums';
/** TensorFlow Lite 2.9 wants exactly this of a quantised L2_NORMALIZATION. */
const normalisedScale = 1 / 128;

/**
 * Finds the embedding of a model: where a head of ours stands on it, an output with `embedding` in its name, or, if the caller says that the model is
 * an extractor, its only output.
 * @throws ReefError `learn.no_extractor`
 */
export function extractorOf(model: TfliteModel, { isExtractor = false }: { isExtractor?: boolean } = {}): Extractor {
  const graph = model.subgraphs[0]!;
  const note = noteOf(model);
  const named = graph.outputs.findIndex((index) => /embedding/i.test(graph.tensors[index]!.name));
  const output = note ? 1 : named >= 0 ? named : isExtractor && graph.outputs.length === 1 ? 0 : -1;
  const tensor = graph.tensors[graph.outputs[output] ?? -1];
  if (!tensor) throw noExtractor(`it has ${graph.outputs.length === 1 ? 'one output' : `${graph.outputs.length} outputs`} (${graph.outputs.map((index) => `"${graph.tensors[index]!.name}"`).join(', ')}), none of which is an embedding`);
  const features = tensor.shape.at(-1) ?? 0;
  if (features < 2 || elementsOf(tensor.shape) !== features || tensor.shape.length > 4) throw noExtractor(`its output "${tensor.name}" has the shape [${tensor.shape.join(', ')}], where an embedding is one row such as [1, 1024]`);
  const { type, quantisation } = tensor;
  if ((type !== 'INT8' && type !== 'UINT8') || quantisation?.scale.length !== 1) throw noExtractor(`its output "${tensor.name}" is ${type.toLowerCase()}${quantisation ? '' : ' and not quantised'}, where a quantised model gives int8 or uint8`);
  const maker = graph.operators.find(({ outputs }) => outputs.includes(tensor.index));
  if (maker?.op === 'SOFTMAX' || maker?.op === 'LOGISTIC') throw noExtractor(`its output "${tensor.name}" are the scores of a classifier (${maker.op})`);
  return { output, tensor, features, nonNegative: (quantisation.zeroPoint[0] ?? 0) === lowest(type), head: note && readHead(model, note) };
}

/**
 * The model with a head on its embedding: L2_NORMALIZATION -> FULLY_CONNECTED -> SOFTMAX in the embedding's own type, whether the layers before are compiled
 * for the Edge TPU or not. Its outputs are then the scores and the embedding, so that it can be learnt further. A head of ours that is there is replaced;
 * everything before it stays as it is, bit for bit.
 * @throws ReefError `learn.no_extractor`, `learn.head_differs` (a head for another extractor)
 */
export function appendHead(model: TfliteModel, head: Head, options: { isExtractor?: boolean } = {}): Uint8Array {
  const { tensor: { index }, features } = extractorOf(model, options);
  if (head.weights.some((row) => row.length !== features) || head.weights.length !== head.labels.length || head.bias.length !== head.labels.length) {
    throw new ReefError('learn.head_differs', 'conflict', `The head was learnt on embeddings of ${head.weights[0]?.length ?? 0} values for ${head.labels.length} classes; this extractor gives ${features}. Learn it on this model.`, { detail: { features, head: head.weights[0]?.length ?? 0 } });
  }
  const bare = withoutHead(model);
  const graph = bare.subgraphs[0]!;
  const { tensors, operators, scores } = headGraph(graph.tensors[index]!, head, graph.tensors.length, graph.operators.length);
  const note: HeadNote = { schema: 1, method: head.method, labels: head.labels, samples: head.samples, logits: head.logits, tensors: graph.tensors.length, operators: graph.operators.length };
  return writeModel({
    description: bare.description, signatures: [],
    subgraphs: [{ ...graph, tensors: [...graph.tensors, ...tensors], operators: [...graph.operators, ...operators], outputs: [scores, index] }, ...bare.subgraphs.slice(1)],
    metadata: [...bare.metadata, { name: noteName, bytes: new TextEncoder().encode(JSON.stringify(note)) }, ...(head.sums ? [{ name: sumsName, bytes: floatBytes(head.sums) }] : [])],
  });
}

/** The head alone, embedding in, scores out: what runs behind the Edge TPU's part on the CPU. */
export function headModel({ tensor }: Pick<Extractor, 'tensor'>, head: Head): Uint8Array {
  const { tensors, operators, scores } = headGraph({ ...tensor, index: 0, data: null, isConstant: false, buffer: 0 }, head, 1, 0);
  return writeModel({
    description: 'a learnt head', metadata: [], signatures: [],
    subgraphs: [{ name: 'main', tensors: [{ ...tensor, index: 0, data: null, isConstant: false, buffer: 0, shapeSignature: null }, ...tensors], operators, inputs: [0], outputs: [scores] }],
  });
}

/** The model as it was before `appendHead`, but for the list of outputs: those are then the embedding alone. Models without a head of ours come back as they are. */
export function withoutHead(model: TfliteModel): TfliteModel {
  const note = noteOf(model);
  if (!note) return model;
  const [graph, ...others] = model.subgraphs as [Subgraph, ...Subgraph[]];
  return {
    ...model, metadata: model.metadata.filter(({ name }) => name !== noteName && name !== sumsName),
    subgraphs: [{ ...graph, tensors: graph.tensors.slice(0, note.tensors), operators: graph.operators.slice(0, note.operators), outputs: [graph.outputs[1]!] }, ...others],
  };
}

/** The float computation that the quantised head stands for. */
export function scoresOf(head: Pick<Head, 'weights' | 'bias'>, embedding: ArrayLike<number>): Float64Array {
  return softmax(logitsOf(head, normalised(embedding)));
}

/** @param unit a normalised embedding */
export function logitsOf({ weights, bias }: Pick<Head, 'weights' | 'bias'>, unit: ArrayLike<number>): Float64Array {
  return Float64Array.from(weights, (row, at) => dot(row, unit) + bias[at]!);
}

/** Of length 1; all zeros stay so. */
export function normalised(values: ArrayLike<number>): Float32Array {
  const length = Math.sqrt(dot(values, values));
  return Float32Array.from(values, (value) => (length === 0 ? 0 : value / length));
}

export function softmax(logits: ArrayLike<number>): Float64Array {
  const powers = Float64Array.from(logits);
  let highest = -Infinity;
  for (const logit of powers) highest = Math.max(highest, logit);
  let sum = 0;
  for (let at = 0; at < powers.length; at += 1) sum += powers[at] = Math.exp(powers[at]! - highest);
  return powers.map((power) => power / sum);
}

export function dot(one: ArrayLike<number>, other: ArrayLike<number>): number {
  let sum = 0;
  for (let at = 0; at < one.length; at += 1) sum += one[at]! * other[at]!;
  return sum;
}

/** The embedding's bytes as real numbers. */
export function realEmbedding({ tensor: { type, quantisation } }: Pick<Extractor, 'tensor'>, bytes: Uint8Array): Float32Array {
  const values = type === 'INT8' ? new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength) : bytes;
  const [scale, zeroPoint] = [quantisation!.scale[0]!, quantisation!.zeroPoint[0] ?? 0];
  return Float32Array.from(values, (value) => (value - zeroPoint) * scale);
}

function headGraph(embedding: Tensor, head: Head, firstTensor: number, firstOperator: number): { tensors: Tensor[]; operators: Operator[]; scores: number } {
  const type = embedding.type as 'INT8' | 'UINT8';
  const middle = type === 'INT8' ? 0 : 128;
  const classes = head.labels.length;
  const features = embedding.shape.at(-1)!;
  // One scale for all rows: TensorFlow Lite 2.9 computes a dense layer of several scales wrongly without a word.
  const weightScale = head.weights.reduce((most, row) => row.reduce((highest, value) => Math.max(highest, Math.abs(value)), most), 0) / 127 || 1 / 127;
  const from = Math.min(0, head.logits.low);
  const logitScale = Math.max(Math.max(0, head.logits.high) - from, 1e-6) / 255;
  const tensor = (at: number, name: string, shape: number[], kind: Tensor['type'], quantisation: Quantisation, data: Uint8Array | null = null): Tensor => ({
    index: firstTensor + at, name: `head/${name}`, shape, shapeSignature: null, type: kind, buffer: 0, data, isConstant: data !== null, isVariable: false, isSparse: false, quantisation,
  });
  const per = (scale: number, zeroPoint: number): Quantisation => ({ scale: [scale], zeroPoint: [zeroPoint], axis: 0 });
  const low = lowest(type);
  const logitZero = Math.min(low + 255, Math.max(low, Math.round(low - from / logitScale)));
  const weights = new Uint8Array(classes * features);
  head.weights.forEach((row, at) => row.forEach((value, column) => { weights[at * features + column] = (Math.max(-127, Math.min(127, Math.round(value / weightScale))) + middle) & 0xff; }));
  const bias = Int32Array.from(head.bias, (value) => Math.round(value / (weightScale * normalisedScale)));
  const [unit, weight, offset, logits, scores] = [0, 1, 2, 3, 4].map((at) => firstTensor + at) as [number, number, number, number, number];
  const version = type === 'INT8' ? 2 : 1;
  const operator = (at: number, op: string, inputs: number[], outputs: number[], options: Operator['options'], opVersion: number): Operator => ({
    index: firstOperator + at, op, customCode: null, version: opVersion, inputs, outputs, intermediates: [], mutatingInputs: null, customOptions: null, options,
  });
  return {
    tensors: [
      tensor(0, 'normalised', embedding.shape, type, per(normalisedScale, middle)),
      tensor(1, 'weights', [classes, features], type, per(weightScale, middle), weights),
      tensor(2, 'bias', [classes], 'INT32', per(weightScale * normalisedScale, 0), new Uint8Array(bias.buffer)),
      tensor(3, 'logits', [1, classes], type, per(logitScale, logitZero)),
      tensor(4, 'scores', [1, classes], type, per(1 / 256, low)),
    ],
    operators: [
      operator(0, 'L2_NORMALIZATION', [embedding.index], [unit], { kind: 'L2Norm', fusedActivation: 'NONE' }, version),
      operator(1, 'FULLY_CONNECTED', [unit, weight, offset], [logits], { kind: 'FullyConnected', fusedActivation: 'NONE', weightsFormat: 0, keepNumDims: false, asymmetricQuantiseInputs: false }, type === 'INT8' ? 4 : 1),
      // beta is 0 where it is left out, and all classes then get the same score.
      operator(2, 'SOFTMAX', [logits], [scores], { kind: 'Softmax', beta: 1 }, version),
    ],
    scores,
  };
}

/** The head's real numbers as the file has them, so within half a step of those that were learnt. */
function readHead(model: TfliteModel, note: HeadNote): Head {
  const graph = model.subgraphs[0]!;
  const real = ({ data, quantisation, type }: Tensor): Float32Array => {
    const [scale, zeroPoint] = [quantisation!.scale[0]!, quantisation!.zeroPoint[0] ?? 0];
    const bytes = data!.slice();
    const values = type === 'INT32' ? new Int32Array(bytes.buffer) : type === 'INT8' ? new Int8Array(bytes.buffer) : bytes;
    return Float32Array.from(values, (value) => (value - zeroPoint) * scale);
  };
  const [, weights, bias] = graph.tensors.slice(note.tensors) as [Tensor, Tensor, Tensor];
  const rows = (values: Float32Array): Float32Array[] => note.labels.map((_, at) => values.slice((at * values.length) / note.labels.length, ((at + 1) * values.length) / note.labels.length));
  const sums = model.metadata.find(({ name }) => name === sumsName)?.bytes;
  return {
    method: note.method, labels: note.labels, samples: note.samples, logits: note.logits, weights: rows(real(weights)), bias: real(bias),
    sums: sums?.byteLength === weights.data!.byteLength * 4 ? rows(new Float32Array(sums.slice().buffer)) : null,
  };
}

/** null where there is none, or where the file does not have what it speaks of. */
function noteOf(model: TfliteModel): HeadNote | null {
  const bytes = model.metadata.find(({ name }) => name === noteName)?.bytes;
  if (!bytes) return null;
  try {
    const note = JSON.parse(new TextDecoder().decode(bytes)) as HeadNote;
    const graph = model.subgraphs[0]!;
    const head = graph.operators.slice(note.operators);
    const sound = note.schema === 1 && headMethods.includes(note.method) && Array.isArray(note.labels) && head.map(({ op }) => op).join() === 'L2_NORMALIZATION,FULLY_CONNECTED,SOFTMAX'
      && graph.tensors.length === note.tensors + 5 && graph.outputs.length === 2 && graph.tensors[note.tensors + 1]?.data && graph.tensors[note.tensors + 1]!.shape[0] === note.labels.length && graph.tensors[note.tensors + 2]?.data;
    return sound ? note : null;
  } catch {
    return null;
  }
}

function floatBytes(rows: readonly Float32Array[]): Uint8Array {
  return new Uint8Array(Float32Array.from(rows.flatMap((row) => [...row])).buffer);
}

function lowest(type: Tensor['type']): number {
  return type === 'INT8' ? -128 : 0;
}

function noExtractor(why: string): ReefError {
  return new ReefError('learn.no_extractor', 'invalid', `Nothing can be learnt on this model: ${why}. Use an embedding extractor: a classifier without its last layers (a version of task "embedding"), or one with a second output named "embedding".`);
}
