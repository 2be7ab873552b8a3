import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { bundleDigest, decodeGolden, judgeGolden, loadOrCreateSigningKey, verifyBundle } from '@reefkeeper/bundle';
import { TfliteBuilder } from '@reefkeeper/edgetpu/fixture';
import { Interpreter } from '@reefkeeper/inference';
import { ChangeFeed, openLogger, openObjects, openQueues, readWhole, systemClock, type ObjectStore, type QueueHost } from '@reefkeeper/platform';
import { Registry, registrySchema } from '@reefkeeper/registry';
import { testDatabase, type TestDatabase } from '../../../test/support/database.ts';
import { standInCompiler } from '../../../test/support/stand-in-compiler.ts';
import { conversionSchema, isSettled, Jobs, openExecutors, Pipeline, PythonTools, type BuildRequestInput, type JobWithSteps } from './index.ts';

const shared = join(process.env.REEF_SHARED ?? join(import.meta.dirname, '../../../../shared'), 'fixtures/coral');
const withShared = it.skipIf(!existsSync(shared));
const logger = openLogger('test', 'silent');

// Sources that are TensorFlow Lite already need no Python; whoever calls it here fails for want of one.
const python = new PythonTools({ envDir: '/nowhere/env', python: '/nowhere/python3' });

let database: TestDatabase;
let dir: string;
let objects: ObjectStore;
let queues: QueueHost;
let feed: ChangeFeed;
let registry: Registry;
let jobs: Jobs;
let pipeline: Pipeline | undefined;

beforeAll(async () => {
  database = await testDatabase([registrySchema, conversionSchema]);
  dir = await mkdtemp(join(tmpdir(), 'reef-steps-'));
  objects = await openObjects(pathToFileURL(join(dir, 'objects')).href);
  feed = new ChangeFeed(database.url, logger);
  await feed.start();
  registry = new Registry(database.db, systemClock, objects);
});
afterEach(async () => {
  await pipeline?.stop();
  await queues.close(true);
});
afterAll(async () => {
  await feed.stop();
  await database.drop();
  await rm(dir, { recursive: true });
});

function start(compiler?: string): void {
  queues = openQueues({ databaseUrl: database.url });
  jobs = new Jobs(database.db, systemClock, queues, feed, registry);
  const executors = openExecutors({ python, keysDir: join(dir, 'keys'), compiler });
  pipeline = new Pipeline(database.db, systemClock, logger, objects, queues, registry, jobs, { executors, workDir: join(dir, 'work') });
  pipeline.start(1);
}

async function build(model: string, content: Buffer | Uint8Array, filename: string, more: Partial<BuildRequestInput> = {}): Promise<JobWithSteps> {
  const source = await objects.put(Buffer.from(content));
  const { job } = await jobs.create(model, { ...more, source: { digest: source.digest, filename } });
  for (let tries = 0; tries < 1_000; tries += 1) {
    const now = await jobs.find(job.id);
    if (isSettled(now.state)) return now;
    await sleep(30);
  }
  throw new Error('the job never ended');
}

/** Weights that differ, so that answers do. */
function smallNet(classes = 4): Uint8Array {
  const net = new TfliteBuilder();
  const picture = net.input([1, 8, 8, 3], { zeroPoint: -1 });
  net.output(net.softmax(net.dense(net.flatten(net.conv(picture, 4)), classes)));
  return net.build();
}

describe('a quantised model', () => {
  it('becomes a signed version whose golden cases its own runtime passes', async () => {
    start();
    const job = await build('small', smallNet(), 'small.tflite', { labels: ['a', 'b', 'c', 'd'], preprocessing: { mean: 127, std: 128 } });
    expect(job).toMatchObject({ state: 'SUCCEEDED', error: null });
    expect(job.steps.map((step) => step.state)).toEqual(['SUCCEEDED', 'SUCCEEDED', 'SUCCEEDED', 'SUCCEEDED', 'SKIPPED', 'SKIPPED', 'SUCCEEDED']);
    expect(job.steps[4]!.message).toContain('REEF_EDGETPU_COMPILER');
    const version = await registry.versionByRef('small');
    const manifest = verifyBundle(JSON.parse((await registry.envelopeOf(version.bundleDigest!)).toString()), [await loadOrCreateSigningKey(join(dir, 'keys'))]);
    expect(bundleDigest(manifest)).toBe(version.bundleDigest);
    expect(manifest).toMatchObject({
      model: 'small', version: 1, labels: ['a', 'b', 'c', 'd'], variants: [{ name: 'cpu-int8', minRuntime: null }], lineage: { job: job.id, source: { filename: 'small.tflite' } },
      inputs: [{ shape: [1, 8, 8, 3], dtype: 'int8', zeroPoint: -1, preprocessing: { kind: 'image', width: 8, height: 8, channels: 3, mean: [127], std: [128] } }],
    });
    const interpreter = Interpreter.load(await readWhole(objects, manifest.variants[0]!.file.digest));
    const { cases } = decodeGolden(await readWhole(objects, manifest.golden!.digest));
    expect(cases).toHaveLength(manifest.golden!.cases);
    for (const one of cases) expect(judgeGolden(one, interpreter.run(one.input).outputs)).toMatchObject({ ok: true });
    interpreter.close();
    expect(version.analysis).toMatchObject({ verdict: expect.any(String) as string });
  });

  it.each<[string, () => Uint8Array, Partial<BuildRequestInput>, string, string]>([
    ['labels that do not fit', () => smallNet(4), { labels: ['a', 'b', 'c'] }, 'labels.mismatch', 'import'],
    ['a web page', () => Buffer.from('<!DOCTYPE html><html>Sign in</html>'), {}, 'source.unsupported', 'import'],
    ['a Git LFS pointer', () => Buffer.from('version https://git-lfs.github.com/spec/v1\n'), {}, 'source.unsupported', 'import'],
    ['a damaged file', () => smallNet().subarray(0, 500), {}, 'model.damaged', 'import'],
    ['a float model without calibration', () => floatNet(), {}, 'calibration.missing', 'import'],
  ])('is refused: %s', async (_what, content, more, code, step) => {
    start();
    const job = await build('refused', content(), 'model.tflite', more);
    expect(job.error).toMatchObject({ step });
    expect(job.error!.code).toMatch(code === 'model.damaged' ? /^model\./ : code);
    expect(job.state).toBe('FAILED');
  });

  it('case 4: float at the border is refused by name, shape and type before the compiler runs; an option makes it a warning that stays', async () => {
    const compiler = await standInCompiler(dir, 'counted', [{ does: 'fail', exitCode: 1 }]);
    start(compiler.path);
    const refused = await build('border', floatBorder(), 'border.tflite');
    expect(refused).toMatchObject({ state: 'FAILED', error: { code: 'quant.float_input', step: 'analyze' } });
    for (const part of ['Input "pixels" FLOAT32 [1, 8, 8, 3]', 'Output "scores" FLOAT32 [1, 4]', '--allow-float-ops']) expect(refused.error!.message).toContain(part);
    expect(refused.error!.detail!.faults).toMatchObject([
      { code: 'quant.float_input', tensor: { name: 'pixels', shape: [1, 8, 8, 3], type: 'FLOAT32' } }, { code: 'quant.float_output', tensor: { name: 'scores', shape: [1, 4], type: 'FLOAT32' } },
    ]);
    expect(compiler.runs()).toEqual([]);
    await pipeline!.stop();
    await queues.close(true);

    start();
    const allowed = await build('border', floatBorder(), 'border.tflite', { allowFloatOps: true });
    expect(allowed).toMatchObject({ state: 'SUCCEEDED', error: null });
    const version = await registry.versionByRef('border@2');
    expect(version.lineage!.warnings).toEqual([expect.stringContaining('"pixels" FLOAT32 [1, 8, 8, 3]'), expect.stringContaining('"scores" FLOAT32 [1, 4]')]);
    const manifest = verifyBundle(JSON.parse((await registry.envelopeOf(version.bundleDigest!)).toString()), [await loadOrCreateSigningKey(join(dir, 'keys'))]);
    expect(manifest.lineage.warnings).toEqual(version.lineage!.warnings);
  });

  it('case 11: a file that only calls itself compiled is taken as what it is, and said so', async () => {
    start();
    const job = await build('misnamed', smallNet(), 'small_edgetpu.tflite');
    expect(job.state).toBe('SUCCEEDED');
    expect(job.steps[0]!.output).toMatchObject({ kind: 'tflite_int8' });
    const said = (await jobs.logAfter(job.id)).filter(({ step }) => step === 'import').map(({ text }) => text).join('\n');
    expect(said).toContain('small_edgetpu.tflite calls itself compiled for the Edge TPU, but holds no edgetpu-custom-op');
    const version = await registry.versionByRef('misnamed');
    expect(version.variants).toMatchObject([{ kind: 'cpu-int8' }]);
    expect(version.lineage!.warnings).toContainEqual(expect.stringContaining('holds no edgetpu-custom-op'));
  });

  it('case 12: a dense layer with a scale per channel is refused with the reason before the compiler runs', async () => {
    const compiler = await standInCompiler(dir, 'counted-12', [{ does: 'fail', exitCode: 1 }]);
    start(compiler.path);
    const job = await build('per-channel', perChannelDense(), 'model.tflite');
    expect(job).toMatchObject({ state: 'FAILED', error: { code: 'quant.per_channel_fully_connected', step: 'analyze' } });
    expect(job.error!.message).toMatch(/have 4 scales: older runtimes load this without an error and answer garbage/);
    expect(compiler.runs()).toEqual([]);
  });

  withShared('is compiled where there is a compiler', async () => {
    const stand = await standInCompiler(dir, 'edgetpu_compiler', [{ does: 'succeed', outputs: readFileSync(join(shared, 'mobilenet_v1_0.25_128_quant_edgetpu.tflite')) }]);
    start(stand.path);
    const job = await build('compiled', readFileSync(join(shared, 'mobilenet_v1_0.25_128_quant.tflite')), 'mobilenet.tflite');
    expect(job).toMatchObject({ state: 'SUCCEEDED', error: null });
    const version = await registry.versionByRef('compiled');
    const [cpu, tpu] = version.variants;
    expect([cpu!.name, tpu!.name]).toEqual(['cpu-int8', `edgetpu-${tpu!.minRuntime}`]);
    expect(tpu!.details).toMatchObject({ onChipBytes: 566_912, streamedBytes: 0, cpuOps: {}, latency: { usb3: { calibrated: false } } });
    expect(version.lineage!.tools).toMatchObject({ edgetpu_compiler: '16.0.384591198' });
  });

  withShared('that was compiled elsewhere is taken as it is', async () => {
    start();
    const job = await build('elsewhere', readFileSync(join(shared, 'mobilenet_v1_0.25_128_quant_edgetpu.tflite')), 'mobilenet_edgetpu.tflite');
    expect(job.steps.map((step) => step.state)).toEqual(['SUCCEEDED', 'SUCCEEDED', 'SUCCEEDED', 'SKIPPED', 'SKIPPED', 'SUCCEEDED', 'SUCCEEDED']);
    expect((await registry.versionByRef('elsewhere')).variants).toMatchObject([{ kind: 'edgetpu' }]);
  });
});

function perChannelDense(): Uint8Array {
  const net = new TfliteBuilder();
  const input = net.input([1, 8]);
  const weights = net.tensor({ shape: [4, 8], scale: [0.1, 0.2, 0.3, 0.4], data: true });
  const bias = net.tensor({ shape: [4], type: 'INT32', scale: [0.1 / 128, 0.2 / 128, 0.3 / 128, 0.4 / 128], data: true });
  const output = net.tensor({ shape: [1, 4] });
  net.op('FULLY_CONNECTED', [input, weights, bias], [output], { version: 4 });
  return net.output(output).build();
}

function floatBorder(): Uint8Array {
  const net = new TfliteBuilder();
  const pixels = net.input([1, 8, 8, 3], { type: 'FLOAT32', name: 'pixels' });
  const scores = net.dense(net.flatten(net.conv(net.quantise(pixels), 4)), 4);
  const answer = net.tensor({ shape: [1, 4], type: 'FLOAT32', name: 'scores' });
  net.op('DEQUANTIZE', [net.softmax(scores)], [answer], { version: 2 });
  return net.output(answer).build();
}

function floatNet(): Uint8Array {
  const net = new TfliteBuilder();
  const input = net.input([1, 8], { type: 'FLOAT32' });
  const output = net.tensor({ shape: [1, 8], type: 'FLOAT32' });
  net.op('LOGISTIC', [input], [output]);
  return net.output(output).build();
}
