import { createHash, randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { Readable, Transform } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { ReefError } from './errors.ts';

export interface StoredObject {
  /** SHA-256, 64 lower-case hex digits; the object's only name. */
  digest: string;
  bytes: number;
}

export interface PutOptions {
  limitBytes?: number;
  /** Called when all bytes are in and their digest is known, before they are there for others. */
  claim?: (stored: StoredObject) => Promise<void>;
}

/** Content-addressed blobs. Writing the same bytes twice stores them once; nothing is ever changed in place. */
export interface ObjectStore {
  /** Stores the stream under its digest. With `limitBytes`, a longer one is refused (`upload.too_large`) and leaves nothing behind. */
  put(content: Readable | Buffer, options?: PutOptions): Promise<StoredObject>;
  /** @throws ReefError `object.missing` */
  stat(digest: string): Promise<StoredObject>;
  has(digest: string): Promise<boolean>;
  /** Bytes `start` to `end` (inclusive, both optional). @throws ReefError `object.missing` */
  read(digest: string, range?: { start?: number; end?: number }): Promise<Readable>;
  delete(digest: string): Promise<void>;
  list(): AsyncIterable<StoredObject>;
}

/** `file:///path`, or `gs://bucket/prefix` with Application Default Credentials. */
export async function openObjects(url: string, options: { gcsEndpoint?: string } = {}): Promise<ObjectStore> {
  const { protocol } = parseUrl(url);
  if (protocol === 'file:') return FileObjects.open(fileURLToPath(url));
  if (protocol === 'gs:') return (await import('./objects-gcs.ts')).GcsObjects.open(url, options.gcsEndpoint);
  throw new ReefError('config.invalid', 'invalid', `ARTIFACTS_URL ${url} has an unknown scheme; use file:///path or gs://bucket/prefix.`);
}

export async function readWhole(objects: ObjectStore, digest: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of await objects.read(digest)) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

export function sha256(content: Buffer | Uint8Array | string): string {
  return createHash('sha256').update(content).digest('hex');
}

export function missing(digest: string, cause?: unknown): ReefError {
  return new ReefError('object.missing', 'not_found', `No object with digest ${digest} is stored.`, { detail: { digest }, cause });
}

/** Passes bytes through, counting and hashing them. */
export function meter(limitBytes = Infinity): { through: Transform; result: () => StoredObject } {
  const hash = createHash('sha256');
  let bytes = 0;
  const through = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      bytes += chunk.length;
      if (bytes > limitBytes) return done(new ReefError('upload.too_large', 'invalid', `The upload is larger than the limit of ${limitBytes} bytes.`, { detail: { limitBytes } }));
      hash.update(chunk);
      done(null, chunk);
    },
  });
  return { through, result: () => ({ digest: hash.digest('hex'), bytes }) };
}

class FileObjects implements ObjectStore {
  private constructor(private readonly root: string) {}

  static async open(root: string): Promise<FileObjects> {
    await mkdir(join(root, 'incoming'), { recursive: true });
    return new FileObjects(root);
  }

  private path(digest: string): string {
    if (!/^[0-9a-f]{64}$/.test(digest)) throw missing(digest);
    return join(this.root, digest.slice(0, 2), digest);
  }

  async put(content: Readable | Buffer, options: PutOptions = {}): Promise<StoredObject> {
    const incoming = join(this.root, 'incoming', randomUUID());
    const { through, result } = meter(options.limitBytes);
    try {
      await pipeline(Buffer.isBuffer(content) ? Readable.from([content]) : content, through, createWriteStream(incoming, { flush: true }));
      const stored = result();
      await options.claim?.(stored);
      const target = this.path(stored.digest);
      await mkdir(join(target, '..'), { recursive: true });
      await rename(incoming, target);
      return stored;
    } catch (error) {
      await rm(incoming, { force: true });
      if ((error as NodeJS.ErrnoException).code === 'ENOSPC') throw new ReefError('disk.full', 'unavailable', `No space left for artifacts under ${this.root}; free space and try again.`, { cause: error });
      throw error;
    }
  }

  async stat(digest: string): Promise<StoredObject> {
    const path = this.path(digest);
    const found = await stat(path).catch((cause: unknown) => { throw missing(digest, cause); });
    return { digest, bytes: found.size };
  }

  async has(digest: string): Promise<boolean> {
    return this.stat(digest).then(() => true, () => false);
  }

  async read(digest: string, range: { start?: number; end?: number } = {}): Promise<Readable> {
    await this.stat(digest);
    return createReadStream(this.path(digest), { ...range, highWaterMark: 1 << 20 });
  }

  async delete(digest: string): Promise<void> {
    await rm(this.path(digest), { force: true });
  }

  async *list(): AsyncIterable<StoredObject> {
    for (const shard of await readdir(this.root)) {
      if (!/^[0-9a-f]{2}$/.test(shard)) continue;
      for (const digest of await readdir(join(this.root, shard))) yield this.stat(digest);
    }
  }
}

function parseUrl(url: string): URL {
  try {
    return new URL(url);
  } catch (cause) {
    throw new ReefError('config.invalid', 'invalid', `ARTIFACTS_URL ${url} is not a URL; use file:///path or gs://bucket/prefix.`, { cause });
  }
}
