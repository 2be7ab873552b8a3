import { Inject, Injectable } from '@nestjs/common';
import { hint, type Clock } from '@reefkeeper/platform';
import type { Reported } from '@reefkeeper/protocol';
import { DataSource } from 'typeorm';
import { Desired } from './desired.service.ts';

/** What devices say of themselves. Ordered by (session, bootId, seq) and receipt, never by a device's clock. */
@Injectable()
export class Reports {
  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock, @Inject(Desired) private readonly desired: Desired) {}

  /**
   * Takes in one report; one that is not newer than what is known changes nothing. Within a boot `seq` decides; between boots the
   * session counter, which a device keeps on disk and raises at every connection.
   * @returns whether it was news
   */
  async ingest(deviceId: string, report: Reported): Promise<boolean> {
    const at = this.clock.now();
    return this.db.transaction(async (tx) => {
      const known = await tx.query<[{ id: string }[], number]>('UPDATE devices SET last_seen_at = $2, capabilities = COALESCE($3, capabilities) WHERE id = $1 AND retired_at IS NULL RETURNING id', [deviceId, at, report.capabilities ?? null]);
      if (known[1] === 0) return false;
      const stored = await tx.query<unknown[]>(`
        INSERT INTO reported (device_id, boot_id, seq, session, observed_revision, health, conditions, workloads, received_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8::jsonb, $9)
        ON CONFLICT (device_id) DO UPDATE SET boot_id = excluded.boot_id, seq = excluded.seq, session = excluded.session, observed_revision = excluded.observed_revision,
          health = excluded.health, conditions = excluded.conditions, workloads = excluded.workloads, received_at = excluded.received_at
        WHERE (reported.boot_id = excluded.boot_id AND reported.seq < excluded.seq) OR (reported.boot_id <> excluded.boot_id AND reported.session < excluded.session)
        RETURNING device_id`,
      [deviceId, report.bootId, report.seq, report.session, report.observedRevision, report.health, JSON.stringify(report.conditions), JSON.stringify(report.workloads), at]);
      if (stored.length === 0) return false;
      await hint(tx, { kind: 'device', id: deviceId });
      return true;
    });
  }

  /** At birth a device says which revision it has; if that is not the newest, its retained message went missing. */
  async reconcileBirth(deviceId: string, observedRevision: number | null): Promise<void> {
    const [row] = await this.db.query<{ behind: boolean }[]>('SELECT revision > $2 AND published_revision >= revision AS behind FROM desired WHERE device_id = $1', [deviceId, observedRevision ?? 0]);
    if (row?.behind) await this.desired.publishAgain(deviceId);
  }
}
