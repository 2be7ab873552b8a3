import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { Storage } from '@google-cloud/storage';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openBuckets, openObjects, readWhole, sha256, type ObjectStore } from '@reefkeeper/platform';
import { findGoogle, RunningGoogle } from '../support/google.ts';

const parts = await findGoogle();

describe.skipIf(typeof parts === 'string')(`artifacts in a bucket${typeof parts === 'string' ? `: ${parts}` : ''}`, () => {
  let google: RunningGoogle;
  let objects: ObjectStore;
  let storage: Storage;
  const names = async () => (await storage.bucket('artifacts').getFiles())[0].map(({ name }) => name);

  beforeAll(async () => {
    google = await RunningGoogle.start(parts as Exclude<typeof parts, string>);
    storage = new Storage({ apiEndpoint: google.gcsEndpoint, projectId: google.project });
    await storage.createBucket('artifacts');
    objects = await openObjects('gs://artifacts/reef', { gcsEndpoint: google.gcsEndpoint });
  });
  afterAll(async () => { await google?.stop(); });

  it('stores by digest, once, whatever the source', async () => {
    const content = Buffer.from('a model');
    expect(await objects.put(content)).toEqual({ digest: sha256(content), bytes: 7 });
    expect(await objects.put(Readable.from([content.subarray(0, 3), content.subarray(3)]))).toEqual({ digest: sha256(content), bytes: 7 });
    expect(await names()).toEqual([`reef/sha256/${sha256(content)}`]);
    expect(await readWhole(objects, sha256(content))).toEqual(content);
    expect(await objects.put(Buffer.alloc(0))).toEqual({ digest: sha256(''), bytes: 0 });
    expect(await readWhole(objects, sha256(''))).toEqual(Buffer.alloc(0));
  });

  it('reads ranges', async () => {
    const { digest } = await objects.put(Buffer.from('0123456789'));
    const range = async (bounds: { start?: number; end?: number }) => (await buffer(await objects.read(digest, bounds))).toString();
    expect(await range({ start: 2, end: 4 })).toBe('234');
    expect(await range({ start: 7 })).toBe('789');
    expect(await range({ end: 1 })).toBe('01');
    expect(await range({ start: 0, end: 9 })).toBe('0123456789');
  });

  it('carries many megabytes unchanged', async () => {
    const large = Buffer.alloc(24 * 1024 ** 2, 'reef');
    const { digest, bytes } = await objects.put(Readable.from((function* () { for (let at = 0; at < large.length; at += 65_536) yield large.subarray(at, at + 65_536); })()));
    expect([digest, bytes]).toEqual([sha256(large), large.length]);
    expect(sha256(await readWhole(objects, digest))).toBe(digest);
  });

  it('a stream over the limit or broken off leaves nothing behind', async () => {
    const before = await names();
    await expect(objects.put(Readable.from([Buffer.alloc(600), Buffer.alloc(600)]), { limitBytes: 1_000 })).rejects.toMatchObject({ code: 'upload.too_large' });
    await expect(objects.put(Readable.from((async function* () { yield Buffer.alloc(600); throw new Error('the sender hung up'); })()))).rejects.toThrow('the sender hung up');
    expect(await names()).toEqual(before);
  });

  it('what is not there is missing, and deleting it is no fault', async () => {
    const absent = sha256('absent');
    expect(await objects.has(absent)).toBe(false);
    await expect(objects.stat(absent)).rejects.toMatchObject({ code: 'object.missing' });
    await expect(objects.read(absent)).rejects.toMatchObject({ code: 'object.missing' });
    await expect(objects.stat('../reef')).rejects.toMatchObject({ code: 'object.missing' });
    expect(await objects.has('nonsense')).toBe(false);
    await objects.delete(absent);
    const { digest } = await objects.put(Buffer.from('gone soon'));
    await objects.delete(digest);
    expect(await objects.has(digest)).toBe(false);
  });

  it('lists its objects and nothing else', async () => {
    await storage.bucket('artifacts').file('reef/incoming/left-behind').save('x');
    await storage.bucket('artifacts').file(`other/sha256/${sha256('x')}`).save('x');
    const made = new Set<string>();
    for (const { digest } of await Promise.all(Array.from({ length: 40 }, async (_, index) => objects.put(Buffer.from(`object ${index}`))))) made.add(digest);
    const listed = new Map<string, number>();
    for await (const { digest, bytes } of objects.list()) listed.set(digest, bytes);
    expect([...made].filter((digest) => !listed.has(digest))).toEqual([]);
    expect(listed.get(sha256('0123456789'))).toBe(10);
    expect([...listed.keys()].every((digest) => /^[0-9a-f]{64}$/.test(digest))).toBe(true);
  });

  it('a bucket that is not there, or a server that is not, is named, and only the second is worth another try', async () => {
    const nowhere = await openObjects('gs://no-such-bucket', { gcsEndpoint: google.gcsEndpoint });
    await expect(nowhere.put(Buffer.from('x'))).rejects.toMatchObject({ code: 'bucket.missing', kind: 'not_found', message: expect.stringContaining('no-such-bucket') });
    await expect(openBuckets({ endpoint: google.gcsEndpoint }).list('no-such-bucket', '')).rejects.toMatchObject({ code: 'bucket.missing' });
    const down = await openObjects('gs://artifacts', { gcsEndpoint: 'http://127.0.0.1:9' });
    await expect(down.put(Buffer.from('x'))).rejects.toMatchObject({ code: 'bucket.unavailable', kind: 'unavailable' });
  });
});
