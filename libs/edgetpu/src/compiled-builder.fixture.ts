import { Builder, type Offset } from 'flatbuffers';
import { builder as flexBuilder } from 'flatbuffers/js/flexbuffers.js';
import type { ExecutableType } from './compiled.ts';
import { edgeTpuOp } from './analyze.ts';
import { TfliteBuilder } from './tflite-builder.fixture.ts';

export interface CompiledSpec {
  minRuntime?: number;
  /** Parameter-caching token; null = a model that stands alone. */
  token?: bigint | null;
  onChipBytes?: number;
  streamedBytes?: number;
  scratchBytes?: number;
  instructionBytes?: number;
}

/** Options of an `edgetpu-custom-op` laid out as the compiler does; the instructions inside are zeros. */
export function compiledOptions({ minRuntime = 14, token = 1n, onChipBytes = 4096, streamedBytes = 0, scratchBytes = 0, instructionBytes = 3000 }: CompiledSpec = {}): Uint8Array {
  const executables = token === null
    ? [executable('STAND_ALONE', { parameterBytes: onChipBytes + streamedBytes, instructionBytes, scratchBytes, token: 0n, io: 1 })]
    : [
      executable('EXECUTION_ONLY', { parameterBytes: streamedBytes, instructionBytes, scratchBytes, token, io: 1 }),
      executable('PARAMETER_CACHING', { parameterBytes: onChipBytes, instructionBytes: 64, scratchBytes: 0, token, io: 0 }),
    ];
  const multi = new Builder();
  const list = offsets(multi, executables.map((one) => vector(multi, one)));
  multi.startObject(1);
  multi.addFieldOffset(0, list, 0);
  multi.finish(multi.endObject());

  const packaged = new Builder();
  const inner = vector(packaged, multi.asUint8Array());
  const version = packaged.createString('cl/343520747');
  packaged.startObject(8);
  packaged.addFieldInt32(0, minRuntime, 0);
  packaged.addFieldOffset(1, inner, 0);
  packaged.addFieldOffset(4, version, 0);
  packaged.finish(packaged.endObject(), 'DWN1');

  const flex = flexBuilder();
  flex.startMap();
  flex.addKey('1');
  flex.addInt(0);
  flex.addKey('4');
  // The builder takes the whole buffer behind a view.
  flex.add(new DataView(packaged.asUint8Array().slice().buffer));
  flex.addKey('5');
  flex.addInt(-1);
  flex.end();
  return flex.finish();
}

/** A picture in, ten scores out, all of it on the chip. */
export function compiledModel(spec: CompiledSpec = {}, { input = 'picture', output = 'scores' }: { input?: string; output?: string } = {}): Uint8Array {
  const net = new TfliteBuilder();
  const picture = net.input([1, 8, 8, 3], { name: input, type: 'UINT8', scale: 1 / 255 });
  const scores = net.tensor({ name: output, shape: [1, 10], type: 'UINT8', scale: 1 / 256 });
  net.op('CUSTOM', [picture], [scores], { customCode: edgeTpuOp, customOptions: compiledOptions(spec) });
  return net.output(scores).build();
}

const types: Partial<Record<ExecutableType, number>> = { STAND_ALONE: 0, PARAMETER_CACHING: 1, EXECUTION_ONLY: 2 };

function executable(type: ExecutableType, { parameterBytes, instructionBytes, scratchBytes, token, io }: { parameterBytes: number; instructionBytes: number; scratchBytes: number; token: bigint; io: number }): Uint8Array {
  const builder = new Builder();
  const name = builder.createString('model');
  const chip = builder.createString('beagle');
  const bitstream = table(builder, vector(builder, new Uint8Array(instructionBytes)));
  const bitstreams = offsets(builder, [bitstream]);
  const parameters = vector(builder, new Uint8Array(parameterBytes));
  const layers = offsets(builder, Array.from({ length: io }, () => table(builder, name)));
  builder.startObject(17);
  builder.addFieldOffset(1, name, 0);
  builder.addFieldInt32(3, 1, 0);
  builder.addFieldInt32(4, scratchBytes, 0);
  builder.addFieldOffset(5, bitstreams, 0);
  builder.addFieldOffset(6, parameters, 0);
  builder.addFieldOffset(8, layers, 0);
  builder.addFieldOffset(9, layers, 0);
  builder.addFieldOffset(10, chip, 0);
  builder.addFieldInt16(13, types[type] ?? 0, 0);
  builder.addFieldInt64(14, token, 0n);
  builder.finish(builder.endObject());
  return builder.asUint8Array();
}

/** A table whose first field is `value`. */
function table(builder: Builder, value: Offset): Offset {
  builder.startObject(1);
  builder.addFieldOffset(0, value, 0);
  return builder.endObject();
}

function vector(builder: Builder, bytes: Uint8Array): Offset {
  return builder.createByteVector(bytes);
}

function offsets(builder: Builder, list: Offset[]): Offset {
  builder.startVector(4, list.length, 4);
  for (const offset of list.toReversed()) builder.addOffset(offset);
  return builder.endVector();
}
