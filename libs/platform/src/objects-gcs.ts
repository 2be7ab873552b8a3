import { randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { Storage, type Bucket } from '@google-cloud/storage';
import { clientOptions, faultOf } from './buckets-gcs.ts';
import { ReefError } from './errors.ts';
import { meter, missing, type ObjectStore, type PutOptions, type StoredObject } from './objects.ts';

/** Blobs in a Google Cloud Storage bucket. The digest is known only at the end, so an upload lands under `incoming/` and is then renamed. */
export class GcsObjects implements ObjectStore {
  private constructor(private readonly bucket: Bucket, private readonly prefix: string) {}

  static async open(url: string, endpoint?: string): Promise<GcsObjects> {
    const { host, pathname } = new URL(url);
    const storage = new Storage(clientOptions(endpoint));
    const prefix = pathname.replace(/^\/+|\/+$/g, '');
    return new GcsObjects(storage.bucket(host), prefix ? `${prefix}/` : '');
  }

  private file(digest: string) {
    if (!/^[0-9a-f]{64}$/.test(digest)) throw missing(digest);
    return this.bucket.file(`${this.prefix}sha256/${digest}`);
  }

  async put(content: Readable | Buffer, options: PutOptions = {}): Promise<StoredObject> {
    const incoming = this.bucket.file(`${this.prefix}incoming/${randomUUID()}`);
    const { through, result } = meter(options.limitBytes);
    try {
      await pipeline(Buffer.isBuffer(content) ? Readable.from([content]) : content, through, incoming.createWriteStream({ resumable: false }));
      const stored = result();
      await options.claim?.(stored);
      await incoming.copy(this.file(stored.digest));
      return stored;
    } catch (thrown) {
      throw this.fault(thrown);
    } finally {
      // What is left behind by a fault here is nobody's; a lifecycle rule on incoming/ sweeps it.
      await incoming.delete({ ignoreNotFound: true }).catch(() => {});
    }
  }

  async stat(digest: string): Promise<StoredObject> {
    const [metadata] = await this.file(digest).getMetadata().catch((cause: { code?: number }) => {
      throw cause.code === 404 ? missing(digest, cause) : this.fault(cause);
    });
    return { digest, bytes: Number(metadata.size) };
  }

  async has(digest: string): Promise<boolean> {
    return this.stat(digest).then(() => true, (thrown: ReefError) => {
      // A bucket that cannot be asked is not one that lacks it.
      if (thrown.code === 'object.missing') return false;
      throw thrown;
    });
  }

  async read(digest: string, range: { start?: number; end?: number } = {}): Promise<Readable> {
    await this.stat(digest);
    return this.file(digest).createReadStream({ ...range, validation: range.start === undefined && range.end === undefined });
  }

  async delete(digest: string): Promise<void> {
    await this.file(digest).delete({ ignoreNotFound: true }).catch((cause: unknown) => { throw this.fault(cause); });
  }

  async *list(): AsyncIterable<StoredObject> {
    const prefix = `${this.prefix}sha256/`;
    let query: object | null = { prefix, autoPaginate: false };
    while (query) {
      const [files, next] = (await this.bucket.getFiles(query).catch((cause: unknown) => { throw this.fault(cause); })) as unknown as [{ name: string; metadata: { size?: string | number } }[], object | null];
      for (const file of files) yield { digest: file.name.slice(prefix.length), bytes: Number(file.metadata.size) };
      query = next;
    }
  }

  /** The client's own errors only: a source that broke off or was too long speaks for itself. */
  private fault(thrown: unknown): unknown {
    const theirs = typeof (thrown as { code?: unknown }).code === 'number' || ['ApiError', 'FetchError', 'GaxiosError'].includes((thrown as Error).name) || /^E[A-Z]+$/.test(String((thrown as { code?: unknown }).code));
    return theirs && !(thrown instanceof ReefError) ? faultOf(thrown, this.bucket.name) : thrown;
  }
}
