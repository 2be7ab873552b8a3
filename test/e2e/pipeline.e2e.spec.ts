import type { ChildProcess } from 'node:child_process';
import { createReadStream, readdirSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { decodeGolden, judgeGolden, loadOrCreateSigningKey, verifyBundle } from '@reefkeeper/bundle';
import { conversionSchema, ensurePythonEnv, isSettled, Jobs, type BuildRequestInput, type JobWithSteps } from '@reefkeeper/conversion';
import { Interpreter } from '@reefkeeper/inference';
import { ChangeFeed, openLogger, openObjects, openQueues, readWhole, systemClock, type ObjectStore, type QueueHost } from '@reefkeeper/platform';
import { Registry, registrySchema } from '@reefkeeper/registry';
import { testDatabase, type TestDatabase } from '../support/database.ts';
import { ended, startWorker } from '../support/worker.ts';

// The built worker as a process, with TensorFlow: what a killed, stopped or cancelled worker leaves behind can be seen only so.
const root = join(import.meta.dirname, '../..');
const envDir = join(root, '.reef/python');

let database: TestDatabase;
let dir: string;
let objects: ObjectStore;
let queues: QueueHost;
let feed: ChangeFeed;
let jobs: Jobs;
let registry: Registry;
const workers: ChildProcess[] = [];

beforeAll(async () => {
  database = await testDatabase([registrySchema, conversionSchema]);
  dir = await mkdtemp(join(tmpdir(), 'reef-e2e-'));
  const { python } = await ensurePythonEnv({ root: envDir });
  await mkdir(join(dir, 'made'));
  await execa(python, [join(root, 'test/support/colour-model.py'), join(dir, 'made')]);
  objects = await openObjects(pathToFileURL(join(dir, 'objects')).href);
  queues = openQueues({ databaseUrl: database.url });
  feed = new ChangeFeed(database.url, openLogger('test', 'silent'));
  await feed.start();
  registry = new Registry(database.db, systemClock, objects);
  jobs = new Jobs(database.db, systemClock, queues, feed, registry);
}, 900_000);
afterEach(async () => { await Promise.all(workers.splice(0).map(async (worker) => ended(worker, 'SIGTERM'))); });
afterAll(async () => {
  await queues.close(true);
  await feed.stop();
  await database.drop();
  await rm(dir, { recursive: true });
});

const newWorker = async () => startWorker(database.url, dir, { PYTHON_ENV_DIR: envDir, LOG_LEVEL: 'warn' }, workers);

async function upload(name: string) {
  return { digest: (await objects.put(createReadStream(join(dir, 'made', name)))).digest, filename: name };
}

async function create(model: string, more: Partial<BuildRequestInput> = {}) {
  return jobs.create(model, { source: await upload('model.tar.gz'), calibration: await upload('pictures.tar.gz'), labels: ['red', 'green', 'blue'], preprocessing: { mean: 127.5, std: 127.5 }, ...more });
}

async function until(id: string, wanted: (job: JobWithSteps) => boolean): Promise<JobWithSteps> {
  for (let tries = 0; tries < 4_000; tries += 1) {
    const job = await jobs.find(id);
    if (wanted(job)) return job;
    await sleep(50);
  }
  throw new Error(`never came: ${JSON.stringify(await jobs.find(id))}`);
}
const settled = (job: JobWithSteps) => isSettled(job.state);
const converting = (job: JobWithSteps) => job.steps[1]!.state === 'RUNNING' && (job.steps[1]!.percent ?? 0) > 0;

/** Children of this test's workers that run the converter. */
function converters(): number[] {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(Number).filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('reef_convert') && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(dir) && !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
    } catch {
      return false;
    }
  });
}

async function noConverters(withinMs: number): Promise<void> {
  const until = performance.now() + withinMs;
  while (converters().length > 0 && performance.now() < until) await sleep(20);
  expect(converters()).toEqual([]);
}

describe('a SavedModel', () => {
  it('becomes a signed, verified int8 version; the second time nothing is converted again', async () => {
    await newWorker();
    const { job, version } = await create('colours', { evaluation: await upload('pictures.tar.gz') });
    const done = await until(job.id, settled);
    expect(done).toMatchObject({ state: 'SUCCEEDED', error: null });
    const ready = await registry.versionById(version.id);
    expect(ready.parity).toMatchObject({ samples: 60, accuracy: { labelled: 60, float: 1 }, findings: [] });
    expect(ready.parity!.agreement).toBeGreaterThan(0.95);
    const manifest = verifyBundle(JSON.parse((await registry.envelopeOf(ready.bundleDigest!)).toString()), [await loadOrCreateSigningKey(join(dir, 'keys'))]);
    expect(manifest.inputs[0]).toMatchObject({ dtype: 'int8', shape: [1, 32, 32, 3], preprocessing: { kind: 'image', width: 32, height: 32, mean: [127.5] } });
    expect(manifest.lineage.tools).toHaveProperty('tensorflow');
    const interpreter = Interpreter.load(await readWhole(objects, manifest.variants[0]!.file.digest));
    for (const one of decodeGolden(await readWhole(objects, manifest.golden!.digest)).cases) expect(judgeGolden(one, interpreter.run(one.input).outputs)).toMatchObject({ ok: true });
    interpreter.close();
    expect((await jobs.logAfter(job.id)).some((line) => line.step === 'convert')).toBe(true);

    const again = await create('colours', { evaluation: await upload('pictures.tar.gz') });
    const cached = await until(again.job.id, settled);
    expect(cached.steps.map((step) => step.state)).toEqual(['CACHED', 'CACHED', 'CACHED', 'CACHED', 'SKIPPED', 'SKIPPED', 'SUCCEEDED']);
    expect((await registry.versionById(again.version.id)).lineage!.parent).toBe('colours@1');
  }, 600_000);

  it.each<[string, Partial<BuildRequestInput>, string, string]>([
    ['without calibration', { calibration: null }, 'calibration.missing', 'import'],
    ['with labels that do not fit', { labels: ['red', 'green'] }, 'labels.mismatch', 'import'],
    ['with another signature', { signature: 'nope' }, 'source.', 'import'],
  ])('%s is refused', async (_what, more, code, step) => {
    await newWorker();
    const { job } = await create('refused', more);
    const done = await until(job.id, settled);
    expect(done).toMatchObject({ state: 'FAILED', error: { code: expect.stringContaining(code) as string, step } });
  }, 600_000);
});

describe('a running conversion', () => {
  it('is gone once its cancel has settled', async () => {
    await newWorker();
    const { job } = await create('cancelled', { calibration: await upload('many.npz') });
    await until(job.id, converting);
    expect(converters()).toHaveLength(1);
    await jobs.cancel(job.id);
    expect(await until(job.id, settled)).toMatchObject({ state: 'CANCELED' });
    // Killed, and at most not yet reaped.
    await noConverters(1_000);
  }, 600_000);

  it.each<NodeJS.Signals>(['SIGKILL', 'SIGTERM'])('comes to the same end when its worker gets %s', async (signal) => {
    const worker = await newWorker();
    const { job, version } = await create('survivor', { calibration: await upload('many.npz'), preprocessing: { mean: signal === 'SIGKILL' ? 120 : 121, std: 127 } });
    await until(job.id, converting);
    await ended(worker, signal);
    await noConverters(10_000);
    await newWorker();
    const done = await until(job.id, settled);
    expect(done).toMatchObject({ state: 'SUCCEEDED', error: null });
    expect(done.steps[1]!.losses).toBe(signal === 'SIGKILL' ? 1 : 0);
    expect((await registry.versionById(version.id)).state).toBe('READY');
    expect(readdirSync(join(dir, 'work'))).toHaveLength(1);
  }, 600_000);
});
