import { describe, expect, it } from 'vitest';
import type { BucketObject } from '@reefkeeper/platform';
import { exportAt, exportFolderOf, exportsIn, modelNameOf, waitsFor } from './bucket-layout.ts';

const objects = (...names: string[]): BucketObject[] => names.map((name, index) => ({ name, generation: `${index + 1}`, bytes: name.endsWith('!') ? 0 : 9, updatedAt: new Date(0) })).map((one) => ({ ...one, name: one.name.replace('!', '') }));

describe('exports in a bucket', () => {
  it.each([
    ['m/edgetpu_model.tflite', 'm/'], ['edgetpu_model-flowers_2026.tflite', ''], ['m/model.tflite', 'm/'], ['m/dict.txt', 'm/'], ['m/tflite_metadata.json', 'm/'], ['m/birds_edgetpu.tflite', 'm/'],
    ['m/saved_model.pb', 'm/'], ['m/variables/variables.index', 'm/'], ['m/assets/words.txt', 'm/'], ['variables/variables.index', ''],
    ['m/readme.txt', null], ['m/model.tflite.tmp', null], ['m/', null], ['m/other.tflite', null],
  ])('%s belongs to %s', (name, folder) => {
    expect(exportFolderOf(name)).toBe(folder);
  });

  it.each<[string, string[], string, string[], string[]]>([
    ['compiled, whole', ['m/dict.txt', 'm/edgetpu_model.tflite', 'm/tflite_metadata.json'], 'edgetpu', [], []],
    ['both: the compiled one', ['m/edgetpu_model-1.tflite', 'm/model.tflite', 'm/dict.txt'], 'edgetpu', [], ['tflite_metadata.json']],
    ['not compiled, alone', ['m/model.tflite'], 'tflite', [], ['dict.txt', 'tflite_metadata.json']],
    ['labels without a word', ['m/model.tflite', 'm/dict.txt!', 'm/tflite_metadata.json'], 'tflite', ['dict.txt is empty'], []],
    ['SavedModel of constants', ['m/saved_model.pb'], 'saved_model', [], ['variables/']],
    ['SavedModel, whole', ['m/saved_model.pb', 'm/variables/variables.index', 'm/variables/variables.data-00000-of-00002', 'm/variables/variables.data-00001-of-00002'], 'saved_model', [], []],
    ['SavedModel, half', ['m/saved_model.pb', 'm/variables/variables.data-00001-of-00003'], 'saved_model', ['variables/variables.index', 'variables/variables.data-00000-of-00003', 'variables/variables.data-00002-of-00003'], []],
    ['SavedModel with its index only', ['m/saved_model.pb', 'm/variables/variables.index'], 'saved_model', ['variables/variables.data-00000-of-00001'], []],
  ])('%s', (_what, names, layout, missing, awaited) => {
    expect(exportsIn(objects(...names))).toMatchObject([{ layout, folder: 'm/', missing, awaited }]);
  });

  it('without a model there is none', () => {
    expect(exportsIn(objects('m/dict.txt', 'm/tflite_metadata.json', 'n/variables/variables.index'))).toEqual([]);
  });

  it('waits for what must come, longer for what may come, and for silence', () => {
    expect(waitsFor({ missing: ['x'], awaited: [] }, 1e9, 1_000)).toBe('x');
    expect(waitsFor({ missing: [], awaited: ['dict.txt'] }, 3_999, 1_000)).toBe('dict.txt');
    expect(waitsFor({ missing: [], awaited: ['dict.txt'] }, 4_000, 1_000)).toBeNull();
    expect(waitsFor({ missing: [], awaited: [] }, 999, 1_000)).toBe('a quiet moment');
    expect(waitsFor({ missing: [], awaited: [] }, 1_000, 1_000)).toBeNull();
  });
});

describe('an address', () => {
  const all = objects('a/m/model.tflite', 'a/m/dict.txt', 'a/n/saved_model.pb', 'model.tflite', 'ab/model.tflite');
  it.each([['a/m/', 'a/m/'], ['a/m', 'a/m/'], ['a/m/model.tflite', 'a/m/'], ['a/n/', 'a/n/'], ['', ''], ['ab', 'ab/']])('%j means the export in %j', (path, folder) => {
    expect(exportAt(`gs://b/${path}`, path, all).folder).toBe(folder);
  });
  it('of several says which', () => {
    expect(() => exportAt('gs://b/a/', 'a/', all)).toThrow(expect.objectContaining({ code: 'export.ambiguous', message: expect.stringContaining('a/m/, a/n/') as string }));
  });
  it('of none says what lies there', () => {
    expect(() => exportAt('gs://b/c/', 'c/', all)).toThrow(expect.objectContaining({ code: 'export.missing' }));
    expect(() => exportAt('gs://b/c/', 'c/', [])).toThrow(/Nothing at all lies there/);
  });
});

describe('the name of a model nobody named', () => {
  it.each([
    ['model-export/icn/edgetpu_tflite-Flowers_v2-2026-01-31T10:11:12.345Z/', 'flowers-v2'], ['model-export/icn/tflite-pets_20260131101112-2026-01-31T10:11:12Z/', 'pets'],
    ['out/model-4711/edgetpu-tflite/2026-01-31T10:11:12.345678Z/', 'model-4711'], ['exports/birds/', 'birds'], ['birds/saved_model/', 'birds'], ['', 'bucket-1'], ['2026-01-31T10:11:12Z/', 'bucket-1'],
  ])('%s -> %s', (folder, name) => {
    expect(modelNameOf('bucket.1', folder)).toBe(name);
  });
});
