import { describe, expect, it } from 'vitest';
import fc from 'fast-check';
import type { Manifest } from '@reefkeeper/bundle';
import type { Answer, Tensors } from './answer.ts';
import { encodeInferResponse, modelInputs, modelMetadata, parseInferRequest, type InferRequest } from './open-inference.ts';

const tensor = (name: string, shape: number[], dtype: 'int8' | 'float32', scale: number | null = 0.5, zeroPoint: number | null = -1) => ({ name, shape, dtype, scale, zeroPoint, bytes: 0 });
const tensors: Tensors = { inputs: [tensor('picture', [1, 4], 'int8')], outputs: [tensor('scores', [1, 2], 'int8', 1 / 256, -128), tensor('raw', [1, 2], 'float32', null, null)] };
const manifest = { model: 'colours', version: 7, task: 'classification', labels: ['a', 'b'], inputs: [{ name: 'picture' }], outputs: [{ name: 'scores' }, { name: '' }] } as unknown as Manifest;
const slot = { bundle: 'ab'.repeat(32), variant: 'cpu-int8', backend: 'cpu' as const };
const answer: Answer = { slot, manifest, tensors, outputs: [Uint8Array.from([0x80, 0x7f]), new Uint8Array(Float32Array.from([0.25, -2]).buffer)], preprocessUs: 1, invokeUs: 2.4, stagesUs: [2.4], totalUs: 3 };

const body = (request: unknown) => Buffer.from(JSON.stringify(request));
const input = (more: Record<string, unknown> = {}) => ({ name: 'picture', shape: [1, 4], datatype: 'INT8', data: [1, 2, 3, 4], ...more });
const codeOf = (request: unknown, headerBytes?: number) => {
  try {
    const bytes = Buffer.isBuffer(request) ? request : body(request);
    modelInputs(parseInferRequest(bytes, headerBytes), manifest, tensors);
    return 'taken';
  } catch (error) {
    return (error as { code?: string }).code;
  }
};

describe('requests of the Open Inference Protocol', () => {
  it('takes numbers flat or nested, and the same as bytes behind the JSON', () => {
    const flat = parseInferRequest(body({ inputs: [input()] }));
    expect(modelInputs(flat, manifest, tensors)).toEqual([Buffer.from([1, 2, 3, 4])]);
    expect(parseInferRequest(body({ inputs: [input({ data: [[1, 2], [3, [4]]] })] })).inputs[0]!.bytes).toEqual(Buffer.from([1, 2, 3, 4]));
    const header = body({ id: 'x', inputs: [input({ data: undefined, parameters: { binary_data_size: 4 } })] });
    expect(parseInferRequest(Buffer.concat([header, Buffer.from([1, 2, 3, 4])]), header.length)).toMatchObject({ id: 'x', inputs: [{ bytes: Buffer.from([1, 2, 3, 4]) }] });
  });

  it('quantises real numbers by the model\'s own parameters, and clamps', () => {
    // real / 0.5 - 1
    expect([...modelInputs(parseInferRequest(body({ inputs: [input({ datatype: 'FP32', data: [0, 1, -10, 1e6] })] })), manifest, tensors)[0]!]).toEqual([-1 & 0xff, 1, -21 & 0xff, 127]);
    const header = body({ inputs: [input({ datatype: 'FP32', data: undefined, parameters: { binary_data_size: 16 } })] });
    const values = Buffer.from(Float32Array.from([0, 1, -10, 1e6]).buffer);
    // At an odd offset, as it comes.
    expect([...modelInputs(parseInferRequest(Buffer.concat([header, values]), header.length), manifest, tensors)[0]!]).toEqual([-1 & 0xff, 1, -21 & 0xff, 127]);
  });

  it.each([
    ['no JSON', Buffer.from('{'), 'infer.malformed'],
    ['no inputs', { inputs: [] }, 'infer.malformed'],
    ['another datatype', { inputs: [input({ datatype: 'BYTES' })] }, 'infer.datatype_unsupported'],
    ['a datatype the model does not take', { inputs: [input({ datatype: 'UINT8' })] }, 'infer.datatype_wrong'],
    ['another name', { inputs: [input({ name: 'other' })] }, 'infer.input_unknown'],
    ['the same twice', { inputs: [input(), input()] }, 'infer.input_twice'],
    ['a batch', { inputs: [input({ shape: [2, 4], data: [1, 2, 3, 4, 1, 2, 3, 4] })] }, 'infer.shape_wrong'],
    ['too few numbers', { inputs: [input({ data: [1] })] }, 'infer.data_wrong'],
    ['too many numbers', { inputs: [input({ data: [1, 2, 3, 4, 5] })] }, 'infer.data_wrong'],
    ['words', { inputs: [input({ data: [1, 2, 3, 'x'] })] }, 'infer.data_wrong'],
    ['fractions for whole numbers', { inputs: [input({ data: [1, 2, 3, 0.5] })] }, 'infer.data_wrong'],
    ['numbers beyond the type', { inputs: [input({ data: [1, 2, 3, 128] })] }, 'infer.data_wrong'],
    ['a shape beyond any memory', { inputs: [input({ shape: [1_000_000, 1_000_000] })] }, 'infer.data_wrong'],
    ['bytes that are not there', { inputs: [input({ data: undefined, parameters: { binary_data_size: 4 } })] }, 'infer.data_wrong'],
    ['a wrong number of bytes', { inputs: [input({ data: undefined, parameters: { binary_data_size: 3 } })] }, 'infer.data_wrong'],
  ])('refuses %s', (_, request, code) => {
    expect(codeOf(request)).toBe(code);
  });

  it('refuses bytes that belong to nothing, a header longer than the body, and what is not a number', () => {
    const header = body({ inputs: [input()] });
    expect(codeOf(Buffer.concat([header, Buffer.from('x')]), header.length)).toBe('infer.malformed');
    expect(codeOf(header, header.length + 1)).toBe('infer.malformed');
    const binary = body({ inputs: [input({ datatype: 'FP32', data: undefined, parameters: { binary_data_size: 16 } })] });
    expect(codeOf(Buffer.concat([binary, Buffer.from(Float32Array.from([0, NaN, 0, 0]).buffer)]), binary.length)).toBe('infer.data_wrong');
  });

  it('never throws anything but its own errors, whatever comes', () => {
    const word = fc.constantFrom('picture', 'INT8', 'FP32', 'scores', 'binary_data_size');
    const any = fc.record({ inputs: fc.array(fc.record({ name: word, shape: fc.array(fc.integer({ min: -1, max: 2 ** 31 })), datatype: word, data: fc.anything(), parameters: fc.dictionary(word, fc.anything()) }, { requiredKeys: ['name'] })) });
    fc.assert(fc.property(any, fc.option(fc.integer({ min: -5, max: 400 }), { nil: undefined }), (request, headerBytes) => {
      let text: Buffer;
      try {
        text = body(request);
      } catch {
        return;
      }
      expect(codeOf(text, headerBytes)).toMatch(/^(taken|infer\..+)$/);
    }), { numRuns: 300 });
  });
});

describe('responses', () => {
  const request = (more: Partial<InferRequest> = {}): InferRequest => ({ id: undefined, inputs: [], outputs: undefined, binary: false, real: false, ...more });
  const decoded = (one: InferRequest) => {
    const { body: bytes, headerBytes } = encodeInferResponse(one, 'w', 'r1', answer);
    return { header: JSON.parse(bytes.subarray(0, headerBytes).toString()) as Record<string, unknown>, tail: bytes.subarray(headerBytes ?? bytes.length) };
  };

  it('names the model, its version and bundle, and every output as it is stored', () => {
    expect(decoded(request()).header).toEqual({
      model_name: 'w', model_version: '7', id: 'r1', parameters: { bundle: slot.bundle, model: 'colours', variant: 'cpu-int8', backend: 'cpu', invoke_us: 2 },
      outputs: [
        { name: 'scores', datatype: 'INT8', shape: [1, 2], parameters: { scale: 1 / 256, zero_point: -128 }, data: [-128, 127] },
        { name: 'output_1', datatype: 'FP32', shape: [1, 2], parameters: {}, data: [0.25, -2] },
      ],
    });
  });

  it('dequantises on request, all or one, and sends bytes in the order named', () => {
    expect(decoded(request({ real: true })).header.outputs).toMatchObject([{ datatype: 'FP32', data: [0, 255 / 256] }, { data: [0.25, -2] }]);
    const { header, tail } = decoded(request({ outputs: [{ name: 'output_1', binary: true, real: undefined }, { name: 'scores', binary: true, real: true }] }));
    expect(header.outputs).toMatchObject([{ name: 'output_1', parameters: { binary_data_size: 8 } }, { name: 'scores', datatype: 'FP32', parameters: { binary_data_size: 8 } }]);
    expect([...new Float32Array(Uint8Array.from(tail).buffer)]).toEqual([0.25, -2, 0, 255 / 256]);
  });

  it('metadata speaks of the same tensors', () => {
    expect(modelMetadata('w', answer)).toMatchObject({ name: 'w', versions: ['7'], platform: 'tensorflow_lite', inputs: [{ name: 'picture', datatype: 'INT8', shape: [1, 4] }], outputs: [{ name: 'scores' }, { name: 'output_1', datatype: 'FP32' }] });
  });
});
