import type { Manifest } from '@reefkeeper/bundle';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import type { Logger } from '@reefkeeper/platform/logger';
import { maxMetrics } from '@reefkeeper/protocol';
import { classesOf, isRight, type Answer, type Picture, type Question } from './answer.ts';
import { sleep } from './backoff.ts';
import { imageOf, questionOf, type Frame } from './frames.ts';
import { crashed, Observation } from './observation.ts';
import { RecentResults } from './recent.ts';
import { prepared, type Prepared, type Runner } from './runner.ts';
import { Shadow, type ShadowPolicy, type ShadowResult } from './shadow.ts';
import type { Store } from './store.ts';
import { Turns } from './turns.ts';
import { Upkeep } from './upkeep.ts';
import { OpenWindows, type ClosedWindow } from './window.ts';
import { sameSlot, type Slot } from './workload.ts';

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

/**
 * One workload's live inference. Invariants: questions are answered one after the other (in a pipeline of segments, one behind the other), in the order asked; at most one runner is served
 * from; a swap closes the old one only after its last question has been answered, and the next goes to the new one. So none is lost, none
 * is answered twice, and the answers change from old to new once.
 */
export class Serving {
  private readonly upkeep: Upkeep;
  private readonly windows: OpenWindows;
  private readonly turns = new Turns();
  private readonly recent = new RecentResults();
  /** The latest question of those that have their turn is with its runner, or came to nothing. */
  private begun = Promise.resolve();
  /** Whom the latest question went to. */
  private asked: Runner | undefined;
  private trial: Observation | undefined;
  private shadowed: Shadow | undefined;
  /** Whole times of the latest answers of the runner that serves, microseconds. */
  private paces: number[] = [];
  private readonly stopped = new AbortController();
  private readonly feeding: Promise<void> | undefined;

  constructor(private readonly options: ServingOptions) {
    const { workload, frames, start, onCrash, log, firstDelayMs, maxDelayMs } = options;
    this.windows = new OpenWindows(workload, options.onWindow);
    this.upkeep = new Upkeep({
      start, log, firstDelayMs, maxDelayMs,
      onUse: (runner) => {
        this.paces = [];
        this.turns.allow(runner.width);
      },
      // Windows of what is served no longer end with it.
      onRetired: () => this.windows.closeOthers(this.slot),
      onEnd: (slot, why, blamed, inARow) => {
        this.windows.fail('inference.restarted');
        this.trial?.ended(why, blamed);
        if (blamed) onCrash(slot, why, inARow);
      },
    }, this.stopped.signal);
    this.feeding = frames && this.feed(frames);
  }

  get slot(): Slot | undefined {
    return this.upkeep.wanted;
  }

  /** Of the child; undefined while none is up. */
  get pid(): number | undefined {
    return this.runner?.pid;
  }

  /** Paths of the Edge TPUs it is served from now. */
  get devices(): string[] {
    return this.runner?.devices.map(({ path }) => path) ?? [];
  }

  /** What serves now, for whoever wants to ask it something, too. */
  get current(): Runner | undefined {
    return this.runner;
  }

  get crashLooping(): boolean {
    return this.upkeep.crashLooping;
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
      // What the one before is still at is answered first.
      if (this.asked !== runner) await this.asked?.idle();
      this.asked = runner;
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
    if (counted) this.windows.of(result.slot).label(correct);
    return { bundle: result.slot.bundle, answered: result.label, correct, counted };
  }

  /**
   * The site's own numbers, for the bundle that serves now.
   * @throws ReefError `workload.not_serving`, `metrics.too_many`
   */
  measure(values: Record<string, number>): void {
    if (!this.slot) throw this.notServing();
    const window = this.windows.of(this.slot);
    const left = Object.entries(values).filter(([name, value]) => !window.measure(name, value)).map(([name]) => name);
    if (left.length > 0) throw new ReefError('metrics.too_many', 'invalid', `A telemetry window carries ${maxMetrics} names at most; ${left.join(', ')} did not fit and the others were taken.`);
  }

  /** Serves from `runner` from the next question on. */
  swap(runner: Runner): Promise<void> {
    return this.upkeep.swap(runner);
  }

  want(slot: Slot | undefined): void {
    this.upkeep.want(slot);
  }

  restart(): Promise<void> {
    return this.upkeep.restart();
  }

  /**
   * Watches live inference for `ms`. @throws ReefError `observe.crashed`, `observe.errors`, `observe.no_inference`
   */
  async observe(ms: number, onPercent: (percent: number) => void, signal: AbortSignal): Promise<void> {
    if (ms === 0) return;
    const trial = new Observation();
    this.trial = trial;
    try {
      if (this.runner?.crashed) throw crashed(this.runner.crashed);
      await trial.over(ms, onPercent, signal);
      const { frames, fps } = this.options;
      if (frames && trial.count === 0 && (await frames.next()) !== undefined && ms >= 1_000 + 3_000 / fps()) {
        throw new ReefError('observe.no_inference', 'invalid', `Not one inference was finished in ${ms / 1_000} s of observation.`);
      }
    } finally {
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
      const other = this.windows.of(slot).shadowOf;
      if (other !== undefined && other !== candidate.slot.bundle) this.windows.close(slot);
      this.windows.of(slot).shadow(candidate.slot.bundle, sample);
    });
    this.shadowed = shadow;
    try {
      return await shadow.over(onPercent, signal);
    } finally {
      if (this.shadowed === shadow) this.shadowed = undefined;
    }
  }

  async bench(runs: number): ReturnType<Runner['bench']> {
    if (!this.runner) throw new ReefError('inference.not_running', 'unavailable', 'Nothing is being served by this workload now.');
    const frame = await this.options.frames?.next(this.runner);
    return this.runner.bench(runs, frame && imageOf(frame));
  }

  /** Ends the windows and hands them out; the next answer opens a new one. */
  closeWindows(): void {
    this.windows.closeAll();
  }

  async stop(): Promise<void> {
    this.stopped.abort(new Error('stopped'));
    await this.feeding;
    await this.upkeep.end();
    this.closeWindows();
  }

  private get runner(): Runner | undefined {
    return this.upkeep.runner;
  }

  private async feed(frames: FrameSource): Promise<void> {
    const { signal } = this.stopped;
    const asked = new Set<Promise<void>>();
    let due = performance.now();
    while (!signal.aborted) {
      const frame = this.runner && (await frames.next(this.runner));
      if (!frame) {
        await this.upkeep.change(signal, 500);
        continue;
      }
      due = Math.max(due + 1_000 / this.options.fps(), performance.now() - 1_000 / this.options.fps());
      const one: Promise<void> = this.ask(questionOf(frame), signal).then(() => {}, (thrown: unknown) => this.dropped(thrown)).finally(() => asked.delete(one));
      asked.add(one);
      if (asked.size >= (this.runner?.width ?? 1)) await Promise.race(asked);
      const ahead = due - performance.now();
      // Sleeping at least a turn of the event loop: MQTT and downloads must not starve behind a slow model.
      await sleep(Math.max(1, ahead), signal).catch(() => {});
    }
    await Promise.all(asked);
  }

  /** A frame of the folder that cannot even be read is a fault like any other; what the model did wrong is counted already. */
  private dropped(thrown: unknown): void {
    const { code } = asReefError(thrown);
    if (code !== 'image.unreadable' || !this.runner) return;
    this.windows.of(this.runner.slot).fail(code);
    this.trial?.noteError(code);
  }

  private answer(runner: Runner, question: Question, early?: Promise<Prepared>): Promise<Answer> {
    const [before, begun] = [this.begun, Promise.withResolvers<void>()];
    this.begun = begun.promise;
    return runner.use(async () => {
      const ready = (early ?? prepared(question, runner));
      const { inputs, preprocessUs } = await ready.catch((thrown: unknown) => {
        void before.then(begun.resolve);
        throw thrown;
      });
      // One that is prepared sooner does not overtake.
      await before;
      try {
        const begin = performance.now();
        const answering = runner.infer(inputs);
        begun.resolve();
        const { outputs, invokeUs, stagesUs } = await answering;
        const answer: Answer = { slot: runner.slot, manifest: runner.manifest, tensors: runner.tensors, outputs, preprocessUs, invokeUs, stagesUs, totalUs: preprocessUs + (performance.now() - begin) * 1_000 };
        this.count(answer, question);
        if (runner === this.runner) this.shadowed?.offer(question, answer);
        if (question.picture !== undefined) this.options.onPicture?.(question.picture, answer);
        return answer;
      } catch (thrown) {
        const { code } = asReefError(thrown);
        this.windows.of(runner.slot).fail(code);
        if (runner === this.runner || runner.crashed) this.trial?.noteError(code);
        throw thrown;
      }
    });
  }

  private count(answer: Answer, { id, label }: Question): void {
    const { slot, manifest, preprocessUs, invokeUs, stagesUs, totalUs } = answer;
    const best = classesOf(answer, 1)?.[0];
    const right = (truth: string) => best !== undefined && isRight(manifest, best.index, truth);
    this.windows.of(slot).add({ preprocessUs, invokeUs, stagesUs, totalUs, score: best?.score ?? null, correct: best === undefined || label === null ? null : right(label) });
    if (best && id !== undefined) this.recent.add(id, { slot, top1: best.index, label: best.label, right });
    this.paces.push(totalUs);
    if (this.paces.length > 240) this.paces = this.paces.slice(-120);
    if (sameSlot(slot, this.runner?.slot ?? null)) this.trial?.noteGood();
    this.upkeep.noteGood();
  }

  private async arrival(signal: AbortSignal): Promise<Runner> {
    while (!this.runner) {
      if (!this.slot) throw this.notServing();
      await this.upkeep.change(signal);
      signal.throwIfAborted();
    }
    return this.runner;
  }

  private notServing(): ReefError {
    return new ReefError('workload.not_serving', 'unavailable', `Workload ${this.options.workload} serves nothing now.`);
  }
}
