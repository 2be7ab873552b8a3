import { readFile } from 'node:fs/promises';
import { openInferenceHost, type EdgeTpuDevice } from '@reefkeeper/inference';
import { asReefError } from '@reefkeeper/platform/errors';
import type { Logger } from '@reefkeeper/platform/logger';
import writeFileAtomic from 'write-file-atomic';
import { z } from 'zod';
import { Backoff, sleep } from './backoff.ts';
import type { Accelerator } from './plan.ts';
import { place, type Placeable } from './placement.ts';
import { mayReset, TpuHealth } from './tpu-health.ts';
import { resetUsb } from './usb-reset.ts';

export interface Probe {
  tfliteVersion: string | null;
  runtime: number | null;
  devices: EdgeTpuDevice[];
}

export interface AcceleratorOptions {
  tflite?: string | undefined;
  edgetpu?: string | undefined;
  /** Longest pause between two looks for one that is missed. */
  maxMs: number;
  reset: { mode: 'off' | 'usb'; perHour: number; file: string; sysfs: string };
  onChange: () => void;
  log: Logger;
  health?: TpuHealth;
}

/** What an Edge TPU is not to be blamed for lies in the model: a crash of its process, a refusal. These lie in the device or its driver. */
const deviceFailures: ReadonlySet<string> = new Set(['inference.hung', 'inference.accelerator_lost', 'inference.no_device']);

/**
 * The Edge TPUs of this device: which are there, which of them are worth a try, and which workload is on which. Looks for them in a child of
 * its own, since a broken driver may hang or crash, and again with back-off while one is missed. Never a reason to stop anything.
 */
export class Accelerators {
  private last: Probe = { tfliteVersion: null, runtime: null, devices: [] };
  private readonly backoff: Backoff;
  private readonly health: TpuHealth;
  private placed = new Map<string, string[]>();
  private busy: Promise<unknown> = Promise.resolve();

  constructor(private readonly options: AcceleratorOptions) {
    this.backoff = new Backoff({ firstMs: 2_000, maxMs: options.maxMs });
    this.health = options.health ?? new TpuHealth();
  }

  get found(): Probe {
    return this.last;
  }

  /** Those that are there and not out of use. */
  get usable(): EdgeTpuDevice[] {
    return this.last.devices.filter(({ path }) => !this.health.out(path, performance.now()));
  }

  get now(): Accelerator {
    const devices = this.usable;
    return devices.length > 0 ? { present: true, runtime: this.last.runtime, devices } : { present: false };
  }

  /** Some Edge TPU has failed too often and is left alone for a while. */
  get failing(): boolean {
    return this.health.nextTryMs(performance.now()) !== undefined;
  }

  /** Its next failure takes it out of use again. */
  doubts({ path }: EdgeTpuDevice): boolean {
    return this.health.doubted(path, performance.now());
  }

  /** Where each workload belongs now. */
  placement(wanted: readonly Placeable[]): Map<string, EdgeTpuDevice[]> {
    const devices = this.usable;
    this.placed = place(wanted, devices, this.placed);
    return new Map([...this.placed].map(([workload, paths]) => [workload, paths.map((path) => devices.find((device) => device.path === path)!)]));
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

  /** Probes on as long as `missed()` says that a workload would like one; and when the time out of one that failed is over. */
  async watch(missed: () => boolean, signal: AbortSignal): Promise<void> {
    let lookedMs = performance.now();
    while (!signal.aborted) {
      // Full jitter may give 0; a probe starts a process and is not worth running more than every second.
      await sleep(1_000 + (missed() ? this.backoff.next() : 1_000), signal).catch(() => {});
      if (signal.aborted) return;
      const nowMs = performance.now();
      // Also of one that went out and may be tried again since the last look.
      const again = (this.health.nextTryMs(lookedMs) ?? Infinity) <= nowMs;
      lookedMs = nowMs;
      if (!missed() && !again) {
        this.backoff.reset();
        continue;
      }
      if ((await this.probe()) || again) {
        this.backoff.reset();
        this.options.onChange();
      }
    }
  }

  /** An inference process on `device` ended, or could not get at it. */
  failed(device: EdgeTpuDevice, code: string): void {
    if (!deviceFailures.has(code)) return;
    const out = this.health.failed(device.path, performance.now());
    // It did not open: believe it when the next probe finds it again.
    if (code === 'inference.no_device') this.last = { ...this.last, devices: this.last.devices.filter(({ path }) => path !== device.path) };
    if (out) {
      this.options.log.error({ device: device.path, code }, 'an Edge TPU failed again and again and is left alone for a while');
      this.busy = this.busy.then(() => this.reset(device)).catch((error: unknown) => this.options.log.error({ device: device.path, reason: asReefError(error).message }, 'the Edge TPU could not be reset'));
    }
    if (out || code === 'inference.no_device') this.options.onChange();
  }

  private async reset(device: EdgeTpuDevice): Promise<void> {
    const { mode, perHour, file, sysfs } = this.options.reset;
    if (mode === 'off' || device.type !== 'usb') return;
    const past = await readResets(file);
    const now = Date.now();
    if (!mayReset(past.map(({ atMs }) => atMs), now, perHour)) {
      this.options.log.warn({ device: device.path, perHour }, 'no reset: the hour\'s are used up');
      return;
    }
    // Noted first: a reset that takes the machine down with it must count too.
    await writeFileAtomic(file, JSON.stringify([...past.slice(-31), { path: device.path, atMs: now }]));
    await resetUsb(device.path, { sysfs });
    this.options.log.warn({ device: device.path }, 'the Edge TPU was reset on the USB bus');
    // It comes back under the same path, after a moment on the bus.
    await sleep(2_000);
    this.health.wasReset(device.path, performance.now());
    await this.probe();
    this.options.onChange();
  }
}

const resets = z.array(z.object({ path: z.string(), atMs: z.number() }));

async function readResets(file: string): Promise<z.infer<typeof resets>> {
  const text = await readFile(file, 'utf8').catch(() => '[]');
  try {
    return resets.parse(JSON.parse(text));
  } catch {
    return [];
  }
}
