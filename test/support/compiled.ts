import { Builder, type Offset } from 'flatbuffers';
import { readModel, writeModel } from '@reefkeeper/edgetpu';
import { TfliteBuilder } from '@reefkeeper/edgetpu/fixture';

export interface CompiledShape {
  minRuntime?: number;
  /** Of parameter caching; models with the same one stay on the chip together. 0 = none. */
  token?: bigint;
  parameterBytes?: number;
  /** Written into the package, so that two files can differ in nothing else. */
  compiler?: string;
  classes?: number;
  /** What a segment takes or gives, where that is not the whole model's. */
  input?: { name: string; shape: number[] };
  output?: { name: string; shape: number[] };
}

/**
 * A model compiled for the Edge TPU as far as anything outside the chip can tell: 8 x 8 x 3 in, ten scores out, everything in one
 * `edgetpu-custom-op`, with a package that says what the compiler's say. Its instructions are none.
 */
export function compiledModel({ classes = 10, input = { name: 'picture', shape: [1, 8, 8, 3] }, output = { name: 'scores', shape: [1, classes] }, ...shape }: CompiledShape = {}): Buffer {
  const net = new TfliteBuilder();
  const picture = net.input(input.shape, { name: input.name, type: 'UINT8', scale: input.name === 'picture' ? 1 / 255 : 1 / 256, zeroPoint: 0 });
  const scores = net.tensor({ ...output, type: 'UINT8', scale: 1 / 256, zeroPoint: 0 });
  net.op('CUSTOM', [picture], [scores], { customCode: 'edgetpu-custom-op', customOptions: flexMap('4', edgeTpuPackage(shape)) });
  net.output(scores);
  return Buffer.from(net.build());
}

/**
 * `model` as if compiled: its own operators, which answer as ever, and beside them one for the Edge TPU that takes its input and whose answer nobody takes. So what runs
 * on the stand-in for libedgetpu, and fails with it, also passes a self-test of the model that it was made from.
 */
export function asCompiled(model: Uint8Array, shape: Omit<CompiledShape, 'classes' | 'input' | 'output'> = {}): Buffer {
  const read = readModel(model);
  const graph = read.subgraphs[0]!;
  const input = graph.tensors[graph.inputs[0]!]!;
  const aside = { ...input, index: graph.tensors.length, name: 'aside', shape: [1, 1], shapeSignature: null };
  const package_ = { index: graph.operators.length, op: 'CUSTOM', customCode: 'edgetpu-custom-op', version: 1, inputs: [input.index], outputs: [aside.index], intermediates: [], mutatingInputs: null, options: { kind: null }, customOptions: flexMap('4', edgeTpuPackage(shape)) };
  return Buffer.from(writeModel({ ...read, subgraphs: [{ ...graph, tensors: [...graph.tensors, aside], operators: [...graph.operators, package_] }] }));
}

/** Field numbers as measured on public files: see `libs/edgetpu/src/compiled.ts`, which reads them. */
function edgeTpuPackage({ minRuntime = 14, token = 0x5eedn, parameterBytes = 4_096, compiler = '16.0' }: Omit<CompiledShape, 'classes' | 'input' | 'output'>): Uint8Array {
  const multi = new Builder();
  const executables = [executable(1, parameterBytes, token), executable(2, 0, token)].map((bytes) => multi.createByteVector(bytes));
  const list = vectorOf(multi, executables);
  multi.finish(table(multi, 1, () => multi.addFieldOffset(0, list, 0)));
  const root = new Builder();
  const inner = root.createByteVector(multi.asUint8Array());
  const version = root.createString(compiler);
  root.finish(table(root, 8, () => {
    root.addFieldInt32(0, minRuntime, 0);
    root.addFieldOffset(1, inner, 0);
    root.addFieldOffset(4, version, 0);
  }), 'DWN1');
  return root.asUint8Array();
}

/** `type`: 1 = PARAMETER_CACHING, 2 = EXECUTION_ONLY. */
function executable(type: number, parameterBytes: number, token: bigint): Uint8Array {
  const builder = new Builder();
  const parameters = builder.createByteVector(new Uint8Array(parameterBytes));
  const chip = builder.createString('beagle');
  builder.finish(table(builder, 17, () => {
    builder.addFieldOffset(6, parameters, 0);
    builder.addFieldOffset(10, chip, 0);
    builder.addFieldInt16(13, type, 0);
    builder.addFieldInt64(14, token, 0n);
  }));
  return builder.asUint8Array();
}

function table(builder: Builder, fields: number, fill: () => void): Offset {
  builder.startObject(fields);
  fill();
  return builder.endObject();
}

function vectorOf(builder: Builder, offsets: Offset[]): Offset {
  builder.startVector(4, offsets.length, 4);
  for (const offset of offsets.toReversed()) builder.addOffset(offset);
  return builder.endVector();
}

/** The FlexBuffer `{ [key]: bytes }` with everything eight bytes wide. */
function flexMap(key: string, bytes: Uint8Array): Uint8Array {
  const keyText = Buffer.from(`${key}\0`.padEnd(8, '\0'));
  const padded = Buffer.concat([bytes, Buffer.alloc((8 - (bytes.length % 8)) % 8)]);
  const [blobAt, keyAt] = [8, 8 + padded.length];
  const keysAt = keyAt + keyText.length + 8;
  const mapAt = keysAt + 8 + 24;
  const word = (value: number) => { const buffer = Buffer.alloc(8); buffer.writeBigUInt64LE(BigInt(value)); return buffer; };
  return Buffer.concat([
    word(bytes.length), padded, keyText, word(1), word(keysAt - keyAt),
    // Where the keys are, how wide, how many pairs; then the values and their types (25 = blob, 9 = map; the low bits say 8 bytes).
    word(mapAt - 24 - keysAt), word(8), word(1), word(mapAt - blobAt), Buffer.from([(25 << 2) | 3]),
    word(9), Buffer.from([(9 << 2) | 3, 8]),
  ]);
}
