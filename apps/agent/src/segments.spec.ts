import { readModel } from '@reefkeeper/edgetpu';
import type { TensorInfo } from '@reefkeeper/inference';
import { expect, it } from 'vitest';
import { sharedModel, sharedPresent } from '../../../libs/edgetpu/src/shared.fixture.ts';
import { wired } from './segments.ts';

const tensor = (name: string, more: Partial<TensorInfo> = {}): TensorInfo => ({ name, shape: [1, 4], dtype: 'int8', scale: 0.5, zeroPoint: 3, bytes: 4, ...more });
const segment = (inputs: TensorInfo[], outputs: TensorInfo[]) => ({ inputs, outputs });

it('an input is the tensor of the same name that the nearest segment before gives, or the model is given', () => {
  expect(wired([segment([tensor('picture')], [tensor('a'), tensor('b')]), segment([tensor('b'), tensor('a')], [tensor('c')]), segment([tensor('a'), tensor('c'), tensor('picture')], [tensor('scores')])]))
    .toEqual([[{ from: 0, tensor: 0 }], [{ from: 1, tensor: 1 }, { from: 1, tensor: 0 }], [{ from: 1, tensor: 0 }, { from: 2, tensor: 0 }, { from: 0, tensor: 0 }]]);
  expect(wired([segment([tensor('picture')], [tensor('scores')])])).toEqual([[{ from: 0, tensor: 0 }]]);
});

it.each([
  ['a name that nobody gives', tensor('x'), /Segment 2 takes x, which nothing before it gives; there are picture, a\./],
  ['another shape', tensor('a', { shape: [4, 1] }), /shape 1x4 and 4x1/],
  ['another type', tensor('a', { dtype: 'uint8' }), /type int8 and uint8/],
  ['another scale', tensor('a', { scale: 0.25 }), /scale 0.5 and 0.25/],
  ['another zero point', tensor('a', { zeroPoint: 0 }), /zero point 3 and 0/],
])('%s is refused', (_what, input, message) => {
  expect(() => wired([segment([tensor('picture')], [tensor('a')]), segment([input], [tensor('scores')])])).toThrow(expect.objectContaining({ code: 'inference.segments_differ', message: expect.stringMatching(message) }));
});

it.skipIf(!sharedPresent)('what the compiler made of SSD MobileNet v2 hangs together, in this order only (needs the public models)', () => {
  const [first, second] = [0, 1].map((at) => {
    const graph = readModel(sharedModel(`coral/pipeline/ssd_mobilenet_v2_coco_quant_postprocess_segment_${at}_of_2_edgetpu.tflite`)).subgraphs[0]!;
    const info = (index: number): TensorInfo => {
      const { name, shape, type, quantisation } = graph.tensors[index]!;
      return { name, shape, dtype: type.toLowerCase() as TensorInfo['dtype'], scale: quantisation?.scale[0] ?? null, zeroPoint: quantisation?.zeroPoint[0] ?? null, bytes: 0 };
    };
    return segment(graph.inputs.map(info), graph.outputs.map(info));
  });
  const sources = wired([first!, second!]);
  expect(sources[1]!.length).toBeGreaterThan(0);
  expect(sources[1]!.every(({ from }) => from === 1)).toBe(true);
  expect(() => wired([second!, first!])).toThrow(expect.objectContaining({ code: 'inference.segments_differ' }));
});
