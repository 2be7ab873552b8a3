import { randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { conversionSchema, jobRoots, Jobs } from '@reefkeeper/conversion';
import { bundlesOnDevices, devicesSchema } from '@reefkeeper/devices';
import { ChangeFeed, ManualClock, openLogger, openObjects, openQueues, sha256, type ObjectStore, type QueueHost } from '@reefkeeper/platform';
import { Registry, registrySchema, Retention } from '@reefkeeper/registry';
import { bundlesInRollouts, rolloutsSchema } from '@reefkeeper/rollouts';
import { captureRoots, telemetrySchema } from '@reefkeeper/telemetry';
import { testDatabase, type TestDatabase } from '../../../test/support/database.ts';

const day = 24 * 3_600_000;
const roots = { objects: [...jobRoots, ...captureRoots], bundles: [...bundlesOnDevices, ...bundlesInRollouts] };

let database: TestDatabase;
let dir: string;
let objects: ObjectStore;
let clock: ManualClock;
let registry: Registry;
let retention: Retention;
let queues: QueueHost;
let jobs: Jobs;

beforeAll(async () => {
  database = await testDatabase([devicesSchema, registrySchema, conversionSchema, telemetrySchema, rolloutsSchema]);
  dir = await mkdtemp(join(tmpdir(), 'reef-retention-'));
  queues = openQueues({ databaseUrl: database.url });
});
afterAll(async () => {
  await queues.close(true);
  await database.drop();
  await rm(dir, { recursive: true });
});
beforeEach(async () => {
  await database.db.query('TRUNCATE models, versions, variants, artifacts, jobs, job_steps, compile_attempts, devices, rollouts CASCADE');
  objects = await openObjects(pathToFileURL(join(dir, randomUUID())).href);
  clock = new ManualClock(new Date('2026-11-25T08:00:00Z'));
  use(objects);
});

function use(store: ObjectStore): void {
  registry = new Registry(database.db, clock, store);
  retention = new Retention(database.db, clock, store, roots);
  jobs = new Jobs(database.db, clock, queues, new ChangeFeed(database.url, openLogger('test', 'silent')), registry);
}

const about = { mediaType: 'application/octet-stream', role: 'model' };
const store = async (text: string, role = 'model') => registry.keep(Buffer.from(text), { ...about, role });
const there = async (digest: string) => objects.has(digest);

describe('collecting garbage', () => {
  it('says what would go, by role, and then removes just that', async () => {
    const [a, b, c] = [await store('aaaa', 'model'), await store('bb', 'compile-log'), await store('cc', 'compile-log')];
    clock.advance(31 * day);
    const young = await store('young');
    const plan = await retention.collect({ olderThanMs: 30 * day, dryRun: true });
    expect(plan).toEqual({ dryRun: true, before: new Date(clock.now().getTime() - 30 * day), objects: 3, bytes: 8, roles: [{ role: 'compile-log', objects: 2, bytes: 4 }, { role: 'model', objects: 1, bytes: 4 }].sort((x, y) => y.bytes - x.bytes), more: false });
    for (const { digest } of [a, b, c, young]) expect(await there(digest)).toBe(true);
    expect(await retention.collect({ olderThanMs: 30 * day })).toMatchObject({ dryRun: false, objects: 3, bytes: 8 });
    expect(await Promise.all([a, b, c, young].map(async ({ digest }) => there(digest)))).toEqual([false, false, false, true]);
    expect(await retention.collect({ olderThanMs: 30 * day })).toMatchObject({ objects: 0 });
  });

  it('keeps the pictures that devices captured, until they are forgotten', async () => {
    const { digest, bytes } = await store('a picture', 'capture');
    await database.db.query(`INSERT INTO captures (id, device_id, workload, bundle, variant, backend, prediction, score, margin, taken_at, received_at, digest, bytes)
      VALUES (gen_random_uuid(), 'd', 'w', 'b', 'cpu-int8', 'cpu', 'cat', 0.5, 0.1, now(), now(), $1, $2)`, [digest, bytes]);
    clock.advance(100 * day);
    expect(await retention.collect({ olderThanMs: 30 * day })).toMatchObject({ objects: 0 });
    await database.db.query('DELETE FROM captures');
    expect(await retention.collect({ olderThanMs: 30 * day })).toMatchObject({ objects: 1 });
    expect(await there(digest)).toBe(false);
  });

  it('leaves a day to what is on its way, whatever the retention', async () => {
    const { digest } = await store('on its way');
    clock.advance(day - 1_000);
    expect(await retention.collect({ olderThanMs: 0 })).toMatchObject({ objects: 0 });
    // Whoever asks for it again, starts its day again.
    await registry.artifact(digest);
    clock.advance(day - 1_000);
    expect(await retention.collect({ olderThanMs: 0 })).toMatchObject({ objects: 0 });
    clock.advance(2_000);
    expect(await retention.collect({ olderThanMs: 0 })).toMatchObject({ objects: 1 });
  });

  it('takes in what lies in the store without a row, and lets it age first', async () => {
    const { digest } = await objects.put(Buffer.from('by hand'));
    expect(await retention.collect({ olderThanMs: 30 * day })).toMatchObject({ objects: 0 });
    clock.advance(31 * day);
    expect(await retention.collect({ olderThanMs: 30 * day })).toMatchObject({ objects: 1, roles: [{ role: 'unknown' }] });
    expect(await there(digest)).toBe(false);
  });

  it('a failed job can be tried again as long as its source is there, and says so when it is not', async () => {
    const source = await store('source', 'upload');
    const { job } = await jobs.create('m', { source: { digest: source.digest, filename: 'm.tflite' } });
    const made = await store('made by convert');
    await database.db.query("UPDATE job_steps SET state = 'SUCCEEDED', output = $2 WHERE job_id = $1 AND ordinal <= 1", [job.id, JSON.stringify({ model: made })]);
    const fail = async () => {
      await database.db.query("UPDATE jobs SET state = 'FAILED' WHERE id = $1", [job.id]);
      await database.db.query("UPDATE versions SET state = 'FAILED'");
    };
    await fail();
    await objects.delete(made.digest);
    expect((await jobs.retry(job.id)).steps.map(({ state }) => state)).toEqual(Array(7).fill('PENDING'));
    await fail();
    clock.advance(31 * day);
    await retention.collect({ olderThanMs: 30 * day });
    await expect(jobs.retry(job.id)).rejects.toMatchObject({ code: 'source.missing' });
  });

  it('never takes what is reachable, and takes all that is not', async () => {
    const digestAt = (n: number) => sha256(`object ${n}`);
    const some = fc.uniqueArray(fc.nat(29), { maxLength: 4 });
    const version = fc.record({ state: fc.constantFrom('DRAFT', 'BUILDING', 'READY', 'FAILED', 'CANCELED'), files: some, source: fc.nat(29), segments: some, onDevice: fc.constantFrom('no', 'desired', 'rollbackTo', 'reported', 'rollout') });
    const job = fc.record({ state: fc.constantFrom('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELED', 'TIMED_OUT'), of: fc.nat(5), source: fc.nat(29), outputs: some, logs: some });
    await fc.assert(fc.asyncProperty(fc.array(version, { minLength: 1, maxLength: 6 }), fc.array(job, { maxLength: 6 }), fc.uniqueArray(fc.nat(29)), async (versions, made, young) => {
      const { db } = database;
      await db.query('TRUNCATE models, versions, variants, artifacts, jobs, job_steps, compile_attempts, devices, rollouts CASCADE');
      await db.query("INSERT INTO models (name, created_at, created_by) VALUES ('m', now(), 'test')");
      for (let n = 0; n < 30; n += 1) await store(`object ${n}`);
      clock.advance(31 * day);
      for (const n of young) await store(`object ${n}`);

      const reachable = new Set(young);
      const ids: string[] = [];
      const kept: boolean[] = [];
      for (const [at, { state, files, source, segments, onDevice }] of versions.entries()) {
        const [id, bundle] = [randomUUID(), sha256(`bundle ${at}`)];
        const envelope = files[0] ?? 0;
        await db.query('INSERT INTO versions (id, model, version, state, task, bundle_digest, envelope_digest, lineage, pipelines, created_at, created_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now(), $10)',
          [id, 'm', at + 1, state, 'other', bundle, digestAt(envelope), JSON.stringify({ source: { digest: digestAt(source), filename: 'x' } }), JSON.stringify([{ segments: segments.map((n) => ({ digest: digestAt(n), bytes: 1 })) }]), 'test']);
        for (const [index, n] of files.entries()) await db.query("INSERT INTO variants (version_id, name, kind, digest, bytes) VALUES ($1, $2, 'cpu-int8', $3, 1)", [id, `v${index}`, digestAt(n)]);
        if (onDevice !== 'no') await refer(onDevice, bundle, at);
        ids.push(id);
        kept.push(['DRAFT', 'BUILDING', 'READY'].includes(state) || onDevice !== 'no');
        if (kept[at]) for (const n of [envelope, source, ...files, ...segments]) reachable.add(n);
      }
      for (const { state, of, source, outputs, logs } of made) {
        const [id, at] = [randomUUID(), of % versions.length];
        await db.query("INSERT INTO jobs (id, version_id, model, ref, state, request, created_at, created_by) VALUES ($1, $2, 'm', 'm@1', $3, $4, now(), 'test')", [id, ids[at], state, JSON.stringify({ source: { digest: digestAt(source), filename: 'x' }, calibration: null })]);
        await db.query("INSERT INTO job_steps (job_id, ordinal, name, state, output) VALUES ($1, 0, 'convert', 'SUCCEEDED', $2)", [id, JSON.stringify({ deep: [{ model: outputs.map((n) => ({ digest: digestAt(n), bytes: 2 })) }] })]);
        for (const n of logs) await db.query("INSERT INTO compile_attempts (job_id, recipe, inputs, flags, started_at, log_digest) VALUES ($1, 'r', '[]', '[]', now(), $2)", [id, digestAt(n)]);
        if (['QUEUED', 'RUNNING'].includes(state) || kept[at]) for (const n of [source, ...outputs, ...logs]) reachable.add(n);
      }

      await retention.collect({ olderThanMs: 30 * day });
      const stored = await Promise.all(Array.from({ length: 30 }, async (_, n) => there(digestAt(n))));
      expect(stored.flatMap((is, n) => (is ? [n] : []))).toEqual([...reachable].sort((a, b) => a - b));
    }), { numRuns: 25 });
  });
});

async function refer(how: 'desired' | 'rollbackTo' | 'reported' | 'rollout', bundle: string, at: number): Promise<void> {
  const { db } = database;
  if (how === 'rollout') {
    await db.query("INSERT INTO rollouts (id, name, version_ref, version_id, bundle, workload, selector, state, state_reason, settings, plan, created_at, created_by) VALUES ($1, 'r', 'm@1', 'v', $2, 'w', '', 'SUCCEEDED', '{}', '{}', '{}', now(), 'test')", [randomUUID(), bundle]);
    return;
  }
  await db.query('INSERT INTO devices (id, enrolled_at) VALUES ($1, now())', [`d${at}`]);
  if (how === 'reported') await db.query("INSERT INTO reported (device_id, boot_id, seq, session, health, workloads, received_at) VALUES ($1, 'b', 1, 1, 'HEALTHY', $2, now())", [`d${at}`, JSON.stringify({ classifier: { running: null, previous: bundle } })]);
  else await db.query("INSERT INTO desired_workloads (device_id, workload, bundle, rollback_to, variant, policy) VALUES ($1, 'w', $2, $3, 'cpu-int8', '{}')", [`d${at}`, how === 'desired' ? bundle : sha256('other'), how === 'desired' ? null : bundle]);
}

describe('an object that is put or referred to while it is collected', () => {
  /** A store whose deletes wait for `go`. */
  function slowDeletes() {
    let go = () => {};
    let begun = () => {};
    const [started, released] = [new Promise<void>((resolve) => { begun = resolve; }), new Promise<void>((resolve) => { go = resolve; })];
    const slow: ObjectStore = {
      put: async (...of) => objects.put(...of), stat: async (digest) => objects.stat(digest), has: async (digest) => objects.has(digest), read: async (...of) => objects.read(...of), list: () => objects.list(),
      delete: async (digest) => { begun(); await released; await objects.delete(digest); },
    };
    use(slow);
    return { started, go };
  }

  it('the same bytes, put while their old object goes, are there afterwards', async () => {
    const { digest } = await store('popular');
    clock.advance(31 * day);
    const { started, go } = slowDeletes();
    const collected = retention.collect({ olderThanMs: 30 * day });
    await started;
    let done = false;
    const put = store('popular').then((stored) => { done = true; return stored; });
    await sleep(150);
    expect(done).toBe(false);
    go();
    expect((await collected).objects).toBe(1);
    expect((await put).digest).toBe(digest);
    expect(await there(digest)).toBe(true);
    expect(await registry.artifact(digest)).toMatchObject({ digest });
  });

  it('a job that would use it is refused, or keeps it: never a job without its source', async () => {
    const source = await store('source', 'upload');
    clock.advance(31 * day);
    const { started, go } = slowDeletes();
    const collected = retention.collect({ olderThanMs: 30 * day });
    await started;
    const made = jobs.create('late', { source: { digest: source.digest, filename: 'm.tflite' } });
    await sleep(100);
    go();
    await collected;
    await expect(made).rejects.toMatchObject({ code: 'source.missing' });

    use(objects);
    const other = await store('other source', 'upload');
    clock.advance(31 * day);
    await database.db.transaction(async (tx) => {
      expect(await registry.claim([other.digest], tx)).toEqual([]);
      // The claim is not committed yet, and nobody refers to the object: it stays all the same.
      expect((await retention.collect({ olderThanMs: 30 * day })).objects).toBe(0);
    });
    expect(await there(other.digest)).toBe(true);
  });

  it('many at once: what is noted is stored', async () => {
    const contents = Array.from({ length: 12 }, () => randomBytes(2_000));
    for (let round = 0; round < 8; round += 1) {
      clock.advance(31 * day);
      await Promise.all([
        retention.collect({ olderThanMs: 30 * day }), retention.collect({ olderThanMs: 30 * day }),
        ...contents.map(async (content) => { await sleep(Math.random() * 20); await registry.keep(content, about); expect(await there(sha256(content))).toBe(true); }),
      ]);
      for (const content of contents) expect(await there(sha256(content))).toBe(true);
    }
  });
});
