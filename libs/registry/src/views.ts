import type { Page } from './registry.service.ts';
import type { FailedVariant, SegmentedModel, Version, VersionError, VersionHold } from './registry.entity.ts';
import { refOf, sizeOf, type VersionState } from './version.ts';

/** A version as the API shows it. */
export interface VersionView {
  id: string;
  model: string;
  version: number;
  /** `name@3` */
  ref: string;
  state: VersionState;
  task: string;
  labels: string[] | null;
  notes: string | null;
  bundleDigest: string | null;
  /** `digest` and `bytes` are those of its file, in segments of the first; `totalBytes` all of them come to. */
  variants: { name: string; kind: string; minRuntime: number | null; digest: string; bytes: number; segments: number; totalBytes: number; details: Record<string, unknown> | null }[];
  parity: Record<string, unknown> | null;
  lineage: Record<string, unknown> | null;
  analysis: Record<string, unknown> | null;
  error: VersionError | null;
  createdAt: Date;
  createdBy: string;
  readyAt: Date | null;
  /** Asked for and not made, while others were. */
  failedVariants: FailedVariant[];
  /** Cut into segments for several Edge TPUs; download them as artifacts. */
  pipelines: SegmentedModel[];
  /** Why it is not rolled out before somebody confirms it. */
  hold: VersionHold | null;
  confirmedAt: Date | null;
  confirmedBy: string | null;
}

export function versionView(version: Version): VersionView {
  const { id, model, state, task, labels, notes, bundleDigest, parity, lineage, analysis, error, createdAt, createdBy, readyAt, failedVariants, pipelines, hold, confirmedAt, confirmedBy } = version;
  return {
    id, model, version: version.version, ref: refOf(version), state, task, labels, notes, bundleDigest,
    variants: (version.variants ?? []).map(({ name, kind, minRuntime, digest, bytes, details }) => ({ name, kind, minRuntime, digest, bytes, ...sizeOf({ bytes, details }), details })),
    parity, lineage, analysis, error, createdAt, createdBy, readyAt, failedVariants, pipelines, hold, confirmedAt, confirmedBy,
  };
}

/** For lists: of the analysis only what it comes to; the operators are in the version itself. */
export function versionLine(version: Version): VersionView {
  const view = versionView(version);
  return { ...view, analysis: view.analysis && { verdict: view.analysis.verdict, summary: view.analysis.summary } };
}

export interface ModelView {
  name: string;
  description: string | null;
  createdAt: Date;
  createdBy: string;
  latestVersion: number | null;
  versions: number;
}

export function mapPage<A, B>(page: Page<A>, map: (item: A) => B): Page<B> {
  return { items: page.items.map(map), nextCursor: page.nextCursor };
}
