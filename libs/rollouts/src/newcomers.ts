import { matches, parseSelector } from '@reefkeeper/devices';
import type { Tx } from '@reefkeeper/platform';
import { Version } from '@reefkeeper/registry';
import { bytesOf, candidateOf } from './candidates.ts';
import type { Fleet } from './fleet.ts';
import { takenOf } from './holders.ts';
import { blastRadiusOf } from './plan.ts';
import type { RolloutRow, WaveRow } from './rollout.entity.ts';

export interface Newcomer { variant: string; bytes: number }

/**
 * Devices that match a dynamic rollout by now, can and need to take its version, and belong to no other: neither held by one that is under way, nor matched by one that was started
 * later. The caller has the workload's lock.
 */
export async function newcomersOf(tx: Tx, fleet: Fleet, row: RolloutRow): Promise<Map<string, Newcomer>> {
  const matching = await fleet.select(tx, row.selector, row.workload, row.id);
  const version = matching.length === 0 ? null : await tx.findOne(Version, { where: { id: row.versionId }, relations: { variants: true } });
  if (!version) return new Map();
  const taken = await takenOf(tx, row, matching.map(({ id }) => id));
  const newer = (await startedLater(tx, row)).map(parseSelector);
  const candidate = candidateOf(version, { exclude: row.settings.exclude ?? { devices: [], selector: null }, policy: row.settings.policy });
  const bytes = bytesOf(version, row.settings.policy);
  return new Map(matching.flatMap((device): [string, Newcomer][] => {
    const { spared, fit, current } = candidate(device);
    if (spared || !fit.ok || current || taken.has(device.id) || newer.some((selector) => matches(selector, device.labels))) return [];
    return [[device.id, { variant: fit.variant, bytes: bytes(fit.variant) }]];
  }));
}

/** Of those that came late and are yet to be told, the ones that another rollout has by now. The caller has the workload's lock. */
export async function lateTaken(tx: Tx, row: RolloutRow, wave: number): Promise<string[]> {
  const pending = await tx.query<{ id: string }[]>("SELECT device_id AS id FROM rollout_executions WHERE rollout_id = $1 AND wave = $2 AND state = 'PENDING'", [row.id, wave]);
  return [...await takenOf(tx, row, pending.map(({ id }) => id))];
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
