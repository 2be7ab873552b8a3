import { open, rm, stat } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import { Backoff, sleep } from './backoff.ts';
import { diskError, diskTroubleOf } from './disk.ts';
import { refusal, textOf, type Gateway } from './gateway.ts';
import type { BlobName, Store } from './store.ts';

/** As in `Transfer` of the protocol. */
export type Way = 'full' | 'delta' | 'peer';

export interface DownloadOptions {
  /** Tries without a single new byte before giving up. */
  tries?: number;
  firstDelayMs?: number;
  maxDelayMs?: number;
  signal?: AbortSignal;
  /** Asked before that many bytes are; throws where they would cost too much. */
  afford?: (bytes: number) => void;
  /** Bytes that have just arrived from the network, and by which way. */
  onBytes?: (bytes: number, way: Way) => void;
  /** How much of the file at hand is here, 0 to 1. */
  onShare?: (share: number) => void;
}

/** A blob that the gateway does not have may be on its way into another replica: a few tries, then it is missing. */
const triesWhenMissing = 3;

/**
 * Brings the blob into the store. What arrived before a cut is kept and continued; what has the wrong digest is thrown away and
 * fetched once more from the first byte, since a resume over a changed file gives the same symptom as a damaged one.
 * @throws ReefError `artifact.missing`, `artifact.checksum_mismatch`, `disk.full`, or what the last try met
 */
export async function downloadBlob(gateway: Gateway, store: Store, blob: BlobName, options: DownloadOptions = {}): Promise<void> {
  if (await store.holds(blob)) return;
  let mismatches = 0;
  await retrying(options, `/v1/blobs/${blob.digest}`, async () => {
    const before = await partSize(store, blob);
    await fetchRest(gateway, store, blob, Math.min(before, blob.bytes), options);
    try {
      await store.adopt(blob);
    } catch (error) {
      if (asReefError(error).code !== 'artifact.checksum_mismatch' || (mismatches += 1) > 1) throw error;
      throw new ReefError('artifact.damaged', 'unavailable', (error as Error).message, { cause: error });
    }
  }, () => partSize(store, blob));
}

/** @throws ReefError `artifact.missing`, or what the last try met */
export async function downloadJson(gateway: Gateway, path: string, options: DownloadOptions = {}): Promise<unknown> {
  let found: unknown;
  await retrying(options, path, async () => { found = await gateway.json('GET', path, undefined, options.signal); }, async () => 0);
  return found;
}

export async function retrying(options: DownloadOptions, path: string, attempt: () => Promise<void>, progress: () => Promise<number>): Promise<void> {
  const backoff = new Backoff({ firstMs: options.firstDelayMs ?? 1_000, maxMs: options.maxDelayMs ?? 30_000 });
  const tries = options.tries ?? 8;
  let missing = 0;
  let reached = await progress();
  for (;;) {
    options.signal?.throwIfAborted();
    try {
      return await attempt();
    } catch (thrown) {
      options.signal?.throwIfAborted();
      const error = asReefError(thrown);
      if (error.kind === 'not_found') {
        if ((missing += 1) >= triesWhenMissing) throw new ReefError('artifact.missing', 'not_found', `The gateway does not have ${path}. Publish the version again.`, { cause: error });
      } else if (!error.retryable || error.code.startsWith('disk.')) {
        throw error;
      }
      const now = await progress();
      if (now > reached) backoff.reset();
      reached = now;
      if (backoff.count + 1 >= tries) throw error;
      await sleep(backoff.next(), options.signal);
    }
  }
}

async function fetchRest(gateway: Gateway, store: Store, blob: BlobName, from: number, options: DownloadOptions): Promise<void> {
  if (from === blob.bytes && from > 0) return;
  options.afford?.(blob.bytes - from);
  await store.ensureRoom(blob.bytes - from);
  const response = await gateway.bytes(`/v1/blobs/${blob.digest}`, from, options.signal);
  const start = startOf(response, from);
  if (start === undefined) {
    const body = await textOf(response);
    // 416: our part is longer than the file. It cannot be its beginning.
    if (response.statusCode === 416) await rm(store.partPath(blob.digest), { force: true });
    throw response.statusCode === 416 ? new ReefError('artifact.damaged', 'unavailable', 'The part on disk does not fit the file; it was thrown away.') : refusal(response.statusCode ?? 0, body, `/v1/blobs/${blob.digest}`);
  }
  await receive(response, store.partPath(blob.digest), { start, bytes: blob.bytes, what: blob.digest, way: 'full' }, options);
}

/**
 * The body of an answer into `path` from `start` on, until `bytes` are there. What has arrived before a cut stays.
 * @throws ReefError `artifact.interrupted`, `artifact.checksum_mismatch` (longer than it may be; the part is then gone), `disk.full`
 */
export async function receive(response: IncomingMessage, path: string, { start, bytes, what, way }: { start: number; bytes: number; what: string; way: Way }, options: DownloadOptions): Promise<void> {
  let position = start;
  // Written chunk by chunk rather than through a stream pipeline: that one drops what is in its buffers when the line is cut,
  // and on a metered link those bytes are paid for.
  const part = await open(path, start > 0 ? 'r+' : 'w');
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      // More than the manifest says is not this blob; stop before it fills the disk.
      if (position + chunk.length > bytes) throw new ReefError('artifact.checksum_mismatch', 'invalid', `The file is longer than the ${bytes} bytes of the manifest; it was thrown away.`);
      await part.write(chunk, 0, chunk.length, position);
      position += chunk.length;
      options.onBytes?.(chunk.length, way);
      options.onShare?.(position / bytes);
    }
  } catch (cause) {
    if (cause instanceof ReefError) {
      await rm(path, { force: true });
      throw cause;
    }
    const trouble = diskTroubleOf(cause);
    if (trouble) throw diskError(trouble, cause);
    throw new ReefError('artifact.interrupted', 'unavailable', `The download of ${what} stopped after ${position} of ${bytes} bytes: ${(cause as Error).message}`, { cause });
  } finally {
    await part.close();
  }
  if (position < bytes) throw new ReefError('artifact.interrupted', 'unavailable', `The download of ${what} ended after ${position} of ${bytes} bytes.`);
}

/** Where the body begins in the file: a server may ignore the range (200) or answer another one. */
export function startOf(response: IncomingMessage, asked: number): number | undefined {
  if (response.statusCode === 200) return 0;
  if (response.statusCode !== 206) return undefined;
  const start = Number(/^bytes (\d+)-/.exec(response.headers['content-range'] ?? '')?.[1] ?? Number.NaN);
  return start <= asked ? start : undefined;
}

async function partSize(store: Store, { digest }: BlobName): Promise<number> {
  return stat(store.partPath(digest)).then(({ size }) => size, () => 0);
}
