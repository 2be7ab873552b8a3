import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { testDatabase, type TestDatabase } from '../../../test/support/database.ts';
import { ChangeFeed, hint, hintEach, hintingEach, idsOf, openLogger, openObjects, openQueues, readWhole, sha256, type ChangeHint } from './index.ts';

let database: TestDatabase;
beforeAll(async () => { database = await testDatabase(); });
afterAll(async () => { await database.drop(); });

describe('queue', () => {
  it('carries a job to a worker and tells its result', async () => {
    const host = openQueues({ databaseUrl: database.url, ...(process.env.REDIS_URL ? { redisUrl: process.env.REDIS_URL } : {}) });
    const done = new Promise<number>((resolve) => {
      host.worker<{ n: number }>('sums', async (job) => { resolve(job.data.n + 1); });
    });
    await host.queue<{ n: number }>('sums').add('add', { n: 41 });
    expect(await done).toBe(42);
    await host.close(true);
  });
});

describe('change feed', () => {
  it('hears hints from any connection, at commit', async () => {
    const feed = new ChangeFeed(database.url, openLogger('test', 'silent'));
    await feed.start();
    const heard = new Promise<ChangeHint>((resolve) => feed.onChange(resolve));
    await database.db.transaction(async (tx) => hint(tx, { kind: 'job', id: 'j1' }));
    expect(await heard).toEqual({ kind: 'job', id: 'j1' });
    await feed.stop();
  });

  it('hints about many rows come in bites that a notification can carry, also as a part of the statement that changes them', async () => {
    const feed = new ChangeFeed(database.url, openLogger('test', 'silent'));
    await feed.start();
    const heard: ChangeHint[] = [];
    feed.onChange((change) => heard.push(change));
    const ids = Array.from({ length: 250 }, (_, n) => `device-${n}-${'x'.repeat(50)}`);
    await hintEach(database.db, 'device', []);
    await hintEach(database.db, 'device', ids);
    await vi.waitFor(() => expect(heard.flatMap(idsOf).sort()).toEqual([...ids].sort()));
    expect(heard.map((change) => [change.kind, idsOf(change).length]).sort()).toEqual([['device', 100], ['device', 100], ['device', 50]]);
    heard.length = 0;
    expect(await database.db.query(`WITH told AS (${hintingEach('telemetry', 'SELECT unnest($1::text[]) AS id')}) SELECT count(told)::int AS n FROM told`, [['a', 'b']])).toEqual([{ n: 1 }]);
    await vi.waitFor(() => expect(heard).toEqual([{ kind: 'telemetry', id: 'a,b' }]));
    await feed.stop();
  });

  it('a stream reads rows as hints come, each once while it waits, and ends at once when its reader hangs up', async () => {
    const feed = new ChangeFeed(database.url, openLogger('test', 'silent'));
    await feed.start();
    const stream = feed.read(({ kind }) => kind === 'job', async ({ id }) => (id === 'nothing' ? undefined : `row ${id}`), [{ kind: 'job', id: 'first' }]);
    await database.db.transaction(async (tx) => { for (const id of ['nothing', 'j2', 'j2', 'j2', 'j3']) await hint(tx, { kind: 'job', id }); });
    await hint(database.db, { kind: 'device', id: 'd' });
    expect([await stream.next(), await stream.next(), await stream.next()].map(({ value }) => value)).toEqual(['row first', 'row j2', 'row j3']);
    const waiting = stream.next();
    await stream.return!();
    expect(await waiting).toEqual({ value: undefined, done: true });
    await feed.stop();
  });
});

describe('file objects', () => {
  it('stores by digest, once, and reads ranges', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'reef-objects-'));
    const objects = await openObjects(pathToFileURL(dir).href);
    const content = Buffer.from('the same bytes');
    const first = await objects.put(content);
    expect(first).toEqual({ digest: sha256(content), bytes: content.length });
    expect(await objects.put(content)).toEqual(first);
    expect(await readWhole(objects, first.digest)).toEqual(content);
    const part: Buffer[] = [];
    for await (const chunk of await objects.read(first.digest, { start: 4, end: 7 })) part.push(chunk as Buffer);
    expect(Buffer.concat(part).toString()).toBe('same');
    await expect(objects.put(Buffer.alloc(10), { limitBytes: 9 })).rejects.toMatchObject({ code: 'upload.too_large' });
    await expect(objects.read(sha256('nothing'))).rejects.toMatchObject({ code: 'object.missing' });
    await rm(dir, { recursive: true });
  });
});
