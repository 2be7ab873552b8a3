import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
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
  jobs = new Jobs(database.db, systemClock, objects, queues, feed, registry);
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

/** A stand-in for the closed compiler: prints what it would, and leaves `compiled` as its output. */
async function fakeCompiler(name: string, body: string): Promise<string> {
  const path = join(dir, name);
  await writeFile(path, `#!/bin/sh\nif [ "$1" = --version ]; then echo "Edge TPU Compiler version 16.0.384591198"; exit 0; fi\nfor model; do :; done\nout="$3"\n${body}\n`, { mode: 0o755 });
  return path;
}
const success = (compiled: string) => `cp ${compiled} "$out/$(basename "$model" .tflite)_edgetpu.tflite"; chmod u+w "$out"/*
cat <<'END'
Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 412 ms.

Input model: model.tflite
Input size: 513.28KiB
Output model: model_edgetpu.tflite
Output size: 782.67KiB
On-chip memory used for caching model parameters: 553.62KiB
On-chip memory remaining for caching model parameters: 7.06MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 31
Operation log: model_edgetpu.log

Operator                       Count      Status

CONV_2D                        15         Mapped to Edge TPU
DEPTHWISE_CONV_2D              13         Mapped to Edge TPU
AVERAGE_POOL_2D                1          Mapped to Edge TPU
RESHAPE                        1          Mapped to Edge TPU
SOFTMAX                        1          Mapped to Edge TPU
Compilation child process completed within timeout period.
Compilation succeeded! 
END`;

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
    const compiler = await fakeCompiler('counted', 'echo x >> "$0.runs"; exit 1');
    start(compiler);
    const refused = await build('border', floatBorder(), 'border.tflite');
    expect(refused).toMatchObject({ state: 'FAILED', error: { code: 'quant.float_input', step: 'analyze' } });
    for (const part of ['Input "pixels" FLOAT32 [1, 8, 8, 3]', 'Output "scores" FLOAT32 [1, 4]', '--allow-float-ops']) expect(refused.error!.message).toContain(part);
    expect(refused.error!.detail!.faults).toMatchObject([
      { code: 'quant.float_input', tensor: { name: 'pixels', shape: [1, 8, 8, 3], type: 'FLOAT32' } }, { code: 'quant.float_output', tensor: { name: 'scores', shape: [1, 4], type: 'FLOAT32' } },
    ]);
    expect(existsSync(`${compiler}.runs`)).toBe(false);
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
    const compiler = await fakeCompiler('counted-12', 'echo x >> "$0.runs"; exit 1');
    start(compiler);
    const job = await build('per-channel', perChannelDense(), 'model.tflite');
    expect(job).toMatchObject({ state: 'FAILED', error: { code: 'quant.per_channel_fully_connected', step: 'analyze' } });
    expect(job.error!.message).toMatch(/have 4 scales: older runtimes load this without an error and answer garbage/);
    expect(existsSync(`${compiler}.runs`)).toBe(false);
  });

  withShared('is compiled where there is a compiler', async () => {
    start(await fakeCompiler('good', success(join(shared, 'mobilenet_v1_0.25_128_quant_edgetpu.tflite'))));
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

describe('the compiler', () => {
  it.each([
    ['that says no', 'cat <<END\nEdge TPU Compiler version 16.0.384591198\nStarted a compilation timeout timer of 180 seconds.\nInvalid model: model.tflite\nModel not quantized\nCompilation child process completed within timeout period.\nCompilation failed! \nEND\nexit 1', 'compile.not_quantized', 1],
    ['that crashes twice', 'echo "Edge TPU Compiler version 16.0.384591198"; echo x >> "$0.runs"; exit 139', 'compile.crashed', 2],
  ])('%s fails the job with its reason', async (what, body, code, runs) => {
    const path = await fakeCompiler(`bad-${code}`, `${body.startsWith('cat') ? 'echo x >> "$0.runs"\n' : ''}${body}`);
    start(path);
    const job = await build('uncompiled', smallNet(), 'small.tflite', { notes: what });
    expect(job.error).toMatchObject({ code, step: 'compile' });
    expect(readFileSync(`${path}.runs`, 'utf8')).toBe('x\n'.repeat(runs));
  });

  it('dies with all it started when the job is canceled', async () => {
    start(await fakeCompiler('slow', 'sleep 61.0457 & echo $! > "$0.child"; wait'));
    const source = await objects.put(Buffer.from(smallNet()));
    const { job } = await jobs.create('endless', { source: { digest: source.digest, filename: 'small.tflite' } });
    for (let tries = 0; !existsSync(join(dir, 'slow.child')) && tries < 400; tries += 1) await sleep(25);
    const child = Number(readFileSync(join(dir, 'slow.child'), 'utf8'));
    process.kill(child, 0);
    await jobs.cancel(job.id);
    for await (const _ of jobs.watch(job.id)) { /* until it ends */ }
    expect((await jobs.find(job.id)).state).toBe('CANCELED');
    for (let tries = 0; isAlive(child) && tries < 80; tries += 1) await sleep(25);
    expect(isAlive(child)).toBe(false);
  });
});

function isAlive(pid: number): boolean {
  try {
    // A zombie, which its reaper has not fetched yet, is dead.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

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
