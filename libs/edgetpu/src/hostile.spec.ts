import { ReefError } from '@reefkeeper/platform/errors';
import { Builder } from 'flatbuffers';
import { describe, expect, it } from 'vitest';
import { analyze, type Analysis } from './analyze.ts';
import { inspectModel } from './compiled.ts';
import { closeOpenShapes, cutModel } from './cut-model.ts';
import { readModel } from './model.ts';
import { status } from './rules.ts';
import { compiledOptions, TfliteBuilder } from './tflite-builder.fixture.ts';

/** Of processor time, so that a busy machine does not count. What is quadratic here takes minutes. */
const patienceMs = 3000;
function timed<T>(work: () => T): T {
  const begin = process.cpuUsage();
  const result = work();
  const { user, system } = process.cpuUsage(begin);
  expect((user + system) / 1000).toBeLessThan(patienceMs);
  return result;
}
const judged = (net: TfliteBuilder): Analysis => { const bytes = net.build(); return timed(() => analyze(readModel(bytes))); };

describe('sound files of absurd shape are answered in time', () => {
  it('20,000 operators behind one that is not supported', () => {
    const net = new TfliteBuilder();
    let last = net.layer('LEAKY_RELU', net.conv(net.input([1, 4, 4, 1]), 1), [1, 4, 4, 1]);
    for (let left = 20_000; left > 0; left -= 1) last = net.layer('RELU', last, [1, 4, 4, 1]);
    net.output(last);
    const { ops } = judged(net);
    expect(ops.at(-1)).toMatchObject({ status: status.subgraph, reason: expect.stringContaining('operator 1 (LEAKY_RELU)') as string });
  });

  it('one operator with 30,000 inputs and outputs, all without a range', () => {
    const net = new TfliteBuilder();
    const inputs = Array.from({ length: 30_000 }, () => net.input([1, 4], { scale: 0 }));
    const outputs = inputs.map(() => net.tensor({ shape: [1, 4], type: 'FLOAT32' }));
    net.op('ADD', inputs, outputs);
    net.output(...outputs);
    expect(judged(net).faults.length).toBeLessThan(50);
  });

  it('15,000 operators that spread a plane', () => {
    const net = new TfliteBuilder();
    const plane = net.conv(net.input([1, 4, 4, 1]), 1);
    const shape = net.ints([1, 16]);
    net.output(...Array.from({ length: 15_000 }, () => net.layer('RESHAPE', plane, [1, 16], { with: [shape] })));
    judged(net);
  });

  it('10,000 weights with one fault each: ten are shown, the others counted', () => {
    const net = new TfliteBuilder();
    const weights = net.tensor({ shape: [1, 4], data: true, scale: 0 });
    const input = net.input([1, 4]);
    net.output(...Array.from({ length: 10_000 }, () => net.layer('FULLY_CONNECTED', input, [1, 1], { with: [weights] })));
    const zero = judged(net).faults.filter(({ code }) => code === 'quant.zero_scale');
    expect(zero).toHaveLength(10);
    expect(zero.at(-1)!.message).toContain('And 9990 more like it.');
  });

  it('a name of a million characters is shortened in what is said', () => {
    const net = new TfliteBuilder();
    net.output(net.layer('CAST', net.input([1, 4], { name: 'x'.repeat(1_000_000), type: 'FLOAT32' }), [1, 4]));
    const { ops, faults } = judged(net);
    expect(JSON.stringify([ops, faults]).length).toBeLessThan(5000);
  });

  it('5,000 compiled parts that share one package', () => {
    const net = new TfliteBuilder();
    const options = compiledOptions({ onChipBytes: 64, instructionBytes: 64 });
    const input = net.input([1, 4]);
    const output = net.tensor({ shape: [1, 4] });
    for (let left = 5000; left > 0; left -= 1) net.op('CUSTOM', [input], [output], { customCode: 'edgetpu-custom-op', customOptions: options });
    const model = readModel(net.output(output).build());
    timed(() => expect(inspectModel(model).parts).toHaveLength(5000));
  });
});

/** A model whose `count` buffers are the same or overlapping `bytes`. */
function sharedBuffers(count: number, bytes: number, step: number): Uint8Array {
  const builder = new Builder(1024);
  const data = builder.createByteVector(new Uint8Array(bytes));
  const end = builder.offset();
  const tables = Array.from({ length: count }, () => { builder.startObject(1); builder.addFieldOffset(0, data, 0); return builder.endObject(); });
  builder.startVector(4, count, 4);
  for (const table of tables) builder.addOffset(table);
  const buffers = builder.endVector();
  const names = Array.from({ length: count }, (_, index) => index);
  builder.startVector(4, 1, 4);
  builder.addInt32(bytes);
  const shape = builder.endVector();
  const tensors = names.map((index) => {
    builder.startObject(8);
    builder.addFieldOffset(0, shape, 0);
    builder.addFieldInt8(1, 9, 0);
    builder.addFieldInt32(2, index + 1 < count ? index + 1 : 1, 0);
    return builder.endObject();
  });
  builder.startVector(4, count, 4);
  for (const tensor of tensors) builder.addOffset(tensor);
  const tensorList = builder.endVector();
  builder.startVector(4, count, 4);
  for (const index of names) builder.addInt32(index);
  const outputs = builder.endVector();
  builder.startVector(4, count, 4);
  for (const index of names) builder.addInt32(index);
  const inputs = builder.endVector();
  builder.startObject(4);
  builder.addFieldOffset(1, inputs, 0);
  builder.addFieldOffset(2, outputs, 0);
  const operator = builder.endObject();
  builder.startVector(4, 1, 4);
  builder.addOffset(operator);
  const operators = builder.endVector();
  builder.startObject(5);
  builder.addFieldOffset(0, tensorList, 0);
  builder.addFieldOffset(2, outputs, 0);
  builder.addFieldOffset(3, operators, 0);
  const graph = builder.endObject();
  builder.startVector(4, 1, 4);
  builder.addOffset(graph);
  const graphs = builder.endVector();
  builder.startObject(4);
  builder.addFieldInt32(2, 1, 0);
  const code = builder.endObject();
  builder.startVector(4, 1, 4);
  builder.addOffset(code);
  const codes = builder.endVector();
  builder.startObject(8);
  builder.addFieldInt32(0, 3, 0);
  builder.addFieldOffset(1, codes, 0);
  builder.addFieldOffset(2, graphs, 0);
  builder.addFieldOffset(4, buffers, 0);
  builder.finish(builder.endObject(), 'TFL3');
  const file = builder.asUint8Array().slice();
  if (step > 0) {
    // Every buffer table points `step` bytes further into the same list, which is made to look like a length there, too.
    const view = new DataView(file.buffer);
    const start = file.length - end;
    for (let index = 0; index < count; index += 1) {
      view.setUint32(start + index * step, bytes - 4 - index * step, true);
      const at = file.length - tables[index]!;
      const field = at + view.getUint16(at - view.getInt32(at, true) + 4, true);
      view.setUint32(field, start + index * step - field, true);
    }
  }
  return file;
}

describe('a small file that says it is large', () => {
  it('5,000 constants that are one: written once again', () => {
    const model = readModel(sharedBuffers(5000, 100_000, 0));
    expect(timed(() => closeOpenShapes(model)).byteLength).toBeLessThan(2_000_000);
    expect(timed(() => cutModel(model, { from: 0, to: 1 })).byteLength).toBeLessThan(2_000_000);
  });

  it('1,000 constants that overlap are refused', () => {
    expect(() => readModel(sharedBuffers(1000, 100_000, 64))).toThrow(expect.objectContaining({ code: 'model.unreadable', message: expect.stringContaining('more than the whole file') as string }));
  });

  it('a custom operator with a name of a million characters is refused', () => {
    const net = new TfliteBuilder();
    const output = net.tensor({ shape: [1, 4] });
    net.op('CUSTOM', [net.input([1, 4])], [output], { customCode: 'x'.repeat(1_000_000) });
    expect(() => readModel(net.output(output).build())).toThrow(ReefError);
  });
});
