import type { Telemetry as Window } from '@reefkeeper/protocol';

export interface BatchLimits { most: number; waitMs: number }

interface Waiting { device: string; window: Window; done: () => void; failed: (error: unknown) => void }

/** Gathers windows that arrive close together, so that a fleet costs a few statements a second. Each caller waits for its own window to be stored. */
export class TelemetryBatches {
  private waiting: Waiting[] = [];
  private timer: NodeJS.Timeout | undefined;

  constructor(private readonly store: (batch: { device: string; window: Window }[]) => Promise<unknown>, private readonly limits: BatchLimits = { most: 500, waitMs: 50 }) {}

  add(device: string, window: Window): Promise<void> {
    return new Promise((done, failed) => {
      this.waiting.push({ device, window, done, failed });
      if (this.waiting.length >= this.limits.most) void this.flush();
      else this.timer ??= setTimeout(() => void this.flush(), this.limits.waitMs);
    });
  }

  private async flush(): Promise<void> {
    clearTimeout(this.timer);
    this.timer = undefined;
    const batch = this.waiting;
    this.waiting = [];
    try {
      await this.store(batch.map(({ device, window }) => ({ device, window })));
      for (const one of batch) one.done();
    } catch (error) {
      if (batch.length === 1) return batch[0]!.failed(error);
      // One window that cannot be stored must not keep the others out: each is tried by itself.
      for (const one of batch) await this.store([{ device: one.device, window: one.window }]).then(one.done, one.failed);
    }
  }
}
