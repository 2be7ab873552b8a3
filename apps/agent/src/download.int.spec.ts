import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { joined } from '../../../test/support/device.ts';
import { eventually, Fleet } from '../../../test/support/fleet.ts';
import { DeviceClock } from './clock.ts';
import { Disk } from './disk.ts';
import { downloadBlob, downloadJson } from './download.ts';
import { Gateway } from './gateway.ts';
import { enrol, identityPath, loadIdentity, renewalDue, renewIfDue, type Identity } from './identity.ts';
import { Store } from './store.ts';

let fleet: Fleet;
let dir: string;
let identity: Identity;
let gateway: Gateway;
let store: Store;
const quick = { tries: 4, firstDelayMs: 1, maxDelayMs: 5 };

beforeAll(async () => {
  fleet = await Fleet.open();
  dir = await mkdtemp(join(tmpdir(), 'reef-agent-'));
  identity = await joined(fleet, dir, 'reef-a');
  gateway = new Gateway({ url: identity.gatewayUrl, ca: identity.ca, cert: identity.certificate, key: identity.key, idleMs: 300 });
});
afterAll(async () => {
  gateway.close();
  await fleet.close();
  await rm(dir, { recursive: true });
});
beforeEach(async () => {
  await rm(join(dir, 'store'), { recursive: true, force: true });
  store = await Store.open(join(dir, 'store'), 0);
  fleet.requests.length = 0;
  fleet.faults.clear();
});

describe('enrolment', () => {
  it('keeps key and certificate in one private file, and a second run changes nothing', async () => {
    const before = await readFile(identityPath(dir), 'utf8');
    expect((await stat(identityPath(dir))).mode & 0o077).toBe(0);
    expect(identity).toMatchObject({ deviceId: 'reef-a', ca: expect.stringContaining('BEGIN CERTIFICATE') });
    expect(await enrol(dir, { gateway: fleet.gatewayUrl, token: 'anything', hostname: 'x' })).toMatchObject({ fresh: false, identity: { deviceId: 'reef-a' } });
    expect(await readFile(identityPath(dir), 'utf8')).toBe(before);
  });

  it('does not send the token to another authority', async () => {
    const other = await mkdtemp(join(tmpdir(), 'reef-agent-'));
    const token = fleet.token.replace(/[0-9a-f]{32}$/, '0'.repeat(32));
    await expect(enrol(other, { gateway: fleet.gatewayUrl, token, hostname: 'x' })).rejects.toMatchObject({ code: 'enrolment.wrong_authority' });
    expect(fleet.requests).toEqual(['GET /ca.pem']);
    await expect(loadIdentity(other)).rejects.toMatchObject({ code: 'identity.missing' });
    await rm(other, { recursive: true });
  });

  it('passes the refusal of a used token on', async () => {
    const other = await mkdtemp(join(tmpdir(), 'reef-agent-'));
    await expect(enrol(other, { gateway: fleet.gatewayUrl, token: fleet.token.replace('sss', 'ttt'), hostname: 'x' })).rejects.toMatchObject({ code: 'enrolment.token_invalid' });
    await rm(other, { recursive: true });
  });

  it('renews in the last third, with a new key, and not by a clock that lost its battery', async () => {
    const days = (n: number) => new Date(Date.now() + n * 86_400_000);
    expect(renewalDue(identity.certificate, days(0))).toBe(false);
    expect(renewalDue(identity.certificate, days(300))).toBe(true);
    expect(renewalDue(identity.certificate, new Date(0))).toBe(false);
    const renewed = await renewIfDue(dir, identity, DeviceClock.transient({ wallMs: () => days(300).getTime() }), new Disk(dir));
    expect(renewed!.key).not.toBe(identity.key);
    expect(await loadIdentity(dir)).toEqual(renewed);
    const again = new Gateway({ url: renewed!.gatewayUrl, ca: renewed!.ca, cert: renewed!.certificate, key: renewed!.key });
    await expect(again.json('GET', `/v1/bundles/${'0'.repeat(64)}`)).rejects.toMatchObject({ kind: 'not_found' });
    again.close();
  });
});

describe('download', () => {
  it('asks for nothing that is here already', async () => {
    const blob = fleet.put(randomBytes(10_000));
    await downloadBlob(gateway, store, blob, quick);
    await downloadBlob(gateway, store, blob, quick);
    expect(fleet.requests).toEqual([`GET /v1/blobs/${blob.digest}`]);
  });

  it('fetches again what rotted on disk', async () => {
    const content = randomBytes(10_000);
    const blob = fleet.put(content);
    await downloadBlob(gateway, store, blob, quick);
    await writeFile(store.blobPath(blob.digest), Buffer.from(content).fill(0, 5_000, 5_001));
    await downloadBlob(gateway, store, blob, quick);
    expect((await readFile(store.blobPath(blob.digest))).equals(content)).toBe(true);
  });

  it('goes on after a cut from the first byte that is missing', async () => {
    const content = randomBytes(300_000);
    const blob = fleet.put(content);
    let [cuts, arrived] = [0, 0];
    fleet.faults.set(blob.digest, async (_request, response, whole) => {
      if (cuts++ > 0) return true;
      response.writeHead(200, { 'content-length': whole.length });
      response.write(whole.subarray(0, 200_000));
      await eventually(() => arrived > 0);
      response.destroy();
    });
    await downloadBlob(gateway, store, blob, { ...quick, onBytes: (bytes) => { arrived += bytes; } });
    expect((await readFile(store.blobPath(blob.digest))).equals(content)).toBe(true);
    expect(fleet.requests[1]).toMatch(/bytes=[1-9]\d*-$/);
    // Not one byte was paid for twice.
    expect(arrived).toBe(content.length);
  });

  it('starts over where the server ignores ranges or the part is longer than the file', async () => {
    const content = randomBytes(50_000);
    const blob = fleet.put(content);
    await writeFile(store.partPath(blob.digest), randomBytes(20_000));
    fleet.faults.set(blob.digest, (request, response, whole) => { delete request.headers.range; response.end(whole); });
    await downloadBlob(gateway, store, blob, quick);
    await rm(store.blobPath(blob.digest));
    await writeFile(store.partPath(blob.digest), randomBytes(60_000));
    await downloadBlob(gateway, store, blob, quick);
    expect((await readFile(store.blobPath(blob.digest))).equals(content)).toBe(true);
  });

  it('throws a part of other bytes away and fetches the whole once', async () => {
    const content = randomBytes(50_000);
    const blob = fleet.put(content);
    await writeFile(store.partPath(blob.digest), randomBytes(20_000));
    await downloadBlob(gateway, store, blob, quick);
    expect(fleet.requests).toEqual([`GET /v1/blobs/${blob.digest} bytes=20000-`, `GET /v1/blobs/${blob.digest}`]);
  });

  it('never keeps a file with another digest', async () => {
    const blob = fleet.put(randomBytes(5_000));
    fleet.faults.set(blob.digest, (_request, response) => { response.end(randomBytes(5_000)); });
    await expect(downloadBlob(gateway, store, blob, quick)).rejects.toMatchObject({ code: 'artifact.checksum_mismatch' });
    await expect(stat(store.blobPath(blob.digest))).rejects.toThrow();
    await expect(stat(store.partPath(blob.digest))).rejects.toThrow();
    fleet.faults.set(blob.digest, (_request, response) => { response.end(randomBytes(6_000)); });
    await expect(downloadBlob(gateway, store, blob, quick)).rejects.toMatchObject({ code: 'artifact.checksum_mismatch', message: expect.stringContaining('longer') });
  });

  it('says missing after a few 404, and nothing more is asked', async () => {
    const blob = { digest: 'f'.repeat(64), bytes: 5 };
    await expect(downloadBlob(gateway, store, blob, quick)).rejects.toMatchObject({ code: 'artifact.missing' });
    expect(fleet.requests).toHaveLength(3);
    await expect(downloadJson(gateway, `/v1/bundles/${'e'.repeat(64)}`, quick)).rejects.toMatchObject({ code: 'artifact.missing' });
  });

  it('gives up on a gateway that stalls or breaks, after bounded tries', async () => {
    const blob = fleet.put(randomBytes(5_000));
    fleet.faults.set(blob.digest, () => {});
    await expect(downloadBlob(gateway, store, blob, { ...quick, tries: 2 })).rejects.toMatchObject({ code: 'gateway.unreachable', kind: 'unavailable' });
    expect(fleet.requests).toHaveLength(2);
    fleet.faults.set(blob.digest, (_request, response) => { response.writeHead(503).end('busy'); });
    await expect(downloadBlob(gateway, store, blob, { ...quick, tries: 2 })).rejects.toMatchObject({ code: 'gateway.failed' });
  });

  it('is broken off at once when told so', async () => {
    const blob = fleet.put(randomBytes(5_000));
    const abort = new AbortController();
    fleet.faults.set(blob.digest, () => { abort.abort(new Error('enough')); });
    await expect(downloadBlob(gateway, store, blob, { ...quick, signal: abort.signal })).rejects.toThrow('enough');
  });

  it('leaves the reserve on the disk alone', async () => {
    const blob = fleet.put(randomBytes(5_000));
    const careful = await Store.open(join(dir, 'store'), Number.MAX_SAFE_INTEGER);
    await expect(downloadBlob(gateway, careful, blob, quick)).rejects.toMatchObject({ code: 'disk.full' });
    expect(fleet.requests).toEqual([]);
  });
});

describe('store', () => {
  it('collects what no kept bundle needs, and shared files stay', async () => {
    const [one, two] = [fleet.publish(1), fleet.publish(1, { alter: (manifest) => ({ ...manifest, version: 2 }) })];
    const three = fleet.publish(3);
    for (const { bundle, manifest } of [one, two, three]) {
      for (const file of [manifest.variants[0]!.file, manifest.golden!]) await downloadBlob(gateway, store, file, quick);
      await store.install(bundle, manifest);
    }
    expect([...(await store.survey()).installed.keys()].sort()).toEqual([one.bundle, two.bundle, three.bundle].sort());
    await store.collect(new Set([two.bundle]));
    expect([...(await store.survey()).stored]).toEqual([two.bundle]);
    expect(await store.holds(two.manifest.variants[0]!.file)).toBe(true);
    expect(await store.holds(three.manifest.variants[0]!.file)).toBe(false);
  });
});
