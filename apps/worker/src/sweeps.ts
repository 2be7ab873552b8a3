import type { Logger } from '@reefkeeper/platform';

/** Work that repairs what a lost message or a dead worker left behind. Any number of workers may run the same sweep. */
export interface Sweep {
  name: string;
  everyMs: number;
  run(): Promise<number>;
}

/** Runs each sweep again and again, never twice at once, until the returned function is called. A failed round is logged and the next one comes. */
export function startSweeps(sweeps: readonly Sweep[], log: Logger): () => Promise<void> {
  let stopped = false;
  const rounds = sweeps.map(async ({ name, everyMs, run }) => {
    while (!stopped) {
      try {
        const found = await run();
        if (found > 0) log.info({ sweep: name, found }, 'swept');
      } catch (err) {
        log.warn({ err, sweep: name }, 'sweep failed');
      }
      // A jitter, so that workers started together do not sweep together for ever.
      const until = performance.now() + everyMs * (0.75 + Math.random() / 2);
      while (!stopped && performance.now() < until) await new Promise((resolve) => { setTimeout(resolve, 100).unref(); });
    }
  });
  return async () => {
    stopped = true;
    await Promise.all(rounds);
  };
}
