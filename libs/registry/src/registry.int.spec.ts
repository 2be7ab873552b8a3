import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ManualClock, openObjects, type ObjectStore } from '@reefkeeper/platform';
import { testDatabase, type TestDatabase } from '../../../test/support/database.ts';
import { Registry, registrySchema, type Publication } from './index.ts';

let database: TestDatabase;
let dir: string;
let objects: ObjectStore;
let registry: Registry;
beforeAll(async () => {
  database = await testDatabase([registrySchema]);
  dir = await mkdtemp(join(tmpdir(), 'reef-registry-'));
  objects = await openObjects(pathToFileURL(dir).href);
  registry = new Registry(database.db, new ManualClock(new Date('2026-11-25T08:00:00Z')), objects);
});
afterAll(async () => {
  await database.drop();
  await rm(dir, { recursive: true });
});

async function publication(): Promise<Publication> {
  const file = await objects.put(Buffer.from('model'));
  const envelope = await objects.put(Buffer.from('{}'));
  return {
    bundleDigest: 'b'.repeat(64), envelopeDigest: envelope.digest, labels: ['a', 'b'], task: 'classification', parity: null,
    lineage: { source: { digest: 'c'.repeat(64), filename: 'm.tgz' }, calibration: null, evaluation: null, job: null, parent: null, tools: {} },
    variants: [{ name: 'cpu-int8', kind: 'cpu-int8', minRuntime: null, ...file }, { name: 'edgetpu-14', kind: 'edgetpu', minRuntime: 14, ...file, details: { onChipBytes: 5 } }],
  };
}

describe('models', () => {
  it('are listed by name, page by page', async () => {
    for (const name of ['list-c', 'list-a', 'list-b']) await registry.createModel({ name, description: `about ${name}` });
    const first = await registry.listModels({ limit: 2, cursor: 'list-' });
    expect(first.items.map((model) => model.name)).toEqual(['list-a', 'list-b']);
    expect(await registry.listModels({ limit: 2, cursor: first.nextCursor! })).toMatchObject({ items: [{ name: 'list-c', latestVersion: null, versions: 0 }], nextCursor: null });
  });

  it('have one name each, of legal characters', async () => {
    await registry.createModel({ name: 'taken' });
    await expect(registry.createModel({ name: 'taken' })).rejects.toMatchObject({ code: 'model.exists' });
    await expect(registry.createModel({ name: 'Not legal' })).rejects.toMatchObject({ code: 'model.name_invalid' });
    await expect(registry.findModel('nowhere')).rejects.toMatchObject({ code: 'model.missing' });
  });
});

describe('versions', () => {
  it('are numbered without gaps, also when many are created at once', async () => {
    const made = await Promise.all(Array.from({ length: 10 }, async () => registry.createVersion('busy')));
    expect(made.map((version) => version.version).sort((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    const newest = await registry.listVersions('busy', { limit: 3 });
    expect(newest.items.map((version) => version.version)).toEqual([10, 9, 8]);
    expect((await registry.listVersions('busy', { limit: 3, cursor: newest.nextCursor! })).items[0]!.version).toBe(7);
  });

  it('become ready once, with their variants, and never change again', async () => {
    const version = await registry.createVersion('ready');
    const published = await publication();
    await expect(registry.publish(version.id, published)).rejects.toMatchObject({ code: 'version.state_wrong' });
    await database.db.transaction(async (tx) => registry.move(version.id, 'BUILDING', tx));
    await expect(registry.publish(version.id, { ...published, envelopeDigest: 'f'.repeat(64) })).rejects.toMatchObject({ code: 'object.missing' });
    await registry.publish(version.id, published);
    const again = await registry.publish(version.id, published);
    expect(again).toMatchObject({ state: 'READY', bundleDigest: published.bundleDigest, labels: ['a', 'b'] });
    expect(again.variants.map(({ name, bytes }) => [name, bytes])).toEqual([['cpu-int8', 5], ['edgetpu-14', 5]]);
    await expect(registry.publish(version.id, { ...published, bundleDigest: 'e'.repeat(64) })).rejects.toMatchObject({ code: 'version.state_wrong' });
    await expect(database.db.transaction(async (tx) => registry.move(version.id, 'FAILED', tx))).rejects.toMatchObject({ code: 'version.state_wrong' });
    await registry.record(version.id, { analysis: { verdict: 'late' } });
    expect((await registry.versionById(version.id)).analysis).toBeNull();
  });

  it('are found by reference, by bundle and by id', async () => {
    const draft = await registry.createVersion('ready');
    expect((await registry.versionByRef('ready')).version).toBe(1);
    expect((await registry.versionByRef('ready@2')).id).toBe(draft.id);
    expect((await registry.versionByBundle('b'.repeat(64)))?.model).toBe('ready');
    expect([...await registry.refsOf(['b'.repeat(64), 'c'.repeat(64)])]).toEqual([['b'.repeat(64), 'ready@1']]);
    expect((await registry.predecessorOf(draft))?.version).toBe(1);
    for (const [ref, code] of [['ready@9', 'version.missing'], ['none', 'version.missing'], ['Ready', 'version.ref_invalid']] as const) await expect(registry.versionByRef(ref)).rejects.toMatchObject({ code });
    await expect(registry.versionById('x')).rejects.toMatchObject({ code: 'version.missing' });
  });
});
