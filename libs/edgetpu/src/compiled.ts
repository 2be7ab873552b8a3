import { ReefError } from '@reefkeeper/platform/errors';
import { Budget, DamagedBytes, FlatTable } from './flat-reader.ts';
import { readFlexMap } from './flex-reader.ts';
import { edgeTpuOp } from './analyze.ts';
import { readModel, type Operator, type Tensor, type TfliteModel } from './model.ts';

export type ExecutableType = 'STAND_ALONE' | 'PARAMETER_CACHING' | 'EXECUTION_ONLY' | 'UNKNOWN';
const executableTypes: ExecutableType[] = ['STAND_ALONE', 'PARAMETER_CACHING', 'EXECUTION_ONLY'];

export interface Executable {
  type: ExecutableType;
  name: string;
  chip: string;
  batch: number;
  parameterBytes: number;
  scratchBytes: number;
  instructionBytes: number;
  inputs: number;
  outputs: number;
  /** Hexadecimal; null = none. */
  token: string | null;
}

/** One `edgetpu-custom-op`: a piece of the graph that runs on the chip. */
export interface CompiledPart {
  operator: number;
  minRuntime: number;
  /** Often empty; record the compiler's version when compiling. */
  compilerVersion: string;
  modelIdentifier: string;
  chips: string[];
  executables: Executable[];
}

export interface CompiledTensor {
  name: string;
  shape: number[];
  type: string;
  scale: number | null;
  zeroPoint: number | null;
}

export interface CompiledModel {
  parts: CompiledPart[];
  /** The highest one any part asks for. */
  minRuntime: number;
  /** Parameter-caching tokens, hexadecimal, without repeats. Models with a common token stay on the chip together. */
  tokens: string[];
  chips: string[];
  compilerVersions: string[];
  onChipBytes: number;
  /** Parameters sent to the chip again at every inference. */
  streamedBytes: number;
  scratchBytes: number;
  /** Instructions sent at every inference; those that load parameters once are not counted. */
  instructionBytes: number;
  executableTypes: ExecutableType[];
  /** What stays on the CPU, `{ RESIZE_BILINEAR: 3 }`. */
  cpuOps: Record<string, number>;
  inputs: CompiledTensor[];
  outputs: CompiledTensor[];
}

/**
 * Reads a compiled model back. `model.not_compiled`: a sound TensorFlow Lite model without a part for the Edge TPU, whatever its
 * name says; `model.unreadable`: a part is damaged; `model.not_tflite`: no model at all.
 */
export function inspectCompiled(bytes: Uint8Array): CompiledModel {
  return inspectModel(readModel(bytes));
}

export function inspectModel(model: TfliteModel): CompiledModel {
  const graph = model.subgraphs[0]!;
  const parts = graph.operators.filter(({ customCode }) => customCode === edgeTpuOp).map(partReader(model.bytes));
  if (parts.length === 0) {
    throw new ReefError('model.not_compiled', 'invalid', 'This model is not compiled for the Edge TPU: it holds no edgetpu-custom-op, whatever its name says. Compile it, or import it as a quantised .tflite.', {
      detail: { operators: graph.operators.length },
    });
  }
  const executables = parts.flatMap((part) => part.executables);
  const sum = (of: Executable[], value: (executable: Executable) => number): number => of.reduce((total, executable) => total + value(executable), 0);
  const cpuOps: Record<string, number> = {};
  for (const { op, customCode } of graph.operators) {
    if (customCode !== edgeTpuOp) cpuOps[customCode ?? op] = (cpuOps[customCode ?? op] ?? 0) + 1;
  }
  const tensors = (indices: number[]): CompiledTensor[] => indices.map((index) => describeTensor(graph.tensors[index]!));
  return {
    parts,
    minRuntime: parts.reduce((highest, { minRuntime }) => Math.max(highest, minRuntime), 0),
    tokens: unique(executables.map(({ token }) => token).filter((token) => token !== null)),
    chips: unique(parts.flatMap(({ chips }) => chips)),
    compilerVersions: unique(parts.map(({ compilerVersion }) => compilerVersion).filter(Boolean)),
    onChipBytes: sum(executables.filter(({ type }) => type === 'PARAMETER_CACHING'), ({ parameterBytes }) => parameterBytes),
    streamedBytes: sum(executables.filter(({ type }) => type !== 'PARAMETER_CACHING'), ({ parameterBytes }) => parameterBytes),
    scratchBytes: sum(executables, ({ scratchBytes }) => scratchBytes),
    instructionBytes: sum(executables.filter(({ type }) => type !== 'PARAMETER_CACHING'), ({ instructionBytes }) => instructionBytes),
    executableTypes: unique(executables.map(({ type }) => type)).sort(),
    cpuOps,
    inputs: tensors(graph.inputs),
    outputs: tensors(graph.outputs),
  };
}

/** Whether two compiled models keep their parameters on the chip together: co-compiled ones and the segments of one pipeline do. */
export function cachedTogether(one: Pick<CompiledModel, 'tokens'>, other: Pick<CompiledModel, 'tokens'>): boolean {
  return one.tokens.some((token) => other.tokens.includes(token));
}

export interface Residency {
  token: string | null;
  models: string[];
}

/** Groups the models of one Edge TPU by token. With more than one group the chip reloads parameters at every switch between groups. */
export function residencyOf(models: readonly { name: string; compiled: Pick<CompiledModel, 'tokens'> }[]): { groups: Residency[]; reloads: boolean } {
  const groups: Residency[] = [];
  for (const { name, compiled } of models) {
    const token = compiled.tokens[0] ?? null;
    const group = groups.find((candidate) => candidate.token !== null && compiled.tokens.includes(candidate.token));
    if (group) group.models.push(name);
    else groups.push({ token, models: [name] });
  }
  return { groups, reloads: groups.filter(({ token }) => token !== null).length > 1 };
}

/** All parts share one budget: many may name the same package, and a package the same executable many times. */
function partReader(fileBytes: number): (operator: Operator) => CompiledPart {
  const budget = new Budget(fileBytes);
  return (operator) => readPart(operator, budget);
}

function readPart(operator: Operator, budget: Budget): CompiledPart {
  try {
    const packageBytes = packageOf(operator);
    if (FlatTable.identifier(packageBytes) !== 'DWN1') throw new DamagedBytes('its package does not start with DWN1');
    const root = FlatTable.root(packageBytes, budget);
    const executables = FlatTable.root(root.bytes(1) ?? new Uint8Array(), budget).byteStrings(0).map((bytes) => readExecutable(bytes, budget));
    if (executables.length === 0) throw new DamagedBytes('its package holds no executable');
    return {
      operator: operator.index,
      minRuntime: root.int(0),
      compilerVersion: printable(root.string(4)),
      modelIdentifier: printable(root.string(7)),
      chips: unique(executables.map(({ chip }) => chip)).filter(Boolean),
      executables,
    };
  } catch (thrown) {
    if (!(thrown instanceof DamagedBytes || thrown instanceof RangeError)) throw thrown;
    throw new ReefError('model.unreadable', 'invalid', `The part compiled for the Edge TPU (operator ${operator.index}) is damaged: ${thrown.message}. Compile the model again.`, {
      detail: { operator: operator.index, fault: thrown.message }, cause: thrown,
    });
  }
}

/** The custom op's options are a FlexBuffer map: "4" is the package, "7" (from compiler 16 on) may name further executables. */
function packageOf({ customOptions }: Operator): Uint8Array {
  if (customOptions === null) throw new DamagedBytes('it has no options');
  const packaged = readFlexMap(customOptions).get('4');
  if (packaged?.kind !== 'bytes') throw new DamagedBytes('its package is missing');
  return packaged.bytes;
}

function readExecutable(bytes: Uint8Array, budget: Budget): Executable {
  const table = FlatTable.root(bytes, budget);
  const token = table.ulong(14);
  return {
    type: executableTypes[table.ushort(13)] ?? 'UNKNOWN',
    name: printable(table.string(1)),
    chip: printable(table.string(10)),
    batch: table.int(3),
    scratchBytes: table.int(4),
    instructionBytes: table.tables(5).reduce((sum, bitstream) => sum + (bitstream.bytes(0)?.byteLength ?? 0), 0),
    parameterBytes: table.bytes(6)?.byteLength ?? 0,
    inputs: table.tables(8).length,
    outputs: table.tables(9).length,
    token: token === 0n ? null : token.toString(16).padStart(16, '0'),
  };
}

export function describeTensor({ name, shape, type, quantisation }: Tensor): CompiledTensor {
  return { name, shape, type: type.toLowerCase(), scale: quantisation?.scale[0] ?? null, zeroPoint: quantisation ? quantisation.zeroPoint[0] ?? 0 : null };
}

function printable(text: string | null): string {
  return (text ?? '').replaceAll(/[^\x20-\x7e]/g, '');
}

function unique<T>(values: T[]): T[] {
  return [...new Set(values)];
}
