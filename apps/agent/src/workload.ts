import { terminalStates, type Backend, type Execution as ReportedExecution, type ExecutionStep, type Failure, type WantedWorkload } from '@reefkeeper/protocol';

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
  /** What it waits for before it can go on (`budget_exceeded`); it is then QUEUED. */
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
}

export const emptyWorkload: WorkloadState = { running: null, good: null, previous: null, execution: null };

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
      done: same ? before.done : [], elapsedMs: 0, trials: same ? before.trials : 0, waiting: null,
    },
  };
}

export function entered(state: WorkloadState, step: ExecutionStep): WorkloadState {
  if (!isOpen(state.execution)) return state;
  const trials = state.execution.trials + (step === 'observe' ? 1 : 0);
  return { ...state, execution: { ...state.execution, state: 'IN_PROGRESS', waiting: null, step, percent: null, trials } };
}

/** Nothing has failed, and nothing goes on before what it waits for has come: then `resumed`. */
export function deferred(state: WorkloadState, waiting: Failure): WorkloadState {
  return isOpen(state.execution) ? { ...state, execution: { ...state.execution, state: 'QUEUED', percent: null, waiting } } : state;
}

export function resumed(state: WorkloadState): WorkloadState {
  return isOpen(state.execution) && state.execution.waiting ? { ...state, execution: { ...state.execution, waiting: null } } : state;
}

export function did(state: WorkloadState, step: ExecutionStep): WorkloadState {
  if (!isOpen(state.execution) || state.execution.done.includes(step)) return state;
  return { ...state, execution: { ...state.execution, done: [...state.execution.done, step] } };
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

export function committed(state: WorkloadState): WorkloadState {
  if (!isOpen(state.execution) || !state.running) return state;
  const { running, good } = state;
  const moved = good !== null && good.bundle !== running.bundle;
  // After a rollback the one we came from is known to be bad; it must never be somewhere to return to.
  const previous = state.execution.rollback ? (state.previous?.bundle === running.bundle ? null : state.previous) : moved ? good : state.previous;
  return closed({ ...state, good: running, previous: previous?.bundle === running.bundle ? null : previous }, 'SUCCEEDED');
}

export function closed(state: WorkloadState, end: 'SUCCEEDED' | 'FAILED' | 'TIMED_OUT'): WorkloadState {
  // Terminal is sticky.
  if (!isOpen(state.execution)) return state;
  const step = end === 'SUCCEEDED' ? null : state.execution.step;
  return { ...state, execution: { ...state.execution, state: end, step, percent: null } };
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
