import { matches, parseSelector } from '@reefkeeper/devices';
import type { Tx } from '@reefkeeper/platform';
import { Version } from '@reefkeeper/registry';
import { bytesOf, candidateOf } from './candidates.ts';
import type { Fleet } from './fleet.ts';
import { blastRadiusOf } from './plan.ts';
import type { RolloutRow, WaveRow } from './rollout.entity.ts';
import { holdingStates } from './rollout.ts';

export interface Newcomer { variant: string; bytes: number }

/**
 * Devices that match a dynamic rollout by now, can and need to take its version, and belong to no other: neither held by one that is under way, nor matched by one that was started
 * later. Empty where somebody is planning on the workload right now; the next look sees them.
 */
export async function newcomersOf(tx: Tx, fleet: Fleet, row: RolloutRow): Promise<Map<string, Newcomer>> {
  const matching = await fleet.select(tx, row.selector, row.workload, row.id);
  if (matching.length === 0) return new Map();
  // Waiting for the lock could be for ever: whoever holds it may wait for this rollout's row.
  const [{ locked }] = await tx.query<[{ locked: boolean }]>("SELECT pg_try_advisory_xact_lock(hashtext('reef.rollouts'), hashtext($1)) AS locked", [row.workload]);
  const version = await tx.findOne(Version, { where: { id: row.versionId }, relations: { variants: true } });
  if (!locked || !version) return new Map();
  const held = new Set((await tx.query<{ id: string }[]>(`
    SELECT DISTINCT e.device_id AS id FROM rollouts r JOIN rollout_executions e ON e.rollout_id = r.id AND e.state NOT IN ('CANCELED', 'REMOVED')
    WHERE r.workload = $1 AND r.id <> $2 AND r.state = ANY($3) AND e.device_id = ANY($4)`, [row.workload, row.id, holdingStates, matching.map(({ id }) => id)])).map(({ id }) => id));
  const newer = (await startedLater(tx, row)).map(parseSelector);
  const candidate = candidateOf(version, { exclude: row.settings.exclude ?? { devices: [], selector: null }, policy: row.settings.policy });
  return new Map(matching.flatMap((device): [string, Newcomer][] => {
    const { spared, fit, current } = candidate(device);
    if (spared || !fit.ok || current || held.has(device.id) || newer.some((selector) => matches(selector, device.labels))) return [];
    return [[device.id, { variant: fit.variant, bytes: bytesOf(version, fit.variant) }]];
  }));
}

/** Whether a rollout that was started later covers everything that this one could still take in. */
export async function supersededBy(tx: Tx, row: RolloutRow): Promise<boolean> {
  return (await startedLater(tx, row)).some((selector) => selector === '' || selector === row.selector);
}

async function startedLater(tx: Tx, row: RolloutRow): Promise<string[]> {
  const rows = await tx.query<{ selector: string }[]>('SELECT DISTINCT selector FROM rollouts WHERE workload = $1 AND id <> $2 AND started_at > $3', [row.workload, row.id, row.startedAt]);
  return rows.map(({ selector }) => selector);
}

/** One row per device and rollout: whoever has one does not get another. Those who join a planned wave count in it, and in what is stated to be at stake. */
export async function join(tx: Tx, { row, waves }: { row: RolloutRow; waves: WaveRow[] }, wave: number, devices: ReadonlyMap<string, Newcomer>): Promise<void> {
  const ids = [...devices.keys()];
  const joined = await tx.query<unknown[]>(`
    INSERT INTO rollout_executions (rollout_id, device_id, wave, variant, bytes, state) SELECT $1, j.id, $2, j.variant, j.bytes, 'PENDING' FROM unnest($3::text[], $4::text[], $5::bigint[]) AS j(id, variant, bytes)
    ON CONFLICT DO NOTHING RETURNING device_id`, [row.id, wave, ids, ids.map((id) => devices.get(id)!.variant), ids.map((id) => devices.get(id)!.bytes)]);
  const planned = waves[wave];
  if (!planned) return;
  planned.size += joined.length;
  row.plan = {
    ...row.plan, eligible: row.plan.eligible + joined.length, blastRadius: blastRadiusOf(waves.map(({ size }) => size), row.settings),
    waves: row.plan.waves.map((one) => (one.index === wave ? { ...one, size: planned.size } : one)),
  };
}
