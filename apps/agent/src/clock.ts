import { readFile } from 'node:fs/promises';
import { request } from 'node:https';
import { join } from 'node:path';
import writeFileAtomic from 'write-file-atomic';
import { z } from 'zod';
import type { Disk } from './disk.ts';
import { connectAt, distrust } from './trust.ts';

const saved = z.object({ schema: z.literal(1), seenMs: z.number() });

/** Before this nothing of ours was ever installed. */
const firstMs = Date.parse('2026-01-01T00:00:00Z');
const hour = 3_600_000;
/** Further off than any time zone mistaken for UTC. */
const toleranceMs = 24 * hour;
const saveEveryMs = 6 * hour;
const consultEveryMs = 10_000;

export interface ClockOptions {
  /** The device's clock: may say 1970, may jump by years. */
  wallMs?: () => number;
  monotonicMs?: () => number;
}

/**
 * What time it is, for a device without a battery for its clock. Two things are known besides that clock: the latest time a server of the
 * fleet has ever told (on disk: it cannot be earlier), and how long ago that was within this run (monotonic). Where the device's clock
 * contradicts them by more than a day it is taken for wrong and not used, until it agrees again.
 */
export class DeviceClock {
  private anchor: { serverMs: number; atMs: number } | undefined;
  private savedMs: number;
  private consultedMs = -Infinity;
  private consulting: Promise<void> | undefined;
  private readonly listeners = new Set<() => void>();
  private readonly wallMs: () => number;
  private readonly monotonicMs: () => number;
  private said = false;

  private constructor(private readonly file: string | undefined, private readonly disk: Disk | undefined, private seenMs: number, options: ClockOptions) {
    this.savedMs = seenMs;
    this.wallMs = options.wallMs ?? (() => Date.now());
    this.monotonicMs = options.monotonicMs ?? (() => performance.now());
    this.said = this.wrong;
  }

  static async open(dir: string, disk: Disk, options: ClockOptions = {}): Promise<DeviceClock> {
    const file = join(dir, 'clock.json');
    const seenMs = await readFile(file, 'utf8').then((text) => saved.parse(JSON.parse(text)).seenMs).catch(() => firstMs);
    return new DeviceClock(file, disk, Math.max(firstMs, seenMs), options);
  }

  /** Keeps nothing: for one command. */
  static transient(options: ClockOptions = {}): DeviceClock {
    return new DeviceClock(undefined, undefined, firstMs, options);
  }

  now(): Date {
    const best = this.best();
    return new Date(Math.abs(this.wallMs() - best) > toleranceMs ? best : this.wallMs());
  }

  /** The device's clock cannot be right. */
  get wrong(): boolean {
    return Math.abs(this.wallMs() - this.best()) > toleranceMs;
  }

  /** A server has told the time in this run; before that `now()` may be long behind where the device's clock is wrong. */
  get told(): boolean {
    return this.anchor !== undefined;
  }

  /** It was found wrong, or right again. */
  onChange(listener: () => void): void {
    this.listeners.add(listener);
  }

  /** A time that came from a server of the fleet, over a connection that was checked. */
  seen(serverMs: number): void {
    // An old answer, or a server whose own clock is behind, must not take us back.
    if (!Number.isFinite(serverMs) || serverMs < this.seenMs - toleranceMs) return;
    this.anchor = { serverMs, atMs: this.monotonicMs() };
    this.seenMs = Math.max(this.seenMs, serverMs);
    if (this.file && this.disk && this.seenMs - this.savedMs >= saveEveryMs) {
      this.savedMs = this.seenMs;
      const { file, seenMs } = this;
      void this.disk.write(() => writeFileAtomic(file, JSON.stringify({ schema: 1, seenMs } satisfies z.input<typeof saved>))).catch(() => {});
    }
    this.tell();
  }

  /**
   * Asks the gateway for the time, when a certificate was refused for the time alone. Everything else about the gateway's certificate is
   * checked as ever, and it must be valid at the time that it tells, which must not be before any that was told earlier.
   */
  async consult(gatewayUrl: string, ca: string): Promise<void> {
    if (this.monotonicMs() - this.consultedMs < consultEveryMs) return this.consulting;
    this.consultedMs = this.monotonicMs();
    this.consulting = askTime(gatewayUrl, ca).then((ms) => this.seen(ms), () => {});
    return this.consulting;
  }

  private best(): number {
    return this.anchor ? this.anchor.serverMs + this.monotonicMs() - this.anchor.atMs : Math.max(this.wallMs(), this.seenMs);
  }

  private tell(): void {
    if (this.said === this.wrong) return;
    this.said = this.wrong;
    for (const listener of this.listeners) listener();
  }
}

async function askTime(gatewayUrl: string, ca: string): Promise<number> {
  const url = new URL('/ca.pem', gatewayUrl);
  const host = url.hostname;
  const { socket, peer } = await connectAt({ host, port: Number(url.port || 443), ca }, null);
  try {
    const date = await new Promise<string | undefined>((resolve, reject) => {
      const sent = request({ method: 'GET', host, path: url.pathname, createConnection: () => socket }, (response) => {
        response.resume();
        resolve(response.headers.date);
      });
      sent.setTimeout(15_000, () => sent.destroy(new Error('no answer in time')));
      sent.on('error', reject);
      sent.end();
    });
    const ms = Date.parse(date ?? '');
    const why = Number.isNaN(ms) ? 'it tells no time' : distrust(peer, ca, host, ms);
    if (why !== undefined) throw new Error(why);
    return ms;
  } finally {
    socket.destroy();
  }
}
