import { randomBytes, X509Certificate } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zstdDecompressSync } from 'node:zlib';
import { Authority, revokedSerials } from '@reefkeeper/devices';
import { sha256, type ObjectStore } from '@reefkeeper/platform';
import { Registry } from '@reefkeeper/registry';
import { DataSource } from 'typeorm';
import { Agent, request, type Dispatcher } from 'undici';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { certificateRequest } from '../../../test/support/certificate-request.ts';
import { rangeOf } from './downloads.ts';
import { openHarness, type Harness, type TestDevice } from './harness.fixture.ts';

let world: Harness;
let device: TestDevice;
let model: Buffer;
let stored: { digest: string; bytes: number };
let secret: string;
const bundle = 'ab'.repeat(32);
const envelope = Buffer.from('{"payload":"","signatures":[]}');

beforeAll(async () => {
  world = await openHarness();
  device = await world.enrol('cam-1');
  const objects = world.app.get<ObjectStore>('OBJECTS');
  const registry = world.app.get(Registry, { strict: false });
  model = randomBytes(300_000);
  stored = await objects.put(model);
  secret = (await objects.put(Buffer.from('training data'))).digest;
  const kept = await objects.put(envelope);
  const version = await registry.createVersion('m');
  await world.app.get(DataSource).transaction((tx) => registry.move(version.id, 'BUILDING', tx));
  await registry.publish(version.id, { bundleDigest: bundle, envelopeDigest: kept.digest, labels: null, task: 'classification', lineage: {} as never, parity: null, variants: [{ name: 'cpu-int8', kind: 'cpu-int8', minRuntime: null, ...stored }] });
});
afterAll(() => world?.close());

const get = async (path: string, headers: Record<string, string> = {}, as: Dispatcher = device.agent, method: 'GET' | 'HEAD' = 'GET') => {
  const answer = await request(`${world.gateway}${path}`, { method, headers, dispatcher: as });
  return { status: answer.statusCode, headers: answer.headers, body: Buffer.from(await answer.body.arrayBuffer()) };
};
const post = async (path: string, body: object, as: Dispatcher) => {
  const answer = await request(`${world.gateway}${path}`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body), dispatcher: as });
  return { status: answer.statusCode, body: (await answer.body.json()) as any };
};

describe('who may come in', () => {
  const stranger = new Agent({ connect: { rejectUnauthorized: false } });
  afterAll(() => stranger.destroy());

  it('everyone sees the authority, nobody anything else without a certificate', async () => {
    expect((await get('/ca.pem', {}, stranger)).body.toString()).toContain('BEGIN CERTIFICATE');
    for (const path of [`/v1/bundles/${bundle}`, `/v1/blobs/${stored.digest}`]) {
      const answer = await get(path, {}, stranger);
      expect(answer.status).toBe(401);
      expect(JSON.parse(answer.body.toString())).toMatchObject({ code: 'device.unauthenticated' });
    }
    expect(await post('/v1/renew', { csr: 'x' }, stranger)).toMatchObject({ status: 401 });
    expect(await get('/v1/else', {}, stranger)).toMatchObject({ status: 404 });
  });

  it('a certificate of another authority with the right name is nobody\'s', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'reef-other-'));
    const other = await (await Authority.loadOrCreate(dir)).ownFiles(dir, 'cam-1', { commonName: 'cam-1', client: true });
    await rm(dir, { recursive: true });
    const forger = new Agent({ connect: { rejectUnauthorized: false, cert: other.certificate, key: other.key } });
    expect((await get(`/v1/blobs/${stored.digest}`, {}, forger)).status).toBe(401);
    await forger.destroy();
  });

  it('enrolment answers with all a device needs; bad ones with why', async () => {
    const { csr, key } = await certificateRequest('whatever');
    const { body: { token } } = await world.call('POST', '/api/v1/enrolment-tokens', { labels: { site: 'lyon' } });
    const { status, body } = await post('/v1/enrol', { token, csr, deviceId: 'cam-2', hostname: 'h', capabilities: {} }, stranger);
    expect(status).toBe(200);
    expect(body).toMatchObject({ deviceId: 'cam-2', mqttUrl: world.broker.url, gatewayUrl: 'https://localhost:8443', signingKeys: [{ keyId: expect.stringMatching(/^[0-9a-f]{16}$/), publicKeyPem: expect.stringContaining('PUBLIC KEY') }] });
    expect(new X509Certificate(body.certificate).checkPrivateKey(key)).toBe(true);
    expect(new X509Certificate(body.certificate).verify(new X509Certificate(body.ca).publicKey)).toBe(true);
    expect(await post('/v1/enrol', { token, csr, deviceId: 'cam-9' }, stranger)).toMatchObject({ status: 403, body: { code: 'enrolment.token_invalid' } });
    expect(await post('/v1/enrol', { token }, stranger)).toMatchObject({ status: 400, body: { code: 'request.invalid', detail: expect.stringContaining('csr') } });
    expect(await post('/v1/enrol', { token, csr: 'x'.repeat(100_000) }, stranger)).toMatchObject({ status: 413, body: { code: 'request.too_large' } });
  });

  it('a renewed certificate opens the doors, and so does the old one until it ends', async () => {
    const { csr, keyPem } = await certificateRequest('x');
    const { body } = await post('/v1/renew', { csr }, device.agent);
    expect(body).toMatchObject({ deviceId: 'cam-1', ca: expect.any(String) });
    const renewed = new Agent({ connect: { ca: body.ca, cert: body.certificate, key: keyPem } });
    expect((await get(`/v1/blobs/${stored.digest}`, {}, renewed)).status).toBe(200);
    expect((await get(`/v1/blobs/${stored.digest}`)).status).toBe(200);
    await renewed.destroy();
  });

  it('a retired device is refused on the connection it holds, and named in the revocation list', async () => {
    const leaving = await world.enrol('cam-3');
    expect((await get(`/v1/blobs/${stored.digest}`, {}, leaving.agent)).status).toBe(200);
    await world.call('DELETE', '/api/v1/devices/cam-3');
    const refused = await get(`/v1/blobs/${stored.digest}`, {}, leaving.agent);
    expect(refused.status).toBe(403);
    expect(JSON.parse(refused.body.toString())).toMatchObject({ code: 'device.retired' });
    const serial = new X509Certificate(leaving.certificate).serialNumber.toLowerCase();
    await expect.poll(async () => [...await revokedSerials(await readFile(`${world.keysDir}/crl.pem`, 'utf8'), await readFile(`${world.keysDir}/ca.pem`, 'utf8'))], { timeout: 10_000 }).toContain(serial);
  });
});

describe('downloads', () => {
  const blob = () => `/v1/blobs/${stored.digest}`;

  it('whole, with its digest as tag', async () => {
    const answer = await get(blob());
    expect(answer).toMatchObject({ status: 200, headers: { 'content-length': '300000', etag: `"${stored.digest}"`, 'accept-ranges': 'bytes', 'content-type': 'application/octet-stream', 'cache-control': expect.stringContaining('immutable') } });
    expect(answer.body.equals(model)).toBe(true);
    expect(await get(blob(), {}, device.agent, 'HEAD')).toMatchObject({ status: 200, headers: { 'content-length': '300000' } });
    expect(await get(blob(), { 'if-none-match': `"x", W/"${stored.digest}"` })).toMatchObject({ status: 304 });
    expect(await get(blob(), { 'if-none-match': '"x"' })).toMatchObject({ status: 200 });
  });

  it('in parts, to resume', async () => {
    const rest = await get(blob(), { range: 'bytes=299990-' });
    expect(rest).toMatchObject({ status: 206, headers: { 'content-range': 'bytes 299990-299999/300000', 'content-length': '10' } });
    expect(rest.body.equals(model.subarray(299_990))).toBe(true);
    expect((await get(blob(), { range: 'bytes=5-9' })).body.equals(model.subarray(5, 10))).toBe(true);
    expect((await get(blob(), { range: 'bytes=-7' })).body.equals(model.subarray(-7))).toBe(true);
    expect(await get(blob(), { range: 'bytes=300000-' })).toMatchObject({ status: 416, headers: { 'content-range': 'bytes */300000' } });
    expect(await get(blob(), { range: 'bytes=5-9', 'if-range': '"something else"' })).toMatchObject({ status: 200 });
    expect(await get(blob(), { range: 'bytes=5-9', 'if-range': `"${stored.digest}"` })).toMatchObject({ status: 206 });
  });

  it('a delta from what the device has, to resume by its own tag; none where it is not worth it', async () => {
    const registry = world.app.get(Registry, { strict: false });
    const retrained = Buffer.concat([model.subarray(0, 100_000), randomBytes(2_000), model.subarray(100_000)]);
    const golden = (content: Buffer) => registry.keep(content, { mediaType: 'application/octet-stream', role: 'golden' });
    const to = (await golden(retrained)).digest;
    const path = `/v1/blobs/${to}/delta?from=${stored.digest}`;
    const answers = await Promise.all([get(path), get(path), get(path)]);
    for (const { status, body } of answers) {
      expect(status).toBe(200);
      expect(body.length).toBeLessThan(4_000);
      expect(zstdDecompressSync(body, { dictionary: model }).equals(retrained)).toBe(true);
    }
    const { etag } = answers[0]!.headers;
    expect(etag).toBe(`"${sha256(answers[0]!.body)}"`);
    const rest = await get(path, { range: 'bytes=1000-', 'if-range': etag as string });
    expect(rest.status).toBe(206);
    expect(rest.body.equals(answers[0]!.body.subarray(1_000))).toBe(true);
    const other = (await golden(randomBytes(300_000))).digest;
    for (const [refused, status, code] of [
      [`/v1/blobs/${other}/delta?from=${stored.digest}`, 404, 'delta.none'], [`/v1/blobs/${to}/delta?from=${secret}`, 404, 'artifact.missing'], [`/v1/blobs/${secret}/delta?from=${to}`, 404, 'artifact.missing'],
      [`/v1/blobs/${to}/delta`, 400, 'request.invalid'], [`/v1/blobs/${to}/delta?from=x`, 400, 'request.invalid'],
    ] as const) {
      const answer = await get(refused);
      expect([answer.status, JSON.parse(answer.body.toString()).code]).toEqual([status, code]);
    }
  });

  it('people see what a device would transfer, and the envelope it gets', async () => {
    const registry = world.app.get(Registry, { strict: false });
    const [old, content] = [randomBytes(50_000), randomBytes(100)];
    const keep = async (bytes: Buffer) => (await registry.keep(bytes, { mediaType: 'application/octet-stream', role: 'model' })).digest;
    const [from, to, other] = [await keep(old), await keep(Buffer.concat([content, old])), await keep(randomBytes(10_000))];
    expect(await world.call('GET', `/api/v1/artifacts/${to}/delta?from=${from}`)).toMatchObject({ status: 200, body: { from, to, bytes: 50_100, deltaBytes: expect.any(Number) } });
    expect(await world.call('GET', `/api/v1/artifacts/${other}/delta?from=${from}`)).toMatchObject({ status: 200, body: { bytes: 10_000, deltaBytes: null } });
    expect(await world.call('GET', `/api/v1/artifacts/${to}/delta?from=${'0'.repeat(64)}`)).toMatchObject({ status: 404, body: { code: 'artifact.missing' } });
    expect(await world.call('GET', `/api/v1/artifacts/${to}/delta`)).toMatchObject({ status: 400 });
    expect(await world.call('GET', '/api/v1/models/m/versions/1/bundle')).toMatchObject({ status: 200, body: JSON.parse(envelope.toString()) });
    await registry.createVersion('m');
    expect(await world.call('GET', '/api/v1/models/m/versions/2/bundle')).toMatchObject({ status: 404, body: { code: 'bundle.missing' } });
  });

  it('many at once get the same bytes', async () => {
    const answers = await Promise.all(Array.from({ length: 20 }, (_, n) => get(blob(), { range: `bytes=${n * 1000}-` })));
    expect(answers.every(({ body }, n) => body.equals(model.subarray(n * 1000)))).toBe(true);
  });

  it('bundles by the digest of their manifest; nothing that is not for devices', async () => {
    expect((await get(`/v1/bundles/${bundle}`))).toMatchObject({ status: 200, body: envelope, headers: { 'content-type': expect.stringContaining('application/json') } });
    for (const [path, status] of [[`/v1/bundles/${'cd'.repeat(32)}`, 404], [`/v1/blobs/${'cd'.repeat(32)}`, 404], [`/v1/blobs/${secret}`, 404], ['/v1/blobs/..%2f..%2fetc%2fpasswd', 400]] as const) {
      const answer = await get(path);
      expect(answer.status).toBe(status);
      expect(answer.headers['content-type']).toContain('problem+json');
      expect(answer.headers.etag).toBeUndefined();
    }
  });

  it.each([
    ['bytes=0-', 10, { start: 0, end: 9 }], ['bytes=3-5', 10, { start: 3, end: 5 }], ['bytes=3-50', 10, { start: 3, end: 9 }], ['bytes=-3', 10, { start: 7, end: 9 }], ['bytes=-30', 10, { start: 0, end: 9 }],
    ['bytes=10-', 10, 'unsatisfiable'], ['bytes=-0', 10, 'unsatisfiable'], ['bytes=5-3', 10, undefined], ['bytes=1-2,4-5', 10, undefined], ['bytes=-', 10, undefined], ['items=1-2', 10, undefined], [undefined, 10, undefined], ['bytes=0-', 0, 'unsatisfiable'],
  ] as const)('range %s of %i is %j', (header, bytes, wanted) => expect(rangeOf(header, bytes)).toEqual(wanted));
});

describe('captured pictures', () => {
  const id = '0f8fad5b-d9cb-469f-a165-70867728950e';
  const jpeg = Buffer.concat([Buffer.from([0xff, 0xd8, 0xff, 0xe0]), randomBytes(2_000)]);
  const facts = { workload: 'classifier', bundle, variant: 'cpu-int8', backend: 'cpu', prediction: 'cat', score: '0.52', margin: '0.04', takenAt: '2026-01-01T00:00:00.000Z' };
  const send = async (path: string, body: Buffer, as: Dispatcher = device.agent) => {
    const answer = await request(`${world.gateway}${path}`, { method: 'POST', headers: { 'content-type': 'application/octet-stream' }, body, dispatcher: as });
    return { status: answer.statusCode, body: (await answer.body.json()) as any };
  };
  const path = (one = id, more: Record<string, string> = {}) => `/v1/captures/${one}?${new URLSearchParams({ ...facts, ...more }).toString()}`;

  it('come in from devices, once each; are listed, shown, labelled and removed', async () => {
    expect(await send(path(), jpeg)).toMatchObject({ status: 201, body: { id, digest: sha256(jpeg) } });
    expect(await send(path(), jpeg)).toMatchObject({ status: 200 });
    const other = await world.enrol('cam-2');
    expect(await send(path(), jpeg, other.agent)).toMatchObject({ status: 409, body: { code: 'capture.known_elsewhere' } });
    expect(await send(path('1f8fad5b-d9cb-469f-a165-70867728950e'), Buffer.concat([jpeg, Buffer.from('2')]), other.agent)).toMatchObject({ status: 201 });

    const all = await world.call('GET', '/api/v1/captures');
    expect(all.body.items).toMatchObject([{ deviceId: 'cam-2', label: null }, { id, deviceId: 'cam-1', workload: 'classifier', bundle, prediction: 'cat', score: expect.closeTo(0.52, 5), margin: expect.closeTo(0.04, 5) }]);
    const first = await world.call('GET', '/api/v1/captures?limit=1');
    expect((await world.call('GET', `/api/v1/captures?limit=1&cursor=${first.body.nextCursor}`)).body.items).toMatchObject([{ id }]);
    await world.call('PATCH', '/api/v1/devices/cam-1', { labels: { shelf: 'seven' } });
    expect((await world.call('GET', '/api/v1/captures?selector=shelf%3Dseven')).body.items).toMatchObject([{ id }]);

    expect(await world.call('PATCH', `/api/v1/captures/${id}`, { label: 'dog' })).toMatchObject({ status: 200, body: { label: 'dog', labelledBy: expect.any(String) } });
    expect((await world.call('GET', '/api/v1/captures?label=*')).body.items).toHaveLength(1);
    expect((await world.call('GET', '/api/v1/captures?label=-')).body.items).toMatchObject([{ deviceId: 'cam-2' }]);
    expect((await world.call('PATCH', `/api/v1/captures/${id}`, { label: '../dog' })).status).toBe(400);
    expect((await world.call('DELETE', `/api/v1/captures/${id}`)).status).toBe(204);
    expect(await world.call('GET', `/api/v1/captures/${id}`)).toMatchObject({ status: 404, body: { code: 'capture.missing' } });
  });

  it('are refused from strangers, without facts, and when they are no pictures', async () => {
    const stranger = new Agent({ connect: { rejectUnauthorized: false } });
    expect(await send(path('2f8fad5b-d9cb-469f-a165-70867728950e'), jpeg, stranger)).toMatchObject({ status: 401 });
    await stranger.destroy();
    expect(await send(path('2f8fad5b-d9cb-469f-a165-70867728950e', { score: '2' }), jpeg)).toMatchObject({ status: 400 });
    expect(await send(path('2f8fad5b-d9cb-469f-a165-70867728950e'), Buffer.from('GIF89a'))).toMatchObject({ status: 400 });
    expect(await send(path('nothing'), jpeg)).toMatchObject({ status: 400 });
    expect(await send(path('2f8fad5b-d9cb-469f-a165-70867728950e'), Buffer.alloc(3 * 1024 * 1024, 0xff))).toMatchObject({ status: 413, body: { code: 'request.too_large' } });
  });
});
