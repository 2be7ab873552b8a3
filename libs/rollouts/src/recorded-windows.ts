import type { Clock } from '@reefkeeper/platform';
import type { Telemetry } from '@reefkeeper/telemetry';
import type { DataSource } from 'typeorm';
import type { RecordedWindow } from './recorded-fleet.ts';
import { rowOf, type Page } from './views.ts';

/** What one device sent of a rollout's version, counted from its assignment: what its wave was judged by, and what a replay goes by. */
export interface DeviceWindows { device: string; windows: RecordedWindow[] }

/** By device; devices that were never told are left out. A window that came long after the end says nothing of the rollout. */
export async function listWindows(db: DataSource, telemetry: Telemetry, clock: Clock, rollout: string, { limit, cursor }: { limit: number; cursor?: string | undefined }): Promise<Page<DeviceWindows>> {
  const row = await rowOf(db, rollout);
  const rows = await db.query<{ device: string; from: Date; to: Date | null }[]>(`
    SELECT device_id AS device, assigned_at AS "from", rollback_assigned_at AS "to" FROM rollout_executions
    WHERE rollout_id = $1 AND assigned_at IS NOT NULL AND device_id > $2 ORDER BY device_id LIMIT $3`, [rollout, cursor ?? '', limit + 1]);
  const told = rows.slice(0, limit);
  const end = new Date((row.endedAt ?? clock.now()).getTime() + row.settings.deadlineS * 1_000);
  const windows = await telemetry.windowsOfEach(row.workload, told.map(({ device, from, to }) => ({ device, bundle: row.bundle, from, to: to ?? end })));
  return {
    items: told.map(({ device, from }) => ({ device, windows: (windows.get(device) ?? []).map(({ receivedAt, ...facts }) => ({ afterMs: receivedAt.getTime() - from.getTime(), ...facts })) })),
    nextCursor: rows.length > limit ? told.at(-1)!.device : null,
  };
}
