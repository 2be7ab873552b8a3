import { describe, expect, it } from 'vitest';
import { diffManifests, type Manifest } from './index.ts';

const digest = (letter: string) => letter.repeat(64);
const one: Manifest = {
  schema: 1, model: 'lite0', version: 3, task: 'classification', labels: ['cat', 'dog', 'bird'],
  inputs: [{ name: 'images', shape: [1, 224, 224, 3], dtype: 'int8', scale: 0.0078, zeroPoint: -1, preprocessing: { kind: 'image', width: 224, height: 224, channels: 3, resize: 'center-crop', mean: [127], std: [128] } }],
  outputs: [{ name: 'probs', shape: [1, 3], dtype: 'int8', scale: 1 / 256, zeroPoint: -128 }],
  variants: [{ name: 'cpu-int8', kind: 'cpu-int8', minRuntime: null, file: { digest: digest('a'), bytes: 5 } }, { name: 'edgetpu-13', kind: 'edgetpu', minRuntime: 13, file: { digest: digest('b'), bytes: 6 } }],
  golden: { digest: digest('c'), bytes: 7, cases: 4 }, lineage: { source: { digest: digest('d'), filename: 'm.tar.gz' }, calibration: null, evaluation: null, job: null, parent: null, tools: { tensorflow: '2.21.0' } },
  parity: null, createdAt: '2026-11-25T08:00:00.000Z',
};

describe('what differs between two bundles', () => {
  it('nothing, when only the time does', () => {
    expect(diffManifests(one, { ...one, version: 4, createdAt: '2026-11-26T08:00:00.000Z' })).toMatchObject({ fields: [], labels: null, files: [{ change: 'same' }, { change: 'same' }, { change: 'same' }] });
  });

  it('values by their path, variants by their name, files by the part they play', () => {
    const input = one.inputs[0]!;
    const two: Manifest = {
      ...one, inputs: [{ ...input, scale: 0.01, preprocessing: { ...input.preprocessing, mean: [0, 1, 2] } as typeof input.preprocessing }], golden: null,
      variants: [{ ...one.variants[0]!, file: { digest: digest('e'), bytes: 9 } }, { name: 'edgetpu-14', kind: 'edgetpu', minRuntime: 14, file: { digest: digest('b'), bytes: 6 } }],
      lineage: { ...one.lineage, parent: 'lite0@3' },
    };
    const { fields, files } = diffManifests(one, two);
    expect(fields).toEqual([
      { path: 'inputs[0].preprocessing.mean[0]', from: 127, to: 0 }, { path: 'inputs[0].preprocessing.mean[1]', from: undefined, to: 1 }, { path: 'inputs[0].preprocessing.mean[2]', from: undefined, to: 2 },
      { path: 'inputs[0].scale', from: 0.0078, to: 0.01 }, { path: 'lineage.parent', from: null, to: 'lite0@3' },
      { path: 'variants.edgetpu-13', from: { kind: 'edgetpu', minRuntime: 13 }, to: undefined }, { path: 'variants.edgetpu-14', from: undefined, to: { kind: 'edgetpu', minRuntime: 14 } },
      { path: 'golden.cases', from: 4, to: undefined },
    ]);
    expect(files.map(({ part, change }) => [part, change])).toEqual([['cpu-int8', 'changed'], ['edgetpu-13', 'removed'], ['golden', 'removed'], ['edgetpu-14', 'added']]);
  });

  it('labels: swapped ones are told from new ones', () => {
    expect(diffManifests(one, { ...one, labels: ['dog', 'cat', 'bird'] }).labels).toEqual({ added: [], removed: [], moved: ['dog', 'cat'] });
    expect(diffManifests(one, { ...one, labels: ['cat', 'dog', 'fish', 'cow'] }).labels).toEqual({ added: ['fish', 'cow'], removed: ['bird'], moved: [] });
    expect(diffManifests(one, { ...one, labels: null }).labels).toEqual({ added: [], removed: ['cat', 'dog', 'bird'], moved: [] });
  });
});
