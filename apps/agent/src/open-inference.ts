import type { Manifest } from '@reefkeeper/bundle';
import { dequantise, numbersOf, quantiseTensor, type TensorInfo, type TensorType } from '@reefkeeper/inference';
import { ReefError } from '@reefkeeper/platform/errors';
import { z } from 'zod';
import type { Answer, Tensors } from './answer.ts';

// Open Inference Protocol v2 (KServe, "open-inference-protocol", REST) with the binary tensor data extension as Triton documents it. Pure: bytes in, bytes out.

/** Datatypes of the protocol by TFLite type. */
const datatypes: Partial<Record<TensorType, string>> = { int8: 'INT8', uint8: 'UINT8', int16: 'INT16', int32: 'INT32', int64: 'INT64', float32: 'FP32', float64: 'FP64', bool: 'BOOL' };

interface Wide { bytes: number; low: number; high: number; whole: boolean; write(out: Buffer, value: number, at: number): void }
/** What requests may carry. */
const readable: Record<string, Wide> = {
  INT8: { bytes: 1, low: -128, high: 127, whole: true, write: (out, value, at) => out.writeInt8(value, at) },
  UINT8: { bytes: 1, low: 0, high: 255, whole: true, write: (out, value, at) => out.writeUInt8(value, at) },
  INT32: { bytes: 4, low: -(2 ** 31), high: 2 ** 31 - 1, whole: true, write: (out, value, at) => out.writeInt32LE(value, at) },
  FP32: { bytes: 4, low: -3.4028234663852886e38, high: 3.4028234663852886e38, whole: false, write: (out, value, at) => out.writeFloatLE(value, at) },
};

const parameters = z.record(z.string(), z.unknown());
const inferRequest = z.looseObject({
  id: z.string().max(128).optional(),
  parameters: parameters.optional(),
  inputs: z.array(z.looseObject({ name: z.string(), shape: z.array(z.number().int().nonnegative()).max(8), datatype: z.string(), parameters: parameters.optional(), data: z.unknown().optional() })).min(1).max(16),
  outputs: z.array(z.looseObject({ name: z.string(), parameters: parameters.optional() })).max(64).optional(),
});

export interface InferRequest {
  id: string | undefined;
  inputs: { name: string; shape: number[]; datatype: string; bytes: Buffer }[];
  /** undefined: every output. */
  outputs: WantedOutput[] | undefined;
  binary: boolean;
  real: boolean;
}
export interface WantedOutput { name: string; binary: boolean | undefined; real: boolean | undefined }

/**
 * @param headerBytes value of `Inference-Header-Content-Length`: so much of the body is JSON, the rest tensors in the order they are named
 * @throws ReefError `infer.malformed`, `infer.datatype_unsupported`, `infer.data_wrong`
 */
export function parseInferRequest(body: Buffer, headerBytes?: number): InferRequest {
  if (headerBytes !== undefined && (!Number.isInteger(headerBytes) || headerBytes < 2 || headerBytes > body.length)) throw malformed(`Inference-Header-Content-Length is ${headerBytes} and the body has ${body.length} bytes`);
  let json: unknown;
  try {
    json = JSON.parse(body.subarray(0, headerBytes ?? body.length).toString('utf8'));
  } catch (error) {
    throw malformed(`the ${headerBytes === undefined ? 'body' : 'header'} is not JSON (${(error as Error).message})`);
  }
  const parsed = inferRequest.safeParse(json);
  if (!parsed.success) throw malformed(z.prettifyError(parsed.error));
  const request = parsed.data;
  let at = headerBytes ?? body.length;
  const inputs = request.inputs.map(({ name, shape, datatype, data, parameters: own }) => {
    const type = readable[datatype];
    if (!type) throw new ReefError('infer.datatype_unsupported', 'invalid', `Input ${name} has datatype ${datatype}; ${Object.keys(readable).join(', ')} are read.`);
    const count = shape.reduce((product, part) => product * part, 1);
    const size = own?.binary_data_size;
    // Each element takes a byte at least; what promises more would only make us reserve memory for it.
    if (count > body.length) throw wrong(name, `has ${count} elements by its shape, more than the whole request has bytes`);
    if (size === undefined) return { name, shape, datatype, bytes: bytesOf(name, data, count, datatype, type) };
    if (data !== undefined) throw wrong(name, 'has both data and binary_data_size; send one');
    if (size !== count * type.bytes) throw wrong(name, `has binary_data_size ${String(size)}; ${count} elements of ${datatype} are ${count * type.bytes} bytes`);
    const bytes = body.subarray(at, at + size);
    if (bytes.length < size) throw wrong(name, `announces ${size} bytes and ${bytes.length} are left in the body; is Inference-Header-Content-Length right?`);
    at += size;
    return { name, shape, datatype, bytes };
  });
  if (at !== body.length) throw malformed(`${body.length - at} bytes of the body belong to no input`);
  return {
    id: request.id, inputs, binary: flag(request.parameters, 'binary_data_output') ?? false, real: realOf(request.parameters) ?? false,
    outputs: request.outputs?.map((output) => ({ name: output.name, binary: flag(output.parameters, 'binary_data'), real: realOf(output.parameters) })),
  };
}

function bytesOf(name: string, data: unknown, count: number, datatype: string, type: Wide): Buffer {
  if (!Array.isArray(data)) throw wrong(name, 'has no data: give an array of numbers, or parameters.binary_data_size');
  const out = Buffer.allocUnsafe(count * type.bytes);
  let at = 0;
  const read = (values: unknown[], depth: number): void => {
    for (const value of values) {
      if (Array.isArray(value) && depth < 8) read(value, depth + 1);
      else if (typeof value !== 'number' || (type.whole && !Number.isInteger(value)) || value < type.low || value > type.high) throw wrong(name, `has ${JSON.stringify(value)?.slice(0, 40)} among its data, which ${datatype} cannot hold`);
      else if (at < count) type.write(out, value, type.bytes * at++);
      else throw wrong(name, `has more data than the ${count} elements of its shape`);
    }
  };
  read(data, 1);
  if (at < count) throw wrong(name, `has ${at} numbers for the ${count} elements of its shape`);
  return out;
}

/** Names as the manifest has them; a tensor without one is called by its place. */
export function namesOf(side: 'inputs' | 'outputs', manifest: Manifest): string[] {
  return manifest[side].map(({ name }, index) => name || `${side.slice(0, -1)}_${index}`);
}

/** What was meant for one model, for another: by place, since converters rename inputs, and by the numbers it stands for, since scales differ. */
function translated(bytes: Buffer[], from: Tensors, to: Tensors): Buffer[] {
  if (from.inputs.length !== to.inputs.length) throw new ReefError('infer.input_missing', 'invalid', `The request has ${from.inputs.length} inputs and this model takes ${to.inputs.length}.`);
  return bytes.map((own, index) => {
    const [one, other] = [from.inputs[index]!, to.inputs[index]!];
    if (one.shape.join() !== other.shape.join()) throw new ReefError('infer.shape_wrong', 'invalid', `Input ${index} has shape [${one.shape.join(', ')}]; this model takes [${other.shape.join(', ')}].`);
    return one.dtype === other.dtype && one.scale === other.scale && one.zeroPoint === other.zeroPoint ? own : quantiseTensor(dequantise(own, one), other);
  });
}

/**
 * The model's own bytes for what was asked: real numbers are quantised by the model's parameters, its own type is taken as it is.
 * @param meant the model that the client saw, where that is another one: a swap came in between, or this one runs in its shadow
 * @throws ReefError `infer.input_unknown`, `infer.input_missing`, `infer.input_twice`, `infer.shape_wrong`, `infer.datatype_wrong`, `infer.data_wrong`
 */
export function modelInputs({ inputs }: Pick<InferRequest, 'inputs'>, manifest: Manifest, tensors: Tensors, meant?: { manifest: Manifest; tensors: Tensors }): Buffer[] {
  if (meant && (meant.manifest !== manifest || meant.tensors !== tensors)) return translated(modelInputs({ inputs }, meant.manifest, meant.tensors), meant.tensors, tensors);
  const names = namesOf('inputs', manifest);
  const unknown = inputs.find(({ name }) => !names.includes(name));
  if (unknown) throw new ReefError('infer.input_unknown', 'invalid', `The model has no input ${unknown.name}; it has ${names.join(', ')}.`);
  return names.map((name, index) => {
    const given = inputs.filter((input) => input.name === name);
    if (given.length > 1) throw new ReefError('infer.input_twice', 'invalid', `Input ${name} is given ${given.length} times.`);
    if (!given[0]) throw new ReefError('infer.input_missing', 'invalid', `Input ${name} is missing.`);
    return modelInput(given[0], tensors.inputs[index]!);
  });
}

function modelInput({ name, shape, datatype, bytes }: InferRequest['inputs'][number], tensor: TensorInfo): Buffer {
  if (shape.join() !== tensor.shape.join()) throw new ReefError('infer.shape_wrong', 'invalid', `Input ${name} has shape [${shape.join(', ')}]; the model takes [${tensor.shape.join(', ')}], one sample a request.`);
  const own = datatypes[tensor.dtype];
  if (datatype === own) return bytes;
  if (datatype !== 'FP32' || tensor.scale === null) throw new ReefError('infer.datatype_wrong', 'invalid', `Input ${name} is ${datatype}; the model takes ${own ?? tensor.dtype}${tensor.scale === null ? '' : ' as it is stored, or FP32 that is quantised here'}.`);
  const values = new Float32Array(Uint8Array.from(bytes).buffer);
  if (!values.every(Number.isFinite)) throw wrong(name, 'holds numbers that are not finite');
  return quantiseTensor(values, tensor);
}

/** @returns the places of the wanted outputs. @throws ReefError `infer.output_unknown` */
export function outputPlaces({ outputs }: Pick<InferRequest, 'outputs'>, manifest: Manifest): number[] {
  const names = namesOf('outputs', manifest);
  const unknown = outputs?.find(({ name }) => !names.includes(name));
  if (unknown) throw new ReefError('infer.output_unknown', 'invalid', `The model has no output ${unknown.name}; it has ${names.join(', ')}.`);
  return outputs?.map(({ name }) => names.indexOf(name)) ?? names.map((_, index) => index);
}

/** @returns the body; with `headerBytes` where tensors follow the JSON */
export function encodeInferResponse(request: InferRequest, workload: string, id: string, answer: Answer, places = outputPlaces(request, answer.manifest)): { body: Buffer; headerBytes: number | undefined } {
  const { manifest, tensors, slot } = answer;
  const names = namesOf('outputs', manifest);
  const tails: Buffer[] = [];
  const outputs = places.map((index, at) => {
    const { binary = request.binary, real = request.real, name = names[index]! }: Partial<WantedOutput> = request.outputs?.[at] ?? {};
    const tensor = tensors.outputs[index];
    // Answered by another version than the client saw, which has fewer.
    if (!tensor) throw new ReefError('infer.output_unknown', 'invalid', `The model has no output ${name}; it has ${names.join(', ')}.`);
    const values = real ? dequantise(answer.outputs[index]!, tensor) : undefined;
    const datatype = real ? 'FP32' : datatypes[tensor.dtype] ?? 'FP32';
    const quantisation = !real && tensor.scale !== null ? { scale: tensor.scale, zero_point: tensor.zeroPoint ?? 0 } : {};
    if (!binary) return { name, datatype, shape: tensor.shape, parameters: quantisation, data: Array.from(values ?? numbersOf(answer.outputs[index]!, tensor.dtype), Number) };
    const bytes = values ? Buffer.from(values.buffer) : Buffer.from(answer.outputs[index]!);
    tails.push(bytes);
    return { name, datatype, shape: tensor.shape, parameters: { ...quantisation, binary_data_size: bytes.length } };
  });
  const header = Buffer.from(JSON.stringify({
    model_name: workload, model_version: `${manifest.version}`, id,
    parameters: { bundle: slot.bundle, model: manifest.model, variant: slot.variant, backend: slot.backend, invoke_us: Math.round(answer.invokeUs) }, outputs,
  }));
  return tails.length === 0 ? { body: header, headerBytes: undefined } : { body: Buffer.concat([header, ...tails]), headerBytes: header.length };
}

export function modelMetadata(workload: string, { manifest, tensors, slot }: Pick<Answer, 'manifest' | 'tensors' | 'slot'>): Record<string, unknown> {
  const side = (which: 'inputs' | 'outputs') => namesOf(which, manifest).map((name, index) => {
    const { dtype, shape, scale, zeroPoint } = tensors[which][index]!;
    return { name, datatype: datatypes[dtype] ?? dtype.toUpperCase(), shape, ...(scale === null ? {} : { parameters: { scale, zero_point: zeroPoint ?? 0 } }) };
  });
  return {
    name: workload, versions: [`${manifest.version}`], platform: 'tensorflow_lite', inputs: side('inputs'), outputs: side('outputs'),
    parameters: { bundle: slot.bundle, model: manifest.model, variant: slot.variant, backend: slot.backend, task: manifest.task },
  };
}

/** Both spellings are in use. */
function realOf(given: Record<string, unknown> | undefined): boolean | undefined {
  return flag(given, 'dequantise') ?? flag(given, 'dequantize');
}

function flag(given: Record<string, unknown> | undefined, name: string): boolean | undefined {
  const value = given?.[name];
  if (value === undefined || typeof value === 'boolean') return value;
  throw malformed(`parameter ${name} is true or false`);
}

function malformed(why: string): ReefError {
  return new ReefError('infer.malformed', 'invalid', `This is not an inference request: ${why}.`);
}

function wrong(name: string, why: string): ReefError {
  return new ReefError('infer.data_wrong', 'invalid', `Input ${name} ${why}.`);
}
