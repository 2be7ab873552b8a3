import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import type { Logger } from '@reefkeeper/platform/logger';
import { activationLimitS, type Desired } from '@reefkeeper/protocol';
import type { CrashPoint } from './crash-point.ts';
import { diskTroubleOf, type Disk } from './disk.ts';
import { plan, timeoutCode, unsaidWaits, type Actual, type Executors, type Step } from './plan.ts';
import type { StateFile } from './state.ts';
import { deferred, failed, isOpen, type Execution } from './workload.ts';

export interface ReconcilerOptions {
  state: StateFile;
  disk: Disk;
  /** What is there, read anew before every step. */
  observe: () => Promise<Actual>;
  executors: Executors;
  crashPoint: CrashPoint;
  log: Logger;
}

/** Steps that may be broken off when something else is wanted; the others are short. */
const breakable: ReadonlySet<Step['kind']> = new Set<Step['kind']>(['download', 'golden', 'shadow', 'observe']);

/** Longest that a step may take beyond its deadline, or where it has none. */
const graceMs = 10 * 60_000;

/**
 * Plans, does the first step, and plans again, until nothing is left. Whoever changes a fact calls `poke()`. A step that throws
 * has its failure noted, and the plan from there leads back to the last good bundle.
 */
export class Reconciler {
  private again = false;
  private looping: Promise<void> | undefined;
  private current: { step: Step; abort: AbortController; lateMs: number } | undefined;
  private stopping = false;
  private stopped: () => void = () => {};

  constructor(private readonly options: ReconcilerOptions) {}

  poke(): void {
    if (this.stopping) return;
    this.again = true;
    this.looping ??= this.loop().finally(() => { this.looping = undefined; });
  }

  /** Breaks off the step at hand if the newly wanted state has no use for it. */
  supersede(wanted: Desired): void {
    const { current } = this;
    if (!current || !breakable.has(current.step.kind) || !('workload' in current.step)) return;
    const open = this.options.state.workload(current.step.workload).execution;
    const now = wanted.workloads[current.step.workload];
    const same = open && now && now.bundle === open.bundle && now.variant === open.wantedVariant && now.rollback === open.rollback;
    if (!same) current.abort.abort(new ReefError('activation.superseded', 'conflict', 'Something else is wanted now.'));
  }

  /** A step that should long be over still runs: neither its own end nor its deadline came. */
  get stuck(): boolean {
    return this.current !== undefined && performance.now() > this.current.lateMs;
  }

  /** Resolves when nothing is left to do, or what is left has to wait. */
  async settled(): Promise<void> {
    while (this.looping) await this.looping;
  }

  async stop(): Promise<void> {
    this.stopping = true;
    this.again = false;
    this.current?.abort.abort(new ReefError('agent.stopping', 'unavailable', 'The agent is being stopped.'));
    this.stopped();
    await this.looping;
  }

  private async loop(): Promise<void> {
    const { state, observe, log } = this.options;
    let troubles = 0;
    while (this.again) {
      this.again = false;
      try {
        for (;;) {
          if (this.stopping) return;
          const steps = plan(state.now.desired, await observe());
          const step = steps.find(({ kind }) => kind !== 'wait');
          if (!step) {
            for (const [workload, why] of unsaidWaits(steps, state.now.workloads)) await state.move(workload, (now) => deferred(now, why));
            break;
          }
          await this.execute(step);
          troubles = 0;
        }
      } catch (error) {
        // The store could not be read, say: nothing may go on, and nothing is lost by waiting.
        if (this.stopping) return;
        troubles += 1;
        log.error({ err: error }, 'the device cannot be reconciled now; trying again');
        await this.pause(Math.min(30_000, 500 * 2 ** troubles));
        this.again = true;
      }
    }
  }

  private pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.stopped = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  private async execute(step: Step): Promise<void> {
    const { state, crashPoint, log } = this.options;
    const abort = new AbortController();
    const workload = 'workload' in step ? step.workload : undefined;
    const begin = performance.now();
    const limitMs = workload ? this.limitMs(workload, step) : undefined;
    const timer = limitMs === undefined ? undefined : setTimeout(() => abort.abort(new ReefError(timeoutCode, 'unavailable', `The activation was not finished within ${state.now.desired?.workloads[workload!]?.policy.timeoutS} s.`)), limitMs);
    this.current = { step, abort, lateMs: begin + (limitMs ?? 0) + graceMs };
    try {
      crashPoint(`${step.kind}:enter`);
      // Correct by the type of Executors; TypeScript cannot follow the union through the index.
      await (this.options.executors[step.kind] as (step: Step, signal: AbortSignal) => Promise<void>)(step, abort.signal);
      crashPoint(`${step.kind}:noted`);
    } catch (thrown) {
      const error = asReefError(abort.signal.aborted ? abort.signal.reason : thrown);
      if (error.code === 'activation.superseded' || error.code === 'agent.stopping') return;
      // The accelerator went away in the middle: no fault of the bundle. The next plan waits for it.
      if (error.code === 'inference.no_device') return;
      if (workload && error.code === 'budget_exceeded' && isOpen(state.workload(workload).execution)) {
        log.info({ workload, reason: error.message }, 'the download waits');
        await state.move(workload, (now) => deferred(now, { code: error.code, message: error.message }));
        return;
      }
      const trouble = diskTroubleOf(error);
      if (trouble && error.code !== 'disk.full') {
        // The plan waits for the disk; what was begun is not to blame.
        this.options.disk.noted(trouble);
        return;
      }
      // Only what belongs to an execution can fail it.
      if (!workload || !isOpen(state.workload(workload).execution)) throw thrown;
      log.warn({ workload, step: step.kind, revision: state.now.desired?.revision, code: error.code, reason: error.message }, 'step failed');
      await state.move(workload, (now) => failed(now, { code: error.code.slice(0, 80), message: error.message.slice(0, 2_000) }));
    } finally {
      clearTimeout(timer);
      this.current = undefined;
      if (workload) await this.charge(workload, performance.now() - begin);
    }
  }

  /** Time that a step took is noted with it, so that restarts do not stretch the limit. */
  private async charge(workload: string, ms: number): Promise<void> {
    if (ms < 250) return;
    await this.options.state.move(workload, (now) => (isOpen(now.execution) ? { ...now, execution: { ...now.execution, elapsedMs: now.execution.elapsedMs + Math.round(ms) } } : now));
  }

  /** What is left of the execution's time, where the step can be broken off. */
  private limitMs(workload: string, step: Step): number | undefined {
    const { state } = this.options;
    const wanted = state.now.desired?.workloads[workload];
    const execution: Execution | null = state.workload(workload).execution;
    if (!wanted || !isOpen(execution) || !breakable.has(step.kind)) return undefined;
    const limitMs = activationLimitS(wanted.policy) * 1_000 - execution.elapsedMs;
    return Math.max(0, Math.min(limitMs, 2 ** 31 - 1));
  }
}
