import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { closeOpenShapes, cutModel } from './cut-model.ts';
import { readModel, type TfliteModel } from './model.ts';
import { writeModel } from './write-model.ts';
import { TfliteBuilder } from './tflite-builder.fixture.ts';

function net(): TfliteBuilder {
  const builder = new TfliteBuilder();
  const picture = builder.input([1, 16, 16, 3], { shapeSignature: [-1, 16, 16, 3] });
  const first = builder.conv(picture, 8, { perChannel: true });
  const branch = builder.depthwise(first);
  builder.output(builder.softmax(builder.dense(builder.flatten(builder.add(first, branch)), 10)));
  return builder;
}

const content = (model: TfliteModel): unknown => ({ ...model, bytes: 0, buffers: [], subgraphs: model.subgraphs.map((graph) => ({ ...graph, tensors: graph.tensors.map((tensor) => ({ ...tensor, buffer: 0 })) })) });

describe('writeModel', () => {
  it('what is written is read again, options and all', () => {
    const model = readModel(net().build());
    expect(content(readModel(writeModel(model)))).toEqual(content(model));
  });

  it('constants lie on 16-byte borders, once each', () => {
    const builder = new TfliteBuilder();
    const shared = Uint8Array.from({ length: 33 }, (_, index) => index);
    builder.output(builder.layer('ADD', builder.input([1, 33]), [1, 33], { with: [builder.tensor({ shape: [1, 33], data: shared })] }));
    builder.tensor({ shape: [33], data: shared });
    const bytes = builder.build();
    const { buffers } = readModel(bytes);
    expect(buffers).toHaveLength(2);
    expect((buffers[1]!.byteOffset - bytes.byteOffset) % 16).toBe(0);
  });

  it('any quantisation and any shape come back', () => {
    const shapes = fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 5 });
    fc.assert(fc.property(shapes, fc.float({ min: Math.fround(1e-6), max: 100, noNaN: true }), fc.integer({ min: -128, max: 127 }), fc.string(), (shape, scale, zeroPoint, name) => {
      const builder = new TfliteBuilder();
      builder.input(shape, { name, scale: Math.fround(scale), zeroPoint });
      const clean = new TextDecoder().decode(new TextEncoder().encode(name));
      expect(readModel(builder.build()).subgraphs[0]!.tensors[0]).toMatchObject({ name: clean, shape, quantisation: { scale: [Math.fround(scale)], zeroPoint: [zeroPoint] } });
    }));
  });

  it('sparse tensors are refused, not written wrongly', () => {
    const model = readModel(net().build());
    const [graph] = model.subgraphs;
    const sparse = { ...model, subgraphs: [{ ...graph!, tensors: graph!.tensors.map((tensor) => ({ ...tensor, isSparse: true })) }] };
    expect(() => writeModel(sparse)).toThrow(expect.objectContaining({ code: 'model.unwritable' }));
  });
});

describe('cutModel', () => {
  const model = readModel(net().build());
  const cut = (from: number, to?: number): TfliteModel['subgraphs'][number] => readModel(cutModel(model, { from, ...(to !== undefined && { to }) })).subgraphs[0]!;
  const names = (graph: TfliteModel['subgraphs'][number], indices: number[]): string[] => indices.map((index) => graph.tensors[index]!.name);

  it('the front: what later operators take becomes an output', () => {
    const front = cut(0, 2);
    expect(front.operators.map(({ op }) => op)).toEqual(['CONV_2D', 'DEPTHWISE_CONV_2D']);
    expect([names(front, front.inputs), names(front, front.outputs)]).toEqual([['input0'], ['conv_2d0', 'depthwise_conv_2d1']]);
  });

  it('the back: what it takes from before becomes an input; unused tensors are gone', () => {
    const back = cut(2);
    expect(back.operators.map(({ op }) => op)).toEqual(['ADD', 'RESHAPE', 'FULLY_CONNECTED', 'SOFTMAX']);
    expect([names(back, back.inputs), names(back, back.outputs)]).toEqual([['conv_2d0', 'depthwise_conv_2d1'], ['softmax5']]);
    expect(back.tensors.length).toBeLessThan(model.subgraphs[0]!.tensors.length);
  });

  it('every range is a whole model', () => {
    const count = model.subgraphs[0]!.operators.length;
    for (let from = 0; from < count; from += 1) for (let to = from + 1; to <= count; to += 1) expect(cut(from, to).operators).toHaveLength(to - from);
    expect(() => cut(count)).toThrow(expect.objectContaining({ code: 'model.empty_cut' }));
  });

  it('open shapes are closed, all else stays', () => {
    const closed = readModel(closeOpenShapes(model));
    expect(closed.subgraphs[0]!.tensors.every(({ shapeSignature }) => shapeSignature === null)).toBe(true);
    expect(closed.subgraphs[0]!.operators).toEqual(model.subgraphs[0]!.operators);
  });
});
