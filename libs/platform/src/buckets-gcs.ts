import { PassThrough, pipeline, type Readable } from 'node:stream';
import { Storage } from '@google-cloud/storage';
import type { BucketObject, Buckets } from './buckets.ts';
import { ReefError } from './errors.ts';

export class GcsBuckets implements Buckets {
  private readonly storage: Storage;

  constructor(endpoint?: string) {
    this.storage = new Storage(clientOptions(endpoint));
  }

  async list(bucket: string, prefix: string, limit = 100_000): Promise<BucketObject[]> {
    const found: BucketObject[] = [];
    let query: object | null = { prefix, autoPaginate: false, maxResults: 1_000 };
    while (query) {
      const [files, next]: [{ name: string; metadata: Metadata }[], object | null] = await this.storage.bucket(bucket).getFiles(query).catch((cause: unknown) => { throw faultOf(cause, bucket); }) as never;
      for (const { metadata } of files) if (!metadata.name?.endsWith('/')) found.push(objectOf(metadata));
      if (found.length > limit) throw new ReefError('bucket.too_many', 'invalid', `More than ${limit} objects lie under gs://${bucket}/${prefix}. Name a folder further down.`, { detail: { bucket, prefix, limit } });
      query = next ?? null;
    }
    return found;
  }

  async stat(bucket: string, name: string): Promise<BucketObject> {
    const [metadata] = await this.storage.bucket(bucket).file(name).getMetadata().catch((cause: unknown) => { throw faultOf(cause, bucket, name); });
    return objectOf(metadata as Metadata);
  }

  async read(bucket: string, name: string, generation?: string): Promise<Readable> {
    const file = this.storage.bucket(bucket).file(name, generation ? { generation } : {});
    const through = new PassThrough();
    const source = file.createReadStream({ decompress: false });
    source.on('error', (cause) => { through.destroy(faultOf(cause, bucket, name)); });
    pipeline(source, through, () => {});
    return through;
  }
}

/**
 * Only apiEndpoint: with STORAGE_EMULATOR_HOST set as well the client asks a path that does not exist. Another endpoint than Google's
 * is an emulator and gets no credentials.
 */
export function clientOptions(endpoint?: string): object {
  return endpoint ? { apiEndpoint: endpoint, projectId: 'reefkeeper', useAuthWithCustomEndpoint: false } : {};
}

interface Metadata { name?: string; generation?: string | number; size?: string | number; updated?: string }

function objectOf({ name, generation, size, updated }: Metadata): BucketObject {
  return { name: name!, generation: `${generation}`, bytes: Number(size ?? 0), updatedAt: new Date(updated ?? 0) };
}

/** The client's error as ours: who has to do something about it, and what. */
export function faultOf(cause: unknown, bucket: string, name?: string): ReefError {
  if (cause instanceof ReefError) return cause;
  const { code, message = String(cause) } = cause as { code?: number | string; message?: string };
  const what = `gs://${bucket}${name ? `/${name}` : ''}`;
  const detail = { bucket, ...(name ? { object: name } : {}) };
  if (code === 404) {
    return name && !/bucket/i.test(message)
      ? new ReefError('bucket.object_missing', 'not_found', `There is no ${what}, or not any more.`, { detail, cause })
      : new ReefError('bucket.missing', 'not_found', `There is no bucket ${bucket}${name ? `, or nothing named ${name} in it` : ''}.`, { detail, cause });
  }
  if (code === 401 || code === 403) return new ReefError('bucket.denied', 'forbidden', `The server may not read ${what}. Give its Google account the role roles/storage.objectViewer on the bucket.`, { detail, cause });
  if (/default credentials|invalid_grant/i.test(message)) return new ReefError('bucket.denied', 'forbidden', `The server has no Google credentials to read ${what} with. Run it under a service account, or set GOOGLE_APPLICATION_CREDENTIALS to a key file.`, { detail, cause });
  return new ReefError('bucket.unavailable', 'unavailable', `Google Cloud Storage did not answer for ${what}: ${message}`, { detail, cause });
}
