import { existsSync } from 'node:fs';
import { copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compiledModel, TfliteBuilder } from '@reefkeeper/edgetpu/fixture';
import { pickyCompiler } from '../../../../test/support/stand-in-compiler.ts';

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

it('no other command loads the readers or the compiler driver', async () => {
  // Every module that Node loads is named on stderr.
  const hook = `data:text/javascript,${encodeURIComponent(`import { registerHooks } from 'node:module'; registerHooks({ load(url, context, next) { process.stderr.write(url + '\\n'); return next(url, context); } });`)}`;
  const loaded = async (...args: string[]): Promise<string> => (await execa(process.execPath, [...flags, '--import', hook, main, ...args], { reject: false, cwd: dir, env: { REEF_URL: '', REEF_TOKEN: '' } })).stderr;
  expect(await loaded('device', 'ls')).not.toMatch(/libs\/(?:edgetpu|conversion)\//);
  expect(await loaded('check', 'small.tflite')).toMatch(/libs\/edgetpu\//);
});

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

  it('--explain runs the compiler and names the part it fails on: 1', async () => {
    const compiler = await pickyCompiler(join(dir, 'compiler'), ['softmax3'], Buffer.from(compiledModel()));
    const { exitCode, stdout, stderr } = await reef('check', 'small.tflite', '--explain', '--compiler', compiler);
    expect(stdout).toMatch(/verdict +fully mapped\n[^]*The smallest part that fails so: operator 3 of 4\n {2}3 SOFTMAX@2\n/);
    expect(stderr).toContain('operator 3: fails');
    expect(exitCode).toBe(1);
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

describe('reef rollout simulate', () => {
  it('goes back when the version is worse: 1, with every decision and what was at risk; twice the same', async () => {
    const [first, again] = await Promise.all([1, 2].map(async () => reef('rollout', 'simulate', '--devices', '300', '--seed', '5', '--slower', '120')));
    expect(first!.stdout).toMatch(/rollBack latency_p95_failed[^]*wave 1[^]*latency p95 +FAILED[^]*ended +ROLLED_BACK[^]*at risk[^]*wrong at the end +0 devices/);
    expect(first!.exitCode).toBe(1);
    expect(again!.stdout).toBe(first!.stdout);
  });

  it('many runs: how often it ends how; --json is one document', async () => {
    const { exitCode, stdout } = await reef('rollout', 'simulate', '--devices', '200', '--runs', '3', '--wave', '10%', '--wave', '100%', '--json');
    expect(JSON.parse(stdout)).toHaveLength(3);
    expect((JSON.parse(stdout) as { state: string; waves: unknown[]; wrong: number }[])[0]).toMatchObject({ state: 'SUCCEEDED', wrong: 0, waves: [{ size: 20 }, { size: 180 }] });
    expect(exitCode).toBe(0);
  });

  it.each([[['--offline', 'many'], '--offline takes a number'], [['--devices', '0'], '--devices takes a number'], [['--offline', '100'], 'No device that may go first']])('%j is refused', async (flags, words) => {
    const { exitCode, stderr } = await reef('rollout', 'simulate', ...flags);
    expect(stderr).toContain(words);
    expect([2, 5]).toContain(exitCode);
  });
});
