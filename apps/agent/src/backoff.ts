/**
 * Full jitter (AWS Architecture Blog, "Exponential Backoff and Jitter"): anything between 0 and the doubling limit, so that a
 * fleet that lost its broker at once does not come back at once.
 */
export class Backoff {
  private failures = 0;

  constructor(private readonly options: { firstMs: number; maxMs: number }, private readonly random: () => number = Math.random) {}

  next(atMostMs = Infinity): number {
    const limit = Math.min(this.options.maxMs, this.options.firstMs * 2 ** Math.min(this.failures, 30), atMostMs);
    this.failures += 1;
    return Math.round(this.random() * limit);
  }

  /** Only after what was tried has proved stable, never at the first sign of life. */
  reset(): void {
    this.failures = 0;
  }

  get count(): number {
    return this.failures;
  }
}

/** What `work` comes to, unless the signal comes first. @throws the reason of `signal` */
export async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const aborted = Promise.withResolvers<never>();
  const stop = () => aborted.reject(signal.reason);
  signal.addEventListener('abort', stop, { once: true });
  try {
    return await Promise.race([work, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

/** Resolves after `ms` of the monotonic clock, or rejects with the signal's reason. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason as Error);
    const stop = () => {
      clearTimeout(timer);
      reject(signal!.reason as Error);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, ms);
    signal?.addEventListener('abort', stop, { once: true });
  });
}
