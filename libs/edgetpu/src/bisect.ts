import { cutModel } from './cut-model.ts';
import { shortName, type Tensor, type TfliteModel } from './model.ts';
import type { TensorRef } from './faults.ts';

/** Operators `from` to `to` (not included) of the main graph, in the order of the file. */
export interface OperatorRange {
  from: number;
  to: number;
}

export interface FailingPart extends OperatorRange {
  /** Without its first or its last operator it compiles; false where the runs were used up before that was known. */
  smallest: boolean;
  runs: number;
  bytes: Uint8Array;
}

export interface BisectOptions {
  /** Most calls of `compiles`; a model of 1,000 operators takes about 20. */
  maxRuns?: number;
  onRun?: (run: OperatorRange & { number: number; compiled: boolean }) => void;
}

/**
 * The smallest run of operators that still fails, for a compiler that gives no reason. `compiles` answers for the same failure only: a
 * piece that fails in another way (nothing left to map, say) counts as compiling. null = the whole model compiles.
 *
 * Assumes first that what holds a failing piece fails, which makes two binary searches do: for the shortest failing beginning, then for
 * its shortest failing end. Where that does not hold, the ends are tried one operator at a time afterwards.
 */
export async function findFailingPart(model: TfliteModel, compiles: (bytes: Uint8Array, range: OperatorRange) => Promise<boolean>, { maxRuns = 60, onRun }: BisectOptions = {}): Promise<FailingPart | null> {
  const operators = model.subgraphs[0]!.operators.length;
  const known = new Map<string, boolean>();
  let runs = 0;
  /** undefined = there are no runs left. */
  const fails = async (from: number, to: number): Promise<boolean | undefined> => {
    const key = `${from} ${to}`;
    if (from >= to) return false;
    if (known.has(key)) return known.get(key);
    if (runs >= maxRuns) return undefined;
    runs += 1;
    const compiled = await compiles(cutModel(model, { from, to }), { from, to });
    onRun?.({ number: runs, from, to, compiled });
    known.set(key, !compiled);
    return !compiled;
  };

  let [from, to] = [0, operators];
  if (operators === 0 || await fails(from, to) !== true) return null;
  // Invariant: [from, to) fails.
  for (let compiling = from; to - compiling > 1;) {
    const middle = (compiling + to) >> 1;
    const failed = await fails(from, middle);
    if (failed === undefined) break;
    if (failed) to = middle;
    else compiling = middle;
  }
  for (let compiling = to; compiling - from > 1;) {
    const middle = (from + compiling) >> 1;
    const failed = await fails(middle, to);
    if (failed === undefined) break;
    if (failed) from = middle;
    else compiling = middle;
  }
  let smallest = false;
  while (!smallest) {
    const [first, last] = [await fails(from + 1, to), await fails(from, to - 1)];
    if (first) from += 1;
    else if (last) to -= 1;
    else if (first === undefined || last === undefined) break;
    else smallest = true;
  }
  return { from, to, smallest, runs, bytes: cutModel(model, { from, to }) };
}

export interface DescribedOperator {
  index: number;
  op: string;
  version: number;
  inputs: TensorRef[];
  outputs: TensorRef[];
}

/** The operators of a part with the tensors they compute on; constants by name and shape as well, since a size may be what is wrong. */
export function describePart(model: TfliteModel, { from, to }: OperatorRange): DescribedOperator[] {
  const graph = model.subgraphs[0]!;
  const ref = (tensor: Tensor | undefined): TensorRef[] => tensor ? [{ name: shortName(tensor.name), shape: tensor.shape, type: tensor.type }] : [];
  return graph.operators.slice(from, to).map(({ index, op, customCode, version, inputs, outputs }) => ({
    index, op: customCode ?? op, version, inputs: inputs.flatMap((tensor) => ref(graph.tensors[tensor])), outputs: outputs.flatMap((tensor) => ref(graph.tensors[tensor])),
  }));
}
