import type { Readable } from 'node:stream';
import { ReefError } from './errors.ts';

export interface BucketObject {
  name: string;
  /** Google's number of these very bytes: writing the name again gives a new one. */
  generation: string;
  bytes: number;
  updatedAt: Date;
}

export interface BucketAddress {
  bucket: string;
  /** Of object names; '' for the whole bucket. */
  path: string;
}

/** `gs://bucket/path`. @throws ReefError `bucket.address_invalid` */
export function parseBucketAddress(address: string): BucketAddress {
  const match = /^gs:\/\/([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:\/(.{0,1024}))?$/.exec(address);
  if (!match) throw new ReefError('bucket.address_invalid', 'invalid', `"${address}" is not an address in Google Cloud Storage; write gs://bucket/folder/.`, { detail: { address } });
  return { bucket: match[1]!, path: match[2] ?? '' };
}

/** Other people's buckets, read only: where exported models and labelled images come from. */
export interface Buckets {
  /** Every object below a prefix, placeholders of folders left out. @throws ReefError `bucket.missing`, `bucket.denied`, `bucket.unavailable`, `bucket.too_many` */
  list(bucket: string, prefix: string, limit?: number): Promise<BucketObject[]>;
  /** One object as it is now. @throws ReefError also `bucket.object_missing` */
  stat(bucket: string, name: string): Promise<BucketObject>;
  /** Exactly this generation, or the newest; the client checks the transfer's CRC. Faults come as the stream's error. */
  read(bucket: string, name: string, generation?: string): Promise<Readable>;
}

/** Google Cloud Storage with Application Default Credentials, or the server at `endpoint`. Nothing is loaded or asked before the first call. */
export function openBuckets(options: { endpoint?: string | undefined } = {}): Buckets {
  let opening: Promise<Buckets> | undefined;
  const open = () => (opening ??= import('./buckets-gcs.ts').then(({ GcsBuckets }) => new GcsBuckets(options.endpoint)));
  return {
    list: async (...args) => (await open()).list(...args),
    stat: async (...args) => (await open()).stat(...args),
    read: async (...args) => (await open()).read(...args),
  };
}
