import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { extractorOf, inspectCompiled, readModel, writeModel } from '@reefkeeper/edgetpu';
import { Interpreter } from '@reefkeeper/inference';
import { compiledModel } from '@reefkeeper/edgetpu/fixture';
import { coloursModel } from '../../../../test/support/colours.ts';
import { colourFolders, embeddingModel } from '../../../../test/support/embeddings.ts';
import { learnHere, type LearnHereOptions } from './learn.ts';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'reef-learn-here-'));
  await colourFolders(join(dir, 'four'), 5);
  await colourFolders(join(dir, 'two'), 3, ['red', 'green']);
  await colourFolders(join(dir, 'test'), 2);
  await writeFile(join(dir, 'four/red/broken.jpg'), 'no picture');
  await writeFile(join(dir, 'extractor.tflite'), embeddingModel());
  await writeFile(join(dir, 'classifier.tflite'), coloursModel());
});
afterAll(async () => rm(dir, { recursive: true, force: true }));

const learn = async (extractor: string, images: string, more: Partial<LearnHereOptions> = {}) => learnHere({
  extractor: join(dir, extractor), images: join(dir, images), out: join(dir, 'out'), test: undefined, fromCpu: undefined, method: 'imprinting', holdout: 0.2, seed: 1, add: true, mean: [0], std: [255], resize: 'stretch', onProgress: () => {}, ...more,
});

describe('learning offline', () => {
  it('leaves a model that runs, its labels and a report, and names what it could not read', async () => {
    const made = await learn('extractor.tflite', 'four');
    expect(made).toMatchObject({ labels: ['blue', 'green', 'red', 'yellow'], accuracy: 1, heldOut: true, images: 4, unreadable: ['red/broken.jpg'], file: join(dir, 'out/extractor_learned.tflite') });
    const interpreter = Interpreter.load(await readFile(made.file));
    expect(interpreter.outputs.map(({ shape }) => shape)).toEqual([[1, 4], [1, 24]]);
    interpreter.close();
    expect(await readFile(made.labelsFile, 'utf8')).toBe('blue\ngreen\nred\nyellow\n');
    expect(JSON.parse(await readFile(join(dir, 'out/report.json'), 'utf8'))).toMatchObject({ accuracy: 1, training: null });
  });

  it('adds to a learnt model, judged by images of its own', async () => {
    await learn('extractor.tflite', 'two');
    const both = await learn('out/extractor_learned.tflite', 'four', { test: join(dir, 'test'), out: join(dir, 'more') });
    expect(both).toMatchObject({ labels: ['green', 'red', 'blue', 'yellow'], images: 8, accuracy: 1 });
    expect(both.classes.map(({ before }) => before)).toEqual([2, 2, 0, 0]);
    expect(await learn('out/extractor_learned.tflite', 'four', { add: false, out: join(dir, 'anew') })).toMatchObject({ labels: ['blue', 'green', 'red', 'yellow'] });
  });

  it('a compiled extractor gets the head that its CPU file has learnt', async () => {
    const embedding = extractorOf(readModel(embeddingModel({ features: 10, type: 'UINT8' })));
    // The stand-in's embedding has the type and quantisation of a compiled file of its own, not of this one.
    await writeFile(join(dir, 'net_edgetpu.tflite'), compiledModel({}, { output: 'an_embedding' }));
    await writeFile(join(dir, 'net.tflite'), embeddingModel({ features: 10, type: 'UINT8' }));
    await expect(learn('net_edgetpu.tflite', 'four')).rejects.toMatchObject({ code: 'learn.compiled_extractor', message: expect.stringContaining('--from-cpu') });
    await expect(learn('net_edgetpu.tflite', 'four', { fromCpu: join(dir, 'net.tflite') })).rejects.toMatchObject({ code: 'learn.head_differs' });
    const same = readModel(compiledModel({}, { output: 'an_embedding' }));
    same.subgraphs[0]!.tensors[same.subgraphs[0]!.outputs[0]!]!.quantisation = embedding.tensor.quantisation;
    await writeFile(join(dir, 'net_edgetpu.tflite'), writeModel(same));
    const made = await learn('net_edgetpu.tflite', 'four', { fromCpu: join(dir, 'net.tflite') });
    expect(made.file).toBe(join(dir, 'out/net_learned_edgetpu.tflite'));
    const bytes = await readFile(made.file);
    expect(inspectCompiled(bytes).cpuOps).toEqual({ L2_NORMALIZATION: 1, FULLY_CONNECTED: 1, SOFTMAX: 1 });
    expect(extractorOf(readModel(bytes)).head).toMatchObject({ labels: ['blue', 'green', 'red', 'yellow'], method: 'imprinting' });
  });

  it.each([
    ['a classifier', 'classifier.tflite', 'four', 'learn.no_extractor'], ['a folder without classes', 'extractor.tflite', 'four/red', 'learn.no_classes'],
    ['a folder that is not there', 'extractor.tflite', 'nowhere', 'file.missing'], ['no model', 'four/red/0.png', 'four', 'model.not_tflite'],
  ])('refuses %s', async (_, extractor, images, code) => {
    await expect(learn(extractor, images)).rejects.toMatchObject({ code });
  });
});
