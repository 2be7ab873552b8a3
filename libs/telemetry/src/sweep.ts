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
    this.timer = setInterval(() => {
      this.telemetry.sweep(this.keepS).then(
        (deleted) => { if (deleted > 0) this.log.info({ deleted, keepS: this.keepS }, 'old telemetry windows deleted'); },
        (error: unknown) => { this.log.warn({ err: error }, 'telemetry sweep failed, trying again in an hour'); },
      );
      this.captures.sweep(capturesKeepS).then(
        (deleted) => { if (deleted > 0) this.log.info({ deleted, keepS: capturesKeepS }, 'unlabelled captures forgotten'); },
        (error: unknown) => { this.log.warn({ err: error }, 'sweep of captures failed, trying again in an hour'); },
      );
      this.alerts.sweep(alertsKeepS).then(
        (deleted) => { if (deleted > 0) this.log.info({ deleted, keepS: alertsKeepS }, 'closed alerts forgotten'); },
        (error: unknown) => { this.log.warn({ err: error }, 'sweep of closed alerts failed, trying again in an hour'); },
      );
    }, everyMs).unref();
  }

  beforeApplicationShutdown(): void {
    clearInterval(this.timer);
  }
}
