import { createReadStream, createWriteStream } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { applyDelta, mostDeltaInputBytes } from '@reefkeeper/bundle';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import { diskError, diskTroubleOf } from './disk.ts';
import { downloadBlob, receive, retrying, startOf, type DownloadOptions } from './download.ts';
import { refusal, textOf, type Gateway } from './gateway.ts';
import type { Peers } from './peers.ts';
import type { BlobName, Store } from './store.ts';

export interface BringOptions extends DownloadOptions {
  /** Files that the wanted one may be made from. */
  bases: readonly BlobName[];
  peers?: Peers | undefined;
  /** It came as a delta, and that much less than the whole. */
  onSaved?: (bytes: number) => void;
  /** The delta is of no use, for this reason; the whole file follows. */
  onNoDelta?: (reason: string) => void;
}

/** Tries of a delta without a new byte; the whole file has its own. */
const deltaTries = 3;

/**
 * Brings a file into the store the cheapest way there is: it is here already; from a peer on the
 * same site; a delta from a file that is here; the whole. Whichever way it
 * came, its digest is compared, and whatever is wrong with a delta, the whole file follows.
 * @throws ReefError as `downloadBlob`
 */
export async function bringBlob(gateway: Gateway, store: Store, blob: BlobName, options: BringOptions): Promise<void> {
  if (await store.holds(blob)) return;
  if (await options.peers?.bring(store, blob, options)) return;
  if (await byDelta(gateway, store, blob, options)) return;
  await downloadBlob(gateway, store, blob, options);
}

async function byDelta(gateway: Gateway, store: Store, blob: BlobName, options: BringOptions): Promise<boolean> {
  if (await store.refusesDeltas(blob.digest)) return false;
  for (const base of options.bases) {
    // A base that rotted on the disk makes rubbish of the best delta.
    if (base.bytes + blob.bytes > mostDeltaInputBytes || !(await store.holds(base))) continue;
    try {
      const path = `/v1/blobs/${blob.digest}/delta?from=${base.digest}`;
      let part: string | undefined;
      await retrying({ ...options, tries: Math.min(deltaTries, options.tries ?? deltaTries) }, path, async () => { part = await fetchDelta(gateway, store, blob, path, options); }, async () => (await store.deltaPart(blob.digest))?.bytes ?? 0);
      if (!part) return false;
      await applyDelta(await readFile(store.blobPath(base.digest)), createReadStream(part), createWriteStream(store.madePath(blob.digest)), blob.bytes);
      const deltaBytes = (await stat(part)).size;
      await store.adopt(blob, store.madePath(blob.digest));
      options.onSaved?.(blob.bytes - deltaBytes);
      return true;
    } catch (thrown) {
      options.signal?.throwIfAborted();
      const trouble = diskTroubleOf(thrown);
      const error = trouble ? diskError(trouble, thrown) : asReefError(thrown);
      if (error.code === 'budget_exceeded') throw error;
      // Delta and file together need more room than the file alone.
      if (error.code === 'disk.full') await store.dropParts(blob.digest, /\.(delta|made)$/);
      if (error.code === 'delta.unusable' || error.code === 'artifact.checksum_mismatch') await store.refuseDeltas(blob.digest);
      options.onNoDelta?.(error.message);
      return false;
    }
  }
  return false;
}

/** @returns where the whole delta lies; undefined where the gateway has none, or it is no shorter than what is missing of the file */
async function fetchDelta(gateway: Gateway, store: Store, blob: BlobName, path: string, options: BringOptions): Promise<string | undefined> {
  const before = await store.deltaPart(blob.digest);
  const response = await gateway.bytes(path, before?.bytes ?? 0, options.signal, before && `"${before.tag}"`);
  // The whole delta is here: of nothing there is no range.
  if (before && response.statusCode === 416) {
    response.destroy();
    return before.path;
  }
  const start = startOf(response, before?.bytes ?? 0);
  if (start === undefined) {
    const error = refusal(response.statusCode ?? 0, await textOf(response), path);
    // Also a gateway that knows no deltas.
    if (error.kind === 'not_found') return undefined;
    throw error;
  }
  const tag = /^"([0-9a-f]{64})"$/.exec(response.headers.etag ?? '')?.[1];
  const bytes = start + Number(response.headers['content-length'] ?? Number.NaN);
  if (!tag || !(bytes < blob.bytes)) {
    response.destroy();
    throw new ReefError('delta.unusable', 'invalid', 'The gateway sent a delta without its digest or its length, or a longer one than the file.');
  }
  if (before && before.tag !== tag) await store.dropParts(blob.digest, /\.delta$/);
  try {
    options.afford?.(bytes - start);
    await store.ensureRoom(bytes - start + blob.bytes);
  } catch (error) {
    response.destroy();
    throw error;
  }
  await receive(response, store.deltaPath(blob.digest, tag), { start, bytes, what: `the delta for ${blob.digest}`, way: 'delta' }, options);
  return store.deltaPath(blob.digest, tag);
}
