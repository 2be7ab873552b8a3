import { ReefError } from '@reefkeeper/platform/errors';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { analyze } from './analyze.ts';
import { inspectCompiled } from './compiled.ts';
import { looksLike } from './file-kind.ts';
import { readModel } from './model.ts';
import { sharedModel, sharedPresent } from './shared.fixture.ts';
import { TfliteBuilder } from './tflite-builder.fixture.ts';

function smallNet(): Uint8Array {
  const net = new TfliteBuilder();
  const picture = net.input([1, 16, 16, 3], { shapeSignature: [-1, 16, 16, 3] });
  const features = net.depthwise(net.conv(picture, 8, { stride: 2, perChannel: true }));
  net.output(net.softmax(net.dense(net.flatten(features), 10)));
  net.signatures = [{ key: 'serving_default', subgraph: 0, inputs: [{ name: 'image', tensor: picture }], outputs: [] }];
  net.metadata = [{ name: 'min_runtime_version', bytes: Uint8Array.from([49, 46, 53]) }];
  return net.build();
}

const text = (value: string): Uint8Array => Uint8Array.from(value, (character) => character.charCodeAt(0));

describe('readModel', () => {
  it('reads tensors, quantisation, operators, options, signatures and metadata', () => {
    const model = readModel(smallNet());
    expect(model).toMatchObject({
      schemaVersion: 3, description: 'built for a test',
      signatures: [{ key: 'serving_default', inputs: [{ name: 'image', tensor: 0 }] }],
      metadata: [{ name: 'min_runtime_version' }],
      subgraphs: [{
        inputs: [0],
        operators: [
          { op: 'CONV_2D', version: 3, options: { kind: 'Conv2D', padding: 'SAME', strideW: 2, strideH: 2, fusedActivation: 'RELU6', dilationW: 1 } },
          { op: 'DEPTHWISE_CONV_2D', options: { depthMultiplier: 1 } }, { op: 'RESHAPE', options: { newShape: [1, 512] } }, { op: 'FULLY_CONNECTED', version: 4 }, { op: 'SOFTMAX', options: { beta: 1 } },
        ],
      }],
    });
    const [graph] = model.subgraphs;
    expect(graph!.tensors[0]).toMatchObject({ name: 'input0', shape: [1, 16, 16, 3], shapeSignature: [-1, 16, 16, 3], type: 'INT8', isConstant: false, quantisation: { scale: [1 / 128], zeroPoint: [0] } });
    const weights = graph!.tensors[graph!.operators[0]!.inputs[1]!]!;
    expect(weights).toMatchObject({ shape: [8, 3, 3, 3], isConstant: true, quantisation: { axis: 0 } });
    expect(weights.quantisation!.scale).toHaveLength(8);
    expect(weights.data).toHaveLength(8 * 27);
  });

  it('a model in the middle of a larger buffer', () => {
    const bytes = smallNet();
    const around = new Uint8Array(bytes.byteLength + 64);
    around.set(bytes, 13);
    expect(readModel(around.subarray(13, 13 + bytes.byteLength)).subgraphs[0]!.operators).toHaveLength(5);
  });

  it.each<[string, Uint8Array, string]>([
    ['nothing', new Uint8Array(), 'empty'],
    ['a ZIP', text('PK\u0003\u0004..........'), 'zip'],
    ['a .keras', text('PK\u0003\u0004..........................metadata.json'), 'keras-archive'],
    ['a PNG', text('\u0089PNG\r\n\u001a\n'), 'image'],
    ['a JPEG', text('\u00ff\u00d8\u00ff\u00e0'), 'image'],
    ['Keras HDF5', text('\u0089HDF\r\n\u001a\n'), 'hdf5'],
    ['a SavedModel', text('\u0008\u0001\u0012\u00ff\u0001'), 'saved-model'],
    ['a frozen graph', text('\n\u0026\n\u0005input\u0012\u000bPlaceholder"..'), 'frozen-graph'],
    ['gzip', text('\u001f\u008b\u0008'), 'gzip'],
    ['a web page', text('<!DOCTYPE html><html>'), 'html'],
    ['a Git LFS pointer', text('version https://git-lfs.github.com/spec/v1'), 'git-lfs'],
    ['NumPy', text('\u0093NUMPY\u0001'), 'numpy'],
    ['noise', text('qwertyuiop'), 'unknown'],
  ])('%s is not a model, and the error says what it is', (_, bytes, kind) => {
    expect(looksLike(bytes).kind).toBe(kind);
    expect(() => readModel(bytes)).toThrow(expect.objectContaining({ code: 'model.not_tflite', kind: 'invalid', detail: expect.objectContaining({ looksLike: kind }) as unknown }));
  });

  it('every truncation of a model is refused or read, never a crash', () => {
    const bytes = smallNet();
    for (let length = 0; length < bytes.byteLength; length += 1) outcome(bytes.subarray(0, length));
  });

  it('thousands of damaged models: a result or a ReefError', () => {
    const bytes = smallNet();
    const change = fc.record({ at: fc.nat(bytes.byteLength - 1), value: fc.constantFrom(0, 1, 2, 4, 0x7f, 0x80, 0xfe, 0xff) });
    let read = 0;
    fc.assert(fc.property(fc.array(change, { minLength: 1, maxLength: 6 }), (changes) => {
      const damaged = bytes.slice();
      for (const { at, value } of changes) damaged[at] = value;
      read += outcome(damaged) ? 1 : 0;
    }), { numRuns: 4000 });
    expect(read).toBeGreaterThan(100);
  });

  it('every 32-bit word in turn made huge, negative or a jump elsewhere', () => {
    const bytes = smallNet();
    for (let at = 0; at + 4 <= bytes.byteLength; at += 4) {
      for (const word of [0xffff_ffff, 0x7fff_ffff, 0x8000_0000, bytes.byteLength, 8]) {
        const damaged = bytes.slice();
        new DataView(damaged.buffer).setUint32(at, word, true);
        outcome(damaged);
      }
    }
  });

  it('a list that names the same large list again and again is refused before memory runs out', () => {
    // Root table with one field, the list of operator codes: 200,000 offsets, all to a table that shares its 800 kB list.
    const count = 200_000;
    const bytes = new Uint8Array(64 + count * 4);
    const view = new DataView(bytes.buffer);
    bytes.set(text('TFL3'), 4);
    view.setUint32(0, 24, true);
    view.setUint16(12, 12, true); view.setUint16(14, 8, true); view.setUint16(20, 4, true);
    view.setInt32(24, 12, true); view.setUint32(28, 8, true);
    view.setUint32(36, count, true);
    for (let index = 0; index < count; index += 1) view.setUint32(40 + index * 4, 2 ** 32 - (16 + index * 4), true);
    expect(() => readModel(bytes)).toThrow(expect.objectContaining({ code: 'model.unreadable' }));
  });
});

describe.skipIf(!sharedPresent)('public models, damaged', () => {
  it.each(['coral/keras_lstm_mnist_ptq.tflite', 'coral/tools/split_concat_edgetpu.tflite', 'libredgetpu/looming_64x64_3x3_edgetpu.tflite'])('%s: 1,000 mutations and truncations', (path) => {
    const bytes = new Uint8Array(sharedModel(path));
    let state = 1;
    const random = (below: number): number => { state = state * 1_103_515_245 + 12_345 & 0x7fff_ffff; return state % below; };
    for (let round = 0; round < 1000; round += 1) {
      const damaged = bytes.slice(0, round % 10 === 0 ? random(bytes.byteLength) : bytes.byteLength);
      // The structure lies mostly at both ends.
      for (let change = random(8); change >= 0 && damaged.byteLength > 0; change -= 1) damaged[random(Math.min(damaged.byteLength, 6000))] = random(256);
      if (damaged.byteLength > 0) damaged[damaged.byteLength - 1 - random(Math.min(damaged.byteLength, 2000))] = random(256);
      outcome(damaged);
    }
  });

  it('a model with an operator nobody knows is read', () => {
    expect(readModel(sharedModel('coral/invalid_models/model_invoking_error.tflite')).subgraphs[0]!.operators[0]).toMatchObject({ op: 'CUSTOM', customCode: 'fake-op-double' });
  });
});

/** Whether it could be read; anything but a ReefError fails the test. What can be read must also be judged and inspected without a crash. */
function outcome(bytes: Uint8Array): boolean {
  try {
    const model = readModel(bytes);
    expect(analyze(model).ops).toHaveLength(model.subgraphs[0]!.operators.length);
    inspectCompiled(bytes);
  } catch (thrown) {
    if (!(thrown instanceof ReefError)) throw thrown;
    expect(['model.not_tflite', 'model.unreadable', 'model.not_compiled']).toContain(thrown.code);
    return thrown.code === 'model.not_compiled';
  }
  return true;
}
