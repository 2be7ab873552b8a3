import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, readFile, rename, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { bundleDigest, choicesFor, parseManifest, segmentsOf, unverifiedManifest, type Manifest } from '@reefkeeper/bundle';
import { ReefError } from '@reefkeeper/platform/errors';
import writeFileAtomic from 'write-file-atomic';
import { Disk } from './disk.ts';
import type { InstalledBundle } from './plan.ts';

export interface BlobName { digest: string; bytes: number }

/**
 * Bundles on disk, below one folder:
 * - `blobs/<digest>` models and golden packs, shared between bundles;
 * - `parts/<digest>.part` downloads that are not whole yet;
 * - `envelopes/<bundle>.json` signed manifests as they came;
 * - `bundles/<bundle>/manifest.json` exists only if every file it needs has been verified: the rename that brings it is the install.
 */
export class Store {
  private constructor(private readonly root: string, private readonly disk: Disk, private readonly reserveBytes: number) {}

  static async open(root: string, reserveBytes: number, disk = new Disk(root)): Promise<Store> {
    await disk.write(async () => {
      for (const folder of ['blobs', 'parts', 'envelopes', 'bundles', 'incoming']) await mkdir(join(root, folder), { recursive: true });
      for (const left of await readdir(join(root, 'incoming'))) await rm(join(root, 'incoming', left), { recursive: true });
    });
    return new Store(root, disk, reserveBytes);
  }

  blobPath(digest: string): string {
    return join(this.root, 'blobs', digest);
  }

  partPath(digest: string): string {
    return join(this.root, 'parts', `${digest}.part`);
  }

  /** Whether the blob is here and still has its digest: cards rot, and TFLite runs damaged files without complaint. */
  async holds({ digest, bytes }: BlobName): Promise<boolean> {
    const found = await stat(this.blobPath(digest)).catch(() => undefined);
    if (!found) return false;
    // What cannot be read is not there.
    if (found.size === bytes && (await digestOf(this.blobPath(digest)).catch(() => '')) === digest) return true;
    await this.disk.write(() => rm(this.blobPath(digest), { force: true }));
    return false;
  }

  /** A file that is made from another one; nothing in it is worth keeping over a crash. */
  madePath(digest: string): string {
    return join(this.root, 'parts', `${digest}.made`);
  }

  /** What a peer sent; apart from what the gateway did, so that a bad one spoils nothing that was paid for. */
  peerPath(digest: string): string {
    return join(this.root, 'parts', `${digest}.peer`);
  }

  /** The delta that makes the blob, as far as it is here. Its name carries its entity tag: only this one can be continued. */
  async deltaPart(digest: string): Promise<{ path: string; tag: string; bytes: number } | undefined> {
    const name = (await this.partsOf(digest)).find((part) => part.endsWith('.delta'));
    if (!name) return undefined;
    const path = join(this.root, 'parts', name);
    return { path, tag: name.slice(digest.length + 1, -'.delta'.length), bytes: (await stat(path)).size };
  }

  deltaPath(digest: string, tag: string): string {
    return join(this.root, 'parts', `${digest}.${tag}.delta`);
  }

  /** A delta that made something else is not paid for twice, not even after a restart. */
  async refuseDeltas(digest: string): Promise<void> {
    await this.dropParts(digest, /\.(delta|made)$/);
    await writeFile(join(this.root, 'parts', `${digest}.nodelta`), '');
  }

  async refusesDeltas(digest: string): Promise<boolean> {
    return stat(join(this.root, 'parts', `${digest}.nodelta`)).then(() => true, () => false);
  }

  async dropParts(digest: string, which: RegExp): Promise<void> {
    for (const name of await this.partsOf(digest)) if (which.test(name)) await rm(join(this.root, 'parts', name), { force: true });
  }

  private async partsOf(digest: string): Promise<string[]> {
    return (await readdir(join(this.root, 'parts'))).filter((name) => name.startsWith(`${digest}.`));
  }

  /** Takes a whole file in, and drops what else is there of it. @throws ReefError `artifact.checksum_mismatch`; the file is then gone */
  async adopt({ digest, bytes }: BlobName, part = this.partPath(digest)): Promise<void> {
    const found = await digestOf(part);
    if (found !== digest) {
      await rm(part, { force: true });
      throw new ReefError('artifact.checksum_mismatch', 'invalid', `The downloaded file has digest ${found} instead of ${digest} (${bytes} bytes); it was thrown away.`, { detail: { digest, found } });
    }
    const file = await open(part, 'r+');
    await file.sync();
    await file.close();
    await rename(part, this.blobPath(digest));
    await this.dropParts(digest, /./);
  }

  /** @throws ReefError `disk.full` */
  async ensureRoom(bytes: number): Promise<void> {
    const { bavail, bsize } = await statfs(this.root);
    const free = bavail * bsize;
    if (free - bytes < this.reserveBytes) {
      throw new ReefError('disk.full', 'unavailable', `The bundle needs ${bytes} bytes; ${free} are free and ${this.reserveBytes} of them are kept back. Free space on the device or lower REEF_DISK_RESERVE.`, { detail: { needed: bytes, free, reserve: this.reserveBytes } });
    }
  }

  /**
   * Asked before the first byte of a bundle: all of it fits, beside what is here, or none of it is begun. What a delta needs for itself is not
   * counted: without room for it the whole file comes. @throws ReefError `disk.full`
   */
  async ensureRoomFor(files: readonly BlobName[]): Promise<void> {
    let missing = 0;
    for (const file of files) if (!(await this.holds(file))) missing += Math.max(0, file.bytes - (await stat(this.partPath(file.digest)).then(({ size }) => size, () => 0)));
    if (missing > 0) await this.ensureRoom(missing);
  }

  async putEnvelope(bundle: string, envelope: unknown): Promise<void> {
    await writeFileAtomic(this.envelopePath(bundle), JSON.stringify(envelope));
  }

  /** @returns undefined where there is none, or none that is JSON */
  async envelope(bundle: string): Promise<unknown> {
    const text = await readFile(this.envelopePath(bundle), 'utf8').catch(() => undefined);
    try {
      return text === undefined ? undefined : JSON.parse(text);
    } catch {
      return undefined;
    }
  }

  /** Makes the bundle usable, at once and once: a second call finds it done. */
  async install(bundle: string, manifest: Manifest): Promise<void> {
    const target = join(this.root, 'bundles', bundle);
    if (await this.manifest(bundle)) return;
    await rm(target, { recursive: true, force: true });
    const incoming = join(this.root, 'incoming', bundle);
    await rm(incoming, { recursive: true, force: true });
    await mkdir(incoming);
    await writeFileAtomic(join(incoming, 'manifest.json'), JSON.stringify(manifest));
    await rename(incoming, target);
    const folder = await open(join(this.root, 'bundles'), 'r');
    await folder.sync().catch(() => {});
    await folder.close();
  }

  /** The verified manifest of an installed bundle. */
  async manifest(bundle: string): Promise<Manifest | undefined> {
    try {
      const manifest = parseManifest(JSON.parse(await readFile(join(this.root, 'bundles', bundle, 'manifest.json'), 'utf8')));
      return bundleDigest(manifest) === bundle ? manifest : undefined;
    } catch {
      return undefined;
    }
  }

  /** What the envelope of a bundle names that is not installed: good enough to leave its parts alone, and for nothing else, since nobody has verified it. */
  private async announced(bundle: string): Promise<Manifest | undefined> {
    try {
      return unverifiedManifest(await this.envelope(bundle));
    } catch {
      return undefined;
    }
  }

  /** Takes the bundle out of use; its files stay until collected. */
  async uninstall(bundle: string): Promise<void> {
    await rm(join(this.root, 'bundles', bundle), { recursive: true, force: true });
  }

  /** What is on disk, for the planner. */
  async survey(): Promise<{ installed: Map<string, InstalledBundle>; stored: Set<string> }> {
    const installed = new Map<string, InstalledBundle>();
    const stored = new Set<string>();
    for (const name of await readdir(join(this.root, 'envelopes')).catch(() => [])) if (name.endsWith('.json')) stored.add(name.slice(0, -5));
    for (const bundle of await readdir(join(this.root, 'bundles')).catch(() => [])) {
      stored.add(bundle);
      const manifest = await this.manifest(bundle);
      if (!manifest) continue;
      const sizes = await Promise.all(manifest.variants.map(async (variant) => (await Promise.all(segmentsOf(variant).map(async ({ digest, bytes }) => (await stat(this.blobPath(digest)).catch(() => undefined))?.size === bytes))).every(Boolean)));
      const variants = manifest.variants.filter((_, index) => sizes[index]).map(({ name, minRuntime }) => ({ name, minRuntime }));
      if (variants.length > 0) installed.set(bundle, { variants });
    }
    return { installed, stored };
  }

  /** Removes every bundle that is not named, and every file that no named one needs. */
  async collect(keep: ReadonlySet<string>): Promise<void> {
    const needed = new Set<string>();
    for (const bundle of keep) {
      const manifest = (await this.manifest(bundle)) ?? (await this.announced(bundle));
      for (const { digest } of manifest ? filesOf(manifest) : []) needed.add(digest);
    }
    // Bundles go before their files: a crash in between must not leave a bundle that looks whole.
    for (const bundle of await readdir(join(this.root, 'bundles'))) if (!keep.has(bundle)) await this.uninstall(bundle);
    for (const name of await readdir(join(this.root, 'envelopes'))) if (!keep.has(name.replace(/\.json$/, ''))) await rm(join(this.root, 'envelopes', name), { force: true });
    for (const digest of await readdir(join(this.root, 'blobs'))) if (!needed.has(digest)) await rm(this.blobPath(digest), { force: true });
    for (const part of await readdir(join(this.root, 'parts'))) if (!needed.has(part.slice(0, 64))) await rm(join(this.root, 'parts', part), { force: true });
  }

  private envelopePath(bundle: string): string {
    return join(this.root, 'envelopes', `${bundle}.json`);
  }
}

/** The files a device needs to serve `variant`, with those to fall back to and the self-test. */
export function filesFor(manifest: Manifest, variant: string, cpuFallback: boolean): BlobName[] {
  return unique([...choicesFor(variant, manifest.variants, cpuFallback).flatMap(segmentsOf), ...(manifest.golden ? [manifest.golden] : [])]);
}

/** What a file may be made from, likeliest first: the files that play its part in older bundles. */
export function basesOf(file: BlobName, manifest: Manifest, older: readonly Manifest[]): BlobName[] {
  const parts = manifest.variants.flatMap((variant) => segmentsOf(variant).flatMap(({ digest }, at) => (digest === file.digest ? [{ name: variant.name, at }] : [])));
  const golden = manifest.golden?.digest === file.digest;
  return unique(older.flatMap((one) => [...one.variants.flatMap((variant) => segmentsOf(variant).filter((_, at) => parts.some((part) => part.name === variant.name && part.at === at))), ...(golden && one.golden ? [one.golden] : [])]));
}

function filesOf(manifest: Manifest): BlobName[] {
  return unique([...manifest.variants.flatMap(segmentsOf), ...(manifest.golden ? [manifest.golden] : [])]);
}

function unique(files: BlobName[]): BlobName[] {
  return [...new Map(files.map(({ digest, bytes }) => [digest, { digest, bytes }])).values()];
}

async function digestOf(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return hash.digest('hex');
}
