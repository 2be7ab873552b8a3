import { ReefError, type Tx } from '@reefkeeper/platform';
import type { Fleet } from './fleet.ts';
import type { RolloutRow } from './rollout.entity.ts';
import { holdingStates, type RolloutState } from './rollout.ts';

/** Who has which device: two rollouts never hold the same workload of one. */

/** Of a rollout `r` and its execution `theirs`: whether it holds the device. */
const holds = "CASE WHEN r.state = 'ROLLING_BACK' THEN theirs.rollback_state IN ('PENDING', 'QUEUED', 'IN_PROGRESS') ELSE theirs.state NOT IN ('CANCELED', 'REMOVED') END";

/**
 * Of `devices` those that belong to another rollout of the workload: held by one that is under way, or told by one that was started later. The caller has the workload's lock, or what
 * it finds may be old when it acts on it.
 */
export async function takenOf(tx: Tx, row: RolloutRow, devices: readonly string[]): Promise<Set<string>> {
  const rows = await tx.query<{ id: string }[]>(`
    SELECT DISTINCT theirs.device_id AS id FROM rollouts r JOIN rollout_executions theirs ON theirs.rollout_id = r.id
    WHERE r.workload = $1 AND r.id <> $2 AND theirs.device_id = ANY($4) AND ((r.state = ANY($3) AND ${holds}) OR (r.started_at > $5 AND theirs.assigned_at IS NOT NULL))`, [row.workload, row.id, holdingStates, devices, row.startedAt]);
  return new Set(rows.map(({ id }) => id));
}

/** As the verbs' lock of a workload, without waiting: whoever has it may wait for the row that the caller has. */
export async function tryLockWorkload(tx: Tx, workload: string): Promise<boolean> {
  const [{ locked }] = await tx.query<[{ locked: boolean }]>("SELECT pg_try_advisory_xact_lock(hashtext('reef.rollouts'), hashtext($1)) AS locked", [workload]);
  return locked;
}

/** Other rollouts that hold devices of this one: all it has on its way forward, those still under way on its way back. */
export async function holdersOf(tx: Tx, row: RolloutRow): Promise<{ id: string; name: string; state: RolloutState; devices: string[] }[]> {
  return tx.query(`
    SELECT r.id, r.name, r.state, array_agg(ours.device_id) AS devices FROM rollouts r JOIN rollout_executions theirs ON theirs.rollout_id = r.id AND ${holds}
    JOIN rollout_executions ours ON ours.rollout_id = $1 AND ours.device_id = theirs.device_id
    WHERE r.workload = $2 AND r.id <> $1 AND r.state = ANY($3) GROUP BY 1, 2, 3`, [row.id, row.workload, holdingStates]);
}

/** An ended rollout holds nothing any more: what it would take back may be about to get something newer from another. @throws ReefError `rollout.overlaps` */
export async function refuseHeld(tx: Tx, fleet: Fleet, row: RolloutRow): Promise<void> {
  const holders = await holdersOf(tx, row);
  const seen = await fleet.seen(tx, holders.flatMap(({ devices }) => devices), row.workload);
  const [first] = holders.filter(({ devices }) => devices.some((device) => seen.get(device)?.wantedBundle === row.bundle));
  if (first) throw new ReefError('rollout.overlaps', 'conflict', `Rollout "${first.name}" (${first.state}) holds devices that this would take back. Wait for it, or abort it.`, { detail: { rollouts: holders.map(({ id, state, devices }) => ({ id, state, devices: devices.length })) } });
}
