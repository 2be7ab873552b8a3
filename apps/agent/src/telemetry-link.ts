import type { Logger } from '@reefkeeper/platform/logger';
import { telemetry } from '@reefkeeper/protocol';
import type { Captures } from './captures.ts';
import type { Drift } from './drift.ts';
import type { Gateway } from './gateway.ts';
import type { Link } from './link.ts';
import type { Outbox } from './outbox.ts';
import type { StateFile } from './state.ts';
import type { ClosedWindow } from './window.ts';

export interface TelemetryLinkOptions {
  deviceId: string;
  bootId: string;
  link: Link;
  gateway: () => Gateway;
  state: StateFile;
  outbox: Outbox;
  drift: Drift;
  captures: Captures;
  closeWindows: () => void;
  temperatureOf: (window: ClosedWindow) => Promise<number | null>;
  stopped: AbortSignal;
  log: Logger;
}

/** What was measured, on its way to the fleet: windows close in time, wait on the disk, and leave when there is a link and the budget allows; captured pictures go with them. */
export class TelemetryLink {
  private windowMs = 0;
  private windowTimer: NodeJS.Timeout | undefined;
  private drainTimer: NodeJS.Timeout | undefined;
  private seq = 0;
  private pending: Promise<void> = Promise.resolve();

  constructor(private readonly options: TelemetryLinkOptions) {}

  /** Windows close as often as is wanted now; the first one sooner by chance, so that a site after a power cut, or a fleet after a change, does not send in step. */
  openWindows(): void {
    const ms = this.options.state.config.telemetryWindowS * 1_000;
    if (ms === this.windowMs) return;
    this.windowMs = ms;
    clearTimeout(this.windowTimer);
    const closeAfter = (waitMs: number): void => {
      this.windowTimer = setTimeout(() => {
        closeAfter(ms);
        this.options.closeWindows();
      }, waitMs);
    };
    closeAfter(ms * Math.random());
  }

  keep(window: ClosedWindow): void {
    const { state, drift, outbox, bootId, temperatureOf, log } = this.options;
    const seq = this.seq++;
    this.pending = this.pending.then(async () => {
      // What is on trial may be gone in a minute; its scores are no reference.
      const drifted = state.workload(window.workload).good?.bundle === window.bundle ? await drift.note(window) : undefined;
      await outbox.put(telemetry.schema.parse({ ...window, ...(drifted ? { drift: drifted } : {}), bootId, seq, temperatureC: await temperatureOf(window) }));
    }).catch((err: unknown) => log.error({ err }, 'a telemetry window could not be kept'));
    void this.pending.then(() => this.drain());
  }

  /** All windows given so far are kept. */
  get settled(): Promise<void> {
    return this.pending;
  }

  async drain(): Promise<void> {
    const { deviceId, link, outbox, state, stopped } = this.options;
    if (!link.up) return;
    // What is left stays on disk for the next connection.
    const waitMs = await outbox.drain((payload) => link.publish(telemetry.topicFor(deviceId), payload, telemetry), state.config.telemetryBytesPerHour).catch(() => undefined);
    void this.sendCaptures();
    if (waitMs === undefined || stopped.aborted) return;
    clearTimeout(this.drainTimer);
    this.drainTimer = setTimeout(() => void this.drain(), waitMs);
  }

  stop(): void {
    clearTimeout(this.windowTimer);
    clearTimeout(this.drainTimer);
  }

  /** Uploads what was captured, at the pace of the telemetry. */
  private async sendCaptures(): Promise<void> {
    const { captures, gateway, stopped, log } = this.options;
    if (captures.count === 0 || stopped.aborted) return;
    await captures.drain(async (id, facts, jpeg) => {
      const query = new URLSearchParams(Object.entries(facts).map(([name, value]): [string, string] => [name, `${value}`]));
      await gateway().upload(`/v1/captures/${id}?${query.toString()}`, jpeg);
    })
      .catch((err: unknown) => log.error({ err }, 'captured pictures could not be sent'));
  }
}
