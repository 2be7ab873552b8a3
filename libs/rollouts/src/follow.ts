import { terminalStates, type Execution, type Transfer } from '@reefkeeper/protocol';
import { isSettled, type RolloutExecutionState } from './rollout.ts';

/** One device's part of a rollout, as far as following it needs. */
export interface Followed {
  device: string;
  state: RolloutExecutionState;
  step: string | null;
  percent: number | null;
  /** While it is open: what it waits for. */
  failure?: { code: string; message: string } | null;
  revision: number | null;
  bundle: string;
  assignedAt: Date | null;
  /** Since when the time for the installation runs, where that is not the assignment. */
  timeoutFrom?: Date | null;
  rollbackState: RollbackState | null;
  rollbackRevision: number | null;
  rollbackAssignedAt: Date | null;
  previousBundle: string | null;
}

/** `PENDING`: in line, not told yet. */
export type RollbackState = 'PENDING' | 'QUEUED' | 'IN_PROGRESS' | 'SUCCEEDED' | 'FAILED' | 'TIMED_OUT' | 'CANCELED';
export const rollbackOpen = (state: RollbackState | null): boolean => state === 'QUEUED' || state === 'IN_PROGRESS';

/** What is known of the device: its latest report on the workload and what it is wanted to run now. */
export interface Seen {
  retired: boolean;
  wantedBundle: string | null;
  observedRevision: number | null;
  running: string | null;
  execution: Execution | null;
}

export interface Followup {
  state: RolloutExecutionState;
  step: string | null;
  percent: number | null;
  /** Why it ended, or what it waits for. */
  failure: { code: string; message: string } | null;
  /** What its files took; null where the device has not said. */
  transfer: Transfer | null;
  rollbackState: RollbackState | null;
  rollbackFailure: { code: string; message: string } | null;
}

/**
 * Where a report takes an execution; undefined when it stays as it is. Only reports of our revision or a later one that still speak
 * of our bundle count, so what a device said of an earlier assignment of the same bundle never does. Terminal is sticky.
 */
export function follow(execution: Followed, seen: Seen, limits: { installTimeoutS: number; rollbackTimeoutS: number }, now: Date): Followup | undefined {
  const same: Followup = { state: execution.state, step: execution.step, percent: execution.percent, failure: null, transfer: ofOurs(seen.execution, execution)?.transfer ?? null, rollbackState: execution.rollbackState, rollbackFailure: null };
  if (rollbackOpen(execution.rollbackState)) {
    const moved = followRollback(execution, seen, limits.rollbackTimeoutS, now);
    return moved && { ...same, ...moved };
  }
  if (execution.state === 'PENDING' || isSettled(execution.state)) return undefined;
  if (seen.retired) return { ...same, state: 'REMOVED', failure: { code: 'device.retired', message: 'The device was retired.' } };
  if (seen.wantedBundle !== execution.bundle) return { ...same, state: 'CANCELED', failure: { code: 'execution.superseded', message: 'The device is wanted to run something else by now.' } };
  const said = ofOurs(seen.execution, execution);
  // Its own time does not run while it waits, and begins anew when it goes on.
  const late = !isWaiting(execution) && overdue(execution.timeoutFrom ?? execution.assignedAt, limits.installTimeoutS, now);
  if (said) {
    // A device that says done but runs something else has not done it.
    const state = said.state === 'SUCCEEDED' && seen.running !== execution.bundle ? 'IN_PROGRESS' : said.state;
    const failed = terminalStates.has(state) && state !== 'SUCCEEDED';
    if (terminalStates.has(state)) return { ...same, state, step: said.step, percent: state === 'SUCCEEDED' ? 100 : said.percent, failure: failed ? said.failure ?? { code: 'execution.unexplained', message: `The device reported ${state} without a reason.` } : null };
    const failure = waitsFor(said);
    if (failure || !late) {
      return state === execution.state && said.step === execution.step && said.percent === execution.percent && failure?.code === execution.failure?.code ? undefined : { ...same, state, step: said.step, percent: said.percent, failure };
    }
  }
  return late ? { ...same, state: 'TIMED_OUT', failure: { code: 'execution.timed_out', message: `No final answer in ${limits.installTimeoutS} s. The device takes the wanted version when it comes back.` } } : undefined;
}

/** Told, and has said itself that it does not begin yet, and why: its data budget, an accelerator, its disk. It is not given up for that. */
export function isWaiting({ state, failure }: Pick<Followed, 'state' | 'failure'>): boolean {
  return state === 'QUEUED' && Boolean(failure);
}

/** By the code of what a device waits for. */
export const waitWords: Readonly<Record<string, string>> = { budget_exceeded: 'its data budget', no_accelerator: 'an Edge TPU', disk_full: 'room on its disk', disk_read_only: 'its disk to be writable', disk_failing: 'its disk' };

/** The same of a row. @param of its alias with a dot, where it needs one */
export const waitingSql = (of = ''): string => `${of}state = 'QUEUED' AND ${of}failure IS NOT NULL`;
/** Told, and an answer is on its way. Who waits by its own word fetches nothing, and would keep its place for days. */
export const answeringSql = (of = ''): string => `${of}state IN ('QUEUED', 'IN_PROGRESS') AND NOT (${waitingSql(of)})`;

/** Only what was said of our bundle at our revision or a later one. */
function ofOurs(said: Execution | null, { bundle, revision }: Followed): Execution | undefined {
  return said && revision !== null && said.bundle === bundle && said.revision >= revision ? said : undefined;
}

/** No failure, and no end either. */
function waitsFor(said: Execution): { code: string; message: string } | null {
  return said.state === 'QUEUED' ? said.failure : null;
}

function followRollback(execution: Followed, seen: Seen, timeoutS: number, now: Date): Pick<Followup, 'rollbackState' | 'rollbackFailure'> | undefined {
  const to = (rollbackState: RollbackState, code?: string, message?: string) => ({ rollbackState, rollbackFailure: code ? { code, message: message! } : null });
  if (seen.retired) return to('CANCELED', 'device.retired', 'The device was retired.');
  if (seen.wantedBundle !== execution.previousBundle) return to('CANCELED', 'execution.superseded', 'The device is wanted to run something else by now.');
  if (seen.observedRevision !== null && seen.observedRevision >= execution.rollbackRevision!) {
    const said = seen.execution;
    const spoken = said && said.revision >= execution.rollbackRevision! ? said : null;
    // Back is back, whichever way it came: the device may have gone back by itself and have nothing left to do.
    if (seen.running === execution.previousBundle && (!spoken || terminalStates.has(spoken.state))) return to('SUCCEEDED');
    if (spoken && terminalStates.has(spoken.state) && spoken.state !== 'SUCCEEDED') return to('FAILED', spoken.failure?.code ?? 'execution.unexplained', spoken.failure?.message ?? 'The device could not go back and gave no reason.');
    if (!overdue(execution.rollbackAssignedAt, timeoutS, now)) return execution.rollbackState === 'IN_PROGRESS' ? undefined : to('IN_PROGRESS');
  }
  if (overdue(execution.rollbackAssignedAt, timeoutS, now)) return to('TIMED_OUT', 'execution.timed_out', `No answer in ${timeoutS} s. The device goes back when it returns.`);
  return undefined;
}

const overdue = (since: Date | null, limitS: number, now: Date): boolean => since !== null && now.getTime() >= since.getTime() + limitS * 1_000;
