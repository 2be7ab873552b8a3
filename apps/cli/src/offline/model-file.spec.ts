import { mkdir, mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TfliteBuilder } from '@reefkeeper/edgetpu/fixture';
import { namedAsCompiled, openModelFile } from './model-file.ts';

let dir: string;
beforeAll(async () => { dir = await mkdtemp(join(tmpdir(), 'reef-model-file-')); });
afterAll(async () => rm(dir, { recursive: true }));

const model = (() => { const net = new TfliteBuilder(); return net.output(net.conv(net.input([1, 8, 8, 3]), 4)).build(); })();

describe('openModelFile', () => {
  it('a model', async () => {
    await writeFile(join(dir, 'model.tflite'), model);
    expect((await openModelFile(join(dir, 'model.tflite'))).model.subgraphs[0]!.operators).toHaveLength(1);
  });

  it.each<[string, (path: string) => Promise<unknown>, string, RegExp]>([
    ['nothing there', async () => undefined, 'file.missing', /There is no file/],
    ['a folder', mkdir, 'model.not_tflite', /is a folder, not a \.tflite file\. If it is a SavedModel.*reef model push/],
    ['an empty file', async (path) => writeFile(path, ''), 'model.not_tflite', /an empty file.*repeat it/],
    ['an archive', async (path) => writeFile(path, 'PK\u0003\u0004 something'), 'model.not_tflite', /a ZIP archive/],
    ['a Keras file', async (path) => writeFile(path, Buffer.from('\u0089HDF\r\n\u001a\n', 'latin1')), 'model.not_tflite', /an HDF5 file.*pipeline/],
    ['a damaged model', async (path) => writeFile(path, model.subarray(0, 300)), 'model.unreadable', /a damaged model: The TensorFlow Lite file is damaged/],
    // Sparse on disk: nothing of it is read.
    ['a large file of another kind', async (path) => { const file = await open(path, 'w'); await file.truncate(2 ** 34); await file.close(); }, 'model.not_tflite', /of no kind known here/],
    ['a model of 3 GiB', async (path) => { await writeFile(path, model); const file = await open(path, 'r+'); await file.truncate(3 * 2 ** 30); await file.close(); }, 'model.too_large', /3\.0 GiB/],
  ])('%s', async (name, make, code, says) => {
    await make(join(dir, name));
    await expect(openModelFile(join(dir, name))).rejects.toMatchObject({ code, message: expect.stringMatching(says) as string });
  });
});

it.each([
  ['model_edgetpu.tflite', true], ['export/edgetpu_model.tflite', true], ['MODEL_EDGETPU.TFLITE', true], ['x_segment_0_of_2_edgetpu.tflite', true],
  ['efficientnet-edgetpu-S_quant.tflite', false], ['deeplab_mobilenet_edgetpu_slim_cityscapes_quant.tflite', false], ['edgetpu/model.tflite', false],
])('%s claims to be compiled: %s', (path, claims) => expect(namedAsCompiled(path)).toBe(claims));
