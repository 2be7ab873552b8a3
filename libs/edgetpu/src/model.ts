import { ReefError } from '@reefkeeper/platform/errors';
import { looksLike } from './file-kind.ts';
import { DamagedBytes, FlatTable } from './flat-reader.ts';
import {
  activations, builtinOperators, elementBytes, greaterOpCodes, optionLayouts, tensorTypes, type Activation, type TensorType,
} from './tflite-schema.ts';

export interface Quantisation {
  /** One entry per tensor, or one per slice along `axis`. */
  scale: number[];
  zeroPoint: number[];
  axis: number;
}

export interface Tensor {
  index: number;
  name: string;
  shape: number[];
  /** The shape with -1 where the size is open; null where the file has none. */
  shapeSignature: number[] | null;
  type: TensorType;
  /** Index into the model's buffers, 0 = none. */
  buffer: number;
  /** A constant's bytes, a view into the file. */
  data: Uint8Array | null;
  isConstant: boolean;
  isVariable: boolean;
  /** Stored sparse: `data` is then not `shape` elements. */
  isSparse: boolean;
  quantisation: Quantisation | null;
}

export type OptionValue = number | boolean | string | number[];

/** The options that rules ask for. */
export interface KnownOptions {
  /** Member of the options union, `Conv2D`; null where the operator has none. */
  kind: string | null;
  padding?: 'SAME' | 'VALID';
  strideW?: number;
  strideH?: number;
  dilationW?: number;
  dilationH?: number;
  depthMultiplier?: number;
  filterWidth?: number;
  filterHeight?: number;
  fusedActivation?: Activation;
  axis?: number;
  keepDims?: boolean;
  keepNumDims?: boolean;
  weightsFormat?: number;
  alignCorners?: boolean;
  halfPixelCenters?: boolean;
  beta?: number;
  newShape?: number[];
}

/** Decoded options under the schema's names in camelCase; absent ones carry the schema's default. */
export interface OperatorOptions extends KnownOptions {
  [other: string]: OptionValue | null | undefined;
}

export interface Operator {
  index: number;
  /** `CONV_2D`; `CUSTOM` for custom operators. */
  op: string;
  customCode: string | null;
  version: number;
  /** Tensor indices, -1 = optional input left out. */
  inputs: number[];
  outputs: number[];
  intermediates: number[];
  mutatingInputs: boolean[] | null;
  options: OperatorOptions;
  customOptions: Uint8Array | null;
}

export interface Subgraph {
  name: string;
  tensors: Tensor[];
  inputs: number[];
  outputs: number[];
  operators: Operator[];
}

export interface Signature {
  key: string;
  subgraph: number;
  inputs: { name: string; tensor: number }[];
  outputs: { name: string; tensor: number }[];
}

export interface TfliteModel {
  schemaVersion: number;
  description: string;
  /** Bytes of the whole file. */
  bytes: number;
  operatorCodes: { op: string; customCode: string | null; version: number }[];
  /** The first one is the model; others are bodies of control flow or further entry points. */
  subgraphs: Subgraph[];
  buffers: (Uint8Array | null)[];
  metadata: { name: string; bytes: Uint8Array }[];
  signatures: Signature[];
}

const maxTensors = 200_000;
const maxElements = 2 ** 40;

/**
 * Reads a TensorFlow Lite file. Every offset is checked: whatever the bytes, the answer is a model or a ReefError
 * `model.not_tflite` (something else, or nothing) or `model.unreadable` (a damaged one), in time and memory bounded by the file's
 * size. Constants are views into `bytes`, so keep it unchanged.
 */
export function readModel(bytes: Uint8Array): TfliteModel {
  const found = looksLike(bytes);
  if (found.kind !== 'tflite') {
    throw new ReefError('model.not_tflite', 'invalid', `This is not a TensorFlow Lite model but ${found.description}. ${found.advice}`, {
      detail: { looksLike: found.kind, bytes: bytes.byteLength },
    });
  }
  try {
    return readRoot(FlatTable.root(bytes), bytes.byteLength);
  } catch (thrown) {
    // RangeError: DataView's own bounds check, the second line behind the reader's.
    if (!(thrown instanceof DamagedBytes || thrown instanceof RangeError)) throw thrown;
    throw new ReefError('model.unreadable', 'invalid', `The TensorFlow Lite file is damaged: ${thrown.message}. Export or upload it again.`, {
      detail: { fault: thrown.message, bytes: bytes.byteLength }, cause: thrown,
    });
  }
}

function readRoot(root: FlatTable, fileBytes: number): TfliteModel {
  const buffers = readBuffers(root.tables(4), fileBytes);
  const operatorCodes = root.tables(1).map(readOperatorCode);
  const subgraphs = root.tables(2).map((table) => readSubgraph(table, operatorCodes, buffers));
  need(subgraphs.length > 0, 'it has no graph');
  return {
    schemaVersion: root.uint(0),
    description: root.string(3) ?? '',
    bytes: fileBytes,
    operatorCodes,
    subgraphs,
    buffers,
    metadata: root.tables(6).map((table) => {
      const buffer = table.uint(1);
      need(buffer < buffers.length, `metadata names buffer ${buffer} of ${buffers.length}`);
      return { name: table.string(0) ?? '', bytes: buffers[buffer] ?? new Uint8Array() };
    }),
    signatures: root.tables(7).map((table) => readSignature(table, subgraphs)),
  };
}

/** One view for every place in the file: who writes the model again must write shared constants once. */
function readBuffers(tables: FlatTable[], fileBytes: number): (Uint8Array | null)[] {
  const views = new Map<number, Uint8Array>();
  let total = 0;
  return tables.map((table) => {
    const data = readBuffer(table);
    const known = data && views.get(data.byteOffset);
    if (data === null || known?.byteLength === data.byteLength) return known ?? null;
    views.set(data.byteOffset, data);
    total += data.byteLength;
    need(total <= fileBytes, 'its constants add up to more than the whole file');
    return data;
  });
}

function readBuffer(table: FlatTable): Uint8Array | null {
  const inline = table.bytes(0);
  if (inline !== null && inline.byteLength > 0) return inline;
  const offset = Number(table.ulong(1));
  return offset > 1 ? table.fileBytes(offset, Number(table.ulong(2))) : null;
}

function readOperatorCode(table: FlatTable): { op: string; customCode: string | null; version: number } {
  // Files from before 2020 fill only the one-byte field, later ones both: the larger one holds (schema 3a).
  const code = Math.max(table.byte(0), table.int(3));
  const op = code === greaterOpCodes ? undefined : builtinOperators[code];
  const customCode = table.string(1);
  // It is repeated for every operator and in every sentence about one.
  need((customCode?.length ?? 0) <= 1024, 'a custom operator has a name of more than 1,024 characters');
  return { op: op ?? `BUILTIN_${code}`, customCode, version: table.int(2, 1) };
}

function readSubgraph(table: FlatTable, codes: TfliteModel['operatorCodes'], buffers: (Uint8Array | null)[]): Subgraph {
  const tensors = table.tables(0).map((tensor, index) => readTensor(tensor, index, buffers));
  need(tensors.length <= maxTensors, `a graph has more than ${maxTensors} tensors`);
  const tensorList = (indices: number[] | null, lowest: number): number[] => {
    for (const index of indices ?? []) need(index >= lowest && index < tensors.length, `tensor ${index} of ${tensors.length} does not exist`);
    return indices ?? [];
  };
  const operators = table.tables(3).map((operator, index): Operator => {
    const code = codes[operator.uint(0)];
    need(code !== undefined, `operator ${index} has no operator code`);
    return {
      index,
      ...code,
      inputs: tensorList(operator.ints(1), -1),
      outputs: tensorList(operator.ints(2), -1),
      options: readOptions(operator),
      customOptions: operator.bytes(5),
      mutatingInputs: operator.bools(7),
      intermediates: tensorList(operator.ints(8), -1),
    };
  });
  return { name: table.string(4) ?? '', tensors, inputs: tensorList(table.ints(1), 0), outputs: tensorList(table.ints(2), 0), operators };
}

function readTensor(table: FlatTable, index: number, buffers: (Uint8Array | null)[]): Tensor {
  const name = table.string(3) ?? '';
  const shape = table.ints(0) ?? [];
  const buffer = table.uint(2);
  // Buffer 0 is the shared empty one; some writers leave the list itself out.
  need(buffer === 0 || buffer < buffers.length, `tensor ${index} (${name}) names buffer ${buffer} of ${buffers.length}`);
  need(shape.length <= 32 && shape.every((size) => size >= -1) && elementsOf(shape) <= maxElements, `tensor ${index} (${name}) has the shape [${shape.slice(0, 32).join(', ')}]`);
  const type = tensorTypes[table.byte(1)] ?? 'UNKNOWN';
  const data = buffer === 0 ? null : buffers[buffer] ?? null;
  const isSparse = table.has(6);
  const width = elementBytes[type];
  if (data !== null && width !== undefined && !isSparse) {
    need(data.byteLength === elementsOf(shape) * width, `tensor ${index} (${name}) holds ${data.byteLength} bytes, its shape needs ${elementsOf(shape) * width}`);
  }
  return {
    index, name, shape, shapeSignature: table.ints(7), type, buffer, data, isConstant: data !== null, isVariable: table.bool(5), isSparse,
    quantisation: readQuantisation(table.table(4)),
  };
}

function readQuantisation(table: FlatTable | null): Quantisation | null {
  const scale = table?.floats(2) ?? [];
  // Float models carry min and max only: nothing is quantised by those.
  return table === null || scale.length === 0 ? null : { scale, zeroPoint: table.longs(3) ?? [], axis: table.int(6) };
}

function readOptions(operator: FlatTable): OperatorOptions {
  const layout = optionLayouts[operator.ubyte(3)];
  const table = operator.table(4);
  if (!layout || table === null) return { kind: null };
  const options: OperatorOptions = { kind: layout.name };
  for (const [id, { name, kind, absent }] of layout.fields.entries()) {
    const number = Number(absent ?? 0);
    switch (kind) {
      case 'bool': options[name] = table.bool(id, absent === true); break;
      case 'int': options[name] = table.int(id, number); break;
      case 'uint': options[name] = table.uint(id, number); break;
      case 'long': options[name] = table.long(id, number); break;
      case 'float': options[name] = table.float(id, number); break;
      case 'padding': options[name] = table.byte(id) === 0 ? 'SAME' : 'VALID'; break;
      case 'activation': options[name] = activations[table.byte(id)] ?? 'NONE'; break;
      case 'type': options[name] = tensorTypes[table.byte(id, number)] ?? 'UNKNOWN'; break;
      case 'enum': options[name] = table.byte(id, number); break;
      case 'ints': options[name] = table.ints(id); break;
      case 'floats': options[name] = table.floats(id); break;
      case 'string': options[name] = table.string(id); break;
    }
  }
  return options;
}

function readSignature(table: FlatTable, subgraphs: Subgraph[]): Signature {
  const subgraph = table.uint(4);
  const tensors = subgraphs[subgraph]?.tensors.length ?? 0;
  const maps = (list: FlatTable[]): Signature['inputs'] => list.map((entry) => {
    const tensor = entry.uint(1);
    need(tensor < tensors, `a signature names tensor ${tensor} of ${tensors}`);
    return { name: entry.string(0) ?? '', tensor };
  });
  return { key: table.string(2) ?? '', subgraph, inputs: maps(table.tables(0)), outputs: maps(table.tables(1)) };
}

/** A name as it fits into a sentence; converters join the names of all operators they fused. */
export function shortName(name: string): string {
  return name.length <= 120 ? name : `${name.slice(0, 57)}...${name.slice(-60)}`;
}

/** Elements a shape holds; an open size (-1) counts as 1, as TensorFlow Lite allocates it. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * Math.abs(size), 1);
}

/** Values of an integer constant (axes, paddings, sizes); null for a tensor that is not one. */
export function constantInts(tensor: Tensor | undefined): number[] | null {
  if (!tensor?.data || tensor.isSparse) return null;
  const view = new DataView(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
  const count = elementsOf(tensor.shape);
  switch (tensor.type) {
    case 'INT32': return Array.from({ length: count }, (_, index) => view.getInt32(index * 4, true));
    case 'INT64': return Array.from({ length: count }, (_, index) => Number(view.getBigInt64(index * 8, true)));
    case 'INT8': return Array.from({ length: count }, (_, index) => view.getInt8(index));
    case 'UINT8': return Array.from({ length: count }, (_, index) => view.getUint8(index));
    default: return null;
  }
}

function need(holds: boolean, fault: string): asserts holds {
  if (!holds) throw new DamagedBytes(fault);
}
