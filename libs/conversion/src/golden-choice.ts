import { defaultMaxStepDiff, topOf, valuesOf, type Dtype, type GoldenCase, type Task } from '@reefkeeper/bundle';

export interface Candidate {
  input: Buffer[];
  /** Raw bytes as the quantised model gave them on the CPU. */
  outputs: Buffer[];
}

const mostCases = 8;
const mostInputBytes = 16 * 1024 * 1024;
/** Kernels differ by 1 to 2 steps each way; a top-1 that leads by less could flip on a sound device. */
const safeLead = 6;

/**
 * The cases a device must answer before it serves: at most 8, of different answers where there are, clear ones first. Pure and
 * deterministic.
 */
export function chooseGolden(candidates: readonly Candidate[], dtypes: Dtype[], task: Task): GoldenCase[] {
  const judged = candidates.map((candidate, index) => ({ candidate, index, ...leadOf(valuesOf(candidate.outputs[0]!, dtypes[0]!)) }));
  const byLead = judged.sort((a, b) => b.lead - a.lead || a.index - b.index);
  const first = byLead.filter((one, at) => byLead.findIndex((other) => other.top === one.top) === at);
  const inputBytes = Math.max(1, candidates[0]?.input.reduce((sum, part) => sum + part.length, 0) ?? 1);
  const count = Math.max(1, Math.min(mostCases, Math.floor(mostInputBytes / inputBytes)));
  return [...first, ...byLead.filter((one) => !first.includes(one))].slice(0, count).map(({ candidate, top, lead }) => ({
    input: candidate.input,
    expect: { top1: task === 'classification' && lead >= safeLead ? top : null, outputs: candidate.outputs, dtypes, tolerance: { maxStepDiff: defaultMaxStepDiff } },
  }));
}

/** The winner, and by how many steps. Floats count in 255ths of their range. */
function leadOf(values: ArrayLike<number>): { top: number; lead: number } {
  const top = topOf(values);
  let [second, low] = [-Infinity, Infinity];
  for (let at = 0; at < values.length; at += 1) {
    if (at !== top) second = Math.max(second, values[at]!);
    low = Math.min(low, values[at]!);
  }
  if (second === -Infinity) return { top, lead: 0 };
  const float = !Number.isInteger(values[top]!) || !Number.isInteger(second);
  return { top, lead: (values[top]! - second) / (float ? Math.max((values[top]! - low) / 255, 1e-12) : 1) };
}
