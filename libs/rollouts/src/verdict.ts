import { round, sequentialFrom, stillNeeded } from './judging.ts';
import { devicesIn, type DeviceSample, type RolloutExecutionState, type Settings } from './rollout.ts';
import { proportionSet, type Interval } from './statistics.ts';
import { judgeLatency } from './verdict-latency.ts';
import { judgeCustom, judgeDrift, judgeTemperature } from './verdict-levels.ts';
import { judgeAccuracy, judgeErrors, judgeShadow } from './verdict-shares.ts';

/**
 * The verdict of each gate on one wave, from numbers only. The unit is the device, never the single inference: ten thousand frames of
 * one camera are one witness. From `sequentialFrom` devices on, the interval that holds at every look decides; below, a threshold at the
 * end of the soak, and the verdict says which of the two it was.
 */
export type GateName = 'install_failures' | 'error_rate' | 'latency_p50' | 'latency_p95' | 'latency_p99' | 'accuracy' | 'temperature' | 'score_drift' | 'shadow_agreement' | `custom_${string}`;
export type VerdictWord = 'PASSED' | 'FAILED' | 'INCONCLUSIVE' | 'PENDING' | 'NOT_APPLICABLE';

export interface Verdict {
  gate: GateName;
  verdict: VerdictWord;
  value: number | null;
  baseline: number | null;
  limit: number | null;
  unit: 'percent' | 'ms' | 'celsius' | 'psi' | 'number';
  /** What the value is a share or a mean of, in words. */
  basis: string;
  method: 'threshold' | 'sequential';
  /** Around `value`, in its unit; null with the threshold method. */
  interval: Interval | null;
  sample: { devices: number; inferences: number };
  /**
   * What is missing for a verdict; null when nothing is, or nothing that would help: so many more `devices`, each with so much in all;
   * so many `answers`; the end of the `soak`.
   */
  needed: { devices?: number; inferencesPerDevice?: number; labelledPerDevice?: number; shadowFramesPerDevice?: number; scoresPerDevice?: number; numbersPerDevice?: number; answers?: number; soak?: true } | null;
  message: string;
}

/** As the outside sees it: `stillNeeded` says what an undecided gate waits for. */
export type VerdictView = Verdict & { stillNeeded: string | null };
export const verdictViewOf = (verdict: Verdict): VerdictView => ({ ...verdict, stillNeeded: stillNeeded(verdict) });

export type Counts = Record<RolloutExecutionState, number>;
export const noCounts = (): Counts => ({ PENDING: 0, QUEUED: 0, IN_PROGRESS: 0, SUCCEEDED: 0, FAILED: 0, TIMED_OUT: 0, REJECTED: 0, REMOVED: 0, CANCELED: 0 });
export const openCount = (counts: Counts): number => counts.PENDING + counts.QUEUED + counts.IN_PROGRESS;

export function judgeInstall(settings: Settings, counts: Counts): Verdict | undefined {
  const gate = settings.gates.installFailures;
  if (!gate) return undefined;
  const failures = counts.FAILED + counts.REJECTED;
  const answered = failures + counts.SUCCEEDED;
  // Devices that were retired or taken over by a newer rollout are no witnesses.
  const group = answered + counts.TIMED_OUT + openCount(counts);
  const open = openCount(counts);
  const denominator = gate.basis === 'group' ? group : answered;
  const sequential = answered >= sequentialFrom;
  const interval: Interval | null = sequential ? proportionSet(failures, answered, settings.alpha).map((p) => round(p * 100)) as Interval : null;
  const verdict: Verdict = {
    gate: 'install_failures', verdict: 'PENDING',
    value: denominator > 0 ? round((failures / denominator) * 100) : null, baseline: null, limit: gate.maxPercent, unit: 'percent',
    basis: `${gate.basis} (${devicesIn(denominator)})`, method: sequential ? 'sequential' : 'threshold', interval,
    sample: { devices: answered, inferences: 0 }, needed: null, message: '',
  };
  const said = `${failures} of ${devicesIn(denominator)} (${gate.basis}) failed to install, ${gate.maxPercent} % allowed`;
  // Failed of the whole group is failed of any part of it; of the executed alone it is certain only when all have answered.
  const spent = failures * 100 > gate.maxPercent * group || (gate.basis === 'executed' && open === 0 && failures * 100 > gate.maxPercent * answered);
  if (spent) return { ...verdict, verdict: 'FAILED', message: `${said}.` };
  if (interval && interval[0] > gate.maxPercent) return { ...verdict, verdict: 'FAILED', message: `${said} of all; ${failures} of the first ${answered} answers failed, so the share is above ${interval[0]} %.` };
  if (open > 0) return { ...verdict, needed: { answers: open }, message: `${devicesIn(open)} yet to answer.` };
  if (counts.TIMED_OUT * 100 > gate.maxUnansweredPercent * group) {
    const answers = counts.TIMED_OUT - Math.floor((gate.maxUnansweredPercent * group) / 100);
    return { ...verdict, verdict: 'INCONCLUSIVE', needed: { answers }, message: `${counts.TIMED_OUT} of ${devicesIn(group)} did not answer in ${settings.installTimeoutS} s, ${gate.maxUnansweredPercent} % allowed; ${answers} more answers are needed. Advance past them, or roll back.` };
  }
  return { ...verdict, verdict: 'PASSED', message: `${said}.` };
}

/** `samples`: every device of the wave that has been updated, those without telemetry too. */
export function judgeSamples(settings: Settings, samples: readonly DeviceSample[], soaked: boolean): Verdict[] {
  return [
    judgeErrors(settings, samples, soaked), ...(['latencyP50', 'latencyP95', 'latencyP99'] as const).map((which) => judgeLatency(which, settings, samples, soaked)), judgeAccuracy(settings, samples, soaked),
    judgeTemperature(settings, samples, soaked), judgeDrift(settings, samples, soaked), judgeShadow(settings, samples, soaked), ...(settings.gates.custom ?? []).map((gate) => judgeCustom(gate, settings, samples, soaked)),
  ].filter((one) => one !== undefined);
}
