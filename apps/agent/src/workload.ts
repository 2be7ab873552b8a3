import { terminalStates, type Backend, type Execution as ReportedExecution, type ExecutionStep, type Failure, type Transfer, type WantedWorkload } from '@reefkeeper/protocol';

/** One bundle in the form it is served. */
export interface Slot {
  bundle: string;
  variant: string;
  backend: Backend;
}

/** This device's part in one revision of one workload. */
export interface Execution extends ReportedExecution {
  wantedVariant: string;
  rollback: boolean;
  /** Steps whose effect is on disk. What is not here is done again after a restart, and every step bears that. */
  done: ExecutionStep[];
  /** Time spent on it, by the monotonic clock, over all restarts; waiting for an accelerator is not counted. */
  elapsedMs: number;
  /** How often the observation has begun. A model that takes the whole device down never reports a failure: this counts it. */
  trials: number;
  /** What it waits for before it can go on (`budget_exceeded`, `no_accelerator`, `disk_full`, ...); it is then QUEUED. */
  waiting: Failure | null;
}

/**
 * Invariants: `good` has passed its observation on this device; `running` is either `good` or on trial. Going back means
 * `running = good` and nothing else, so it works without a network and after any crash.
 */
export interface WorkloadState {
  running: Slot | null;
  good: Slot | null;
  /** The good one before `good`. */
  previous: Slot | null;
  execution: Execution | null;
  /** After the commit the bundle in service is watched for a while more; null = it has held. */
  probation: Probation | null;
  /** What was found wrong with a bundle after its commit. While it still runs, it is to be left. */
  fault: { bundle: string; failure: Failure } | null;
}

export interface Probation {
  /** Service that is still to be watched, by the monotonic clock. */
  leftMs: number;
  crashes: number;
  /** Starts of the agent that no orderly stop came before: a model may take the whole device down. */
  boots: number;
}

export const emptyWorkload: WorkloadState = { running: null, good: null, previous: null, execution: null, probation: null, fault: null };

export const defaultProbationS = 600;
/** Crashes on probation that send a bundle back, however far apart. */
export const probationCrashes = 3;
/** Crashes in a row, without a minute of good service in between, that send any bundle back. */
export const crashLoopAt = 4;

/** An agent that dies this often while it observes one bundle blames the bundle. */
export const maxTrials = 4;

export function isOpen(execution: Execution | null): execution is Execution {
  return execution !== null && !terminalStates.has(execution.state);
}

export function onTrial(state: WorkloadState): boolean {
  return state.running !== null && !sameSlot(state.running, state.good);
}

export function sameSlot(a: Slot | null, b: Slot | null): boolean {
  return a === b || (a !== null && b !== null && a.bundle === b.bundle && a.variant === b.variant && a.backend === b.backend);
}

// The moves. Each is pure and is written to disk as a whole.

/** Opens the execution of a revision. Work done for the same bundle under a lower revision is kept. */
export function begun(state: WorkloadState, revision: number, wanted: WantedWorkload): WorkloadState {
  const before = state.execution;
  const same = isOpen(before) && before.failure === null && before.bundle === wanted.bundle && before.wantedVariant === wanted.variant && before.rollback === wanted.rollback;
  return {
    ...state,
    execution: {
      revision, bundle: wanted.bundle, wantedVariant: wanted.variant, rollback: wanted.rollback,
      state: 'IN_PROGRESS', step: same ? before.step : null, percent: null, failure: null,
      done: same ? before.done : [], elapsedMs: 0, trials: same ? before.trials : 0, waiting: null, ...(same && before.transfer ? { transfer: before.transfer } : {}), ...(same && before.notes ? { notes: before.notes } : {}),
    },
  };
}

export function entered(state: WorkloadState, step: ExecutionStep): WorkloadState {
  if (!isOpen(state.execution)) return state;
  const trials = state.execution.trials + (step === 'observe' ? 1 : 0);
  return { ...state, execution: { ...state.execution, state: 'IN_PROGRESS', waiting: null, step, percent: null, trials } };
}

/** What a download took is added to what the execution took before. A kill in the middle of one loses its count, never its bytes. */
export function transferred(state: WorkloadState, took: Transfer): WorkloadState {
  const { execution } = state;
  if (!isOpen(execution)) return state;
  const before = execution.transfer ?? { fullBytes: 0, deltaBytes: 0, peerBytes: 0, savedBytes: 0 };
  const sum = (key: keyof Transfer) => before[key] + took[key];
  return { ...state, execution: { ...execution, transfer: { fullBytes: sum('fullBytes'), deltaBytes: sum('deltaBytes'), peerBytes: sum('peerBytes'), savedBytes: sum('savedBytes') } } };
}

/** Nothing has failed. What waits for the data budget goes on when `resumed`; other waits are over when the plan has a next step. */
export function deferred(state: WorkloadState, waiting: Failure): WorkloadState {
  return isOpen(state.execution) ? { ...state, execution: { ...state.execution, state: 'QUEUED', percent: null, waiting } } : state;
}

export function resumed(state: WorkloadState): WorkloadState {
  return state.execution && waitsForBudget(state.execution) ? { ...state, execution: { ...state.execution, waiting: null } } : state;
}

export function waitsForBudget(execution: Execution | null): boolean {
  return isOpen(execution) && execution.waiting?.code === 'budget_exceeded';
}

export function did(state: WorkloadState, step: ExecutionStep): WorkloadState {
  if (!isOpen(state.execution) || state.execution.done.includes(step)) return state;
  return { ...state, execution: { ...state.execution, done: [...state.execution.done, step] } };
}

/** Something to be known of the execution; said once. */
export function noted(state: WorkloadState, note: Failure): WorkloadState {
  if (!isOpen(state.execution)) return state;
  const others = (state.execution.notes ?? []).filter(({ code }) => code !== note.code);
  return { ...state, execution: { ...state.execution, notes: [...others, note].slice(-8) } };
}

/** The bundle's files are gone from disk; everything up to the switch is to be done again. */
export function refetched(state: WorkloadState): WorkloadState {
  return isOpen(state.execution) ? { ...state, execution: { ...state.execution, done: [] } } : state;
}

export function activated(state: WorkloadState, slot: Slot): WorkloadState {
  return did({ ...state, running: slot }, 'activate');
}

/** Notes why, before anything is undone: a crash in between then still ends in FAILED. */
export function failed(state: WorkloadState, failure: Failure): WorkloadState {
  if (!isOpen(state.execution)) return state;
  // The first reason is the reason.
  return { ...state, execution: { ...state.execution, failure: state.execution.failure ?? failure } };
}

/** Back to `slot`; the execution stays open until closed. */
export function returned(state: WorkloadState, slot: Slot | null): WorkloadState {
  const previous = slot && state.previous?.bundle === slot.bundle ? null : state.previous;
  return { ...state, running: slot, good: slot, previous };
}

/** @param probationMs how long the bundle is watched on; what is gone back to has held before and is not */
export function committed(state: WorkloadState, probationMs = 0): WorkloadState {
  if (!isOpen(state.execution) || !state.running) return state;
  const probation = state.execution.rollback || probationMs === 0 ? null : { leftMs: probationMs, crashes: 0, boots: 0 };
  const { running, good } = state;
  const moved = good !== null && good.bundle !== running.bundle;
  // After a rollback the one we came from is known to be bad; it must never be somewhere to return to.
  const previous = state.execution.rollback ? (state.previous?.bundle === running.bundle ? null : state.previous) : moved ? good : state.previous;
  return closed({ ...state, good: running, previous: previous?.bundle === running.bundle ? null : previous, probation, fault: null }, 'SUCCEEDED');
}

/** Something is wrong with a bundle after its commit. While an execution is open, its own observation decides. */
export function faulted(state: WorkloadState, bundle: string, failure: Failure): WorkloadState {
  if (isOpen(state.execution) || state.running?.bundle !== bundle || state.fault?.bundle === bundle) return state;
  return { ...state, fault: { bundle, failure } };
}

/** The process of a committed bundle has died, for the `inARow`th time in a row. */
export function crashedAgain(state: WorkloadState, bundle: string, why: Failure, inARow: number): WorkloadState {
  if (isOpen(state.execution) || state.running?.bundle !== bundle) return state;
  const { probation } = state;
  if (probation) {
    const after = { ...state, probation: { ...probation, crashes: probation.crashes + 1 } };
    return after.probation.crashes < probationCrashes ? after : faulted(after, bundle, { code: 'probation.crashed', message: `It died ${after.probation.crashes} times while it was on probation, last by ${why.code}: ${why.message}`.slice(0, 2_000) });
  }
  return inARow < crashLoopAt || !state.previous ? state : faulted(state, bundle, { code: 'service.crash_loop', message: `It died ${inARow} times in a row, last by ${why.code}: ${why.message}`.slice(0, 2_000) });
}

/** The agent starts (1), or stops in an orderly way (-1). */
export function booted(state: WorkloadState, step: 1 | -1): WorkloadState {
  if (!state.probation || !state.running || isOpen(state.execution)) return state;
  const boots = Math.max(0, state.probation.boots + step);
  const after = { ...state, probation: { ...state.probation, boots } };
  return boots < maxTrials ? after : faulted(after, state.running.bundle, { code: 'probation.agent_crash_loop', message: `The agent died ${boots} times while this bundle was on probation.` });
}

export function served(state: WorkloadState, ms: number): WorkloadState {
  if (!state.probation) return state;
  const leftMs = state.probation.leftMs - ms;
  return { ...state, probation: leftMs > 0 ? { ...state.probation, leftMs } : null };
}

/** Back to the bundle before, by our own decision; what was wrong stays known until something else has proved itself. */
export function left(state: WorkloadState, to: Slot): WorkloadState {
  return { ...returned(state, to), probation: null };
}

export function closed(state: WorkloadState, end: 'SUCCEEDED' | 'FAILED' | 'TIMED_OUT'): WorkloadState {
  // Terminal is sticky.
  if (!isOpen(state.execution)) return state;
  const step = end === 'SUCCEEDED' ? null : state.execution.step;
  return { ...state, execution: { ...state.execution, state: end, step, percent: null, waiting: null } };
}

export function removed(state: WorkloadState, revision: number): WorkloadState {
  const bundle = state.execution?.bundle ?? state.running?.bundle;
  if (!bundle) return emptyWorkload;
  return {
    ...emptyWorkload,
    execution: {
      revision, bundle, wantedVariant: '', rollback: false, state: 'REMOVED', step: null, percent: null, failure: null,
      done: [], elapsedMs: 0, trials: 0, waiting: null,
    },
  };
}
