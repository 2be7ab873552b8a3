import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import getPort from 'get-port';
import { DataSource } from 'typeorm';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { loadOrCreateSigningKey, signBundle } from '@reefkeeper/bundle';
import { Enrolment } from '@reefkeeper/devices';
import { Registry } from '@reefkeeper/registry';
import type { Agent } from '../../apps/agent/src/agent.ts';
import { Client } from '../../apps/cli/src/client.ts';
import { bundleDiff, openBundle } from '../../apps/cli/src/offline/bundle-diff.ts';
import { adminToken, openHarness, type Harness } from '../../apps/controller/src/harness.fixture.ts';
import { joined, startAgent } from '../support/device.ts';
import { eventually, Fleet } from '../support/fleet.ts';

// The real controller and real agents: what one side says of downloads is what the other understands.
let world: Harness;
let models: Fleet;
let root: string;
const agents: Agent[] = [];

beforeAll(async () => {
  const port = await getPort({ host: '127.0.0.1' });
  world = await openHarness({ GATEWAY_PORT: String(port), PUBLIC_GATEWAY_URL: `https://localhost:${port}` });
  models = await Fleet.open();
  root = await mkdtemp(join(tmpdir(), 'reef-downloads-'));
});
afterAll(async () => {
  await Promise.all(agents.map((agent) => agent.stop()));
  await models?.close();
  await world?.close();
  await rm(root, { recursive: true, force: true });
});

async function start(id: string, env: Record<string, string>): Promise<void> {
  const { token } = await world.app.get(Enrolment, { strict: false }).createToken({ deviceId: id, labels: { site: 'lyon' } }, 'test');
  const dir = join(root, id);
  await joined({ gatewayUrl: world.gateway, token }, dir, id);
  agents.push(await startAgent(dir, { REEF_LOCAL_API: '', REEF_DISK_RESERVE: '0', ...env }));
  await eventually(async () => (await world.call('GET', `/api/v1/devices/${id}`)).body.reported !== null);
}

/** A READY version of the colours model, signed by this controller. */
async function version(number: number): Promise<{ bytes: number; golden: number }> {
  const registry = world.app.get(Registry, { strict: false });
  const { bundle, manifest, model } = models.publish(number, { ballast: 3 });
  const keep = (content: Buffer, role: string) => registry.keep(content, { mediaType: 'application/octet-stream', role });
  await keep(model, 'model');
  await keep(models.blobs.get(manifest.golden!.digest)!, 'golden');
  const envelope = await keep(Buffer.from(JSON.stringify(signBundle(manifest, await loadOrCreateSigningKey(world.keysDir)))), 'envelope');
  const made = await registry.createVersion('colours');
  await world.app.get(DataSource).transaction((tx) => registry.move(made.id, 'BUILDING', tx));
  const { file, ...variant } = manifest.variants[0]!;
  await registry.publish(made.id, { bundleDigest: bundle, envelopeDigest: envelope.digest, labels: manifest.labels, task: manifest.task, lineage: manifest.lineage, parity: null, variants: [{ ...variant, digest: file.digest, bytes: file.bytes }] });
  return { bytes: model.length, golden: manifest.golden!.bytes };
}

const off = { errorRate: null, latencyP95: null, accuracy: null };
async function rollout(of: string, body: object = {}): Promise<string> {
  const { body: made, status } = await world.call('POST', '/api/v1/rollouts', { version: of, workload: 'colours', waves: [{ count: 1 }, { percent: 100 }], soakS: 1, policy: { observeS: 0 }, gates: off, ...body });
  expect([status, made.code, made.detail]).toEqual([201, undefined, undefined]);
  return made.id as string;
}
async function ended(id: string): Promise<any> {
  return eventually(async () => {
    const { body } = await world.call('GET', `/api/v1/rollouts/${id}`);
    return body.state === 'SUCCEEDED' && body;
  }, 120_000);
}

it('a site: the canary fetches, the other takes from it; a new version is a delta; over the budget a device waits, is seen to, and is let through', async () => {
  const peers = { REEF_PEER_CACHE: 'on', REEF_PEER_LISTEN: '127.0.0.1:0' };
  await start('cam-1', peers);
  await start('cam-2', peers);
  const one = await version(1);
  const first = one.bytes + one.golden;
  expect(await ended(await rollout('colours@1'))).toMatchObject({ transfer: { fullBytes: first, peerBytes: first, deltaBytes: 0, savedBytes: 0 } });

  const two = await version(2);
  const client = async () => new Client(world.url, adminToken);
  const diff = await bundleDiff(await openBundle('colours@1', client), await openBundle('colours@2', client));
  expect(diff).toMatchObject({ fields: [{ path: 'lineage.source.digest' }], labels: null, files: [{ part: 'cpu-int8', change: 'changed' }, { part: 'golden', change: 'same' }] });
  const { transfer } = await ended(await rollout('colours@2'));
  // The golden pack is the same; the model differs by its description.
  expect(transfer).toMatchObject({ fullBytes: 0, peerBytes: two.bytes });
  expect(transfer.deltaBytes).toBeLessThan(two.bytes / 20);
  // As it was said before.
  expect(diff.transfers).toEqual([{ variant: 'cpu-int8', bytes: transfer.deltaBytes, fullBytes: two.bytes + two.golden }]);
  expect(transfer.deltaBytes + transfer.savedBytes).toBe(two.bytes);

  await start('cam-3', {});
  expect(await world.call('POST', '/api/v1/devices/configure', { selector: 'site=lyon', config: { link: 'metered', dataBudget: { bytes: 5_000, per: 'day' } } })).toMatchObject({ status: 200, body: { devices: 3 } });
  await version(3);
  const id = await rollout('colours@3', { waves: [{ percent: 100 }] });
  const waiting = await eventually(async () => {
    const { body } = await world.call('GET', `/api/v1/rollouts/${id}`);
    return body.waitingDevices.length > 0 && body.waves[0].counts.SUCCEEDED === 2 && body;
  }, 120_000);
  // Those that run something take a delta; the new one needs the whole, which is too much.
  expect(waiting).toMatchObject({ state: 'RUNNING', waitingDevices: [{ code: 'budget_exceeded', count: 1, devices: ['cam-3'] }], waves: [{ counts: { QUEUED: 1, FAILED: 0 } }] });
  expect(await world.call('POST', '/api/v1/devices/cam-3/commands', { kind: 'allow-download' })).toMatchObject({ status: 202 });
  expect(await ended(id)).toMatchObject({ waitingDevices: [], waves: [{ counts: { SUCCEEDED: 3 } }] });
});
