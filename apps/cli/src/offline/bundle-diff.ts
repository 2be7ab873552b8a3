import { readFile, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { bundleDigest, choicesFor, diffManifests, makeDelta, partsOf, segmentsOf, unverifiedManifest, type FileChange, type Manifest, type ManifestDiff } from '@reefkeeper/bundle';
import { ReefError } from '@reefkeeper/platform/errors';
import type { Client } from '../client.ts';
import { pathOf } from '../commands/models.ts';
import { bytes, percent, table } from '../output.ts';

/** One side: a manifest, and where the bytes behind it are. */
export interface OpenBundle {
  name: string;
  manifest: Manifest;
  /** Undefined where they are not to be had. */
  blob(digest: string): Promise<Buffer | undefined>;
  api?: Client;
}

/** `deltaBytes` null: there is none worth sending; undefined: the files are not there to make it from. */
export interface FileDiff extends FileChange { deltaBytes?: number | null | undefined; transferBytes: number | null }

export interface BundleDiff extends ManifestDiff {
  from: { name: string; bundle: string };
  to: { name: string; bundle: string };
  files: FileDiff[];
  /** By variant, with what it falls back to and the golden pack: what a device that runs it, and has the first bundle, transfers for the second. Null: not known without the files. */
  transfers: { variant: string; bytes: number | null; fullBytes: number }[];
}

/** @throws ReefError `file.missing`, `bundle.malformed`, `version.ref_invalid`, `version.missing`, `bundle.missing` */
export async function openBundle(name: string, client: () => Promise<Client>, blobs: readonly string[] = []): Promise<OpenBundle> {
  const found = await stat(name).catch(() => undefined);
  if (!found && !/^[a-z0-9-]+@\d+$/.test(name)) throw new ReefError('file.missing', 'not_found', `There is nothing at ${name}, and it is no version such as classifier@2.`, { detail: { path: name } });
  if (!found) {
    const api = await client();
    return { name, api, manifest: unverifiedManifest(await api.get(`${pathOf(name)}/bundle`)), blob: (digest) => api.bytes(`/artifacts/${digest}`) };
  }
  const file = found.isDirectory() ? join(name, 'envelope.json') : name;
  const text = await readFile(file, 'utf8').catch(() => { throw new ReefError('file.missing', 'not_found', `There is no bundle in ${name}: ${basename(file)} is missing.`, { detail: { path: file } }); });
  // Beside the envelope, or beside its folder as in an agent's store.
  const places = [...blobs, join(dirname(file), 'blobs'), join(dirname(file), '..', 'blobs')];
  return {
    name, manifest: unverifiedManifest(jsonOf(text, file)),
    async blob(digest) {
      for (const place of places) {
        const content = await readFile(join(place, digest)).catch(() => undefined);
        if (content) return content;
      }
      return undefined;
    },
  };
}

export async function bundleDiff(from: OpenBundle, to: OpenBundle): Promise<BundleDiff> {
  const diff = diffManifests(from.manifest, to.manifest);
  // An agent holds every file of a bundle that it needs, whatever part it plays.
  const held = new Set(filesOf(from.manifest).map(({ digest }) => digest));
  const files: FileDiff[] = [];
  for (const one of diff.files) {
    if (!one.to || held.has(one.to.digest)) {
      files.push({ ...one, transferBytes: 0 });
      continue;
    }
    const deltaBytes = one.from ? await deltaBetween(from, to, one.from.digest, one.to.digest) : null;
    files.push({ ...one, deltaBytes, transferBytes: deltaBytes === undefined ? null : deltaBytes ?? one.to.bytes });
  }
  return {
    ...diff, files, from: { name: from.name, bundle: bundleDigest(from.manifest) }, to: { name: to.name, bundle: bundleDigest(to.manifest) },
    transfers: to.manifest.variants.map((variant) => {
      // As agents do unless the policy forbids it: with what they fall back to.
      const parts = new Set(choicesFor(variant.name, to.manifest.variants, true).flatMap((one) => partsOf(one).map(({ part }) => part)));
      const needed = files.filter(({ part, to: file }) => file && (parts.has(part) || part === 'golden'));
      return { variant: variant.name, fullBytes: needed.reduce((sum, file) => sum + file.to!.bytes, 0), bytes: needed.some(({ transferBytes }) => transferBytes === null) ? null : needed.reduce((sum, { transferBytes }) => sum + transferBytes!, 0) };
    }),
  };
}

async function deltaBetween(from: OpenBundle, to: OpenBundle, old: string, next: string): Promise<number | null | undefined> {
  if (from.api && to.api) return (await to.api.get<{ deltaBytes: number | null }>(`/artifacts/${next}/delta`, { from: old })).deltaBytes;
  const [before, after] = [await from.blob(old), await to.blob(next)];
  return before && after ? (await makeDelta(before, after))?.length ?? null : undefined;
}

export function filesOf(manifest: Manifest): { digest: string; bytes: number }[] {
  const files = [...manifest.variants.flatMap(segmentsOf), ...(manifest.golden ? [manifest.golden] : [])];
  return [...new Map(files.map(({ digest, bytes: size }) => [digest, { digest, bytes: size }])).values()];
}

export function bundleDiffText(diff: BundleDiff): string {
  const { labels } = diff;
  const same = diff.from.bundle === diff.to.bundle;
  const list = (names: string[]) => `${names.slice(0, 10).join(', ')}${names.length > 10 ? `, ... (${names.length})` : ''}`;
  return [
    `${diff.from.name} ${diff.from.bundle.slice(0, 12)} -> ${diff.to.name} ${diff.to.bundle.slice(0, 12)}${same ? ': the same bundle' : ''}`,
    ...(diff.fields.length > 0 ? [table(['value', 'before', 'after'], diff.fields.map(({ path, from, to }) => [path, valueText(from), valueText(to)]))] : []),
    ...(labels ? [[['added', labels.added], ['removed', labels.removed], ['at another output', labels.moved]].flatMap(([what, names]) => ((names as string[]).length > 0 ? [`labels ${what as string}: ${list(names as string[])}`] : [])).join('\n')] : []),
    table(['file', '', 'before', 'after', 'delta', 'transfers'], diff.files.map((file) => [
      file.part, file.change, file.from && bytes(file.from.bytes), file.to && bytes(file.to.bytes),
      file.transferBytes === 0 ? null : file.deltaBytes ? `${bytes(file.deltaBytes)}, ${percent(file.deltaBytes / file.to!.bytes)}` : file.deltaBytes === null ? 'none worth it' : 'unknown: the files are not here',
      file.transferBytes === null ? '?' : bytes(file.transferBytes),
    ])),
    diff.transfers.map(({ variant, bytes: needed, fullBytes }) => `A device on ${variant} that has the first transfers ${needed === null ? `at most ${bytes(fullBytes)}` : `${bytes(needed)} of ${bytes(fullBytes)}`}.`).join('\n'),
  ].join('\n\n');
}

function valueText(value: unknown): string | null {
  if (value === undefined || value === null) return null;
  const text = typeof value === 'object' ? JSON.stringify(value) : String(value as string | number | boolean);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

function jsonOf(text: string, file: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new ReefError('bundle.malformed', 'invalid', `${file} is not a bundle's envelope: it is not JSON.`, { cause });
  }
}
