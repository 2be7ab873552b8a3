import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ManualClock, openObjects, type ObjectStore } from '@reefkeeper/platform';
import { testDatabase, type TestDatabase } from '../../../test/support/database.ts';
import { Deltas, Registry, registrySchema, Retention } from './index.ts';

const day = 24 * 3_600_000;
let database: TestDatabase;
let dir: string;
let objects: ObjectStore;
let clock: ManualClock;
let registry: Registry;
let puts: number;

beforeAll(async () => {
  database = await testDatabase([registrySchema]);
  dir = await mkdtemp(join(tmpdir(), 'reef-deltas-'));
  const store = await openObjects(pathToFileURL(dir).href);
  objects = Object.assign(Object.create(store) as ObjectStore, { put: async (...args: Parameters<ObjectStore['put']>) => { puts += 1; return store.put(...args); } });
  clock = new ManualClock(new Date('2026-11-25T08:00:00Z'));
  registry = new Registry(database.db, clock, objects);
  puts = 0;
});
afterAll(async () => {
  await database.drop();
  await rm(dir, { recursive: true });
});

const replica = () => new Deltas(database.db, clock, objects, registry);
const keep = async (content: Buffer) => (await registry.keep(content, { mediaType: 'application/octet-stream', role: 'model' })).digest;
async function pair(): Promise<[string, string]> {
  const old = randomBytes(300_000);
  const next = Buffer.from(old);
  randomBytes(3_000).copy(next, 100_000);
  return [await keep(old), await keep(next)];
}

describe('stored deltas', () => {
  it('are made once, however many ask at however many replicas', async () => {
    const [from, to] = await pair();
    const before = puts;
    const [one, two] = [replica(), replica()];
    const answers = await Promise.all(Array.from({ length: 20 }, (_, n) => (n % 2 ? one : two).between(from, to)));
    expect(puts - before).toBe(1);
    expect(new Set(answers.map((answer) => answer!.digest)).size).toBe(1);
    expect(answers[0]!.bytes).toBeLessThan(10_000);
    expect(await objects.stat(answers[0]!.digest)).toEqual(answers[0]);
    expect(await replica().between(from, to)).toEqual(answers[0]);
    expect(puts - before).toBe(1);
  });

  it('are refused for now where too many are asked for at once', async () => {
    const [from, to] = await pair();
    const one = replica();
    const others = Array.from({ length: 40 }, (_, n) => createHash('sha256').update(`${n}`).digest('hex'));
    let settled = 0;
    let asked: Promise<unknown>[] = [];
    // Another replica is at all of them, so that none is at an end before the last is asked for.
    await database.db.transaction(async (tx) => {
      await tx.query("SELECT pg_advisory_xact_lock(hashtextextended('delta ' || other || ' ' || $2, 1)) FROM unnest($1::text[]) AS other", [others, to]);
      asked = others.map((other) => one.between(other, to).finally(() => { settled += 1; }));
      for (const ask of asked) ask.catch(() => {});
      await expect.poll(() => settled, { timeout: 30_000 }).toBe(8);
    });
    const refused = (await Promise.allSettled(asked)).filter((answer) => answer.status === 'rejected');
    expect(refused).toHaveLength(8);
    for (const { reason } of refused) expect(reason).toMatchObject({ code: 'delta.not_ready', kind: 'unavailable' });
    expect(await one.between(from, to)).not.toBeNull();
  });

  it('are not made where they save too little, and that is known from then on', async () => {
    const [from, to] = [await keep(randomBytes(50_000)), await keep(randomBytes(50_000))];
    const before = puts;
    expect(await replica().between(from, to)).toBeNull();
    await objects.delete(from);
    expect(await replica().between(from, to)).toBeNull();
    expect(puts).toBe(before);
    expect(await database.db.query('SELECT digest FROM deltas WHERE from_digest = $1', [from])).toEqual([{ digest: null }]);
  });

  it('cannot be made from a file that is gone, and can when it is back', async () => {
    const content = randomBytes(50_000);
    const gone = createHash('sha256').update(content).digest('hex');
    const to = await keep(Buffer.concat([Buffer.alloc(10), content]));
    expect(await replica().between(gone, to)).toBeNull();
    await keep(content);
    expect(await replica().between(gone, to)).not.toBeNull();
  });

  it('stay while they are used, go when they are not, and come back when asked for', async () => {
    const retention = new Retention(database.db, clock, objects, { objects: ['SELECT from_digest FROM deltas UNION SELECT to_digest FROM deltas'], bundles: [] });
    const [from, to] = await pair();
    const { digest } = (await replica().between(from, to))!;
    clock.advance(29 * day);
    expect(await replica().between(from, to)).toMatchObject({ digest });
    clock.advance(29 * day);
    await retention.collect({ olderThanMs: 30 * day });
    expect(await objects.has(digest)).toBe(true);
    clock.advance(2 * day);
    expect((await retention.collect({ olderThanMs: 30 * day, dryRun: true })).roles.map(({ role }) => role)).toContain('delta');
    // The files themselves are wanted by somebody.
    await registry.claim([from, to]);
    await retention.collect({ olderThanMs: 30 * day });
    expect(await objects.has(digest)).toBe(false);
    expect(await database.db.query('SELECT 1 FROM deltas WHERE from_digest = $1', [from])).toEqual([]);
    expect(await replica().between(from, to)).toMatchObject({ digest });
    expect(await objects.has(digest)).toBe(true);
  });

  it('are made again when their bytes were lost', async () => {
    const [from, to] = await pair();
    const { digest } = (await replica().between(from, to))!;
    await objects.delete(digest);
    clock.advance(2 * 3_600_000);
    expect(await replica().between(from, to)).toMatchObject({ digest });
    expect(await objects.has(digest)).toBe(true);
  });
});
