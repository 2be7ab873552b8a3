import { readFile } from 'node:fs/promises';
import { driftBins, Sketch, type DriftWindow } from '@reefkeeper/protocol';
import writeFileAtomic from 'write-file-atomic';
import { z } from 'zod';
import type { Disk } from './disk.ts';
import type { ClosedWindow } from './window.ts';

/** Scores that make a reference; at one frame a second the first eight minutes. */
const referenceScores = 500;
/** Fewer say nothing: chance alone would give an index of 0.2. */
const leastScores = 50;

const saved = z.record(z.string(), z.object({ bundle: z.string(), scores: z.string() }));

/**
 * Whether the scores of a model still look as they did when it was committed. Per workload, the top-1 scores of the first windows after the commit are kept as the
 * reference, on disk; another bundle begins anew.
 */
export class Drift {
  private constructor(private readonly file: string, private readonly disk: Disk, private readonly references: Map<string, { bundle: string; scores: Sketch }>) {}

  static async open(file: string, disk: Disk): Promise<Drift> {
    const text = await readFile(file, 'utf8').catch(() => '{}');
    try {
      return new Drift(file, disk, new Map(Object.entries(saved.parse(JSON.parse(text))).map(([workload, { bundle, scores }]) => [workload, { bundle, scores: Sketch.fromBase64(scores) }])));
    } catch {
      // Begun anew rather than wrong for ever.
      return new Drift(file, disk, new Map());
    }
  }

  /** Takes a window of a committed bundle in. @returns its drift, once there is a reference */
  async note({ workload, bundle, scores: encoded }: Pick<ClosedWindow, 'workload' | 'bundle' | 'scores'>): Promise<DriftWindow | undefined> {
    if (encoded === undefined) return undefined;
    const scores = Sketch.fromBase64(encoded);
    let reference = this.references.get(workload);
    if (reference?.bundle !== bundle) this.references.set(workload, reference = { bundle, scores: new Sketch() });
    if (reference.scores.count < referenceScores) {
      reference.scores.merge(scores);
      await this.disk.write(() => writeFileAtomic(this.file, JSON.stringify(Object.fromEntries([...this.references].map(([name, one]) => [name, { bundle: one.bundle, scores: one.scores.toBase64() }]))), { fsync: false }));
      return undefined;
    }
    return scores.count < leastScores ? undefined : { psi: stabilityIndex(reference.scores, scores), reference: reference.scores.count, current: scores.count };
  }
}

/**
 * Population stability index: the sum over bins of (c - r) * ln(c / r), with r and c the shares of the reference and of now in each bin; the bins are cut at the
 * deciles of the reference. Half a score is added to every bin, so that an empty one is not infinite.
 * Sources: N. Siddiqi, "Credit Risk Scorecards" (2006), which reads below 0.1 as stable and above 0.25 as changed; B. Yurdakul, "Statistical Properties of Population
 * Stability Index" (2018): without any change it is (bins - 1) * (1/n + 1/m) on average.
 */
export function stabilityIndex(reference: Sketch, now: Sketch): number {
  const edges = edgesOf(Array.from({ length: driftBins - 1 }, (_, at) => reference.quantile((at + 1) / driftBins)!));
  const [r, c] = [sharesOf(reference, edges), sharesOf(now, edges)];
  return r.reduce((sum, share, bin) => sum + (c[bin]! - share) * Math.log(c[bin]! / share), 0);
}

/** Where several deciles are one value (a model that is always sure), it has a bin of its own: what falls below it must show. */
function edgesOf(deciles: readonly number[]): number[] {
  const belowIt = (value: number) => value / 1.01;
  return [...new Set(deciles.flatMap((value, at) => (value === deciles[at + 1] ? [belowIt(value), value] : [value])))].sort((a, b) => a - b);
}

function sharesOf(scores: Sketch, edges: readonly number[]): number[] {
  const counts = Array.from({ length: edges.length + 1 }, () => 0.5);
  for (const { middle, count } of scores.middles()) counts[edges.filter((edge) => middle > edge).length]! += count;
  const total = counts.reduce((sum, count) => sum + count, 0);
  return counts.map((count) => count / total);
}
