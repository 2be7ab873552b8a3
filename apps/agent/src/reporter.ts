import { reported, type Capabilities, type ReportedWorkload } from '@reefkeeper/protocol';
import type { Link } from './link.ts';
import { ReportPace } from './report-pace.ts';
import { reportOf, type Live } from './report.ts';
import type { StateFile } from './state.ts';

export interface ReporterOptions {
  deviceId: string;
  bootId: string;
  link: Link;
  state: StateFile;
  live: () => Omit<Live, 'percent' | 'learning'>;
  capabilities: () => Promise<Capabilities>;
  stopped: AbortSignal;
}

/** When the device says how it is: at birth, when something has changed, and changes close together once. What it says: `report.ts`. */
export class Reporter {
  private readonly percent = new Map<string, number>();
  private readonly learning = new Map<string, NonNullable<ReportedWorkload['learning']>>();
  private readonly acknowledged = Promise.withResolvers<void>();
  private seq = 0;
  private timer: NodeJS.Timeout | undefined;
  private dueMs = 0;
  private readonly pace = new ReportPace();

  constructor(private readonly options: ReporterOptions) {}

  /** The broker has taken a report of this boot. */
  get heard(): Promise<void> {
    return this.acknowledged.promise;
  }

  /** @param birth with the capabilities */
  async report(birth = false): Promise<void> {
    this.stop();
    const { deviceId, bootId, link, capabilities } = this.options;
    if (!link.up) return;
    const said = this.said();
    this.pace.sent(said, performance.now());
    const body = {
      bootId, seq: this.seq++, session: link.currentSession, ...said,
      ...(birth ? { capabilities: await capabilities() } : {}),
    };
    // Lost with the link: the birth of the next connection says it all again.
    await link.publish(reported.topicFor(deviceId), reported.encode(body), reported).then(() => this.acknowledged.resolve(), () => {});
  }

  /** The state is another. */
  stateChanged(): void {
    this.soon(this.pace.delayMs(this.said(), performance.now()));
  }

  soon(delayMs: number): void {
    const dueMs = performance.now() + delayMs;
    if (this.options.stopped.aborted || (this.timer && this.dueMs <= dueMs && delayMs > 0)) return;
    clearTimeout(this.timer);
    this.dueMs = dueMs;
    this.timer = setTimeout(() => void this.report(), delayMs);
  }

  /** @param percent of the step at hand; null = none is told any more */
  progress(workload: string, percent: number | null): void {
    if (percent === null) this.percent.delete(workload);
    else if (percent !== this.percent.get(workload)) {
      this.percent.set(workload, percent);
      this.soon(1_000);
    }
  }

  learns(workload: string, progress: NonNullable<ReportedWorkload['learning']> | null): void {
    // That it has begun or ended is told at once.
    const delayMs = progress && this.learning.has(workload) ? 1_000 : 0;
    if (progress) this.learning.set(workload, progress);
    else this.learning.delete(workload);
    this.soon(delayMs);
  }

  stop(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
  }

  private said(): ReturnType<typeof reportOf> {
    return reportOf(this.options.state.now, { ...this.options.live(), percent: this.percent, learning: this.learning });
  }
}
