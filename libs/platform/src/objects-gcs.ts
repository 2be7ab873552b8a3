import { randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { Storage, type Bucket } from '@google-cloud/storage';
import { meter, missing, type ObjectStore, type StoredObject } from './objects.ts';

/** Blobs in a Google Cloud Storage bucket. The digest is known only at the end, so an upload lands under `incoming/` and is then renamed. */
export class GcsObjects implements ObjectStore {
  private constructor(private readonly bucket: Bucket, private readonly prefix: string) {}

  static async open(url: string, endpoint?: string): Promise<GcsObjects> {
    const { host, pathname } = new URL(url);
    // Only apiEndpoint: with STORAGE_EMULATOR_HOST set as well the client asks a path that does not exist.
    const storage = new Storage(endpoint ? { apiEndpoint: endpoint, projectId: 'reefkeeper' } : {});
    const prefix = pathname.replace(/^\/+|\/+$/g, '');
    return new GcsObjects(storage.bucket(host), prefix ? `${prefix}/` : '');
  }

  private file(digest: string) {
    return this.bucket.file(`${this.prefix}sha256/${digest}`);
  }

  async put(content: Readable | Buffer, options: { limitBytes?: number } = {}): Promise<StoredObject> {
    const incoming = this.bucket.file(`${this.prefix}incoming/${randomUUID()}`);
    const { through, result } = meter(options.limitBytes);
    try {
      await pipeline(Buffer.isBuffer(content) ? Readable.from([content]) : content, through, incoming.createWriteStream({ resumable: false }));
      const stored = result();
      await incoming.copy(this.file(stored.digest));
      return stored;
    } finally {
      await incoming.delete({ ignoreNotFound: true });
    }
  }

  async stat(digest: string): Promise<StoredObject> {
    const [metadata] = await this.file(digest).getMetadata().catch((cause: { code?: number }) => {
      throw cause.code === 404 ? missing(digest, cause) : cause;
    });
    return { digest, bytes: Number(metadata.size) };
  }

  async has(digest: string): Promise<boolean> {
    const [exists] = await this.file(digest).exists();
    return exists;
  }

  async read(digest: string, range: { start?: number; end?: number } = {}): Promise<Readable> {
    await this.stat(digest);
    return this.file(digest).createReadStream({ ...range, validation: range.start === undefined && range.end === undefined });
  }

  async delete(digest: string): Promise<void> {
    await this.file(digest).delete({ ignoreNotFound: true });
  }

  async *list(): AsyncIterable<StoredObject> {
    const prefix = `${this.prefix}sha256/`;
    const [files] = await this.bucket.getFiles({ prefix });
    for (const file of files) yield { digest: file.name.slice(prefix.length), bytes: Number(file.metadata.size) };
  }
}
