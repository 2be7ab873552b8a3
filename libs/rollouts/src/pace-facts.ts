import { matches, parseSelector } from '@reefkeeper/devices';
import type { Tx } from '@reefkeeper/platform';
import type { Fleet, Place } from './fleet.ts';
import { answeringSql } from './follow.ts';
import { activeFreezes } from './freezes.service.ts';
import { lookbackS, noPace, type Freeze, type PaceFacts, type Queue } from './pacing.ts';
import type { RolloutRow } from './rollout.entity.ts';
import { observeShares, siteBudgets, trySites } from './site-budgets.ts';
import { zoneOf } from './windows.ts';

interface Execution { id: string; bytes: number; at: Date | null }

/** What pacing asks of the database about the devices of one wave that are yet to be told. */
export async function observePace(tx: Tx, fleet: Fleet, row: RolloutRow, wave: number, now: Date): Promise<{ pace: PaceFacts; pinned: string[] }> {
  const pace = row.settings.pace ?? noPace;
  const executions = (where: string, ...params: unknown[]): Promise<Execution[]> => tx.query(`SELECT device_id AS id, bytes::float8 AS bytes, assigned_at AS at FROM rollout_executions WHERE rollout_id = $1 AND ${where} ORDER BY device_id`, [row.id, ...params]);
  const before = await siteBudgets(tx, row.id, pace, now);
  const free = !before.limited || await trySites(tx);
  // What others did until the lock was ours counts.
  const budgets = before.limited && free ? await siteBudgets(tx, row.id, pace, now) : before;
  const pending = await executions("wave = $2 AND state = 'PENDING'", wave);
  // While somebody else is at it nobody is told, whatever there is room for.
  const open = free && (pace.maxInProgress !== null || budgets.limited) ? await executions(answeringSql()) : [];
  const most = !free || budgets.slowest === null ? 0 : await mostBytes(tx, [row.id, ...budgets.others.map(({ id }) => id)]);
  const back = free ? lookbackS({ ...pace, siteBytesPerSecond: budgets.slowest }, most) : 0;
  const told = back > 0 ? await executions('assigned_at > $2', new Date(now.getTime() - back * 1_000)) : [];
  const rising = pace.rate && !('perMinute' in pace.rate);
  const [{ succeeded } = { succeeded: 0 }] = rising ? await tx.query<{ succeeded: number }[]>("SELECT count(*)::int AS succeeded FROM rollout_executions WHERE rollout_id = $1 AND state = 'SUCCEEDED'", [row.id]) : [];

  const places = await fleet.places(tx, [...new Set([...pending, ...open, ...told].map(({ id }) => id))], row.workload);
  const siteOf = (id: string): string => places.get(id)?.labels.site ?? '';
  const freezeOf = freezeFinder(await activeFreezes(tx, now));
  const pinned: string[] = [];
  const queues = new Map<string, Queue & { devices: string[] }>();
  for (const { id, bytes } of pending) {
    const place = places.get(id);
    if (place?.pin) { pinned.push(id); continue; }
    const labels = place?.labels ?? {};
    const { zone } = zoneOf(labels, place?.timeZone);
    const freeze = freezeOf(labels);
    const key = JSON.stringify([labels.site ?? '', zone, bytes, freeze]);
    const queue = queues.get(key) ?? { site: labels.site ?? '', zone, bytes, freeze, devices: [] };
    queue.devices.push(id);
    queues.set(key, queue);
  }
  const openBySite = new Map<string, number>();
  for (const { id } of open) openBySite.set(siteOf(id), (openBySite.get(siteOf(id)) ?? 0) + 1);
  const sites = budgets.limited && free ? { sites: await observeShares(tx, row.id, budgets, new Set([...queues.values()].map(({ site }) => site)), back, now) } : {};
  return { pinned, pace: { ...sites, ...(free ? {} : { busy: true }), queues: [...queues.values()], open: openBySite, told: told.map(({ id, at, bytes }) => ({ at: at!, site: siteOf(id), devices: 1, bytes })), succeeded } };
}

async function mostBytes(tx: Tx, ids: readonly string[]): Promise<number> {
  const [{ most } = { most: 0 }] = await tx.query<{ most: number }[]>('SELECT coalesce(max(bytes), 0)::float8 AS most FROM rollout_executions WHERE rollout_id = ANY($1)', [ids]);
  return most;
}

/** Of several freezes the one that lasts longest counts. */
export function freezeFinder(freezes: readonly (Freeze & { selector: string })[]): (labels: Place['labels']) => Freeze | null {
  const parsed = freezes.toSorted((a, b) => b.until.getTime() - a.until.getTime()).map(({ selector, until, reason }) => ({ requirements: parseSelector(selector), freeze: { until, reason } }));
  return (labels) => parsed.find(({ requirements }) => matches(requirements, labels))?.freeze ?? null;
}
