import type { DataSource } from 'typeorm';
import { holdingStates } from './rollout.ts';
import { listRollouts, type RolloutView } from './views.ts';

/** The fleet at a glance, counted where the rows are: who is there, what runs where, what moves, and what waits for a person. */
export interface Overview {
  devices: { all: number; online: number; /** Online, and not well. */ degraded: number; /** Have not taken in what is wanted. */ behind: number; edgeTpu: number; updating: number; pinned: number };
  /** Most devices first. `version` is null where the bundle is none of this registry's. */
  running: { workload: string; bundle: string | null; version: string | null; backend: string | null; devices: number }[];
  /** Those that hold devices, newest first. */
  rollouts: RolloutView[];
  /** Versions that are not rolled out before somebody confirms them, newest first. */
  held: { version: string; code: string; message: string }[];
}

/** A page shows no more of either. */
const most = 100;

export async function overviewOf(db: DataSource): Promise<Overview> {
  const [[devices], running, held, rollouts] = await Promise.all([
    db.query<Overview['devices'][]>(`
      SELECT count(*)::int AS all, count(*) FILTER (WHERE d.online)::int AS online, count(*) FILTER (WHERE d.online AND r.health = 'DEGRADED')::int AS degraded,
        count(*) FILTER (WHERE w.revision > coalesce(r.observed_revision, 0))::int AS behind, count(*) FILTER (WHERE jsonb_array_length(coalesce(d.capabilities -> 'edgetpus', '[]')) > 0)::int AS "edgeTpu",
        count(*) FILTER (WHERE jsonb_path_exists(r.workloads, '$.*.execution.state ? (@ == "IN_PROGRESS")'))::int AS updating, count(*) FILTER (WHERE EXISTS (SELECT 1 FROM device_pins p WHERE p.device_id = d.id))::int AS pinned
      FROM devices d LEFT JOIN reported r ON r.device_id = d.id LEFT JOIN desired w ON w.device_id = d.id WHERE d.retired_at IS NULL`),
    db.query<Overview['running']>(`
      SELECT s.workload, s.bundle, v.model || '@' || v.version AS version, s.backend, s.devices FROM (
        SELECT w.key AS workload, w.value ->> 'running' AS bundle, w.value ->> 'backend' AS backend, count(*)::int AS devices
        FROM reported r JOIN devices d ON d.id = r.device_id AND d.retired_at IS NULL CROSS JOIN LATERAL jsonb_each(r.workloads) w GROUP BY 1, 2, 3
      ) s LEFT JOIN versions v ON v.bundle_digest = s.bundle ORDER BY s.workload, s.devices DESC, s.bundle, s.backend LIMIT $1`, [most]),
    db.query<Overview['held']>(`SELECT model || '@' || version AS version, hold ->> 'code' AS code, hold ->> 'message' AS message FROM versions WHERE state = 'READY' AND hold IS NOT NULL AND confirmed_at IS NULL ORDER BY created_at DESC LIMIT $1`, [most]),
    listRollouts(db, { states: holdingStates, limit: most }),
  ]);
  return { devices: devices!, running, rollouts: rollouts.items, held };
}
