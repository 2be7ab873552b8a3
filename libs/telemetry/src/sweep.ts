import { Inject, Injectable, Optional, type BeforeApplicationShutdown, type OnApplicationBootstrap } from '@nestjs/common';
import type { Logger } from '@reefkeeper/platform';
import { Alerts, alertsKeepS } from './alerts.service.ts';
import { Captures } from './captures.service.ts';
import { Telemetry } from './telemetry.service.ts';

export const defaultKeepS = 14 * 86_400;
/** Pictures that nobody has labelled by then nobody will. */
export const capturesKeepS = 90 * 86_400;
const everyMs = 3_600_000;

/** Forgets old windows, hourly. Several replicas may do it at once: a row is deleted by one of them. */
@Injectable()
export class TelemetrySweep implements OnApplicationBootstrap, BeforeApplicationShutdown {
  private timer: NodeJS.Timeout | undefined;

  constructor(@Inject(Telemetry) private readonly telemetry: Telemetry, @Inject(Captures) private readonly captures: Captures, @Inject(Alerts) private readonly alerts: Alerts, @Inject('LOG') private readonly log: Logger, @Optional() @Inject('TELEMETRY_KEEP_S') private readonly keepS: number = defaultKeepS) {}

  onApplicationBootstrap(): void {
    const rounds = [
      { of: this.telemetry, keepS: this.keepS, done: 'old telemetry windows deleted', failed: 'telemetry sweep failed' },
      { of: this.captures, keepS: capturesKeepS, done: 'unlabelled captures forgotten', failed: 'sweep of captures failed' },
      { of: this.alerts, keepS: alertsKeepS, done: 'closed alerts forgotten', failed: 'sweep of closed alerts failed' },
    ];
    this.timer = setInterval(() => {
      for (const { of, keepS, done, failed } of rounds) {
        of.sweep(keepS).then(
          (deleted) => { if (deleted > 0) this.log.info({ deleted, keepS }, done); },
          (error: unknown) => { this.log.warn({ err: error }, `${failed}, trying again in an hour`); },
        );
      }
    }, everyMs).unref();
  }

  beforeApplicationShutdown(): void {
    clearInterval(this.timer);
  }
}
