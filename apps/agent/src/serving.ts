import type { Manifest } from '@reefkeeper/bundle';
import { asReefError, ReefError, type ErrorKind } from '@reefkeeper/platform/errors';
import type { Logger } from '@reefkeeper/platform/logger';
import { maxMetrics } from '@reefkeeper/protocol';
import { classesOf, isRight, type Answer, type Picture, type Question } from './answer.ts';
import { Backoff, sleep } from './backoff.ts';
import { imageOf, questionOf, type Frame } from './frames.ts';
import { RecentResults } from './recent.ts';
import { blameless, prepared, type Prepared, type Runner } from './runner.ts';
import { Shadow, type ShadowPolicy, type ShadowResult } from './shadow.ts';
import type { Store } from './store.ts';
import { Turns } from './turns.ts';
import { Window, type ClosedWindow } from './window.ts';
import { crashLoopAt, sameSlot, type Slot } from './workload.ts';

export interface FrameSource {
  /** @param model what looks at it: a camera makes its frames of that size */
  next(model?: { manifest: Manifest }): Promise<Frame | undefined>;
}

export interface ServingOptions {
  workload: string;
  frames: FrameSource | undefined;
  /** Frames per second, asked anew for each frame. */
  fps: () => number;
  start: (slot: Slot) => Promise<Runner>;
  onWindow: (window: ClosedWindow) => void;
  /** An answer to a picture. Must return at once. */
  onPicture?: (picture: Picture, answer: Answer) => void;
  /** The model's process died, for the `crashes`th time in a row. Whoever listens may go back to another bundle. */
  onCrash: (slot: Slot, why: ReefError, crashes: number) => void;
  log: Logger;
  firstDelayMs?: number;
  maxDelayMs?: number;
}

/** An observation fails early when at least so many inferences failed and they are more than a fifth. */
const burst = { errors: 5, share: 0.2 };

interface Trial { inferences: number; errors: Map<string, number>; reject: (error: ReefError) => void }

/**
 * One workload's live inference. Invariants: questions are answered one after the other, in the order asked; at most one runner is served
 * from; a swap closes the old one only after its last question has been answered, and the next goes to the new one. So none is lost, none
 * is answered twice, and the answers change from old to new once.
 */
export class Serving {
  private runner: Runner | undefined;
  private wanted: Slot | undefined;
  /** Of the bundle that serves, and of one on its way out that still finishes an answer. */
  private readonly windows = new Map<string, { slot: Slot; window: Window }>();
  private readonly turns = new Turns();
  private readonly recent = new RecentResults();
  /** Who waits for something to be different: a runner that came or went, another slot wanted. */
  private readonly watchers = new Set<() => void>();
  private trial: Trial | undefined;
  private shadowed: Shadow | undefined;
  /** Whole times of the latest answers of the runner that serves, microseconds. */
  private paces: number[] = [];
  private readonly backoff: Backoff;
  private readonly stopped = new AbortController();
  private readonly loops: Promise<unknown>;
  private goodSince = 0;
  private crashes = 0;
  /** The last start or runner went wrong: the next start waits. */
  private delayed = false;
  private busy: Promise<void> = Promise.resolve();

  constructor(private readonly options: ServingOptions) {
    this.backoff = new Backoff({ firstMs: options.firstDelayMs ?? 500, maxMs: options.maxDelayMs ?? 60_000 });
    this.loops = Promise.all([this.keepUp(), ...(options.frames ? [this.feed(options.frames)] : [])]);
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

  /** What serves now, for whoever wants to ask it something, too. */
  get current(): Runner | undefined {
    return this.runner;
  }

  get crashLooping(): boolean {
    return this.crashes >= crashLoopAt;
  }

  /** Whether a question would be answered now rather than wait. */
  get ready(): boolean {
    return this.runner !== undefined;
  }

  /** Whether `version` (its number, or the bundle's digest) is what serves now. */
  is(version: string): boolean {
    return version === `${this.runner?.manifest.version}` || version === this.runner?.slot.bundle;
  }

  /** Questions that wait for their turn. */
  get waiting(): number {
    return this.turns.waiting;
  }

  /**
   * Answers from the runner that serves when the question's turn comes; while one is replaced, it waits for the next.
   * @throws ReefError `workload.not_serving`, `inference.*`; what `prepare` throws; the reason of `signal`
   */
  async ask(question: Question, signal: AbortSignal): Promise<Answer> {
    const turn = this.turns.take(signal);
    turn.catch(() => {});
    // While others are answered: decoding an image may take longer than the inference.
    const early = this.runner && { runner: this.runner, inputs: prepared(question, this.runner) };
    early?.inputs.catch(() => {});
    const over = await turn;
    try {
      const runner = await this.arrival(signal);
      return await this.answer(runner, question, early?.runner === runner ? early.inputs : undefined);
    } finally {
      over();
    }
  }

  /** What serves at the moment, once anything does. @throws ReefError `workload.not_serving`, the reason of `signal` */
  async facts(signal: AbortSignal): Promise<Pick<Runner, 'slot' | 'manifest' | 'tensors'>> {
    return this.arrival(signal);
  }

  /**
   * The truth about a recent answer; counted once, for the bundle that gave it.
   * @throws ReefError `feedback.unknown_result`
   */
  feedback(id: string, label: string): { bundle: string; answered: string; correct: boolean; counted: boolean } {
    const result = this.recent.get(id);
    if (!result) throw new ReefError('feedback.unknown_result', 'not_found', `No recent answer of a classifier has id ${id}. Feedback is taken for the last 1,000 answers since the agent started.`);
    const correct = result.right(label);
    const counted = !result.fed;
    result.fed = true;
    if (counted) this.windowOf(result.slot).label(correct);
    return { bundle: result.slot.bundle, answered: result.label, correct, counted };
  }

  /**
   * The site's own numbers, for the bundle that serves now.
   * @throws ReefError `workload.not_serving`, `metrics.too_many`
   */
  measure(values: Record<string, number>): void {
    if (!this.wanted) throw this.notServing();
    const window = this.windowOf(this.wanted);
    const left = Object.entries(values).filter(([name, value]) => !window.measure(name, value)).map(([name]) => name);
    if (left.length > 0) throw new ReefError('metrics.too_many', 'invalid', `A telemetry window carries ${maxMetrics} names at most; ${left.join(', ')} did not fit and the others were taken.`);
  }

  /** Serves from `runner` from the next question on. */
  async swap(runner: Runner): Promise<void> {
    const old = this.runner;
    this.use(runner);
    this.wanted = runner.slot;
    this.crashes = 0;
    this.delayed = false;
    this.backoff.reset();
    await this.retire(old);
  }

  /** What should be served; the loop starts it, as often as it takes. */
  want(slot: Slot | undefined): void {
    if (sameSlot(slot ?? null, this.wanted ?? null)) return;
    this.wanted = slot;
    const old = this.runner;
    this.runner = undefined;
    this.crashes = 0;
    this.delayed = false;
    this.backoff.reset();
    this.busy = this.busy.then(() => this.retire(old));
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
      const failed = total(errors);
      if (failed > inferences) throw tooMany(errors, inferences);
      if (this.options.frames && inferences + failed === 0 && (await this.options.frames.next()) !== undefined && ms >= 1_000 + 3_000 / this.options.fps()) {
        throw new ReefError('observe.no_inference', 'invalid', `Not one inference was finished in ${ms / 1_000} s of observation.`);
      }
    } finally {
      ended.abort(new Error('over'));
      this.trial = undefined;
    }
  }

  /** The golden self-test on the model that serves, between its frames. @returns whether there was one to test @throws ReefError as `Runner.proveGolden` */
  async proveGolden(store: Store, signal: AbortSignal): Promise<boolean> {
    const { runner } = this;
    if (!runner) return false;
    await runner.use(() => runner.proveGolden(store, () => {}, signal));
    return true;
  }

  /**
   * Runs `candidate` beside what serves, on a part of the live frames, until enough are compared or the time is over. Its numbers are in the telemetry
   * of what serves. @throws ReefError `shadow.crashed`, `shadow.errors`, the reason of `signal`
   */
  async shadow(candidate: Runner, policy: ShadowPolicy, onPercent: (percent: number) => void, signal: AbortSignal): Promise<ShadowResult> {
    const shadow = new Shadow(candidate, policy, this.paces, ({ slot }, sample) => {
      const other = this.windowOf(slot).shadowOf;
      if (other !== undefined && other !== candidate.slot.bundle) this.closeWindow(keyOf(slot));
      this.windowOf(slot).shadow(candidate.slot.bundle, sample);
    });
    this.shadowed = shadow;
    try {
      return await shadow.over(onPercent, signal);
    } finally {
      if (this.shadowed === shadow) this.shadowed = undefined;
    }
  }

  async bench(runs: number): Promise<number[]> {
    if (!this.runner) throw new ReefError('inference.not_running', 'unavailable', 'Nothing is being served by this workload now.');
    const frame = await this.options.frames?.next(this.runner);
    return this.runner.bench(runs, frame && imageOf(frame));
  }

  /** Ends the windows and hands them out; the next answer opens a new one. */
  closeWindows(): void {
    for (const key of this.windows.keys()) this.closeWindow(key);
  }

  async stop(): Promise<void> {
    this.stopped.abort(new Error('stopped'));
    this.wake();
    await this.loops;
    await this.busy;
    await this.retire(this.runner);
    this.closeWindows();
  }

  /** Keeps a runner up. Apart from the feeding, so that a question which waits for a runner never waits for itself. */
  private async keepUp(): Promise<void> {
    const { signal } = this.stopped;
    while (!signal.aborted) {
      if (!this.runner) await this.started(signal);
      // Otherwise at once: what died is started again after its own delay, and what was loaded in vain makes room for what is wanted now.
      if (this.runner || !this.wanted || this.held) await this.change(signal);
    }
  }

  private async feed(frames: FrameSource): Promise<void> {
    const { signal } = this.stopped;
    let due = performance.now();
    while (!signal.aborted) {
      const frame = this.runner && (await frames.next(this.runner));
      if (!frame) {
        await this.change(signal, 500);
        continue;
      }
      due = Math.max(due + 1_000 / this.options.fps(), performance.now() - 1_000 / this.options.fps());
      await this.ask(questionOf(frame), signal).catch((thrown: unknown) => this.dropped(thrown));
      const ahead = due - performance.now();
      // Sleeping at least a turn of the event loop: MQTT and downloads must not starve behind a slow model.
      await sleep(Math.max(1, ahead), signal).catch(() => {});
    }
  }

  /** A frame of the folder that cannot even be read is a fault like any other; what the model did wrong is counted already. */
  private dropped(thrown: unknown): void {
    const { code } = asReefError(thrown);
    if (code !== 'image.unreadable' || !this.runner) return;
    this.windowOf(this.runner.slot).fail(code);
    this.noteError(code);
  }

  private answer(runner: Runner, question: Question, early?: Promise<Prepared>): Promise<Answer> {
    return runner.use(async () => {
      const { inputs, preprocessUs } = await (early ?? prepared(question, runner));
      try {
        const begin = performance.now();
        const { outputs, invokeUs } = await runner.infer(inputs);
        const answer: Answer = { slot: runner.slot, manifest: runner.manifest, tensors: runner.tensors, outputs, preprocessUs, invokeUs, totalUs: preprocessUs + (performance.now() - begin) * 1_000 };
        this.count(answer, question);
        if (runner === this.runner) this.shadowed?.offer(question, answer);
        if (question.picture !== undefined) this.options.onPicture?.(question.picture, answer);
        return answer;
      } catch (thrown) {
        const { code } = asReefError(thrown);
        this.windowOf(runner.slot).fail(code);
        if (runner === this.runner || runner.crashed) this.noteError(code);
        throw thrown;
      }
    });
  }

  private count(answer: Answer, { id, label }: Question): void {
    const { slot, manifest, preprocessUs, invokeUs, totalUs } = answer;
    const best = classesOf(answer, 1)?.[0];
    const right = (truth: string) => best !== undefined && isRight(manifest, best.index, truth);
    this.windowOf(slot).add({ preprocessUs, invokeUs, totalUs, score: best?.score ?? null, correct: best === undefined || label === null ? null : right(label) });
    if (best && id !== undefined) this.recent.add(id, { slot, top1: best.index, label: best.label, right });
    this.paces.push(totalUs);
    if (this.paces.length > 240) this.paces = this.paces.slice(-120);
    if (this.trial && sameSlot(slot, this.runner?.slot ?? null)) this.trial.inferences += 1;
    if (performance.now() - this.goodSince > 60_000) {
      this.crashes = 0;
      this.backoff.reset();
    }
  }

  private windowOf(slot: Slot): Window {
    const key = keyOf(slot);
    let open = this.windows.get(key);
    if (!open) this.windows.set(key, open = { slot, window: new Window(this.options.workload, slot, new Date(), performance.now()) });
    return open.window;
  }

  private closeWindow(key: string): void {
    const closing = this.windows.get(key)?.window;
    this.windows.delete(key);
    if (closing && !closing.empty) this.options.onWindow(closing.close(performance.now()));
  }

  private use(runner: Runner): void {
    this.runner = runner;
    this.paces = [];
    this.goodSince = performance.now();
    this.watch(runner);
    this.wake();
  }

  /** Lets a runner finish what it has begun. Windows of what is served no longer end with it. */
  private async retire(runner: Runner | undefined): Promise<void> {
    await runner?.close();
    for (const [key, { slot }] of this.windows) if (!sameSlot(slot, this.wanted ?? null)) this.closeWindow(key);
  }

  private async arrival(signal: AbortSignal): Promise<Runner> {
    while (!this.runner) {
      if (!this.wanted) throw this.notServing();
      await this.change(signal);
      signal.throwIfAborted();
    }
    return this.runner;
  }

  private notServing(): ReefError {
    return new ReefError('workload.not_serving', 'unavailable', `Workload ${this.options.workload} serves nothing now.`);
  }

  private noteError(code: string): void {
    const { trial } = this;
    if (!trial) return;
    trial.errors.set(code, (trial.errors.get(code) ?? 0) + 1);
    const failed = total(trial.errors);
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
    for (const { window } of this.windows.values()) if (!window.empty) window.fail('inference.restarted');
    // A missing accelerator sends the observation back to the planner, which knows what to do then; a neighbour's end is no business of ours.
    if (blamed || !why.code.startsWith('inference.')) this.trial?.reject(crashed(why));
    else if (why.code !== 'inference.neighbour_ended') this.trial?.reject(new ReefError('inference.no_device', 'unavailable', why.message, { cause: why }));
    if (blamed) this.options.onCrash(slot, why, this.crashes);
    this.wake();
  }

  private async started(signal: AbortSignal): Promise<void> {
    const slot = this.wanted;
    if (!slot || this.held) return;
    // The world may move on while something is waited for.
    const inVain = () => signal.aborted || this.held || this.runner !== undefined || !sameSlot(slot, this.wanted ?? null);
    await this.busy;
    if (this.delayed) await sleep(this.backoff.next(), signal).catch(() => {});
    if (inVain()) return;
    try {
      const runner = await this.options.start(slot);
      if (inVain()) return await runner.close();
      this.use(runner);
      this.delayed = this.crashes > 0;
    } catch (thrown) {
      this.crash(slot, asReefError(thrown));
    }
  }

  private wake(): void {
    // One that takes itself out while it is told harms nobody; who comes meanwhile has seen what changed.
    for (const watcher of this.watchers) watcher();
  }

  /** Until something has changed, `ms` have passed, or `signal` says so. */
  private change(signal: AbortSignal, ms?: number): Promise<void> {
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
}

function keyOf({ bundle, variant, backend }: Slot): string {
  return `${bundle}/${variant}/${backend}`;
}

function total(errors: ReadonlyMap<string, number>): number {
  return [...errors.values()].reduce((sum, count) => sum + count, 0);
}

function crashed(why: ReefError): ReefError {
  return new ReefError('observe.crashed', 'invalid', `The inference process died while it was observed (${why.code}): ${why.message}`, { cause: why });
}

function tooMany(errors: Map<string, number>, inferences: number): ReefError {
  const kind: ErrorKind = 'invalid';
  const list = [...errors].map(([code, count]) => `${count} x ${code}`).join(', ');
  return new ReefError('observe.errors', kind, `Too many inferences failed while it was observed: ${list}, against ${inferences} good ones.`, { detail: { errors: Object.fromEntries(errors), inferences } });
}
