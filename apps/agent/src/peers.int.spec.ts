import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:https';
import type { RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { openLogger } from '@reefkeeper/platform/logger';
import type { Peer } from '@reefkeeper/protocol';
import { joined, quick, startAgent } from '../../../test/support/device.ts';
import { Fleet } from '../../../test/support/fleet.ts';
import { Authority } from '../../../libs/devices/src/authority.ts';
import { bringBlob } from './bring.ts';
import { Gateway } from './gateway.ts';
import type { Identity } from './identity.ts';
import { Pace, PeerServer } from './peer-server.ts';
import { Peers } from './peers.ts';
import { Store, type BlobName } from './store.ts';

let fleet: Fleet;
let root: string;
const identities: Record<string, Identity> = {};
const log = openLogger('agent', process.env.AGENT_LOG ?? 'silent');
const content = randomBytes(200_000);
let blob: BlobName;
let stores: { near: Store; mine: Store };
let server: PeerServer;
let gateway: Gateway;
const closing: (() => Promise<unknown>)[] = [];

beforeAll(async () => {
  fleet = await Fleet.open();
  root = await mkdtemp(join(tmpdir(), 'reef-peers-'));
  for (const id of ['near', 'mine']) identities[id] = await joined(fleet, join(root, id), id);
  const { gatewayUrl: url, ca, certificate: cert, key } = identities.mine!;
  gateway = new Gateway({ url, ca, cert, key });
});
afterAll(async () => {
  gateway.close();
  await fleet.close();
  await rm(root, { recursive: true });
});
beforeEach(async () => {
  for (const id of ['near', 'mine']) await rm(join(root, id, 'store'), { recursive: true, force: true });
  stores = { near: await Store.open(join(root, 'near/store'), 0), mine: await Store.open(join(root, 'mine/store'), 0) };
  blob = fleet.put(content);
  fleet.faults.clear();
  server = await PeerServer.start({ store: stores.near, identity: () => identities.near!, listen: '127.0.0.1:0', bytesPerS: 50_000_000, log });
  closing.push(() => server.stop());
  await writeFile(stores.near.blobPath(blob.digest), content);
  fleet.requests.length = 0;
});
afterEach(async () => { while (closing.length > 0) await closing.pop()!(); });

const peersOf = (...known: Peer[]) => new Peers({ identity: () => identities.mine!, known: () => known, now: () => new Date(), log, idleMs: 500 });
const near = (): Peer => ({ id: 'near', ...server.address });
async function bring(peers: Peers): Promise<string[]> {
  let paid = 0;
  await bringBlob(gateway, stores.mine, blob, { tries: 2, firstDelayMs: 1, maxDelayMs: 5, bases: [], peers, onBytes: (bytes, way) => { if (way !== 'peer') paid += bytes; } });
  expect((await readFile(stores.mine.blobPath(blob.digest))).equals(content)).toBe(true);
  expect(await readdir(join(root, 'mine/store/parts'))).toEqual([]);
  // Only what came from the gateway is paid for.
  expect(paid).toBe(fleet.requests.length > 0 ? content.length : 0);
  return fleet.requests;
}

/** Something that listens where a peer is said to be. */
async function impostor(options: { cert: string; key: string }, answer: RequestListener): Promise<{ host: string; port: number }> {
  const other = createServer(options, answer).listen(0, '127.0.0.1');
  await new Promise((resolve) => { other.once('listening', resolve); });
  closing.push(async () => {
    other.closeAllConnections();
    await new Promise((resolve) => { other.close(resolve); });
  });
  return { host: '127.0.0.1', port: (other.address() as AddressInfo).port };
}

describe('a file from a peer', () => {
  it('costs the gateway nothing', async () => {
    expect(await bring(peersOf(near()))).toEqual([]);
    expect(server.servedBytes).toBe(content.length);
  });

  it('comes from the gateway where no peer has it, answers, or is known', async () => {
    await rm(stores.near.blobPath(blob.digest));
    expect(await bring(peersOf(near(), { id: 'gone', host: '127.0.0.1', port: 9 }, { id: 'mine', ...server.address }))).toHaveLength(1);
    fleet.requests.length = 0;
    await rm(stores.mine.blobPath(blob.digest));
    expect(await bring(peersOf())).toHaveLength(1);
  });

  it.each<[string, RequestListener]>([
    ['other bytes', (_request, response) => { response.end(randomBytes(200_000)); }],
    ['more than was asked for', (_request, response) => { response.end(Buffer.concat([content, content])); }],
    ['the beginning of other bytes, and no more', (_request, response) => {
      response.writeHead(200, { 'content-length': 200_000 });
      response.write(randomBytes(100_000), () => setTimeout(() => response.destroy(), 20));
    }],
    ['nothing, ever', () => {}],
  ])('that sends %s: the gateway\'s copy is fetched whole and is right', async (_what, answer) => {
    const { certificate: cert, key } = identities.near!;
    const bad: Peer = { id: 'near', ...(await impostor({ cert, key }, answer)) };
    expect(await bring(peersOf(bad))).toEqual([`GET /v1/blobs/${blob.digest}`]);
  });

  it('that lied is not asked again; a stranger is not asked at all', async () => {
    let asked = 0;
    const { certificate: cert, key } = identities.near!;
    const peers = peersOf({ id: 'near', ...(await impostor({ cert, key }, (_request, response) => { asked += 1; response.end(randomBytes(200_000)); })) });
    await bring(peers);
    await rm(stores.mine.blobPath(blob.digest));
    await bring(peers);
    expect(asked).toBe(1);
    // The right name from another authority, and a member of the fleet under another's name.
    const dir = await mkdtemp(join(root, 'other-'));
    const forged = await (await Authority.loadOrCreate(dir)).ownFiles(dir, 'near', { commonName: 'near', client: true });
    for (const files of [{ cert: forged.certificate, key: forged.key }, { cert: identities.mine!.certificate, key: identities.mine!.key }]) {
      await rm(stores.mine.blobPath(blob.digest));
      await bring(peersOf({ id: 'near', ...(await impostor(files, (_request, response) => { response.end(content); })) }));
      expect(fleet.requests.at(-1)).toBe(`GET /v1/blobs/${blob.digest}`);
    }
    expect(fleet.requests).toHaveLength(4);
  });

  it('is handed to the fleet only: nobody without a certificate, no path but blobs, not what was not verified', async () => {
    const { host, port } = server.address;
    const { certificate: cert, key, ca } = identities.mine!;
    const ask = async (path: string, options: object, method = 'GET') => new Promise<number | string>((resolve) => {
      void import('node:https').then(({ request }) => request({ host, port, path, method, agent: false, rejectUnauthorized: false, ...options }, (response) => { response.resume(); resolve(response.statusCode!); }).on('error', (error) => resolve(error.message)).end());
    });
    expect(await ask(`/v1/blobs/${blob.digest}`, { cert, key })).toBe(200);
    await writeFile(stores.near.partPath('e'.repeat(64)), 'half');
    for (const path of [`/v1/blobs/${'e'.repeat(64)}`, `/v1/blobs/..%2f..%2fidentity%2fidentity.json`, '/v1/blobs/../../identity/identity.json', '/']) expect(await ask(path, { cert, key })).toBe(404);
    expect(await ask(`/v1/blobs/${blob.digest}`, { cert, key }, 'PUT')).toBe(404);
    const dir = await mkdtemp(join(root, 'other-'));
    const forged = await (await Authority.loadOrCreate(dir)).ownFiles(dir, 'mine', { commonName: 'mine', client: true });
    for (const options of [{ ca }, { cert: forged.certificate, key: forged.key }]) expect(await ask(`/v1/blobs/${blob.digest}`, options)).toEqual(expect.any(String));
    expect(server.servedBytes).toBe(content.length);
  });
});

it('all answers together stay within the bandwidth', async () => {
  let now = 0;
  const pace = new Pace(1_000, () => now, async (ms) => { now += ms; });
  await Promise.all(Array.from({ length: 10 }, () => pace.take(500)));
  // The last one waits for the nine before it.
  expect(now).toBeGreaterThanOrEqual(4_500);
  now += 60_000;
  const later = now;
  await pace.take(500);
  expect(now).toBe(later);
});

it('two agents at one site: the second takes no byte of a file from the gateway', async () => {
  const start = async (id: string, env: Record<string, string> = {}) => {
    const agent = await startAgent(join(root, id), { REEF_LOCAL_API: '', REEF_PEER_CACHE: 'on', REEF_PEER_LISTEN: '127.0.0.1:0', ...env }, { download: { tries: 2, ...quick } });
    closing.push(() => agent.stop());
  };
  const version = fleet.publish(1);
  const ended = (id: string, revision: number) => fleet.reportWhere(({ workloads }) => workloads[id]?.execution?.revision === revision && workloads[id].execution.state === 'SUCCEEDED');
  await start('near');
  const { capabilities } = await fleet.reportWhere((report) => report.capabilities?.peer !== undefined);
  await fleet.want('near', 1, { near: { bundle: version.bundle, policy: { observeS: 0 } } });
  await ended('near', 1);
  fleet.requests.length = 0;
  await start('mine');
  await fleet.want('mine', 1, { mine: { bundle: version.bundle, policy: { observeS: 0 } } }, { peers: [{ id: 'near', ...capabilities!.peer! }] });
  const { running, execution } = (await ended('mine', 1)).workloads.mine!;
  expect(running).toBe(version.bundle);
  expect(execution!.transfer).toEqual({ fullBytes: 0, deltaBytes: 0, peerBytes: version.model.length + version.manifest.golden!.bytes, savedBytes: 0 });
  expect(fleet.requests).toEqual([`GET /v1/bundles/${version.bundle}`]);
});
