import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { ChangeFeed, openDatabase, openLogger, openObjects, openQueues, readWhole, ReefError, systemClock, type ObjectStore, type QueueHost } from '@reefkeeper/platform';
import { Registry, registrySchema } from '@reefkeeper/registry';
import { testDatabase, type TestDatabase } from '../../../test/support/database.ts';
import { conversionSchema, isSettled, Jobs, Pipeline, stepNames, stepsOf, type Executors, type JobState, type JobWithSteps, type StepContext, type StepName } from './index.ts';

// Executors of one line each, that store real objects; the steps that run TensorFlow are tested in test/e2e.
type Act = (context: StepContext, run: number) => Promise<unknown>;
let acts: Partial<Record<StepName, Act>> = {};
let runs: StepName[] = [];
const timeouts: Partial<Record<StepName, number>> = {};

let database: TestDatabase;
let dir: string;
let objects: ObjectStore;
let queues: QueueHost;
let registry: Registry;
let jobs: Jobs;
let feed: ChangeFeed;
let pipelines: Pipeline[] = [];
const logger = openLogger('test', 'silent');

/** On whatever carries queues in this run: all workers of a job must share it. */
function openHost(): QueueHost {
  return openQueues({ databaseUrl: database.url, ...(process.env.REDIS_URL ? { redisUrl: process.env.REDIS_URL } : {}) });
}

function executors(): Executors {
  const made = stepNames.map((name) => [name, {
    timeoutMs: timeouts[name] ?? 60_000,
    inputs: async (context: StepContext) => (name === 'bundle' ? null : { source: context.request.source.digest, notes: context.request.notes, before: context.outputs }),
    run: async (context: StepContext) => {
      runs.push(name);
      const special = await acts[name]?.(context, runs.filter((one) => one === name).length);
      if (special) return special;
      const stored = await context.keep(Buffer.from(`${name} of ${context.request.source.filename}`), { mediaType: 'text/plain', role: 'test' });
      if (name !== 'bundle') return { output: { model: stored, analysis: { verdict: 'fully_mapped' } } };
      return { output: {
        bundleDigest: stored.digest, envelopeDigest: stored.digest, labels: null, task: 'classification', parity: null,
        lineage: { source: context.request.source, calibration: null, evaluation: null, job: context.jobId, parent: context.version.parent, tools: {} },
        variants: [{ name: 'cpu-int8', kind: 'cpu-int8', minRuntime: null, ...stored }],
      } };
    },
  }] as const);
  return Object.fromEntries(made) as unknown as Executors;
}

function worker(host = queues, db = database.db, concurrency = 2): Pipeline {
  const made = new Pipeline(db, systemClock, logger, objects, host, new Registry(db, systemClock, objects), jobs, { executors: executors(), workDir: join(dir, 'work') });
  made.start(concurrency);
  if (host === queues) pipelines.push(made);
  return made;
}

async function create(model: string, notes?: string, priority = 0) {
  const source = await objects.put(Buffer.from('a model'));
  return jobs.create(model, { source: { digest: source.digest, filename: 'model.tgz' }, priority, ...(notes ? { notes } : {}) });
}

async function until(id: string, wanted: JobState | ((job: JobWithSteps) => boolean)): Promise<JobWithSteps> {
  for (let tries = 0; tries < 800; tries += 1) {
    const job = await jobs.find(id);
    if (typeof wanted === 'string' ? job.state === wanted : wanted(job)) return job;
    if (typeof wanted === 'string' && isSettled(job.state)) throw new Error(`settled as ${job.state}: ${JSON.stringify(job.error)}`);
    await sleep(25);
  }
  throw new Error(`never came: ${String(wanted)}; ${JSON.stringify(await jobs.find(id))}`);
}

const parked: Act = async ({ signal }) => new Promise((_, reject) => { signal.addEventListener('abort', () => reject(new Error('gone'))); });
const states = (job: JobWithSteps) => job.steps.map((step) => step.state).join(' ');

beforeAll(async () => {
  database = await testDatabase([registrySchema, conversionSchema]);
  dir = await mkdtemp(join(tmpdir(), 'reef-pipeline-'));
  objects = await openObjects(pathToFileURL(join(dir, 'objects')).href);
  feed = new ChangeFeed(database.url, logger);
  await feed.start();
});
beforeEach(() => {
  acts = {};
  runs = [];
  queues = openHost();
  registry = new Registry(database.db, systemClock, objects);
  jobs = new Jobs(database.db, systemClock, queues, feed, registry);
});
afterEach(async () => {
  await Promise.all(pipelines.map(async (one) => one.stop()));
  pipelines = [];
  for (const name of Object.keys(timeouts)) delete timeouts[name as StepName];
  await queues.close(true);
});
afterAll(async () => {
  await feed.stop();
  await database.drop();
  await rm(dir, { recursive: true });
});

describe('a job', () => {
  it('runs its steps in order and makes its version ready', async () => {
    acts.compile = async () => ({ skipped: 'there is no compiler' });
    acts.convert = async ({ progress, log }) => { progress(40, 'calibrating'); log('line one\nline two'); return undefined; };
    worker();
    const { version, job } = await create('straight');
    expect(job.state).toBe('QUEUED');
    const seen: string[] = [];
    for await (const one of jobs.watch(job.id)) seen.push(one.state);
    expect(seen.at(-1)).toBe('SUCCEEDED');
    const done = await jobs.find(job.id);
    expect(states(done)).toBe('SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED SKIPPED SUCCEEDED SUCCEEDED');
    expect(done.steps[4]!.message).toBe('there is no compiler');
    expect(runs).toEqual(stepsOf({}));
    const ready = await registry.versionById(version.id);
    expect(ready).toMatchObject({ state: 'READY', analysis: { verdict: 'fully_mapped' }, lineage: { job: job.id } });
    expect((await readWhole(objects, ready.variants[0]!.digest)).toString()).toBe('bundle of model.tgz');
    expect((await jobs.logAfter(job.id)).map((line) => `${line.step} ${line.text}`)).toEqual(['convert line one', 'convert line two']);
    expect(await readdir(join(dir, 'work'))).toEqual([]);
  });

  it('does not do again what was done on the same inputs, unless its files are gone', async () => {
    worker();
    const first = await create('cached', 'same');
    await until(first.job.id, 'SUCCEEDED');
    runs = [];
    const second = await create('cached', 'same');
    const taken = await until(second.job.id, 'SUCCEEDED');
    expect(states(taken)).toBe('CACHED CACHED CACHED CACHED CACHED CACHED SUCCEEDED');
    expect(taken.steps[1]!.message).toContain(first.job.id);
    expect(runs).toEqual(['bundle']);
    expect((await registry.versionById(second.version.id)).analysis).toEqual({ verdict: 'fully_mapped' });

    const { steps } = await jobs.find(first.job.id);
    await objects.delete((steps[1]!.output as { model: { digest: string } }).model.digest);
    runs = [];
    const third = await create('cached', 'same');
    await until(third.job.id, 'SUCCEEDED');
    expect(runs).toEqual(['convert', 'bundle']);
    const other = await create('cached', 'other options');
    expect(states(await until(other.job.id, 'SUCCEEDED'))).not.toContain('CACHED');
  });

  it('fails with code and step, then runs again from there', async () => {
    acts.analyze = async (_context, run) => { if (run === 1) throw new ReefError('shape.dynamic', 'invalid', 'The input has an open size.'); };
    worker();
    const { version, job } = await create('retried', 'fails once');
    const failed = await until(job.id, 'FAILED');
    expect(failed.error).toMatchObject({ code: 'shape.dynamic', step: 'analyze', message: 'The input has an open size.' });
    expect(states(failed)).toBe('SUCCEEDED SUCCEEDED FAILED PENDING PENDING PENDING PENDING');
    expect(await registry.versionById(version.id)).toMatchObject({ state: 'FAILED', error: { code: 'shape.dynamic' } });
    expect((await jobs.logAfter(job.id)).at(-1)!.text).toContain('shape.dynamic');
    runs = ['analyze'];
    await jobs.retry(job.id);
    await until(job.id, 'SUCCEEDED');
    expect(runs.slice(1)).toEqual(['analyze', 'verify', 'compile', 'inspect', 'bundle']);
    expect((await registry.versionById(version.id)).state).toBe('READY');
    await expect(jobs.retry(job.id)).rejects.toMatchObject({ code: 'job.not_retryable' });
  });

  it('tries again what may pass by itself, and only that', async () => {
    acts.convert = async (_context, run) => { if (run < 3) throw new ReefError('python.gone', 'unavailable', 'The child went away.'); };
    worker();
    const { job } = await create('flaky', 'flaky');
    const waiting = await until(job.id, (one) => one.steps[1]!.message !== null);
    expect(waiting.steps[1]).toMatchObject({ state: 'PENDING', message: expect.stringContaining('Trying again in') as string });
    const done = await until(job.id, 'SUCCEEDED');
    expect(done.steps[1]).toMatchObject({ tries: 3, state: 'SUCCEEDED', error: null });
  });

  it('tells how long a step without progress will take by how long it took before', async () => {
    worker();
    const { job } = await create('usual', 'first');
    await until(job.id, 'SUCCEEDED');
    await database.db.query("UPDATE job_steps SET started_at = ended_at - interval '40 seconds' WHERE job_id = $1 AND name = 'convert'", [job.id]);
    acts.convert = parked;
    const second = await create('usual', 'second');
    const running = await until(second.job.id, (one) => one.steps[1]!.etaS !== null);
    expect(running.steps[1]).toMatchObject({ state: 'RUNNING', percent: null });
    expect(running.steps[1]!.etaS).toBeGreaterThan(25);
    expect(running.steps[1]!.etaS).toBeLessThanOrEqual(40);
    await jobs.cancel(second.job.id);
    await until(second.job.id, 'CANCELED');
  });

  it('times out', async () => {
    timeouts.convert = 300;
    acts.convert = parked;
    worker();
    const { version, job } = await create('slow', 'slow');
    expect((await until(job.id, 'TIMED_OUT')).error).toMatchObject({ code: 'step.timed_out', step: 'convert' });
    expect((await registry.versionById(version.id)).state).toBe('FAILED');
  });

  it('names sources that were never uploaded', async () => {
    await expect(jobs.create('nothing', { source: { digest: '0'.repeat(64), filename: 'm.tgz' } })).rejects.toMatchObject({ code: 'source.missing' });
    await expect(registry.findModel('nothing')).rejects.toMatchObject({ code: 'model.missing' });
  });

  it('keeps a result that cannot be stored from being tried for ever', async () => {
    acts.analyze = async () => ({ output: { analysis: { name: 'a\u0000b' } } });
    worker();
    const { job } = await create('unstorable', 'nul');
    expect((await until(job.id, 'FAILED')).error).toMatchObject({ step: 'analyze' });
  });
});

describe('cancel', () => {
  it('settles what no worker holds at once', async () => {
    const { version, job } = await create('early', 'early');
    const canceled = await jobs.cancel(job.id);
    expect(canceled.state).toBe('CANCELED');
    expect(new Set(canceled.steps.map((step) => step.state))).toEqual(new Set(['CANCELED']));
    expect((await registry.versionById(version.id)).state).toBe('CANCELED');
    worker();
    await sleep(300);
    expect(runs).toEqual([]);
    await jobs.retry(job.id);
    await until(job.id, 'SUCCEEDED');
  });

  it.each<[string, Act]>([
    ['that gives way', parked],
    ['that does not', async () => new Promise(() => {})],
  ])('stops a running step %s', async (_what, act) => {
    acts.convert = act;
    worker();
    const { job } = await create('running', `running ${_what}`);
    await until(job.id, (one) => one.steps[1]!.state === 'RUNNING' && runs.includes('convert'));
    await jobs.cancel(job.id);
    await jobs.cancel(job.id);
    const done = await until(job.id, 'CANCELED');
    expect(states(done)).toBe('SUCCEEDED CANCELED CANCELED CANCELED CANCELED CANCELED CANCELED');
    await expect(jobs.cancel((await create('running', 'same').then(async (made) => { acts = {}; await until(made.job.id, 'SUCCEEDED'); return made; })).job.id)).rejects.toMatchObject({ code: 'job.settled' });
  });
});

describe('workers', () => {
  it.each([['in the queue', false], ['whose messages were lost, swept up again', true]])('take jobs by priority, then by age: %s', async (what, lost) => {
    const ids: string[] = [];
    for (const priority of [0, -100, 100, 0, 7]) ids.push((await create('ordered', `${what} ${ids.length}`, priority)).job.id);
    if (lost) {
      await queues.queue<{ jobId: string }>('pipeline').obliterate({ force: true });
      await database.db.query("UPDATE jobs SET changed_at = changed_at - interval '1 minute' WHERE model = 'ordered'");
      await jobs.sweep();
    }
    worker(queues, database.db, 1);
    for (const id of ids) await until(id, 'SUCCEEDED');
    const done = await Promise.all(ids.map(async (id) => jobs.find(id)));
    const order = done.toSorted((a, b) => a.startedAt!.getTime() - b.startedAt!.getTime()).map(({ id }) => ids.indexOf(id));
    expect(order).toEqual([2, 4, 0, 3, 1]);
    expect(done[2]!.endedAt!.getTime()).toBeLessThan(done[4]!.startedAt!.getTime() + 1);
    expect(done[2]).toMatchObject({ priority: 100 });
  });

  it('take over from one that died, with the same end', async () => {
    // The first worker has a database connection and a queue of its own, which are cut while its step runs.
    const db = await openDatabase({ url: database.url, slices: [registrySchema, conversionSchema], poolSize: 2 });
    const host = openHost();
    let lost: StepContext | undefined;
    acts.verify = async (context, run) => {
      if (run > 1) return undefined;
      lost = context;
      return new Promise(() => {});
    };
    worker(host, db);
    const { version, job } = await create('orphan', 'orphan');
    await until(job.id, (one) => one.steps[3]!.state === 'RUNNING' && lost !== undefined);
    await host.close(true);
    await db.destroy();
    await database.db.query("UPDATE jobs SET heartbeat_at = now() - interval '11 seconds' WHERE id = $1", [job.id]);
    worker();
    await jobs.sweep();
    const done = await until(job.id, 'SUCCEEDED');
    expect(done.steps[3]).toMatchObject({ losses: 1, state: 'SUCCEEDED' });
    expect((await registry.versionById(version.id)).state).toBe('READY');
  });

  it('give up a step that kills them', async () => {
    worker();
    const { job } = await create('poison', 'poison').finally(() => { acts.convert = parked; });
    await until(job.id, (one) => one.steps[1]!.state === 'RUNNING' && runs.includes('convert'));
    await database.db.query("UPDATE job_steps SET losses = 2 WHERE job_id = $1 AND ordinal = 1", [job.id]);
    await database.db.query("UPDATE jobs SET owner = gen_random_uuid(), heartbeat_at = now() - interval '11 seconds' WHERE id = $1", [job.id]);
    const sweeps = setInterval(() => void jobs.sweep(), 200);
    const failed = await until(job.id, 'FAILED').finally(() => clearInterval(sweeps));
    expect(failed.error).toMatchObject({ code: 'worker.lost', step: 'convert' });
  });

  it('hand their job over when they are told to stop', async () => {
    acts.convert = async (context, run) => (run === 1 ? parked(context, run) : undefined);
    const first = worker();
    const { job } = await create('handed', 'handed');
    await until(job.id, (one) => one.steps[1]!.state === 'RUNNING' && runs.includes('convert'));
    await first.stop();
    const between = await jobs.find(job.id);
    expect(between).toMatchObject({ state: 'RUNNING', owner: null });
    expect(between.steps[1]).toMatchObject({ state: 'PENDING', tries: 0, losses: 0 });
    await queues.close(true);
    queues = openHost();
    jobs = new Jobs(database.db, systemClock, queues, feed, registry);
    worker();
    await database.db.query("UPDATE jobs SET changed_at = now() - interval '1 minute' WHERE id = $1", [job.id]);
    await jobs.sweep();
    await until(job.id, 'SUCCEEDED');
  });

  it('run a job whose message was lost, once, however often it is swept', async () => {
    const { job } = await create('swept', 'swept');
    await queues.queue<{ jobId: string }>('pipeline').obliterate({ force: true });
    await database.db.query("UPDATE jobs SET changed_at = now() - interval '1 minute'");
    expect(await jobs.sweep()).toBeGreaterThan(0);
    await jobs.sweep();
    worker();
    worker();
    await until(job.id, 'SUCCEEDED');
    expect(runs).toEqual(stepsOf({}));
  });
});

it('lists jobs, newest first, page by page', async () => {
  for (let n = 0; n < 3; n += 1) await create('listed', `${n}`);
  const first = await jobs.list({ model: 'listed', limit: 2 });
  expect(first.items.map((job) => job.ref)).toEqual(['listed@3', 'listed@2']);
  const second = await jobs.list({ model: 'listed', limit: 2, cursor: first.nextCursor! });
  expect(second).toMatchObject({ items: [{ ref: 'listed@1', steps: [{ name: 'import' }, {}, {}, {}, {}, {}, {}] }], nextCursor: null });
  expect((await jobs.list({ model: 'listed', state: 'SUCCEEDED' })).items).toEqual([]);
  for (const job of [...first.items, ...second.items]) await jobs.cancel(job.id);
});
