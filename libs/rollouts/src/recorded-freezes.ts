import { parseSelector, selectorSql } from '@reefkeeper/devices';
import type { Clock } from '@reefkeeper/platform';
import type { DataSource } from 'typeorm';
import { rowOf } from './views.ts';

/** A freeze that held while a rollout was on its way. `until` is when it was to end, `endedAt` when it did; null = it holds. `devices`: those of the rollout that match, by the labels that they have now. */
export interface FreezeRecord { id: string; selector: string; reason: string; from: Date; until: Date; endedAt: Date | null; devices: string[] }

/** The oldest first. @throws ReefError `rollout.missing` */
export async function listFreezesOf(db: DataSource, clock: Clock, rollout: string): Promise<FreezeRecord[]> {
  const row = await rowOf(db, rollout);
  const now = clock.now();
  const freezes = await db.query<Omit<FreezeRecord, 'devices'>[]>(`
    SELECT id, selector, reason, created_at AS "from", until, CASE WHEN coalesce(lifted_at, until) <= $3 THEN coalesce(lifted_at, until) END AS "endedAt"
    FROM rollout_freezes WHERE created_at < $2 AND coalesce(lifted_at, until) > $1 ORDER BY created_at, id LIMIT 1000`, [row.startedAt ?? now, row.endedAt ?? now, now]);
  const records: FreezeRecord[] = [];
  for (const freeze of freezes) {
    const { sql, params } = selectorSql(parseSelector(freeze.selector), 'd.labels', 2);
    const devices = await db.query<{ id: string }[]>(`SELECT d.id FROM rollout_executions e JOIN devices d ON d.id = e.device_id WHERE e.rollout_id = $1 AND ${sql} ORDER BY d.id`, [rollout, ...params]);
    records.push({ ...freeze, devices: devices.map(({ id }) => id) });
  }
  return records;
}
