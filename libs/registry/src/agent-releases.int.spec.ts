import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from 'tar';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { loadOrCreateSigningKey, verifyBundle } from '@reefkeeper/bundle';
import { openObjects, systemClock } from '@reefkeeper/platform';
import { testDatabase } from '../../../test/support/database.ts';
import { AgentReleases, Registry, registrySchema, variantFor } from './index.ts';

let dir: string;
let db: Awaited<ReturnType<typeof testDatabase>>;
let registry: Registry;
let releases: AgentReleases;
let key: Awaited<ReturnType<typeof loadOrCreateSigningKey>>;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'reef-releases-'));
  db = await testDatabase([registrySchema]);
  const objects = await openObjects(`file://${dir}/objects`);
  registry = new Registry(db.db, systemClock, objects);
  key = await loadOrCreateSigningKey(dir);
  releases = new AgentReleases(db.db, objects, registry, key);
});
afterEach(async () => {
  await db.drop();
  await rm(dir, { recursive: true, force: true });
});

/** A build as the packaging makes it, as far as the registry looks. */
async function upload(version: string, architecture: string, main = 'main'): Promise<string> {
  await writeFile(join(dir, 'release.json'), JSON.stringify({ schema: 1, version, architecture, minNode: '24.0.0' }));
  await writeFile(join(dir, 'main.js'), main);
  const tar = await create({ cwd: dir, portable: true, noMtime: true }, ['main.js', 'release.json']).concat();
  return (await registry.keep(tar, { mediaType: 'application/octet-stream', role: 'upload' })).digest;
}

describe('releases of the agent', () => {
  it('are signed versions that devices get by their machine', async () => {
    const [arm, amd] = [await upload('1.2.0', 'arm64'), await upload('1.2.0', 'amd64')];
    const version = await releases.publish({ digests: [arm, amd] }, 'olga');
    expect(version).toMatchObject({ model: 'reef-agent', version: 1, state: 'READY', task: 'agent', createdBy: 'olga' });
    const manifest = verifyBundle(JSON.parse((await registry.envelopeOf(version.bundleDigest!)).toString()), [key]);
    expect(manifest.variants.map(({ name, file }) => [name, file.digest])).toEqual([['agent-amd64', amd], ['agent-arm64', arm]]);
    expect(await registry.openToDevices(arm)).toBe(true);

    const device = { edgetpuRuntime: null, edgetpus: [] };
    expect(variantFor(version, { ...device, arch: 'x64', release: 'factory' }, { cpuFallback: true })).toMatchObject({ ok: true, variant: { name: 'agent-amd64' } });
    expect(variantFor(version, { ...device, arch: 'arm64', release: 'a'.repeat(64) }, { cpuFallback: true })).toMatchObject({ ok: true, variant: { name: 'agent-arm64' } });
    expect(variantFor(version, { ...device, arch: 'arm', release: 'factory' }, { cpuFallback: true })).toMatchObject({ ok: false, reason: 'no_build' });
    expect(variantFor(version, { ...device, arch: 'x64' }, { cpuFallback: true })).toMatchObject({ ok: false, reason: 'not_updatable' });
  });

  it('are made once, however often and at the same time they are asked for', async () => {
    const digests = [await upload('1.2.0', 'arm64'), await upload('1.2.0', 'amd64')];
    const made = await Promise.all([1, 2, 3].map(() => releases.publish({ digests }, 'olga')));
    expect(new Set(made.map(({ id }) => id)).size).toBe(1);
    expect((await registry.listVersions('reef-agent')).items).toHaveLength(1);
    await expect(releases.publish({ digests: [await upload('1.2.0', 'arm64', 'other')] }, 'olga')).rejects.toMatchObject({ code: 'agent_release.exists' });
    expect(await releases.publish({ digests: [await upload('1.3.0', 'arm64')] }, 'olga')).toMatchObject({ version: 2 });
  });

  it('refuse what is not a build, builds of two versions, and models of their name', async () => {
    const junk = (await registry.keep(Buffer.alloc(10_240, 7), { mediaType: 'application/octet-stream', role: 'upload' })).digest;
    await expect(releases.publish({ digests: [junk] }, 'olga')).rejects.toMatchObject({ code: 'agent_release.malformed' });
    await expect(releases.publish({ digests: [await upload('1.2.0', 'riscv64')] }, 'olga')).rejects.toMatchObject({ code: 'agent_release.malformed' });
    await expect(releases.publish({ digests: ['0'.repeat(64)] }, 'olga')).rejects.toMatchObject({ code: 'artifact.missing' });
    await expect(releases.publish({ digests: [await upload('1.2.0', 'arm64'), await upload('1.3.0', 'amd64')] }, 'olga')).rejects.toMatchObject({ code: 'agent_release.mixed' });
    await expect(releases.publish({ digests: [await upload('1.2.0', 'arm64'), await upload('1.2.0', 'arm64', 'other')] }, 'olga')).rejects.toMatchObject({ code: 'agent_release.mixed' });
    await expect(registry.createVersion('reef-agent', { task: 'classification' })).rejects.toMatchObject({ code: 'model.name_reserved' });
    await expect(registry.createVersion('mine', { task: 'agent' })).rejects.toMatchObject({ code: 'model.name_reserved' });
  });
});
