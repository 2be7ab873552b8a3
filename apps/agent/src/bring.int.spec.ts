import { createHash, randomBytes } from 'node:crypto';
import { appendFile, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { makeDelta } from '@reefkeeper/bundle';
import { joined } from '../../../test/support/device.ts';
import { eventually, Fleet } from '../../../test/support/fleet.ts';
import { bringBlob, type BringOptions } from './bring.ts';
import { Gateway } from './gateway.ts';
import { basesOf, Store, type BlobName } from './store.ts';

let fleet: Fleet;
let dir: string;
let gateway: Gateway;
let store: Store;
const sha256 = (content: Buffer) => createHash('sha256').update(content).digest('hex');
const old = randomBytes(300_000);
const retrained = Buffer.concat([old.subarray(0, 200_000), randomBytes(9_000), old.subarray(209_000)]);
let base: BlobName;
let next: BlobName;

beforeAll(async () => {
  fleet = await Fleet.open();
  dir = await mkdtemp(join(tmpdir(), 'reef-agent-'));
  const identity = await joined(fleet, dir, 'reef-a');
  gateway = new Gateway({ url: identity.gatewayUrl, ca: identity.ca, cert: identity.certificate, key: identity.key, idleMs: 300 });
});
afterAll(async () => {
  gateway.close();
  await fleet.close();
  await rm(dir, { recursive: true });
});
beforeEach(async () => {
  await rm(join(dir, 'store'), { recursive: true, force: true });
  fleet.requests.length = 0;
  fleet.bytesServed = 0;
  fleet.faults.clear();
  [base, next] = [fleet.put(old), fleet.put(retrained)];
  await reopen();
  await bring(base);
  fleet.requests.length = 0;
  fleet.bytesServed = 0;
});

async function reopen(): Promise<void> {
  store = await Store.open(join(dir, 'store'), 0);
}

let noDelta: string[] = [];
async function bring(blob: BlobName, options: Partial<BringOptions> = {}): Promise<void> {
  noDelta = [];
  await bringBlob(gateway, store, blob, { tries: 4, firstDelayMs: 1, maxDelayMs: 5, bases: [], onNoDelta: (reason) => noDelta.push(reason), ...options });
  expect((await readFile(store.blobPath(blob.digest))).equals(fleet.blobs.get(blob.digest)!)).toBe(true);
}

const wholePath = () => `GET /v1/blobs/${next.digest}`;
const deltaPath = () => `${wholePath()}/delta?from=${base.digest}`;
const leftovers = async () => readdir(join(dir, 'store/parts'));

describe('a file that resembles one that is here', () => {
  it('comes as a delta', async () => {
    let share = 0;
    let [arrived, saved] = [0, 0];
    await bring(next, { bases: [base], onShare: (now) => { share = now; }, onBytes: (bytes, way) => { if (way === 'delta') arrived += bytes; }, onSaved: (bytes) => { saved += bytes; } });
    expect(arrived).toBe(fleet.bytesServed);
    expect(arrived + saved).toBe(next.bytes);
    expect(fleet.requests).toEqual([deltaPath()]);
    expect(fleet.bytesServed).toBeLessThan(10_000);
    expect(share).toBe(1);
    expect(await leftovers()).toEqual([]);
  });

  it('comes whole where there is no delta, and nothing is asked twice', async () => {
    const other = fleet.put(randomBytes(100_000));
    await bring(other, { bases: [base] });
    expect(fleet.requests).toEqual([`GET /v1/blobs/${other.digest}/delta?from=${base.digest}`, `GET /v1/blobs/${other.digest}`]);
    expect(fleet.bytesServed).toBe(other.bytes);
  });

  it.each<[string, (whole: Buffer) => Promise<Buffer>]>([
    ['another file', async () => (await makeDelta(old, Buffer.concat([old.subarray(0, 299_000), Buffer.alloc(1_000)])))!],
    ['a longer file', async () => (await makeDelta(old, Buffer.concat([retrained, Buffer.alloc(9_000_000)])))!],
    ['nothing, being no delta at all', async () => randomBytes(5_000)],
  ])('comes whole, once, where the delta makes %s; the delta is not fetched again after a restart', async (_what, make) => {
    const broken = await make(retrained);
    fleet.faults.set(`delta ${next.digest}`, (_request, response) => { response.writeHead(200, { etag: `"${'0'.repeat(64)}"`, 'content-length': broken.length }).end(broken); });
    fleet.faults.set(next.digest, (_request, response) => { response.writeHead(404).end(); });
    await expect(bring(next, { bases: [base] })).rejects.toMatchObject({ code: 'artifact.missing' });
    expect(noDelta).toHaveLength(1);
    await expect(stat(store.blobPath(next.digest))).rejects.toThrow();
    fleet.faults.delete(next.digest);
    fleet.requests.length = 0;
    await reopen();
    await bring(next, { bases: [base] });
    expect(fleet.requests).toEqual([wholePath()]);
    expect(await leftovers()).toEqual([]);
  });

  it('a cut delta goes on where it ended', async () => {
    const delta = (await makeDelta(old, retrained))!;
    let cut = true;
    let arrived = 0;
    fleet.faults.set(`delta ${next.digest}`, async (request, response, whole) => {
      if (!cut) return true;
      cut = false;
      response.writeHead(200, { etag: `"${sha256(whole)}"`, 'content-length': whole.length });
      response.write(whole.subarray(0, 4_000));
      await eventually(() => arrived === 4_000);
      response.destroy();
    });
    await bring(next, { bases: [base], onBytes: (bytes) => { arrived += bytes; } });
    expect(fleet.requests).toEqual([deltaPath(), `${deltaPath()} bytes=4000-`]);
    expect(arrived).toBe(delta.length);
  });

  it('a delta that was made anew meanwhile starts over; one that is whole is not fetched again', async () => {
    const delta = (await makeDelta(old, retrained))!;
    await writeFile(store.deltaPath(next.digest, 'f'.repeat(64)), randomBytes(500));
    await bring(next, { bases: [base] });
    expect(fleet.bytesServed).toBe(delta.length);
    await rm(store.blobPath(next.digest));
    fleet.bytesServed = 0;
    const tag = sha256(delta);
    await writeFile(store.deltaPath(next.digest, tag), delta);
    await bring(next, { bases: [base] });
    expect(fleet.bytesServed).toBe(0);
  });

  it('comes whole where the file here has rotted, and where the gateway fails at deltas', async () => {
    fleet.faults.set(`delta ${next.digest}`, (_request, response) => { response.writeHead(503).end('busy'); });
    await bring(next, { bases: [base] });
    expect(fleet.requests).toEqual([deltaPath(), deltaPath(), deltaPath(), wholePath()]);
    await rm(store.blobPath(next.digest));
    fleet.faults.clear();
    // The gateway was at fault, not the delta: the next time it is asked again.
    fleet.requests.length = 0;
    await bring(next, { bases: [base] });
    expect(fleet.requests).toEqual([deltaPath()]);
    await rm(store.blobPath(next.digest));
    fleet.requests.length = 0;
    await appendFile(store.blobPath(base.digest), 'x');
    await bring(next, { bases: [base] });
    expect(fleet.requests).toEqual([wholePath()]);
  });

  it('comes whole where there is no room for a delta beside it', async () => {
    const room = store.ensureRoom.bind(store);
    store.ensureRoom = async (bytes) => (bytes > next.bytes ? (await Store.open(join(dir, 'full'), Number.MAX_SAFE_INTEGER)).ensureRoom(bytes) : room(bytes));
    await bring(next, { bases: [base] });
    expect(fleet.requests).toEqual([deltaPath(), wholePath()]);
    expect(noDelta).toEqual([expect.stringContaining('kept back')]);
    expect(await leftovers()).toEqual([]);
  });

  it('is not begun where the bundle as a whole has no room; what is here or half here counts', async () => {
    const full = await Store.open(join(dir, 'store'), Number.MAX_SAFE_INTEGER);
    const other = fleet.put(randomBytes(50_000));
    await writeFile(store.partPath(other.digest), Buffer.alloc(20_000));
    await expect(full.ensureRoomFor([base, next, other])).rejects.toMatchObject({ code: 'disk.full', detail: { needed: next.bytes + 30_000 } });
    await full.ensureRoomFor([base]);
    await store.ensureRoomFor([base, next, other]);
  });

  it('needs no request where another bundle has brought it', async () => {
    await bring(next);
    fleet.requests.length = 0;
    await bring(next, { bases: [base] });
    expect(fleet.requests).toEqual([]);
  });
});

it('what a file may be made from is what plays its part in the older bundles, in their order', () => {
  const file = (n: number): BlobName => ({ digest: `${n}`.repeat(64), bytes: n });
  const manifest = (cpu: number, tpu: number | null, golden: number | null) => ({
    variants: [{ name: 'cpu-int8', file: file(cpu) }, ...(tpu ? [{ name: 'edgetpu-14', file: file(tpu) }] : [])], golden: golden ? { ...file(golden), cases: 4 } : null,
  }) as never;
  const [wanted, one, two] = [manifest(1, 2, 3), manifest(4, null, 5), manifest(6, 7, null)];
  expect(basesOf(file(1), wanted, [one, two])).toEqual([file(4), file(6)]);
  expect(basesOf(file(2), wanted, [one, two])).toEqual([file(7)]);
  expect(basesOf(file(3), wanted, [one, two])).toEqual([file(5)]);
  expect(basesOf(file(1), wanted, [])).toEqual([]);
});

it('parts of a bundle that waits are not collected as rubbish', async () => {
  const waiting = fleet.publish(7);
  const gone = fleet.publish(8);
  for (const { bundle } of [waiting, gone]) await store.putEnvelope(bundle, fleet.envelopes.get(bundle));
  const { digest } = waiting.manifest.variants[0]!.file;
  await writeFile(store.partPath(digest), 'half');
  await store.refuseDeltas(digest);
  await writeFile(store.partPath(gone.manifest.variants[0]!.file.digest), 'half');
  await store.collect(new Set([waiting.bundle]));
  expect((await leftovers()).sort()).toEqual([`${digest}.nodelta`, `${digest}.part`]);
});
