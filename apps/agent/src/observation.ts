import { ReefError } from '@reefkeeper/platform/errors';
import { sleep } from './backoff.ts';

/** It fails early when at least so many inferences failed and they are more than a fifth. */
export const burst = { errors: 5, share: 0.2 };

/** A bundle on trial: its live inferences, counted until the time is over or they are too bad. */
export class Observation {
  private readonly errors = new Map<string, number>();
  private inferences = 0;
  private readonly failing = Promise.withResolvers<never>();

  constructor() {
    this.failing.promise.catch(() => {});
  }

  get count(): number {
    return this.inferences + this.failed;
  }

  noteGood(): void {
    this.inferences += 1;
  }

  noteError(code: string): void {
    this.errors.set(code, (this.errors.get(code) ?? 0) + 1);
    if (this.failed >= burst.errors && this.failed > burst.share * this.count) this.failing.reject(this.tooMany());
  }

  /** The process ended. @param blamed whether that speaks against the model */
  ended(why: ReefError, blamed: boolean): void {
    // A missing accelerator sends the observation back to the planner, which knows what to do then; a neighbour's end is no business of ours.
    if (blamed || !why.code.startsWith('inference.')) this.failing.reject(crashed(why));
    else if (why.code !== 'inference.neighbour_ended') this.failing.reject(new ReefError('inference.no_device', 'unavailable', why.message, { cause: why }));
  }

  /** @throws ReefError `observe.crashed`, `observe.errors`, `inference.no_device`, the reason of `signal` */
  async over(ms: number, onPercent: (percent: number) => void, signal: AbortSignal): Promise<void> {
    const ended = new AbortController();
    const either = AbortSignal.any([signal, ended.signal]);
    const begin = performance.now();
    const ticking = (async () => {
      for (let left = ms; left > 0; left = begin + ms - performance.now()) {
        onPercent(Math.min(99, Math.floor(100 * (1 - left / ms))));
        await sleep(Math.min(left, 1_000), either);
      }
    })();
    ticking.catch(() => {});
    try {
      await Promise.race([ticking, this.failing.promise]);
    } finally {
      ended.abort(new Error('over'));
    }
    if (this.failed > this.inferences) throw this.tooMany();
  }

  private get failed(): number {
    return [...this.errors.values()].reduce((sum, count) => sum + count, 0);
  }

  private tooMany(): ReefError {
    const list = [...this.errors].map(([code, count]) => `${count} x ${code}`).join(', ');
    return new ReefError('observe.errors', 'invalid', `Too many inferences failed while it was observed: ${list}, against ${this.inferences} good ones.`, { detail: { errors: Object.fromEntries(this.errors), inferences: this.inferences } });
  }
}

/** @param why by which the process of a bundle on trial ended */
export function crashed(why: ReefError): ReefError {
  return new ReefError('observe.crashed', 'invalid', `The inference process died while it was observed (${why.code}): ${why.message}`, { cause: why });
}
