import { Inject, Injectable, type BeforeApplicationShutdown, type OnApplicationBootstrap } from '@nestjs/common';
import { Alerts } from '@reefkeeper/telemetry';
import { Gauge } from 'prom-client';

/** Asked when somebody scrapes: the rows are the truth, and every replica says the same. */
let count: (() => ReturnType<Alerts['counts']>) | undefined;

const gauge = new Gauge({
  name: 'reef_alerts_open', help: 'Alerts that are not closed, by kind', labelNames: ['kind', 'severity', 'acknowledged'],
  async collect() {
    // A database that does not answer just now takes these numbers from the scrape, not the others.
    const counts = await count?.().catch(() => undefined);
    this.reset();
    for (const { kind, severity, open, acknowledged } of counts?.kinds ?? []) {
      gauge.set({ kind, severity, acknowledged: 'false' }, open);
      gauge.set({ kind, severity, acknowledged: 'true' }, acknowledged);
    }
  },
});

@Injectable()
export class AlertMetrics implements OnApplicationBootstrap, BeforeApplicationShutdown {
  constructor(@Inject(Alerts) private readonly alerts: Alerts) {}

  onApplicationBootstrap(): void {
    count = () => this.alerts.counts();
  }

  beforeApplicationShutdown(): void {
    count = undefined;
  }
}
