/**
 * So many bytes in any hour: a token bucket that holds a quarter of them and is filled with three quarters in an hour, and is empty at the start, so that
 * the bound holds over restarts as well. What is bigger than the bucket goes when it is full, and is paid back.
 */
export class ByteRate {
  private tokens = 0;
  private at: number;

  constructor(nowMs: number) {
    this.at = nowMs;
  }

  /** @returns 0 when `bytes` may go now (they are then taken), else after how long to ask again */
  take(bytes: number, perHour: number, nowMs: number): number {
    const capacity = perHour / 4;
    const perMs = (perHour * 3) / 4 / 3_600_000;
    this.tokens = Math.min(capacity, this.tokens + (nowMs - this.at) * perMs);
    this.at = nowMs;
    const missing = Math.min(bytes, capacity) - this.tokens;
    // Rounding must not make us ask for ever.
    if (missing > 1e-6) return Math.max(1, Math.ceil(missing / perMs));
    this.tokens -= bytes;
    return 0;
  }
}
