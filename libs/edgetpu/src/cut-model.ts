import { ReefError } from '@reefkeeper/platform/errors';
import type { Operator, Subgraph, Tensor, TfliteModel } from './model.ts';
import { writeModel } from './write-model.ts';

export interface CutOptions {
  /** First operator kept, in file order; default 0. */
  from?: number;
  /** First operator no longer kept; default: all. */
  to?: number;
}

/**
 * A part of a model as a model of its own, to find the operator a compiler fails on: operators `from` to `to` of the main graph. What
 * they take from before becomes an input, what later ones or the caller need becomes an output.
 */
export function cutModel(model: TfliteModel, { from = 0, to = Infinity }: CutOptions): Uint8Array {
  const graph = model.subgraphs[0]!;
  const kept = graph.operators.slice(Math.max(0, from), to);
  if (kept.length === 0) throw new ReefError('model.empty_cut', 'invalid', `Operators ${from} to ${to} of ${graph.operators.length} are none: choose a range inside the model.`);
  const inside = new Set(kept.map(({ index }) => index));
  const made = new Set(kept.flatMap(({ outputs }) => outputs));
  const neededLater = new Set([...graph.outputs, ...graph.operators.filter(({ index }) => !inside.has(index)).flatMap(({ inputs }) => inputs)]);
  const inputs = unique(kept.flatMap((operator) => operator.inputs)).filter((index) => isFed(graph, index) && !made.has(index));
  const outputs = unique(kept.flatMap((operator) => operator.outputs)).filter((index) => neededLater.has(index));
  return writeModel({
    description: model.description,
    subgraphs: [renumber({ ...graph, operators: kept, inputs, outputs: outputs.length > 0 ? outputs : kept.at(-1)!.outputs })],
    metadata: [],
    signatures: [],
  });
}

/**
 * The model with every open size closed at the one its shape has, and nothing else changed. Results stay the same bit for bit; some
 * compilers refuse the open ones.
 */
export function closeOpenShapes(model: TfliteModel): Uint8Array {
  const close = (tensor: Tensor): Tensor => ({ ...tensor, shape: tensor.shape.map((size) => size === -1 ? 1 : size), shapeSignature: null });
  return writeModel({ ...model, subgraphs: model.subgraphs.map((graph) => ({ ...graph, tensors: graph.tensors.map(close) })) });
}

function isFed(graph: Subgraph, index: number): boolean {
  const tensor = graph.tensors[index];
  return tensor !== undefined && !tensor.isConstant && !tensor.isVariable;
}

/** Drops the tensors nothing refers to any more. */
function renumber(graph: Subgraph): Subgraph {
  const used = unique([...graph.inputs, ...graph.outputs, ...graph.operators.flatMap(({ inputs, outputs, intermediates }) => [...inputs, ...outputs, ...intermediates])])
    .filter((index) => index >= 0).sort((a, b) => a - b);
  const position = new Map(used.map((index, at) => [index, at]));
  const move = (indices: number[]): number[] => indices.map((index) => position.get(index) ?? -1);
  return {
    name: graph.name,
    tensors: used.map((index, at) => ({ ...graph.tensors[index]!, index: at })),
    inputs: move(graph.inputs),
    outputs: move(graph.outputs),
    operators: graph.operators.map((operator, index): Operator => ({ ...operator, index, inputs: move(operator.inputs), outputs: move(operator.outputs), intermediates: move(operator.intermediates) })),
  };
}

function unique(values: number[]): number[] {
  return [...new Set(values)];
}
