import type { Tx } from '@reefkeeper/platform';
import type { Fleet, Placed } from './fleet.ts';
import type { RolloutRow } from './rollout.entity.ts';
import { defaultRollback } from './rollback.ts';

/** The rows of the way back. Only the holder of the rollout's lock calls these. */

interface Returning { device: string; previousBundle: string | null; previousVersionId: string | null; previousVariant: string | null }

const columns = 'device_id AS device, previous_bundle AS "previousBundle", previous_version_id AS "previousVersionId", previous_variant AS "previousVariant"';

/**
 * Every device that was told is lined up to go back; those not told yet never are. Whoever has not got there yet is told at once: it has nothing to
 * switch, and must not arrive. Returns how many are on the way or in line.
 */
export async function lineUp(tx: Tx, fleet: Fleet, row: RolloutRow, now: Date): Promise<number> {
  const stopped = await tx.query<{ rows: Returning[] | null }[]>(`
    WITH stopped AS (
      UPDATE rollout_executions SET state = 'CANCELED', settled_at = $2, failure = '{"code":"rollout.rolled_back","message":"The rollout went back before the device had answered."}'
      WHERE rollout_id = $1 AND state IN ('PENDING', 'QUEUED', 'IN_PROGRESS') RETURNING ${columns}, assigned_at, revision
    ) SELECT json_agg(stopped) FILTER (WHERE assigned_at IS NOT NULL AND revision IS NOT NULL) AS rows FROM stopped`, [row.id, now]);
  await tx.query("UPDATE rollout_executions SET rollback_state = 'PENDING' WHERE rollout_id = $1 AND assigned_at IS NOT NULL AND revision IS NOT NULL AND rollback_state IS NULL", [row.id]);
  await dropOthers(tx, fleet, row);
  const told = await tellBack(tx, fleet, row, stopped[0]!.rows ?? [], now);
  const [{ waiting }] = await tx.query<[{ waiting: string }]>("SELECT count(*) AS waiting FROM rollout_executions WHERE rollout_id = $1 AND rollback_state = 'PENDING'", [row.id]);
  return told + Number(waiting);
}

/** The next `count` in line are told. */
export async function tellNext(tx: Tx, fleet: Fleet, row: RolloutRow, count: number, now: Date): Promise<number> {
  const direction = (row.settings.rollback ?? defaultRollback).order === 'newest-first' ? 'DESC' : 'ASC';
  const next = await tx.query<Returning[]>(`SELECT ${columns} FROM rollout_executions WHERE rollout_id = $1 AND rollback_state = 'PENDING' ORDER BY assigned_at ${direction}, device_id LIMIT $2`, [row.id, count]);
  return tellBack(tx, fleet, row, next, now);
}

/** The devices that could not be brought back, the first of them. */
export async function lostOnTheWay(tx: Tx, id: string, most = 20): Promise<string[]> {
  return (await tx.query<{ device: string }[]>("SELECT device_id AS device FROM rollout_executions WHERE rollout_id = $1 AND rollback_state IN ('FAILED', 'TIMED_OUT') ORDER BY device_id LIMIT $2", [id, most])).map(({ device }) => device);
}

async function tellBack(tx: Tx, fleet: Fleet, row: RolloutRow, devices: readonly Returning[], now: Date): Promise<number> {
  if (devices.length === 0) return 0;
  const ours = await stillOurs(tx, fleet, row, devices);
  const back = ours.flatMap(({ device, previousBundle, previousVersionId, previousVariant }): [string, Placed][] => (previousBundle === null ? [] : [[device, { bundle: previousBundle, versionId: previousVersionId, variant: previousVariant! }]]));
  const revisions = new Map([
    ...await fleet.assign(tx, { workload: row.workload, policy: row.settings.policy, rollback: true, devices: new Map(back) }),
    ...await fleet.unassign(tx, ours.filter(({ previousBundle }) => previousBundle === null).map(({ device }) => device), row.workload),
  ]);
  await tx.query(`
    UPDATE rollout_executions e SET rollback_state = CASE WHEN b.revision IS NULL THEN 'CANCELED' ELSE 'QUEUED' END, rollback_revision = b.revision, rollback_assigned_at = $4, rollback_settled_at = CASE WHEN b.revision IS NULL THEN $4::timestamptz END
    FROM unnest($2::text[], $3::bigint[]) AS b(device_id, revision) WHERE e.rollout_id = $1 AND e.device_id = b.device_id AND e.rollback_state = 'PENDING'`,
    [row.id, devices.map(({ device }) => device), devices.map(({ device }) => revisions.get(device) ?? null), now]);
  return revisions.size;
}

/** A device that a newer rollout has taken over, or that was retired, is no longer ours to move. */
async function stillOurs(tx: Tx, fleet: Fleet, row: RolloutRow, devices: readonly Returning[]): Promise<Returning[]> {
  const seen = await fleet.seen(tx, devices.map(({ device }) => device), row.workload);
  return devices.filter(({ device }) => { const one = seen.get(device); return one && !one.retired && one.wantedBundle === row.bundle; });
}

/** Whoever is not ours is not in line either, so that what is said of the way back counts only devices that will go. */
async function dropOthers(tx: Tx, fleet: Fleet, row: RolloutRow): Promise<void> {
  const inLine = await tx.query<Returning[]>(`SELECT ${columns} FROM rollout_executions WHERE rollout_id = $1 AND rollback_state = 'PENDING'`, [row.id]);
  if (inLine.length === 0) return;
  const ours = new Set((await stillOurs(tx, fleet, row, inLine)).map(({ device }) => device));
  const others = inLine.flatMap(({ device }) => (ours.has(device) ? [] : [device]));
  if (others.length > 0) await tx.query('UPDATE rollout_executions SET rollback_state = NULL WHERE rollout_id = $1 AND device_id = ANY($2)', [row.id, others]);
}
