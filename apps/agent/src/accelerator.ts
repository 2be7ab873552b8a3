import { openInferenceHost, type EdgeTpuDevice } from '@reefkeeper/inference';
import { Backoff, sleep } from './backoff.ts';
import type { Accelerator } from './plan.ts';

export interface Probe {
  tfliteVersion: string | null;
  runtime: number | null;
  devices: EdgeTpuDevice[];
}

/**
 * Looks for Edge TPUs, in a child of its own since a broken driver may hang or crash, and again with back-off while one is missed.
 * Never a reason to stop anything.
 */
export class Accelerators {
  private last: Probe = { tfliteVersion: null, runtime: null, devices: [] };
  private readonly backoff: Backoff;

  constructor(private readonly options: { tflite?: string | undefined; edgetpu?: string | undefined; maxMs: number; onChange: () => void }) {
    this.backoff = new Backoff({ firstMs: 2_000, maxMs: options.maxMs });
  }

  get found(): Probe {
    return this.last;
  }

  get now(): Accelerator {
    return this.last.devices.length > 0 ? { present: true, runtime: this.last.runtime } : { present: false };
  }

  /** @returns whether something changed */
  async probe(): Promise<boolean> {
    const host = openInferenceHost({ ...(this.options.tflite ? { library: this.options.tflite } : {}), loadDeadlineMs: 40_000 });
    host.on('exit', () => {});
    const before = JSON.stringify(this.last);
    try {
      const { tfliteVersion, runtime, devices } = await host.probe(this.options.edgetpu);
      this.last = { tfliteVersion, runtime, devices };
    } catch {
      this.last = { ...this.last, devices: [] };
    } finally {
      await host.close();
    }
    return JSON.stringify(this.last) !== before;
  }

  /** Probes on as long as `missed()` says that a workload would like one. */
  async watch(missed: () => boolean, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      // Full jitter may give 0; a probe starts a process and is not worth running more than every second.
      await sleep(1_000 + (missed() ? this.backoff.next() : 1_000), signal).catch(() => {});
      if (signal.aborted || !missed()) {
        this.backoff.reset();
        continue;
      }
      if (await this.probe()) {
        this.backoff.reset();
        this.options.onChange();
      }
    }
  }

  /** A device that was there did not open: believe it when the next probe finds it again. */
  lost(): void {
    this.last = { ...this.last, devices: [] };
  }
}
