import { addMoments, maxMetrics, Sketch, type MetricMoments, type Telemetry } from '@reefkeeper/protocol';
import type { ShadowSample } from './shadow.ts';
import type { Slot } from './workload.ts';

export interface Sample {
  preprocessUs: number;
  invokeUs: number;
  /** Of each segment; one where the model is whole. */
  stagesUs: readonly number[];
  totalUs: number;
  /** Top-1 score, 0 to 1; null where the output has none. */
  score: number | null;
  /** Whether the answer was right; null where the truth is not known. */
  correct: boolean | null;
}

export type ClosedWindow = Omit<Telemetry, 'bootId' | 'seq' | 'temperatureC'>;

/** A window has latencies of eight stages at most. */
const mostSegments = 5;

/** What happened on one workload and one bundle since it was opened. */
export class Window {
  private readonly latency = { preprocess: new Sketch(), invoke: new Sketch(), total: new Sketch() };
  private readonly segments: Sketch[] = [];
  private readonly scores = new Sketch();
  private readonly errors = new Map<string, number>();
  private inferences = 0;
  private readonly metrics = new Map<string, MetricMoments>();
  private shadowed: { bundle: string; frames: number; agreed: number; errors: number; latency: Sketch; active: Sketch } | undefined;
  private labelled = 0;
  private correct = 0;

  /** @param startedAt the device's clock, data only; @param openedMs the monotonic clock */
  constructor(private readonly workload: string, private readonly slot: Slot, private readonly startedAt: Date, private readonly openedMs: number) {}

  add(sample: Sample): void {
    this.inferences += 1;
    this.latency.preprocess.add(sample.preprocessUs);
    this.latency.invoke.add(sample.invokeUs);
    this.latency.total.add(sample.totalUs);
    if (sample.stagesUs.length > 1) for (const [at, us] of sample.stagesUs.slice(0, mostSegments).entries()) (this.segments[at] ??= new Sketch()).add(us);
    if (sample.score !== null) this.scores.add(Math.max(0, sample.score) * 1_000);
    if (sample.correct !== null) this.label(sample.correct);
  }

  /** The truth about an answer that was counted before. */
  label(correct: boolean): void {
    this.labelled += 1;
    if (correct) this.correct += 1;
  }

  /** One of the site's own numbers. @returns false when the window has no room for another name */
  measure(name: string, value: number): boolean {
    const before = this.metrics.get(name);
    if (!before && this.metrics.size >= maxMetrics) return false;
    this.metrics.set(name, addMoments(before, { count: 1, sum: value, sumSquares: value * value }));
    return true;
  }

  /** The candidate whose frames this window counts. */
  get shadowOf(): string | undefined {
    return this.shadowed?.bundle;
  }

  shadow(bundle: string, { agreed, candidateUs, activeUs }: ShadowSample): void {
    const so = (this.shadowed ??= { bundle, frames: 0, agreed: 0, errors: 0, latency: new Sketch(), active: new Sketch() });
    so.frames += 1;
    if (agreed) so.agreed += 1;
    if (agreed === null) so.errors += 1;
    // Paired: what one of them did not answer is in neither.
    if (candidateUs === null) return;
    so.latency.add(candidateUs);
    so.active.add(activeUs);
  }

  fail(code: string): void {
    this.errors.set(code, (this.errors.get(code) ?? 0) + 1);
  }

  get empty(): boolean {
    return this.inferences === 0 && this.errors.size === 0 && this.labelled === 0 && this.metrics.size === 0 && this.shadowed === undefined;
  }

  close(nowMs: number): ClosedWindow {
    const { preprocess, invoke, total } = this.latency;
    return {
      workload: this.workload, ...this.slot,
      startedAt: this.startedAt.toISOString(), durationMs: Math.max(0, Math.round(nowMs - this.openedMs)),
      inferences: this.inferences, errors: Object.fromEntries(this.errors),
      latency: { preprocess: preprocess.toBase64(), invoke: invoke.toBase64(), total: total.toBase64(), ...Object.fromEntries(this.segments.map((sketch, at) => [`segment${at + 1}`, sketch.toBase64()])) },
      labelled: this.labelled, correct: this.correct,
      ...(this.shadowed ? { shadow: { ...this.shadowed, latency: this.shadowed.latency.toBase64(), active: this.shadowed.active.toBase64() } } : {}),
      ...(this.metrics.size > 0 ? { metrics: Object.fromEntries(this.metrics) } : {}),
      ...(this.scores.count > 0 ? { scores: this.scores.toBase64() } : {}),
    };
  }
}

/** The open windows of one workload: of the bundle that serves, and of one on its way out that still finishes an answer. */
export class OpenWindows {
  private readonly open = new Map<string, { slot: Slot; window: Window }>();

  constructor(private readonly workload: string, private readonly onClosed: (window: ClosedWindow) => void) {}

  /** The one of `slot`; opened where there is none. */
  of(slot: Slot): Window {
    const key = keyOf(slot);
    let one = this.open.get(key);
    if (!one) this.open.set(key, one = { slot, window: new Window(this.workload, slot, new Date(), performance.now()) });
    return one.window;
  }

  /** Something befell the process that serves, whichever bundle it was at. */
  fail(code: string): void {
    for (const { window } of this.open.values()) if (!window.empty) window.fail(code);
  }

  close(slot: Slot): void {
    this.end(keyOf(slot));
  }

  closeOthers(slot: Slot | undefined): void {
    for (const key of this.open.keys()) if (slot === undefined || key !== keyOf(slot)) this.end(key);
  }

  closeAll(): void {
    for (const key of this.open.keys()) this.end(key);
  }

  private end(key: string): void {
    const closing = this.open.get(key)?.window;
    this.open.delete(key);
    if (closing && !closing.empty) this.onClosed(closing.close(performance.now()));
  }
}

function keyOf({ bundle, variant, backend }: Slot): string {
  return `${bundle}/${variant}/${backend}`;
}
