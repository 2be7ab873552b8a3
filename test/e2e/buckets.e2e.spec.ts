import type { ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { PubSub } from '@google-cloud/pubsub';
import { Storage } from '@google-cloud/storage';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { BucketImports, BucketWatch, conversionSchema, isSettled, Jobs, watchBucket } from '@reefkeeper/conversion';
import { TfliteBuilder } from '@reefkeeper/edgetpu/fixture';
import { ChangeFeed, openBuckets, openLogger, openObjects, openQueues, sha256, systemClock, type ObjectStore, type QueueHost } from '@reefkeeper/platform';
import { Registry, registrySchema } from '@reefkeeper/registry';
import { testDatabase, type TestDatabase } from '../support/database.ts';
import { RunningStack } from '../support/stack.ts';
import { findGoogle, RunningGoogle } from '../support/google.ts';
import { ended, startWorker } from '../support/worker.ts';

// The built worker, Google's Pub/Sub emulator and a server that speaks Cloud Storage; everything between them is as in production.
const parts = await findGoogle();
const log = openLogger('test', 'silent');
const quietMs = 700;
const eventually = async <T>(look: () => T | Promise<T>, timeout: number) => vi.waitFor(look, { timeout, interval: 50 });

function classifier(seed: number): Buffer {
  const net = new TfliteBuilder();
  net.description = `export ${seed}`;
  const picture = net.input([1, 16, 16, 3], { name: 'image' });
  return Buffer.from(net.output(net.softmax(net.dense(net.flatten(net.conv(picture, 4)), 3))).build());
}
const dict = 'daisy\nrose\ntulip\n';
const json = JSON.stringify({ batchSize: 1, imageChannels: 3, imageHeight: 16, imageWidth: 16, inferenceType: 'QUANTIZED_UINT8', inputTensor: 'image', outputTensor: 'scores' });

describe.skipIf(typeof parts === 'string')(`exports in buckets${typeof parts === 'string' ? `: ${parts}` : ''}`, () => {
  let google: RunningGoogle;
  let storage: Storage;
  let pubsub: PubSub;
  let database: TestDatabase;
  let dir: string;
  let objects: ObjectStore;
  let queues: QueueHost;
  let feed: ChangeFeed;
  let registry: Registry;
  let jobs: Jobs;
  let imports: BucketImports;
  let watch: BucketWatch;
  const workers: ChildProcess[] = [];
  let subscription: string;

  beforeAll(async () => {
    google = await RunningGoogle.start(parts as Exclude<typeof parts, string>);
    storage = new Storage({ apiEndpoint: google.gcsEndpoint, projectId: google.project });
    await storage.createBucket('exports');
    pubsub = new PubSub({ projectId: google.project });
    database = await testDatabase([registrySchema, conversionSchema]);
    dir = await mkdtemp(join(tmpdir(), 'reef-buckets-'));
    objects = await openObjects(pathToFileURL(join(dir, 'objects')).href);
    queues = openQueues({ databaseUrl: database.url });
    feed = new ChangeFeed(database.url, log);
    await feed.start();
    registry = new Registry(database.db, systemClock, objects);
    jobs = new Jobs(database.db, systemClock, queues, feed, registry);
    const buckets = openBuckets({ endpoint: google.gcsEndpoint });
    imports = new BucketImports(database.db, systemClock, objects, buckets, registry, jobs);
    watch = new BucketWatch(database.db, systemClock, log, buckets, imports);
  });
  // One for each test: what is on its way to a worker that an earlier one has killed comes to nobody else before its deadline.
  beforeEach(async () => {
    subscription = `reef-exports-${randomUUID()}`;
    await pubsub.topic(google.topic).createSubscription(subscription, { ackDeadlineSeconds: 10 });
  });
  afterEach(async () => { await Promise.all(workers.splice(0).map(async (worker) => ended(worker, 'SIGTERM'))); });
  afterAll(async () => {
    await pubsub?.close();
    await queues?.close(true);
    await feed?.stop();
    await database?.drop();
    await google?.stop();
    if (dir) await rm(dir, { recursive: true, force: true });
  });

  const write = async (name: string, content: string | Buffer) => { await storage.bucket('exports').file(name).save(content, { resumable: false }); };
  const versionsOf = async (model: string) => (await registry.listVersions(model).catch(() => ({ items: [] }))).items;
  const stateOf = async (folder: string) => (await watch.list()).find((one) => one.folder === folder);
  const settled = async (id: string) => eventually(async () => { const job = await jobs.find(id); if (!isSettled(job.state)) throw new Error(job.state); return job; }, 120_000);

  const newWorker = async () => startWorker(database.url, dir, {
    GCS_ENDPOINT: google.gcsEndpoint, PUBSUB_EMULATOR_HOST: google.pubsubHost, METADATA_SERVER_DETECTION: 'none',
    REEF_BUCKET_WATCH: `projects/${google.project}/subscriptions/${subscription}`, REEF_BUCKET_QUIET_S: `${quietMs / 1_000}`, REEF_BUCKET_MODELS: 'gs://exports/named/=greenhouse',
  }, workers);

  describe('asked for', () => {
    it('becomes a ready version with labels, pre-processing and where it came from', async () => {
      const model = classifier(1);
      await write('asked/edgetpu_model.tflite', model);
      await write('asked/dict.txt', dict);
      await write('asked/tflite_metadata.json', json);
      await newWorker();
      const { version, job } = await imports.import('flowers', { address: 'gs://exports/asked/' }, 'someone');
      expect(await settled(job.id)).toMatchObject({ state: 'SUCCEEDED', error: null, createdBy: 'someone' });
      const ready = await registry.versionById(version.id);
      expect(ready).toMatchObject({ state: 'READY', labels: ['daisy', 'rose', 'tulip'], notes: 'imported from gs://exports/asked/' });
      const [metadata] = await storage.bucket('exports').file('asked/edgetpu_model.tflite').getMetadata();
      expect(ready.lineage!.source).toMatchObject({ digest: sha256(model), filename: 'edgetpu_model.tflite', origin: { address: 'gs://exports/asked/' } });
      expect((ready.lineage!.source as unknown as { origin: { objects: unknown } }).origin.objects).toEqual([
        { name: 'asked/edgetpu_model.tflite', generation: `${metadata.generation}`, digest: sha256(model), bytes: model.length },
        { name: 'asked/dict.txt', generation: expect.stringMatching(/^\d+$/), digest: sha256(dict), bytes: dict.length },
        { name: 'asked/tflite_metadata.json', generation: expect.stringMatching(/^\d+$/), digest: sha256(json), bytes: json.length },
      ]);
      expect((await jobs.logAfter(job.id)).map(({ text }) => text).join('\n')).toMatch(/copied from gs:\/\/exports\/asked\/[^]*3 labels of dict.txt/);
      expect((await jobs.find(job.id)).request.preprocessing).toEqual({ resize: 'stretch', mean: 128, std: 128 });
    });

    it('is refused where it is not whole, and where there is none', async () => {
      await write('half/model.tflite', classifier(2));
      await expect(imports.import('half', { address: 'gs://exports/half/' })).rejects.toMatchObject({ code: 'export.incomplete', message: expect.stringContaining('dict.txt is missing') });
      expect(await imports.import('half', { address: 'gs://exports/half/model.tflite', labels: ['a', 'b', 'c'] })).toMatchObject({ version: { state: 'BUILDING' } });
      await write('half-saved/saved_model.pb', 'x');
      await write('half-saved/variables/variables.data-00000-of-00002', 'x');
      await expect(imports.import('half', { address: 'gs://exports/half-saved/' })).rejects.toMatchObject({ code: 'export.incomplete', message: expect.stringContaining('variables.data-00001-of-00002') });
      await expect(imports.import('half', { address: 'gs://exports/nothing/' })).rejects.toMatchObject({ code: 'export.missing' });
      await expect(imports.import('half', { address: 'gs://no-such-bucket/x/' })).rejects.toMatchObject({ code: 'bucket.missing' });
      expect(await versionsOf('half')).toHaveLength(1);
    });

    it('a SavedModel is one source, the same for the same files', async () => {
      for (const [name, content] of [['saved_model.pb', 'graph'], ['variables/variables.index', 'index'], ['variables/variables.data-00000-of-00001', 'data'], ['assets/words.txt', '']] as const) await write(`saved/${name}`, content);
      const [first, second] = [await imports.import('saved', { address: 'gs://exports/saved' }), await imports.import('saved', { address: 'gs://exports/saved/' })];
      expect(first.job.request.source.filename).toBe('saved_model.tar');
      expect(second.job.request.source.digest).toBe(first.job.request.source.digest);
      expect(first.job.request.source.origin!.objects.map(({ name }) => name)).toEqual(['saved/assets/words.txt', 'saved/saved_model.pb', 'saved/variables/variables.data-00000-of-00001', 'saved/variables/variables.index']);
      await Promise.all([first, second].map(async ({ job }) => jobs.cancel(job.id)));
    });
  });

  it('comes in by the command line too, through a whole stack', async () => {
    for (const [name, content] of [['edgetpu_model-1.tflite', classifier(11)], ['dict.txt', dict], ['tflite_metadata.json', json]] as const) await write(`cli/${name}`, content);
    const stack = await RunningStack.up({ agents: 0, env: { GCS_ENDPOINT: google.gcsEndpoint, METADATA_SERVER_DETECTION: 'none' } });
    try {
      expect(await stack.json('model', 'import', 'gs://exports/cli/', '--name', 'from-cli', '--mean', '100')).toMatchObject({ ref: 'from-cli@1', state: 'READY', labels: ['daisy', 'rose', 'tulip'], lineage: { source: { filename: 'edgetpu_model-1.tflite', origin: { address: 'gs://exports/cli/' } } } });
      const refused = await stack.reef('model', 'import', 'gs://exports/none/', '--name', 'x');
      expect([refused.exitCode, refused.stderr]).toEqual([4, expect.stringContaining('Nothing at all lies there')]);
      expect((await stack.reef('model', 'exports')).stdout).toContain('REEF_BUCKET_WATCH');
    } finally {
      await stack.remove();
    }
  });

  describe('watched', () => {
    it('waits until it is whole, becomes one version however often it is told, and a new one when it is written again', async () => {
      await newWorker();
      const folder = 'model-export/icn/edgetpu_tflite-garden-2026-11-25T10:00:00.000Z/';
      await write(`${folder}edgetpu_model.tflite`, classifier(3));
      await write(`${folder}tflite_metadata.json`, json);
      await eventually(async () => { expect(await stateOf(folder)).toMatchObject({ state: 'WAITING', reason: { message: expect.stringContaining('dict.txt') } }); }, 30_000);
      await sleep(6 * quietMs);
      expect(await versionsOf('garden')).toEqual([]);
      await write(`${folder}dict.txt`, dict);
      await eventually(async () => { expect(await stateOf(folder)).toMatchObject({ state: 'IMPORTED', reason: null, jobId: expect.any(String) }); }, 60_000);
      const { jobId } = (await stateOf(folder))!;
      expect(await settled(jobId!)).toMatchObject({ state: 'SUCCEEDED', createdBy: 'bucket-watch' });

      // Pub/Sub delivers at least once: the same news three times more.
      const seenAt = (await stateOf(folder))!.seenAt;
      for (let again = 0; again < 3; again += 1) await pubsub.topic(google.topic).publishMessage({ data: Buffer.from('{}'), attributes: { eventType: 'OBJECT_FINALIZE', bucketId: 'exports', objectId: `${folder}dict.txt`, objectGeneration: '1' } });
      await eventually(async () => { expect((await stateOf(folder))!.seenAt.getTime()).toBeGreaterThan(seenAt.getTime()); }, 30_000);
      await eventually(async () => { expect((await stateOf(folder))!.state).toBe('IMPORTED'); }, 30_000);
      expect(await versionsOf('garden')).toHaveLength(1);

      await write(`${folder}edgetpu_model.tflite`, classifier(4));
      await eventually(async () => { expect(await versionsOf('garden')).toHaveLength(2); }, 60_000);
    });

    it('is taken once by many workers, under the name that was given for the bucket', async () => {
      await Promise.all([newWorker(), newWorker()]);
      for (const name of ['dict.txt', 'tflite_metadata.json', 'model.tflite']) await write(`named/${name}`, name === 'dict.txt' ? dict : name === 'model.tflite' ? classifier(5) : json);
      await eventually(async () => { expect((await stateOf('named/'))?.state).toBe('IMPORTED'); }, 60_000);
      await Promise.all(Array.from({ length: 4 }, async () => { await watch.sighted('exports', 'named/model.tflite', { quietMs: 0 }); }));
      await Promise.all([1, 2, 3].map(async () => watch.sweep({ quietMs: 0, models: [] })));
      expect(await versionsOf('greenhouse')).toHaveLength(1);
    });

    it('two that copied the same export at the same time make one version', async () => {
      for (const [name, content] of [['dict.txt', dict], ['tflite_metadata.json', json], ['model.tflite', classifier(6)]] as const) await write(`race/${name}`, content);
      await sleep(50);
      const row = { bucket: 'exports', folder: 'race/' };
      await watch.sighted('exports', 'race/model.tflite', { quietMs: 0 });
      // Without the claim, as when one worker was taken for dead and was only slow.
      const look = async () => (watch as unknown as { look(row: object, options: object): Promise<boolean> }).look({ ...row, seenAt: new Date(0) }, { quietMs: 0, models: [] });
      expect((await Promise.all([look(), look(), look()])).filter(Boolean)).toHaveLength(1);
      expect(await versionsOf('race')).toHaveLength(1);
    });

    it('outlives the death of the worker that heard of it', async () => {
      const first = await newWorker();
      await write('survivor/model.tflite', classifier(7));
      await write('survivor/tflite_metadata.json', json);
      await eventually(async () => { expect(await stateOf('survivor/')).toBeDefined(); }, 30_000);
      await ended(first, 'SIGKILL');
      await write('survivor/dict.txt', dict);
      await newWorker();
      await eventually(async () => { expect(await versionsOf('survivor')).toHaveLength(1); }, 90_000);
    });

    it('what has nothing to do with exports is acknowledged and forgotten', async () => {
      const before = (await watch.list()).length;
      await newWorker();
      await write('notes/readme.txt', 'x');
      await pubsub.topic(google.topic).publishMessage({ data: Buffer.from('{}'), attributes: { eventType: 'OBJECT_DELETE', bucketId: 'exports', objectId: 'gone/model.tflite' } });
      await pubsub.topic(google.topic).publishMessage({ data: Buffer.from('nonsense') });
      await write('last/dict.txt', dict);
      await eventually(async () => { expect(await stateOf('last/')).toMatchObject({ state: 'WAITING' }); }, 30_000);
      expect((await watch.list()).length).toBe(before + 1);
    });

    it('a damaged model is refused by name, and tried again when it is written again', async () => {
      await newWorker();
      for (const [name, content] of [['dict.txt', dict], ['tflite_metadata.json', json], ['model.tflite', classifier(8).subarray(0, 400)]] as const) await write(`damaged/${name}`, content);
      await eventually(async () => { expect(await stateOf('damaged/')).toMatchObject({ state: 'REFUSED', reason: { code: 'model.unreadable' } }); }, 60_000);
      await write('damaged/model.tflite', classifier(8));
      await eventually(async () => { expect(await versionsOf('damaged')).toHaveLength(1); }, 60_000);
    });
  });

  it('a notification is acknowledged when its row is stored, and comes again when it could not be', async () => {
    await pubsub.topic(google.topic).createSubscription('reef-acks', { ackDeadlineSeconds: 10 });
    const seen: string[] = [];
    const failsOnce = { async sighted(_bucket: string, name: string) { seen.push(name); if (seen.length === 1) throw new Error('the database is away'); return true; } };
    const stop = await watchBucket(failsOnce as unknown as BucketWatch, { subscription: 'projects/reefkeeper/subscriptions/reef-acks', quietMs }, log);
    await write('acks/dict.txt', dict);
    await eventually(() => { expect(seen).toEqual(['acks/dict.txt', 'acks/dict.txt']); }, 30_000);
    await sleep(1_500);
    expect(seen).toHaveLength(2);
    await stop();
  });
});
