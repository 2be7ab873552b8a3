import { partsOf, type Manifest } from './manifest.ts';

/** One value that differs; `from` or `to` is undefined where there is none. */
export interface FieldChange { path: string; from: unknown; to: unknown }

export interface LabelsChange { added: string[]; removed: string[]; /** Both have it, at another output: old answers then mean something else. */ moved: string[] }

export interface FileChange {
  /** Name of the variant, or `golden`. */
  part: string;
  from: { digest: string; bytes: number } | null;
  to: { digest: string; bytes: number } | null;
  change: 'same' | 'changed' | 'added' | 'removed';
}

export interface ManifestDiff { fields: FieldChange[]; labels: LabelsChange | null; files: FileChange[] }

/** Parts whose values are compared one by one. Files and labels have their own lists; parity is measured anew for every version. */
const compared = ['model', 'task', 'inputs', 'outputs', 'lineage'] as const;

/** What differs between two bundles, the files by the part they play. Nothing is said of when they were made. */
export function diffManifests(from: Manifest, to: Manifest): ManifestDiff {
  const [before, after] = [allParts(from), allParts(to)];
  const variants = (manifest: Manifest) => Object.fromEntries(manifest.variants.map(({ name, kind, minRuntime }) => [name, { kind, minRuntime }]));
  return {
    fields: [...compared.flatMap((part) => changes(part, from[part], to[part])), ...changes('variants', variants(from), variants(to)), ...changes('golden.cases', from.golden?.cases, to.golden?.cases)],
    labels: labelsChange(from.labels ?? [], to.labels ?? []),
    files: [...new Set([...before.keys(), ...after.keys()])].map((part) => {
      const [old, next] = [before.get(part) ?? null, after.get(part) ?? null];
      return { part, from: old, to: next, change: !old ? 'added' : !next ? 'removed' : old.digest === next.digest ? 'same' : 'changed' };
    }),
  };
}

function allParts({ variants, golden }: Manifest): Map<string, { digest: string; bytes: number }> {
  return new Map([...variants.flatMap(partsOf), ...(golden ? [{ part: 'golden', digest: golden.digest, bytes: golden.bytes }] : [])].map(({ part, digest, bytes }) => [part, { digest, bytes }]));
}

function labelsChange(from: readonly string[], to: readonly string[]): LabelsChange | null {
  const [before, after] = [new Map(from.map((label, at) => [label, at])), new Map(to.map((label, at) => [label, at]))];
  const added = to.filter((label) => !before.has(label));
  const removed = from.filter((label) => !after.has(label));
  const moved = to.filter((label, at) => before.has(label) && before.get(label) !== at);
  return added.length + removed.length + moved.length === 0 ? null : { added, removed, moved };
}

function changes(path: string, from: unknown, to: unknown): FieldChange[] {
  if (isObject(from) && isObject(to)) {
    return [...new Set([...Object.keys(from), ...Object.keys(to)])].sort().flatMap((key) => changes(Array.isArray(from) ? `${path}[${key}]` : `${path}.${key}`, from[key], to[key]));
  }
  return JSON.stringify(from) === JSON.stringify(to) ? [] : [{ path, from, to }];
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
