import { asReefError, ReefError, type ErrorKind } from '@reefkeeper/platform/errors';
import type { Logger } from '@reefkeeper/platform/logger';
import { Backoff, sleep } from './backoff.ts';
import type { Frame } from './frames.ts';
import { blameless, type Runner } from './runner.ts';
import { Window, type ClosedWindow } from './window.ts';
import { sameSlot, type Slot } from './workload.ts';

export interface FrameSource {
  next(): Promise<Frame | undefined>;
}

export interface ServingOptions {
  workload: string;
  frames: FrameSource | undefined;
  /** Frames per second, asked anew for each frame. */
  fps: () => number;
  start: (slot: Slot) => Promise<Runner>;
  onWindow: (window: ClosedWindow) => void;
  /** Restarting does not help: the loop has died `crashes` times in a row. Whoever listens may go back to another bundle. */
  onCrashLoop: (slot: Slot, crashes: number) => void;
  log: Logger;
  firstDelayMs?: number;
  maxDelayMs?: number;
}

/** Deaths in a row, without a minute of good service in between, that make a crash loop. */
const crashLoopAt = 4;
/** An observation fails early when at least so many inferences failed and they are more than a fifth. */
const burst = { errors: 5, share: 0.2 };

interface Trial { inferences: number; errors: Map<string, number>; reject: (error: ReefError) => void }

/**
 * One workload's live inference. Invariants: at most one runner is served from; a swap closes the old one only after its last frame
 * has been answered, and the next frame goes to the new one, so none is lost.
 */
export class Serving {
  private runner: Runner | undefined;
  private wanted: Slot | undefined;
  private window: Window | undefined;
  private trial: Trial | undefined;
  private readonly backoff: Backoff;
  private readonly stopped = new AbortController();
  private readonly loop: Promise<void>;
  private goodSince = 0;
  private crashes = 0;
  /** The last start or runner went wrong: the next start waits. */
  private delayed = false;
  private wake: () => void = () => {};
  private busy: Promise<void> = Promise.resolve();

  constructor(private readonly options: ServingOptions) {
    this.backoff = new Backoff({ firstMs: options.firstDelayMs ?? 500, maxMs: options.maxDelayMs ?? 60_000 });
    this.loop = this.run();
  }

  get slot(): Slot | undefined {
    return this.wanted;
  }

  /** Of the child; undefined while none is up. */
  get pid(): number | undefined {
    return this.runner?.pid;
  }

  /** Path of the Edge TPU it is served from now. */
  get device(): string | undefined {
    return this.runner?.device?.path;
  }

  get crashLooping(): boolean {
    return this.crashes >= crashLoopAt;
  }

  /** Serves from `runner` from the next frame on. */
  async swap(runner: Runner): Promise<void> {
    const old = this.runner;
    this.closeWindow();
    this.runner = runner;
    this.wanted = runner.slot;
    this.crashes = 0;
    this.delayed = false;
    this.backoff.reset();
    this.goodSince = performance.now();
    this.watch(runner);
    this.wake();
    await old?.close();
  }

  /** What should be served; the loop starts it, as often as it takes. */
  want(slot: Slot | undefined): void {
    if (sameSlot(slot ?? null, this.wanted ?? null)) return;
    this.closeWindow();
    this.wanted = slot;
    const old = this.runner;
    this.runner = undefined;
    this.crashes = 0;
    this.delayed = false;
    this.backoff.reset();
    this.busy = this.busy.then(() => old?.close());
    this.wake();
  }

  /** Ends the child without forgetting what is wanted; an Edge TPU belongs to one process at a time. */
  async release(): Promise<void> {
    const old = this.runner;
    this.held = true;
    this.runner = undefined;
    await old?.close();
  }

  resume(): void {
    this.held = false;
    this.wake();
  }
  private held = false;

  async restart(): Promise<void> {
    await this.release();
    this.resume();
  }

  /**
   * Watches live inference for `ms`. @throws ReefError `observe.crashed`, `observe.errors`, `observe.no_inference`
   */
  async observe(ms: number, onPercent: (percent: number) => void, signal: AbortSignal): Promise<void> {
    if (ms === 0) return;
    const ended = new AbortController();
    const failing = new Promise<never>((_, reject) => { this.trial = { inferences: 0, errors: new Map(), reject }; });
    failing.catch(() => {});
    const either = AbortSignal.any([signal, ended.signal]);
    try {
      if (this.runner?.crashed) throw crashed(this.runner.crashed);
      const begin = performance.now();
      const ticking = (async () => {
        for (let left = ms; left > 0; left = begin + ms - performance.now()) {
          onPercent(Math.min(99, Math.floor(100 * (1 - left / ms))));
          await sleep(Math.min(left, 1_000), either);
        }
      })();
      ticking.catch(() => {});
      await Promise.race([ticking, failing]);
      const { inferences, errors } = this.trial!;
      const failed = [...errors.values()].reduce((sum, count) => sum + count, 0);
      if (failed > inferences) throw tooMany(errors, inferences);
      if (this.options.frames && inferences + failed === 0 && (await this.options.frames.next()) !== undefined && ms >= 1_000 + 3_000 / this.options.fps()) {
        throw new ReefError('observe.no_inference', 'invalid', `Not one inference was finished in ${ms / 1_000} s of observation.`);
      }
    } finally {
      ended.abort(new Error('over'));
      this.trial = undefined;
    }
  }

  async bench(runs: number): Promise<number[]> {
    if (!this.runner) throw new ReefError('inference.not_running', 'unavailable', 'Nothing is being served by this workload now.');
    return this.runner.bench(runs, await this.options.frames?.next());
  }

  /** Ends the window, hands it out and opens the next. */
  closeWindow(): void {
    const closing = this.window;
    this.window = undefined;
    if (closing && !closing.empty) this.options.onWindow(closing.close(performance.now()));
  }

  async stop(): Promise<void> {
    this.stopped.abort(new Error('stopped'));
    this.wake();
    await this.loop;
    await this.busy;
    this.closeWindow();
    await this.runner?.close();
  }

  private async run(): Promise<void> {
    const { signal } = this.stopped;
    let due = performance.now();
    while (!signal.aborted) {
      const runner = this.runner ?? (await this.started(signal));
      if (signal.aborted) return;
      const frame = runner && (await this.options.frames?.next());
      if (!runner || !frame) {
        await this.idle(signal);
        continue;
      }
      due = Math.max(due + 1_000 / this.options.fps(), performance.now() - 1_000 / this.options.fps());
      await this.infer(runner, frame);
      const ahead = due - performance.now();
      // Sleeping at least a turn of the event loop: MQTT and downloads must not starve behind a slow model.
      await sleep(Math.max(1, ahead), signal).catch(() => {});
    }
  }

  private async infer(runner: Runner, frame: Frame): Promise<void> {
    const window = (this.window ??= new Window(this.options.workload, runner.slot, new Date(), performance.now()));
    try {
      window.add(await runner.serve(frame));
      if (this.trial && runner === this.runner) this.trial.inferences += 1;
      if (performance.now() - this.goodSince > 60_000) {
        this.crashes = 0;
        this.backoff.reset();
      }
    } catch (thrown) {
      // A frame that met the end of a runner on its way out is not an error of the model.
      if (runner !== this.runner && !runner.crashed) return;
      const { code } = asReefError(thrown);
      window.fail(code);
      this.noteError(code);
    }
  }

  private noteError(code: string): void {
    const { trial } = this;
    if (!trial) return;
    trial.errors.set(code, (trial.errors.get(code) ?? 0) + 1);
    const failed = [...trial.errors.values()].reduce((sum, count) => sum + count, 0);
    if (failed >= burst.errors && failed > burst.share * (failed + trial.inferences)) trial.reject(tooMany(trial.errors, trial.inferences));
  }

  private watch(runner: Runner): void {
    runner.onExit((why) => {
      if (this.runner !== runner) return;
      this.runner = undefined;
      this.crash(runner.slot, why);
    });
  }

  private crash(slot: Slot, why: ReefError): void {
    const blamed = !blameless.has(why.code);
    if (blamed) this.crashes += 1;
    this.delayed = true;
    this.options.log.warn({ bundle: slot.bundle, code: why.code, reason: why.message, inARow: this.crashes }, 'inference process ended');
    if (this.window) this.window.fail('inference.restarted');
    // A missing accelerator sends the observation back to the planner, which knows what to do then; a neighbour's end is no business of ours.
    if (blamed) this.trial?.reject(crashed(why));
    else if (why.code !== 'inference.neighbour_ended') this.trial?.reject(new ReefError('inference.no_device', 'unavailable', why.message, { cause: why }));
    if (blamed && this.crashes >= crashLoopAt) this.options.onCrashLoop(slot, this.crashes);
    this.wake();
  }

  private async started(signal: AbortSignal): Promise<Runner | undefined> {
    const slot = this.wanted;
    if (!slot || this.held) return undefined;
    await this.busy;
    if (this.delayed) await sleep(this.backoff.next(), signal).catch(() => {});
    if (signal.aborted || this.held || this.runner || !sameSlot(slot, this.wanted ?? null)) return this.runner;
    try {
      const runner = await this.options.start(slot);
      // The world may have moved on while it loaded.
      if (signal.aborted || this.held || this.runner || !sameSlot(slot, this.wanted ?? null)) {
        await runner.close();
        return this.runner;
      }
      this.runner = runner;
      this.goodSince = performance.now();
      this.delayed = this.crashes > 0;
      this.watch(runner);
      return runner;
    } catch (thrown) {
      this.crash(slot, asReefError(thrown));
      return undefined;
    }
  }

  private idle(signal: AbortSignal): Promise<void> {
    const woken = new Promise<void>((resolve) => { this.wake = resolve; });
    const over = new AbortController();
    return Promise.race([woken, sleep(500, AbortSignal.any([signal, over.signal])).catch(() => {})]).finally(() => over.abort(new Error('woken')));
  }
}

function crashed(why: ReefError): ReefError {
  return new ReefError('observe.crashed', 'invalid', `The inference process died while it was observed (${why.code}): ${why.message}`, { cause: why });
}

function tooMany(errors: Map<string, number>, inferences: number): ReefError {
  const kind: ErrorKind = 'invalid';
  const list = [...errors].map(([code, count]) => `${count} x ${code}`).join(', ');
  return new ReefError('observe.errors', kind, `Too many inferences failed while it was observed: ${list}, against ${inferences} good ones.`, { detail: { errors: Object.fromEntries(errors), inferences } });
}
