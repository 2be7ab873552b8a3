import { setTimeout as sleep } from 'node:timers/promises';
import { databaseGone } from '@reefkeeper/platform';

export interface BatchOptions {
  most: number;
  /** How long the first of a batch waits for company. Whatever comes while a batch is stored makes the next one, without a wait. */
  waitMs: number;
  /** Ends the waiting for a database that is away. */
  signal: AbortSignal;
}

interface Waiting<T> { one: T; done: () => void; failed: (error: unknown) => void }

const retryMs = { first: 100, most: 5_000 };

/**
 * Gathers what arrives close together, so that a fleet costs a few statements a second. Each caller waits until its own is stored. One batch is stored at a time and in the order of arrival,
 * also over a database that goes away meanwhile: what comes later never overtakes.
 */
export class Batches<T> {
  private waiting: Waiting<T>[] = [];
  private timer: NodeJS.Timeout | undefined;
  private storing = false;

  constructor(private readonly store: (batch: T[]) => Promise<unknown>, private readonly options: BatchOptions) {}

  add(one: T): Promise<void> {
    return new Promise((done, failed) => {
      this.waiting.push({ one, done, failed });
      if (this.storing) return;
      if (this.waiting.length >= this.options.most) void this.flush();
      else this.timer ??= setTimeout(() => void this.flush(), this.options.waitMs);
    });
  }

  private async flush(): Promise<void> {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.storing) return;
    this.storing = true;
    while (this.waiting.length > 0) await this.settle(this.waiting.splice(0, this.options.most));
    this.storing = false;
  }

  private async settle(batch: Waiting<T>[]): Promise<void> {
    try {
      await this.patiently(batch.map(({ one }) => one));
      for (const { done } of batch) done();
    } catch (error) {
      if (batch.length === 1) return batch[0]!.failed(error);
      // One that cannot be stored must not keep the others out: each is tried by itself.
      for (const one of batch) await this.settle([one]);
    }
  }

  private async patiently(batch: T[]): Promise<void> {
    for (let waitMs = retryMs.first; ; waitMs = Math.min(2 * waitMs, retryMs.most)) {
      try {
        await this.store(batch);
        return;
      } catch (error) {
        if (!databaseGone(error) || this.options.signal.aborted) throw error;
        await sleep(waitMs, undefined, { signal: this.options.signal }).catch(() => {});
      }
    }
  }
}
