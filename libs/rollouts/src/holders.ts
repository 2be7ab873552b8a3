import { ReefError, type Tx } from '@reefkeeper/platform';
import type { Fleet } from './fleet.ts';
import type { RolloutRow } from './rollout.entity.ts';
import { holdingStates, type RolloutState } from './rollout.ts';

/** Who has which device: two rollouts never hold the same workload of one. */

/** Other rollouts that hold devices of this one: all it has on its way forward, those still under way on its way back. */
export async function holdersOf(tx: Tx, row: RolloutRow): Promise<{ id: string; name: string; state: RolloutState; devices: string[] }[]> {
  return tx.query(`
    SELECT r.id, r.name, r.state, array_agg(ours.device_id) AS devices FROM rollouts r JOIN rollout_executions theirs ON theirs.rollout_id = r.id
      AND CASE WHEN r.state = 'ROLLING_BACK' THEN theirs.rollback_state IN ('PENDING', 'QUEUED', 'IN_PROGRESS') ELSE theirs.state NOT IN ('CANCELED', 'REMOVED') END
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
