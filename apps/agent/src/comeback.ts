import { Backoff } from './backoff.ts';

/**
 * `maxMs`: a fleet of 10,000 that a long outage has spread out comes back with at most 10,000 / (maxMs / 2) connections a second. `stableMs`: a connection that lasts as long as the mean wait at
 * its longest asks no more of a broker than that waiting does.
 */
export const agentComeback: ComebackOptions = { firstMs: 1_000, maxMs: 20_000, stableMs: 15_000 };

export interface ComebackOptions { firstMs: number; maxMs: number; /** Connected for so long means that the trouble is over. */ stableMs: number }

/**
 * When an agent asks for its broker again: exponential back-off with full jitter, and never longer than the trouble has lasted so far. So a short outage is followed by a short
 * return, a long one by a spread one, and what ends soon after it began counts as the same trouble: a broker that accepts and drops is not hammered.
 */
export class Comeback {
  private readonly backoff: Backoff;
  private troubledAtMs: number;

  constructor(private readonly options: ComebackOptions, nowMs: number, random?: () => number) {
    this.backoff = new Backoff(options, random);
    this.troubledAtMs = nowMs;
  }

  /** @param lastedMs how long the connection that has just ended was up, 0 where there was none */
  waitMs(lastedMs: number, nowMs: number): number {
    if (lastedMs >= this.options.stableMs) {
      this.backoff.reset();
      this.troubledAtMs = nowMs;
    }
    return this.backoff.next(Math.max(this.options.firstMs, nowMs - this.troubledAtMs));
  }
}
