import { asReefError } from '@reefkeeper/platform/errors';
import type { Logger } from '@reefkeeper/platform/logger';
import { sleep } from './backoff.ts';
import type { Serving } from './serving.ts';
import type { StateFile } from './state.ts';
import type { Store } from './store.ts';
import { booted, defaultProbationS, faulted, isOpen, served } from './workload.ts';

export interface AftercareOptions {
  state: StateFile;
  store: Store;
  serving: () => Iterable<[string, Serving]>;
  /** How often a model in service takes its golden self-test; 0 = never. On probation four times at least. */
  goldenEveryMs: number;
  /** Something was noted that the plan should see. */
  poke: () => void;
  log: Logger;
  tickMs?: number;
}

/**
 * What happens after the commit: probation runs out while the model serves, and the golden self-test is taken again and again, since memory,
 * cards and accelerators rot. Faults are only noted here; the plan leads back.
 */
export class Aftercare {
  /** Workloads whose model gives wrong answers and that have nothing to go back to. */
  readonly wrong = new Set<string>();
  private readonly watchedMs = new Map<string, { bundle: string; unsavedMs: number; sinceGoldenMs: number }>();

  constructor(private readonly options: AftercareOptions) {}

  /** The agent has started, or is about to stop in an orderly way. */
  async booted(step: 1 | -1): Promise<void> {
    for (const workload of Object.keys(this.options.state.now.workloads)) await this.options.state.move(workload, (now) => booted(now, step));
  }

  async run(signal: AbortSignal): Promise<void> {
    const { tickMs = 5_000, log } = this.options;
    let last = performance.now();
    while (!signal.aborted) {
      await sleep(tickMs, signal).catch(() => {});
      const [now, before] = [performance.now(), last];
      last = now;
      for (const [workload, serving] of this.options.serving()) {
        if (signal.aborted) return;
        await this.look(workload, serving, now - before, signal).catch((err: unknown) => log.error({ err, workload }, 'the model in service could not be looked after'));
      }
    }
  }

  private async look(workload: string, serving: Serving, ms: number, signal: AbortSignal): Promise<void> {
    const { state, goldenEveryMs } = this.options;
    const { running, execution, probation } = state.workload(workload);
    if (!running || isOpen(execution) || serving.pid === undefined) return;
    let watched = this.watchedMs.get(workload);
    if (watched?.bundle !== running.bundle) this.watchedMs.set(workload, watched = { bundle: running.bundle, unsavedMs: 0, sinceGoldenMs: 0 });
    watched.sinceGoldenMs += ms;
    if (probation) {
      watched.unsavedMs += ms;
      // Some ten writes for one probation: flash wears.
      if (watched.unsavedMs >= Math.min(probation.leftMs, Math.max(10_000, probation.leftMs / 10))) {
        const passedMs = watched.unsavedMs;
        watched.unsavedMs = 0;
        await state.move(workload, (now) => (now.running?.bundle === running.bundle ? served(now, passedMs) : now));
      }
    }
    const probationMs = (state.now.desired?.workloads[workload]?.policy.probationS ?? defaultProbationS) * 1_000;
    const everyMs = probation ? Math.min(goldenEveryMs, probationMs / 4) : goldenEveryMs;
    if (goldenEveryMs === 0 || watched.sinceGoldenMs < everyMs) return;
    watched.sinceGoldenMs = 0;
    await this.selfTest(workload, serving, running.bundle, signal);
  }

  private async selfTest(workload: string, serving: Serving, bundle: string, signal: AbortSignal): Promise<void> {
    const { state, log } = this.options;
    let reason = await this.wrongness(serving, signal);
    if (reason !== undefined) {
      log.warn({ workload, bundle, reason }, 'the model in service failed its golden self-test; once more in a fresh process');
      await serving.restart();
      for (let waited = 0; serving.pid === undefined && waited < 60_000 && !signal.aborted; waited += 100) await sleep(100, signal).catch(() => {});
      reason = await this.wrongness(serving, signal);
    }
    if (signal.aborted || state.workload(workload).running?.bundle !== bundle) return;
    const was = this.wrong.has(workload);
    if (reason === undefined) this.wrong.delete(workload);
    else {
      const failure = { code: state.workload(workload).probation ? 'probation.golden_failed' : 'service.golden_failed', message: `The golden self-test failed in service, twice: ${reason}`.slice(0, 2_000) };
      log.error({ workload, bundle, ...failure }, 'the model in service gives wrong answers');
      if (state.workload(workload).previous) await state.move(workload, (now) => faulted(now, bundle, failure));
      else this.wrong.add(workload);
    }
    if (was !== this.wrong.has(workload) || reason !== undefined) this.options.poke();
  }

  /** @returns why the answers are wrong; undefined where they are right, or nothing could be said (it is down, it died over it) */
  private async wrongness(serving: Serving, signal: AbortSignal): Promise<string | undefined> {
    try {
      await serving.proveGolden(this.options.store, signal);
      return undefined;
    } catch (thrown) {
      const error = asReefError(thrown);
      return error.code === 'golden.failed' && error.cause === undefined ? error.message : undefined;
    }
  }
}
