import { ReefError } from '@reefkeeper/platform/errors';
import { Builder, type Offset } from 'flatbuffers';
import type { Operator, OptionValue, Signature, Subgraph, Tensor, TfliteModel } from './model.ts';
import { activations, builtinOperators, greaterOpCodes, optionLayouts, tensorTypes, type OptionField } from './tflite-schema.ts';

export type WritableModel = Pick<TfliteModel, 'description' | 'subgraphs' | 'metadata' | 'signatures'>;

/** TensorFlow Lite maps constants straight from the file and reads them with vector instructions. */
const bufferAlignment = 16;
const schemaVersion = 3;

/**
 * Writes a model as a `.tflite` file; `readModel(writeModel(m))` is `m` again but for buffer numbers. Not written: sparse tensors, the
 * StableHLO operators (`model.unwritable`) and the quantisation's min and max, which no runtime reads.
 */
export function writeModel(model: WritableModel): Uint8Array {
  const builder = new Builder(sizeGuess(model));
  const buffers = new BufferList(builder);
  const codes = new CodeList();
  // A FlatBuffer is written from its end: what others point to comes first.
  const subgraphs = list(builder, model.subgraphs.map((graph) => writeSubgraph(builder, graph, buffers, codes)));
  const metadata = list(builder, model.metadata.map(({ name, bytes }) => table(builder, 2, [[0, 'offset', builder.createString(name)], [1, 'uint', buffers.indexOf(bytes)]])));
  const signatures = list(builder, model.signatures.map((signature) => writeSignature(builder, signature)));
  const description = builder.createString(model.description);
  const operatorCodes = list(builder, codes.entries.map((code) => writeCode(builder, code)));
  const bufferList = list(builder, buffers.offsets());
  builder.finish(table(builder, 8, [
    [0, 'uint', schemaVersion], [1, 'offset', operatorCodes], [2, 'offset', subgraphs], [3, 'offset', description], [4, 'offset', bufferList],
    ...(model.metadata.length > 0 ? [[6, 'offset', metadata] as Field] : []), ...(model.signatures.length > 0 ? [[7, 'offset', signatures] as Field] : []),
  ]), 'TFL3');
  return builder.asUint8Array();
}

type FieldKind = 'offset' | 'byte' | 'ubyte' | 'int' | 'uint' | 'float' | 'long' | 'bool';
type Field = [id: number, kind: FieldKind, value: number | boolean];

function table(builder: Builder, fields: number, values: Field[]): Offset {
  builder.startObject(fields);
  for (const [id, kind, value] of values) {
    const number = Number(value);
    switch (kind) {
      case 'offset': if (number !== 0) builder.addFieldOffset(id, number, 0); break;
      // null as default: written even where it equals the schema's, so that no reader has to know defaults.
      case 'byte': case 'ubyte': case 'bool': builder.addFieldInt8(id, number, null); break;
      case 'int': case 'uint': builder.addFieldInt32(id, number, null); break;
      case 'float': builder.addFieldFloat32(id, number, null); break;
      case 'long': builder.addFieldInt64(id, BigInt(number), null); break;
    }
  }
  return builder.endObject();
}

/** Constants once each, however many tensors share them; number 0 is the empty one. */
class BufferList {
  readonly #numbers = new Map<Uint8Array, number>();
  readonly #builder: Builder;

  constructor(builder: Builder) {
    this.#builder = builder;
  }

  indexOf(data: Uint8Array): number {
    const known = this.#numbers.get(data);
    if (known !== undefined) return known;
    this.#numbers.set(data, this.#numbers.size + 1);
    return this.#numbers.size;
  }

  offsets(): Offset[] {
    return [table(this.#builder, 1, []), ...[...this.#numbers.keys()].map((data) => table(this.#builder, 1, [[0, 'offset', bytes(this.#builder, data, bufferAlignment)]]))];
  }
}

class CodeList {
  readonly entries: Pick<Operator, 'op' | 'customCode' | 'version'>[] = [];
  readonly #numbers = new Map<string, number>();

  indexOf({ op, customCode, version }: Operator): number {
    const key = `${op} ${version} ${customCode ?? ''}`;
    const known = this.#numbers.get(key);
    if (known !== undefined) return known;
    this.entries.push({ op, customCode, version });
    this.#numbers.set(key, this.entries.length - 1);
    return this.entries.length - 1;
  }
}

function writeCode(builder: Builder, { op, customCode, version }: Pick<Operator, 'op' | 'customCode' | 'version'>): Offset {
  const code = builtinOperators.indexOf(op);
  if (code < 0) throw new ReefError('model.unwritable', 'invalid', `Models with the operator ${op} can be read but not rewritten.`);
  const custom = customCode === null ? 0 : builder.createString(customCode);
  // Both fields: old runtimes know only the first, new ones take the larger.
  return table(builder, 4, [[0, 'byte', Math.min(code, greaterOpCodes)], [1, 'offset', custom], [2, 'int', version], [3, 'int', code]]);
}

function writeSubgraph(builder: Builder, graph: Subgraph, buffers: BufferList, codes: CodeList): Offset {
  const tensors = list(builder, graph.tensors.map((tensor) => writeTensor(builder, tensor, buffers)));
  const operators = list(builder, graph.operators.map((operator) => writeOperator(builder, operator, codes)));
  const [inputs, outputs] = [ints(builder, graph.inputs), ints(builder, graph.outputs)];
  const name = builder.createString(graph.name);
  return table(builder, 5, [[0, 'offset', tensors], [1, 'offset', inputs], [2, 'offset', outputs], [3, 'offset', operators], [4, 'offset', name]]);
}

function writeTensor(builder: Builder, tensor: Tensor, buffers: BufferList): Offset {
  const type = tensorTypes.findIndex((name) => name === tensor.type);
  if (type < 0 || tensor.isSparse) throw new ReefError('model.unwritable', 'invalid', `Tensor "${tensor.name}" is ${tensor.isSparse ? 'sparse' : 'of an unknown type'}: such models can be read but not rewritten.`);
  const [shape, name] = [ints(builder, tensor.shape), builder.createString(tensor.name)];
  const signature = tensor.shapeSignature === null ? 0 : ints(builder, tensor.shapeSignature);
  let quantisation = 0;
  if (tensor.quantisation !== null) {
    const { scale, zeroPoint, axis } = tensor.quantisation;
    const [scales, zeroPoints] = [floats(builder, scale), longs(builder, zeroPoint)];
    quantisation = table(builder, 7, [[2, 'offset', scales], [3, 'offset', zeroPoints], [6, 'int', axis]]);
  }
  return table(builder, 8, [
    [0, 'offset', shape], [1, 'byte', type], [2, 'uint', tensor.data === null ? 0 : buffers.indexOf(tensor.data)], [3, 'offset', name],
    [4, 'offset', quantisation], [5, 'bool', tensor.isVariable], [7, 'offset', signature],
  ]);
}

function writeOperator(builder: Builder, operator: Operator, codes: CodeList): Offset {
  const union = optionLayouts.findIndex((layout) => layout !== null && layout.name === operator.options.kind);
  const options = union < 0 ? 0 : writeOptions(builder, optionLayouts[union]!.fields, operator.options);
  const [inputs, outputs] = [ints(builder, operator.inputs), ints(builder, operator.outputs)];
  // An empty list of custom options makes TensorFlow Lite warn about every built-in operator.
  const custom = operator.customOptions === null || operator.customOptions.byteLength === 0 ? 0 : bytes(builder, operator.customOptions, bufferAlignment);
  const mutating = operator.mutatingInputs === null ? 0 : bytes(builder, Uint8Array.from(operator.mutatingInputs, Number), 1);
  const intermediates = operator.intermediates.length === 0 ? 0 : ints(builder, operator.intermediates);
  return table(builder, 9, [
    [0, 'uint', codes.indexOf(operator)], [1, 'offset', inputs], [2, 'offset', outputs], ...(options === 0 ? [] : [[3, 'ubyte', union] as Field, [4, 'offset', options] as Field]),
    [5, 'offset', custom], [7, 'offset', mutating], [8, 'offset', intermediates],
  ]);
}

function writeOptions(builder: Builder, fields: OptionField[], options: Operator['options']): Offset {
  const values = fields.map((field, id): Field | null => {
    const value = options[field.name] ?? null;
    return value === null ? null : fieldOf(builder, id, field, value);
  });
  return table(builder, fields.length, values.filter((field) => field !== null));
}

function fieldOf(builder: Builder, id: number, { kind }: OptionField, value: OptionValue): Field {
  switch (kind) {
    case 'padding': return [id, 'byte', value === 'VALID' ? 1 : 0];
    case 'activation': return [id, 'byte', Math.max(0, activations.findIndex((name) => name === value))];
    case 'type': return [id, 'byte', Math.max(0, tensorTypes.findIndex((name) => name === value))];
    case 'enum': return [id, 'byte', Number(value)];
    case 'ints': return [id, 'offset', ints(builder, value as number[])];
    case 'floats': return [id, 'offset', floats(builder, value as number[])];
    case 'string': return [id, 'offset', builder.createString(String(value))];
    default: return [id, kind, value as number | boolean];
  }
}

function writeSignature(builder: Builder, { key, subgraph, inputs, outputs }: Signature): Offset {
  const maps = (entries: Signature['inputs']): Offset => list(builder, entries.map(({ name, tensor }) => table(builder, 2, [[0, 'offset', builder.createString(name)], [1, 'uint', tensor]])));
  const [inputMaps, outputMaps, name] = [maps(inputs), maps(outputs), builder.createString(key)];
  return table(builder, 5, [[0, 'offset', inputMaps], [1, 'offset', outputMaps], [2, 'offset', name], [4, 'uint', subgraph]]);
}

function list(builder: Builder, offsets: Offset[]): Offset {
  builder.startVector(4, offsets.length, 4);
  for (const offset of offsets.toReversed()) builder.addOffset(offset);
  return builder.endVector();
}

function ints(builder: Builder, values: readonly number[]): Offset {
  builder.startVector(4, values.length, 4);
  for (const value of values.toReversed()) builder.addInt32(value);
  return builder.endVector();
}

function floats(builder: Builder, values: readonly number[]): Offset {
  builder.startVector(4, values.length, 4);
  for (const value of values.toReversed()) builder.addFloat32(value);
  return builder.endVector();
}

function longs(builder: Builder, values: readonly number[]): Offset {
  builder.startVector(8, values.length, 8);
  for (const value of values.toReversed()) builder.addInt64(BigInt(value));
  return builder.endVector();
}

/** npm's createByteVector aligns to 1. */
function bytes(builder: Builder, data: Uint8Array, alignment: number): Offset {
  builder.startVector(1, data.byteLength, alignment);
  builder.pad(data.byteLength);
  const written = builder.dataBuffer();
  written.bytes().set(data, written.capacity() - builder.offset());
  return builder.endVector();
}

function sizeGuess({ subgraphs }: WritableModel): number {
  return subgraphs.flatMap(({ tensors }) => tensors).reduce((sum, { data }) => sum + (data?.byteLength ?? 0) + 256, 4096);
}
