import { asReefError, type ReefError } from '@reefkeeper/platform/errors';
import type { Logger } from '@reefkeeper/platform/logger';
import { Backoff, sleep } from './backoff.ts';
import type { Runner } from './runner.ts';
import { blameless } from './stage.ts';
import { crashLoopAt, sameSlot, type Slot } from './workload.ts';

export interface UpkeepOptions {
  start: (slot: Slot) => Promise<Runner>;
  /** `runner` serves from now on. */
  onUse: (runner: Runner) => void;
  /** One that served has answered its last question. */
  onRetired: () => void;
  /** What served died, or could not be started. @param blamed whether that speaks against the model; @param inARow how often it has by now */
  onEnd: (slot: Slot, why: ReefError, blamed: boolean, inARow: number) => void;
  log: Logger;
  firstDelayMs?: number | undefined;
  maxDelayMs?: number | undefined;
}

/** So long without a death, and the deaths before no longer count. */
const forgivenMs = 60_000;

/**
 * Keeps a runner of what is wanted up. Invariants: at most one runner is served from; what died is started again after its own delay; what was loaded in
 * vain makes room for what is wanted now.
 */
export class Upkeep {
  runner: Runner | undefined;
  wanted: Slot | undefined;
  /** Who waits for something to be different: a runner that came or went, another slot wanted. */
  private readonly watchers = new Set<() => void>();
  private readonly backoff: Backoff;
  private readonly loop: Promise<void>;
  private goodSince = 0;
  private crashes = 0;
  /** The last start or runner went wrong: the next start waits. */
  private delayed = false;
  private held = false;
  private busy: Promise<void> = Promise.resolve();

  constructor(private readonly options: UpkeepOptions, private readonly stopped: AbortSignal) {
    this.backoff = new Backoff({ firstMs: options.firstDelayMs ?? 500, maxMs: options.maxDelayMs ?? 60_000 });
    this.loop = this.keepUp();
  }

  get crashLooping(): boolean {
    return this.crashes >= crashLoopAt;
  }

  /** What should be served; the loop starts it, as often as it takes. */
  want(slot: Slot | undefined): void {
    if (sameSlot(slot ?? null, this.wanted ?? null)) return;
    this.wanted = slot;
    const old = this.runner;
    this.runner = undefined;
    this.forgive();
    this.busy = this.busy.then(() => this.retire(old));
    this.wake();
  }

  /** Serves from `runner` from now on. */
  async swap(runner: Runner): Promise<void> {
    const old = this.runner;
    this.use(runner);
    this.wanted = runner.slot;
    this.forgive();
    await this.retire(old);
  }

  /** In a fresh process; an Edge TPU belongs to one at a time. */
  async restart(): Promise<void> {
    const old = this.runner;
    this.held = true;
    this.runner = undefined;
    await old?.close();
    this.held = false;
    this.wake();
  }

  /** It has answered. */
  noteGood(): void {
    if (performance.now() - this.goodSince <= forgivenMs) return;
    this.crashes = 0;
    this.backoff.reset();
  }

  /** Until something has changed, `ms` have passed, or `signal` says so. */
  change(signal: AbortSignal, ms?: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.watchers.delete(done);
        signal.removeEventListener('abort', done);
        resolve();
      };
      const timer = ms === undefined ? undefined : setTimeout(done, ms);
      this.watchers.add(done);
      signal.addEventListener('abort', done, { once: true });
      if (signal.aborted) done();
    });
  }

  /** After `stopped` has been aborted. */
  async end(): Promise<void> {
    await this.loop;
    await this.busy;
    await this.retire(this.runner);
  }

  private async keepUp(): Promise<void> {
    while (!this.stopped.aborted) {
      if (!this.runner) await this.started();
      if (this.runner || !this.wanted || this.held) await this.change(this.stopped);
    }
  }

  private async started(): Promise<void> {
    const slot = this.wanted;
    if (!slot || this.held) return;
    // The world may move on while something is waited for.
    const inVain = () => this.stopped.aborted || this.held || this.runner !== undefined || !sameSlot(slot, this.wanted ?? null);
    await this.busy;
    if (this.delayed) await sleep(this.backoff.next(), this.stopped).catch(() => {});
    if (inVain()) return;
    try {
      const runner = await this.options.start(slot);
      if (inVain()) return await runner.close();
      this.use(runner);
      this.delayed = this.crashes > 0;
    } catch (thrown) {
      this.ended(slot, asReefError(thrown));
    }
  }

  private use(runner: Runner): void {
    this.runner = runner;
    this.goodSince = performance.now();
    this.options.onUse(runner);
    runner.onExit((why) => {
      if (this.runner !== runner) return;
      this.runner = undefined;
      this.ended(runner.slot, why);
    });
    this.wake();
  }

  private ended(slot: Slot, why: ReefError): void {
    const blamed = !blameless.has(why.code);
    if (blamed) this.crashes += 1;
    this.delayed = true;
    this.options.log.warn({ bundle: slot.bundle, code: why.code, reason: why.message, inARow: this.crashes }, 'inference process ended');
    this.options.onEnd(slot, why, blamed, this.crashes);
    this.wake();
  }

  /** Lets a runner finish what it has begun. */
  private async retire(runner: Runner | undefined): Promise<void> {
    await runner?.close();
    this.options.onRetired();
  }

  private forgive(): void {
    this.crashes = 0;
    this.delayed = false;
    this.backoff.reset();
  }

  private wake(): void {
    // One that takes itself out while it is told harms nobody; who comes meanwhile has seen what changed.
    for (const watcher of this.watchers) watcher();
  }
}
