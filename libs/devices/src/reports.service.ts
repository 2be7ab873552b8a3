import { Inject, Injectable } from '@nestjs/common';
import { hintingEach, prepared, type Clock, type Tx } from '@reefkeeper/platform';
import type { Reported } from '@reefkeeper/protocol';
import { DataSource } from 'typeorm';
import { Desired } from './desired.service.ts';

const storeReports = prepared(`
  WITH sent AS (
    SELECT s.* FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::jsonb[], $8::jsonb[])
      AS s(device_id, boot_id, seq, session, observed_revision, health, conditions, workloads) JOIN devices d ON d.id = s.device_id AND d.retired_at IS NULL
  ), seen AS (
    UPDATE devices SET last_seen_at = $9 WHERE id IN (
      SELECT d.id FROM devices d JOIN sent s ON s.device_id = d.id WHERE d.last_seen_at IS NULL OR d.last_seen_at < $9::timestamptz - interval '1 second' FOR NO KEY UPDATE OF d SKIP LOCKED)
  ), stored AS (
    INSERT INTO reported (device_id, boot_id, seq, session, observed_revision, health, conditions, workloads, received_at)
    SELECT *, $9 FROM sent ORDER BY device_id
    ON CONFLICT (device_id) DO UPDATE SET boot_id = excluded.boot_id, seq = excluded.seq, session = excluded.session, observed_revision = excluded.observed_revision,
      health = excluded.health, conditions = excluded.conditions, workloads = excluded.workloads, received_at = excluded.received_at
    WHERE (reported.boot_id = excluded.boot_id AND reported.seq < excluded.seq) OR (reported.boot_id <> excluded.boot_id AND reported.session < excluded.session)
    RETURNING device_id
  ), told AS (${hintingEach('device', 'SELECT device_id AS id FROM stored')})
  SELECT device_id AS id, (SELECT count(told) FROM told) AS hints FROM stored`);

/** What devices say of themselves. Ordered by (session, bootId, seq) and receipt, never by a device's clock. */
@Injectable()
export class Reports {
  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock, @Inject(Desired) private readonly desired: Desired) {}

  /**
   * Takes in reports in the order in which they came; one that is not newer than what is known changes nothing. Within a boot `seq` decides; between boots the session counter,
   * which a device keeps on disk and raises at every connection. A report says the whole state, so of several of one device in a batch the newest is enough.
   * At birth a device says which revision it has; where that is not the newest, its retained message went missing and is published again.
   * @returns the devices whose report was news
   */
  async ingest(batch: readonly { device: string; report: Reported }[]): Promise<string[]> {
    if (batch.length === 0) return [];
    const at = this.clock.now();
    const newest = new Map<string, Reported>();
    const born = new Map<string, Reported>();
    for (const { device, report } of batch) {
      const before = newest.get(device);
      if (!before || isNewer(report, before)) newest.set(device, report);
      if (report.capabilities) born.set(device, report);
    }
    const sent = [...newest].sort(([one], [other]) => (one < other ? -1 : 1));
    const column = <T>(pick: (report: Reported) => T): T[] => sent.map(([, report]) => pick(report));
    // "Seen" is kept to the second: a device in an installation says something every few milliseconds. Who is locked is being changed and is seen the next time.
    const store = async (on: DataSource | Tx): Promise<string[]> => {
      const news = await on.query<{ id: string }[]>(storeReports, [sent.map(([device]) => device), column((r) => r.bootId), column((r) => r.seq), column((r) => r.session), column((r) => r.observedRevision), column((r) => r.health), column((r) => JSON.stringify(r.conditions)), column((r) => JSON.stringify(r.workloads)), at]);
      return news.map(({ id }) => id);
    };
    if (born.size === 0) return store(this.db);
    return this.db.transaction(async (tx) => {
      // Locked in the order of ids, as whoever assigns does it.
      await tx.query(`
        UPDATE devices d SET capabilities = b.capabilities FROM unnest($1::text[], $2::jsonb[]) AS b(id, capabilities)
        JOIN (SELECT id FROM devices WHERE id = ANY($1) AND retired_at IS NULL ORDER BY id FOR NO KEY UPDATE) l ON l.id = b.id WHERE d.id = b.id`,
      [[...born.keys()], [...born.values()].map(({ capabilities }) => JSON.stringify(capabilities))]);
      const news = await store(tx);
      await this.desired.publishAgain(tx, [...born].map(([device, { observedRevision }]) => ({ device, observedRevision })));
      return news;
    });
  }
}

function isNewer(report: Reported, than: Reported): boolean {
  return report.bootId === than.bootId ? report.seq > than.seq : report.session > than.session;
}
