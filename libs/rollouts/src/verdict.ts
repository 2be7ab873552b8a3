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

const answeredCount = (counts: Counts): number => counts.FAILED + counts.REJECTED + counts.SUCCEEDED;
/** Devices that were retired or taken over by a newer rollout are no witnesses. */
export const groupCount = (counts: Counts): number => answeredCount(counts) + counts.TIMED_OUT + openCount(counts);

/** What the counts do not tell apart: of the QUEUED those that wait by their own word, of the SUCCEEDED those that left the version since. */
export interface Apart { waiting?: number | undefined; faults?: number | undefined }

/** Whether more devices have no answer than the gate lets pass. */
export function lacksAnswers({ gates: { installFailures } }: Settings, counts: Counts, unanswered: number): boolean {
  return installFailures !== null && unanswered * 100 > installFailures.maxUnansweredPercent * groupCount(counts);
}

export function judgeInstall(settings: Settings, counts: Counts, { waiting = 0, faults = 0 }: Apart = {}): Verdict | undefined {
  const gate = settings.gates.installFailures;
  if (!gate) return undefined;
  const failures = counts.FAILED + counts.REJECTED + faults;
  const answered = answeredCount(counts);
  const group = groupCount(counts);
  const open = openCount(counts) - waiting;
  const denominator = gate.basis === 'group' ? group : answered;
  const sequential = answered >= sequentialFrom;
  const interval: Interval | null = sequential ? proportionSet(failures, answered, settings.alpha).map((p) => round(p * 100)) as Interval : null;
  const verdict: Verdict = {
    gate: 'install_failures', verdict: 'PENDING',
    value: denominator > 0 ? round((failures / denominator) * 100) : null, baseline: null, limit: gate.maxPercent, unit: 'percent',
    basis: `${gate.basis} (${devicesIn(denominator)})`, method: sequential ? 'sequential' : 'threshold', interval,
    sample: { devices: answered, inferences: 0 }, needed: null, message: '',
  };
  const said = `${failures} of ${devicesIn(denominator)} (${gate.basis}) failed to install${faults > 0 ? ` (${faults} of them left it after their success)` : ''}, ${gate.maxPercent} % allowed`;
  // Failed of the whole group is failed of any part of it; of the executed alone it is certain only when all have answered.
  const spent = failures * 100 > gate.maxPercent * group || (gate.basis === 'executed' && open === 0 && failures * 100 > gate.maxPercent * answered);
  if (spent) return { ...verdict, verdict: 'FAILED', message: `${said}.` };
  if (interval && interval[0] > gate.maxPercent) return { ...verdict, verdict: 'FAILED', message: `${said} of all; ${failures} of the first ${answered} answers failed, so the share is above ${interval[0]} %.` };
  if (open > 0) return { ...verdict, needed: { answers: open }, message: `${devicesIn(open)} yet to answer.` };
  const answers = counts.TIMED_OUT + waiting - Math.floor((gate.maxUnansweredPercent * group) / 100);
  // Who waits may still answer before the deadline.
  if (waiting > 0 && lacksAnswers(settings, counts, counts.TIMED_OUT + waiting)) {
    return { ...verdict, needed: { answers }, message: `${waiting} of ${devicesIn(group)} wait and will not begin yet${counts.TIMED_OUT > 0 ? `, ${counts.TIMED_OUT} did not answer` : ''}; ${gate.maxUnansweredPercent} % may be without an answer, so ${answers} more ${answers === 1 ? 'is' : 'are'} needed.` };
  }
  if (lacksAnswers(settings, counts, counts.TIMED_OUT)) {
    return { ...verdict, verdict: 'INCONCLUSIVE', needed: { answers }, message: `${counts.TIMED_OUT} of ${devicesIn(group)} did not answer in ${settings.installTimeoutS} s, ${gate.maxUnansweredPercent} % allowed; ${answers} more answers are needed. Advance past them, or roll back.` };
  }
  return { ...verdict, verdict: 'PASSED', message: `${said}${waiting > 0 ? `; ${waiting} still waiting` : ''}.` };
}

/** `samples`: every device of the wave that has been updated, those without telemetry too. */
export function judgeSamples(settings: Settings, samples: readonly DeviceSample[], soaked: boolean): Verdict[] {
  return [
    judgeErrors(settings, samples, soaked), ...(['latencyP50', 'latencyP95', 'latencyP99'] as const).map((which) => judgeLatency(which, settings, samples, soaked)), judgeAccuracy(settings, samples, soaked),
    judgeTemperature(settings, samples, soaked), judgeDrift(settings, samples, soaked), judgeShadow(settings, samples, soaked), ...(settings.gates.custom ?? []).map((gate) => judgeCustom(gate, settings, samples, soaked)),
  ].filter((one) => one !== undefined);
}
