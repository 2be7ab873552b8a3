import { existsSync } from 'node:fs';
import { copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compiledModel, TfliteBuilder } from '@reefkeeper/edgetpu/fixture';

// The command itself as a process of its own, from the sources, with no controller known.
const main = join(import.meta.dirname, '../main.ts');
const flags = ['--conditions=@reefkeeper/source', '--experimental-transform-types', '--disable-warning=ExperimentalWarning'];
async function reef(...args: string[]): Promise<{ exitCode?: number; stdout: string; stderr: string }> {
  return execa(process.execPath, [...flags, main, ...args], { reject: false, stdin: 'ignore', cwd: dir, env: { NO_COLOR: '1', REEF_URL: '', REEF_TOKEN: '' } });
}

const shared = join(process.env.REEF_SHARED ?? join(import.meta.dirname, '../../../../../shared'), 'fixtures/coral');
const withShared = it.skipIf(!existsSync(shared));

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'reef-offline-'));
  const net = new TfliteBuilder();
  const model = net.output(net.softmax(net.dense(net.flatten(net.conv(net.input([1, 8, 8, 3]), 4)), 10))).build();
  await writeFile(join(dir, 'small.tflite'), model);
  await writeFile(join(dir, 'small_edgetpu.tflite'), model);
  await writeFile(join(dir, 'compiled_edgetpu.tflite'), compiledModel({ minRuntime: 13 }));
  await writeFile(join(dir, 'damaged.tflite'), model.subarray(0, 200));
});
afterAll(async () => rm(dir, { recursive: true }));

describe('reef check', () => {
  it('a model that maps: 0, and a table', async () => {
    const { exitCode, stdout } = await reef('check', 'small.tflite');
    expect(stdout).toMatch(/verdict +fully mapped\n[^]*SOFTMAX@2 +1 +Mapped to Edge TPU/);
    expect(exitCode).toBe(0);
  });

  it('--json is one document; a file that only says edgetpu exits 1', async () => {
    const { exitCode, stdout } = await reef('check', 'small_edgetpu.tflite', '--json', '--min-runtime', '12');
    expect(JSON.parse(stdout)).toMatchObject({ file: 'small_edgetpu.tflite', verdict: 'fully_mapped', runtime: 12, passed: false, masked: true, faults: [], parameters: { streamedBytes: 0 }, ops: [{ op: 'CONV_2D@3', count: 1, status: 'Mapped to Edge TPU' }, {}, {}, {}] });
    expect(exitCode).toBe(1);
  });

  it.each<[string, string[], number, RegExp]>([
    ['a damaged model', ['damaged.tflite'], 2, /damaged\.tflite: The TensorFlow Lite file is damaged.*\n.*model\.unreadable/],
    ['a demand that is none', ['small.tflite', '--require', 'most'], 2, /--require takes partial, full, verified, not "most"/],
  ])('%s', async (_, args, exit, says) => {
    const { exitCode, stderr, stdout } = await reef('check', ...args);
    expect(stderr).toMatch(says);
    expect(stdout).toBe('');
    expect(exitCode).toBe(exit);
  });

  withShared('a public model maps partly, as its compiled version shows', async () => {
    const { exitCode, stdout } = await reef('check', join(shared, 'deeplabv3_mnv2_dm05_pascal_quant.tflite'));
    expect(stdout).toMatch(/64 of 72 on the Edge TPU[^]*RESIZE_BILINEAR@1 +2 +Operation is otherwise supported[^]*ARG_MAX@1 \(operator 71\)/);
    expect(exitCode).toBe(1);
  });

  withShared('a public model under the name of a compiled one is unmasked', async () => {
    await copyFile(join(shared, 'mobilenet_v1_0.25_128_quant.tflite'), join(dir, 'mobilenet_edgetpu.tflite'));
    expect(await reef('check', 'mobilenet_edgetpu.tflite')).toMatchObject({ exitCode: 1, stdout: expect.stringContaining('it holds no edgetpu-custom-op') as string });
  });
});

describe('reef inspect', () => {
  it('a compiled and a source model, as JSON', async () => {
    const { exitCode, stdout } = await reef('inspect', 'compiled_edgetpu.tflite', 'small.tflite', '--json');
    expect(JSON.parse(stdout)).toMatchObject({ files: [{ compiled: true, minRuntime: 13, tokens: ['0000000000000001'] }, { compiled: false, operators: expect.arrayContaining([{ op: 'CONV_2D@3', count: 1 }]) as unknown }], sets: [{ kind: 'alone' }], warnings: [] });
    expect(exitCode).toBe(0);
  });

  withShared('public models: a pipeline and a model beside it', async () => {
    const [first, second] = [0, 1].map((segment) => join(shared, `pipeline/ssd_mobilenet_v2_coco_quant_postprocess_segment_${segment}_of_2_edgetpu.tflite`));
    const alone = join(shared, 'mobilenet_v1_0.25_128_quant_edgetpu.tflite');
    const { exitCode, stdout } = await reef('inspect', first!, second!, alone, '--source', join(shared, 'mobilenet_v1_0.25_128_quant.tflite'));
    expect(stdout).toMatch(/segment_0_of_2_edgetpu\.tflite +pipeline +52ec5511b7f607d7 +6\.5 MB/);
    expect(stdout).toMatch(/on the CPU +2 DEQUANTIZE, TFLite_Detection_PostProcess/);
    expect(stdout).toMatch(/usb3 +\d\.\d ms/);
    expect(stdout).toContain('do not share a parameter-caching token');
    expect(exitCode).toBe(0);
  });
});
