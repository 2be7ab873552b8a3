export { compiledModel, compiledOptions, type CompiledSpec } from './compiled-builder.fixture.ts';
import type { KnownOptions, Quantisation, Tensor, TfliteModel } from './model.ts';
import { elementBytes, type TensorType } from './tflite-schema.ts';
import { elementsOf } from './model.ts';
import { writeModel } from './write-model.ts';

export interface TensorSpec {
  name?: string;
  shape: number[];
  type?: TensorType;
  scale?: number | number[];
  zeroPoint?: number;
  axis?: number;
  /** A constant; `true` = zeros of the right size. */
  data?: Uint8Array | true;
  shapeSignature?: number[];
  isVariable?: boolean;
}

/**
 * Builds small `.tflite` files for tests, in the order of the graph:
 *
 *     const net = new TfliteBuilder();
 *     const picture = net.input([1, 16, 16, 3]);
 *     net.output(net.softmax(net.dense(net.flatten(net.conv(picture, 8)), 10)));
 *     const bytes = net.build();
 *
 * Everything is int8 with scale 1/128 unless said otherwise. `op` adds any operator.
 */
export class TfliteBuilder {
  readonly #tensors: Tensor[] = [];
  readonly #inputs: number[] = [];
  readonly #outputs: number[] = [];
  readonly #operators: TfliteModel['subgraphs'][number]['operators'] = [];
  description = 'built for a test';
  signatures: TfliteModel['signatures'] = [];
  metadata: TfliteModel['metadata'] = [];

  tensor({ name, shape, type = 'INT8', scale = 1 / 128, zeroPoint = 0, axis = 0, data, shapeSignature, isVariable = false }: TensorSpec): number {
    const index = this.#tensors.length;
    const quantised = (type === 'INT8' || type === 'UINT8' || type === 'INT16' || (type === 'INT32' && Array.isArray(scale))) ? quantisationOf(scale, zeroPoint, axis) : null;
    const bytes = data === true ? new Uint8Array(elementsOf(shape) * (elementBytes[type] ?? 1)) : data ?? null;
    this.#tensors.push({
      index, name: name ?? `t${index}`, shape, shapeSignature: shapeSignature ?? null, type, buffer: 0, data: bytes, isConstant: bytes !== null, isVariable, isSparse: false, quantisation: quantised,
    });
    return index;
  }

  input(shape: number[], spec: Omit<TensorSpec, 'shape'> = {}): number {
    const index = this.tensor({ name: `input${this.#inputs.length}`, ...spec, shape });
    this.#inputs.push(index);
    return index;
  }

  output(...tensors: number[]): this {
    this.#outputs.push(...tensors);
    return this;
  }

  ints(values: number[]): number {
    return this.tensor({ shape: [values.length], type: 'INT32', data: new Uint8Array(Int32Array.from(values).buffer) });
  }

  op(op: string, inputs: number[], outputs: number[], { version = 1, customCode = null, customOptions = null, ...options }: { version?: number; customCode?: string | null; customOptions?: Uint8Array | null } & Partial<KnownOptions> = {}): void {
    this.#operators.push({
      index: this.#operators.length, op, customCode, version, inputs, outputs, intermediates: [], mutatingInputs: null, customOptions,
      options: { kind: optionKinds[op] ?? null, ...options },
    });
  }

  /** One activation in, one of `shape` out; further inputs (constants) follow it. */
  layer(op: string, input: number, shape: number[], options: { version?: number; with?: number[]; spec?: Omit<TensorSpec, 'shape'> } & Partial<KnownOptions> = {}): number {
    const { with: others = [], spec, ...rest } = options;
    const output = this.tensor({ name: `${op.toLowerCase()}${this.#operators.length}`, type: this.#tensors[input]!.type, ...spec, shape });
    this.op(op, [input, ...others], [output], rest);
    return output;
  }

  conv(input: number, filters: number, { kernel = 3, stride = 1, perChannel = false, version = 3, ...options }: { kernel?: number | [number, number]; stride?: number; perChannel?: boolean; version?: number } & Partial<KnownOptions> = {}): number {
    const [, height = 1, width = 1, channels = 1] = this.shapeOf(input);
    const [kernelH, kernelW] = typeof kernel === 'number' ? [kernel, kernel] : kernel;
    const { weights, bias } = this.#weights(input, [filters, kernelH, kernelW, channels], filters, perChannel ? 0 : null);
    return this.layer('CONV_2D', input, [1, Math.ceil(height / stride), Math.ceil(width / stride), filters], {
      with: [weights, bias], version, padding: 'SAME', strideH: stride, strideW: stride, dilationH: 1, dilationW: 1, fusedActivation: 'RELU6', ...options,
    });
  }

  depthwise(input: number, { kernel = 3, stride = 1, multiplier = 1, perChannel = false, version = 3, ...options }: { kernel?: number; stride?: number; multiplier?: number; perChannel?: boolean; version?: number } & Partial<KnownOptions> = {}): number {
    const [, height = 1, width = 1, channels = 1] = this.shapeOf(input);
    const { weights, bias } = this.#weights(input, [1, kernel, kernel, channels * multiplier], channels * multiplier, perChannel ? 3 : null);
    return this.layer('DEPTHWISE_CONV_2D', input, [1, Math.ceil(height / stride), Math.ceil(width / stride), channels * multiplier], {
      with: [weights, bias], version, padding: 'SAME', strideH: stride, strideW: stride, depthMultiplier: multiplier, dilationH: 1, dilationW: 1, fusedActivation: 'RELU6', ...options,
    });
  }

  dense(input: number, units: number, { perChannel = false, version = 4, ...options }: { perChannel?: boolean; version?: number } & Partial<KnownOptions> = {}): number {
    const { weights, bias } = this.#weights(input, [units, elementsOf(this.shapeOf(input))], units, perChannel ? 0 : null);
    return this.layer('FULLY_CONNECTED', input, [1, units], { with: [weights, bias], version, fusedActivation: 'NONE', weightsFormat: 0, keepNumDims: false, ...options });
  }

  flatten(input: number): number {
    const elements = elementsOf(this.shapeOf(input));
    return this.layer('RESHAPE', input, [1, elements], { with: [this.ints([1, elements])], newShape: [1, elements] });
  }

  softmax(input: number): number {
    return this.layer('SOFTMAX', input, this.shapeOf(input), { version: 2, beta: 1, spec: { scale: 1 / 256, zeroPoint: -128 } });
  }

  add(one: number, other: number): number {
    return this.layer('ADD', one, this.shapeOf(one), { with: [other], version: 2, fusedActivation: 'NONE' });
  }

  quantise(input: number, spec: Omit<TensorSpec, 'shape'> = {}): number {
    return this.layer('QUANTIZE', input, this.shapeOf(input), { spec: { type: 'INT8', ...spec } });
  }

  dequantise(input: number): number {
    return this.layer('DEQUANTIZE', input, this.shapeOf(input), { version: 2, spec: { type: 'FLOAT32' } });
  }

  shapeOf(tensor: number): number[] {
    return this.#tensors[tensor]!.shape;
  }

  build(): Uint8Array {
    return writeModel({
      description: this.description,
      subgraphs: [{ name: 'main', tensors: this.#tensors, inputs: this.#inputs, outputs: this.#outputs, operators: this.#operators }],
      metadata: this.metadata,
      signatures: this.signatures,
    });
  }

  #weights(input: number, shape: number[], outputs: number, channelAxis: number | null): { weights: number; bias: number } {
    const inputScale = this.#tensors[input]!.quantisation?.scale[0] ?? 1;
    const scale = channelAxis === null ? [1 / 64] : Array.from({ length: outputs }, (_, channel) => (1 + channel % 7) / 512);
    const data = Uint8Array.from({ length: elementsOf(shape) }, (_, index) => index * 37 % 255);
    const type = this.#tensors[input]!.type === 'UINT8' ? 'UINT8' : 'INT8';
    const weights = this.tensor({ shape, type, scale, axis: channelAxis ?? 0, data });
    const bias = this.tensor({
      shape: [outputs], type: 'INT32', scale: scale.map((weight) => weight * inputScale), data: new Uint8Array(Int32Array.from({ length: outputs }, (_, channel) => channel * 11 - 40).buffer),
    });
    return { weights, bias };
  }
}

function quantisationOf(scale: number | number[], zeroPoint: number, axis: number): Quantisation {
  const scales = Array.isArray(scale) ? scale : [scale];
  return { scale: scales, zeroPoint: scales.map(() => zeroPoint), axis };
}

const optionKinds: Record<string, string> = {
  ADD: 'Add', AVERAGE_POOL_2D: 'Pool2D', CONCATENATION: 'Concatenation', CONV_2D: 'Conv2D', DEPTHWISE_CONV_2D: 'DepthwiseConv2D', FULLY_CONNECTED: 'FullyConnected',
  MAX_POOL_2D: 'Pool2D', MEAN: 'Reducer', MUL: 'Mul', PACK: 'Pack', REDUCE_MAX: 'Reducer', REDUCE_MIN: 'Reducer', RESHAPE: 'Reshape', RESIZE_BILINEAR: 'ResizeBilinear',
  RESIZE_NEAREST_NEIGHBOR: 'ResizeNearestNeighbor', SOFTMAX: 'Softmax', SPLIT: 'Split', SQUEEZE: 'Squeeze', STRIDED_SLICE: 'StridedSlice', SUB: 'Sub', SUM: 'Reducer',
  TRANSPOSE_CONV: 'TransposeConv', ARG_MAX: 'ArgMax', CAST: 'Cast', LEAKY_RELU: 'LeakyRelu',
};
