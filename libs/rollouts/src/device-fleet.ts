import { Inject, Injectable } from '@nestjs/common';
import { Desired, parseSelector, selectorSql, type KnownLabels } from '@reefkeeper/devices';
import { prepared, type Tx } from '@reefkeeper/platform';
import type { Capabilities, ReportedWorkload } from '@reefkeeper/protocol';
import { Version } from '@reefkeeper/registry';
import { In } from 'typeorm';
import type { Fleet, FleetDevice, Order, Place, Placed } from './fleet.ts';
import type { Seen } from './follow.ts';

interface Row { id: string; labels: Record<string, string>; online: boolean; health: 'HEALTHY' | 'DEGRADED' | null; capabilities: Capabilities | null; retired: boolean; reported: ReportedWorkload | null; wanted: string | null; wantedVersion: string | null; wantedVariant: string | null; pin: FleetDevice['pin'] }

/** Asked for every device of a wave at each of its reports: nothing but what `follow` reads. */
const seenOfEach = prepared(`
  SELECT d.id, d.retired_at IS NOT NULL AS retired, r.observed_revision::float8 AS "observedRevision", w.bundle AS "wantedBundle", r.workloads #>> ARRAY[$2, 'running'] AS running, r.workloads #> ARRAY[$2, 'execution'] AS execution
  FROM devices d LEFT JOIN reported r ON r.device_id = d.id LEFT JOIN desired_workloads w ON w.device_id = d.id AND w.workload = $2
  WHERE d.id = ANY($1)`);

/** The fleet as the devices slice keeps it. Reads are one statement for any number of devices. */
@Injectable()
export class DeviceFleet implements Fleet {
  constructor(@Inject(Desired) private readonly desired: Desired) {}

  async select(tx: Tx, selector: string, workload: string, without?: string): Promise<FleetDevice[]> {
    // On the caller's connection: asking for a second one while holding a lock, many callers at once would wait for each other for ever.
    const { sql, params } = selectorSql(parseSelector(selector), 'labels', 2);
    const ids = await tx.query<{ id: string }[]>(`SELECT id FROM devices d WHERE retired_at IS NULL AND ($1::uuid IS NULL OR NOT EXISTS (SELECT 1 FROM rollout_executions e WHERE e.rollout_id = $1 AND e.device_id = d.id)) AND ${sql} ORDER BY id`, [without ?? null, ...params]);
    return (await this.rows(tx, ids.map(({ id }) => id), workload)).map(({ id, labels, online, health, capabilities, reported, wanted, pin }) => ({ id, labels, online, health: health ?? 'UNKNOWN', capabilities, running: reported?.running ?? null, variant: reported?.variant ?? null, wanted, pin }));
  }

  async labels(tx: Tx): Promise<KnownLabels> {
    const rows = await tx.query<{ key: string; value: string; n: number }[]>('SELECT key, value, count(*)::int AS n FROM devices, jsonb_each_text(labels) WHERE retired_at IS NULL GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 10000');
    return new Map([...Map.groupBy(rows, ({ key }) => key)].map(([key, own]) => [key, new Map(own.map(({ value, n }) => [value, n]))]));
  }

  async places(tx: Tx, ids: readonly string[], workload: string): Promise<Map<string, Place>> {
    return new Map((await this.rows(tx, ids, workload)).map(({ id, labels, capabilities, pin }) => [id, { labels, timeZone: capabilities?.timeZone ?? null, pin }]));
  }

  async left(tx: Tx, { id, workload, bundle }: { id: string; workload: string; bundle: string }, wave: number | null): Promise<Map<string, { code: string; message: string }>> {
    const rows = await tx.query<{ device: string; fault: { code: string; message: string } | null }[]>(`
      SELECT e.device_id AS device, CASE WHEN said -> 'fault' ->> 'bundle' = $3 THEN said -> 'fault' -> 'failure' END AS fault
      FROM rollout_executions e JOIN reported r ON r.device_id = e.device_id AND r.observed_revision >= e.revision CROSS JOIN LATERAL (SELECT r.workloads -> $2 AS said) s
      JOIN desired_workloads w ON w.device_id = e.device_id AND w.workload = $2 AND w.bundle = $3
      WHERE e.rollout_id = $1 AND e.state = 'SUCCEEDED' AND e.fault IS NULL AND e.rollback_state IS NULL AND ($4::int IS NULL OR e.wave = $4)
        AND (said -> 'fault' ->> 'bundle' = $3 OR (said ->> 'running' IS DISTINCT FROM $3 AND coalesce(said -> 'execution' ->> 'state', '') NOT IN ('QUEUED', 'IN_PROGRESS')
          AND (said ->> 'running' IS NOT NULL OR said -> 'execution' ->> 'bundle' = $3)))`, [id, workload, bundle, wave]);
    return new Map(rows.map(({ device, fault }) => [device, fault ?? { code: 'execution.left', message: 'The device runs something else again and has not said why.' }]));
  }

  async seen(tx: Tx, ids: readonly string[], workload: string): Promise<Map<string, Seen>> {
    const rows = await tx.query<(Seen & { id: string })[]>(seenOfEach, [ids, workload]);
    return new Map(rows.map(({ id, ...seen }) => [id, seen]));
  }

  async placed(tx: Tx, ids: readonly string[], workload: string): Promise<Map<string, Placed | null>> {
    const rows = (await this.rows(tx, ids, workload)).filter(({ retired }) => !retired);
    // What runs is what is known to be good; it differs from what is wanted where an earlier version failed on this device.
    const strays = [...new Set(rows.flatMap(({ reported, wanted }) => (reported?.running && reported.running !== wanted ? [reported.running] : [])))];
    const known = new Map(strays.length === 0 ? [] : (await tx.find(Version, { select: { id: true, bundleDigest: true }, where: { bundleDigest: In(strays) } })).map(({ id, bundleDigest }) => [bundleDigest!, id]));
    const told = await this.told(tx, workload, rows.flatMap(({ id, reported }) => (reported?.running && known.has(reported.running) ? [{ id, bundle: reported.running }] : [])));
    return new Map(rows.map(({ id, reported, wanted, wantedVersion, wantedVariant }) => {
      const running = reported?.running;
      if (running && running !== wanted && known.has(running)) return [id, { bundle: running, versionId: known.get(running)!, variant: told.get(id) ?? reported.variant ?? wantedVariant ?? 'cpu-int8' }];
      return [id, wanted ? { bundle: wanted, versionId: wantedVersion, variant: wantedVariant! } : null];
    }));
  }

  async assign(tx: Tx, { workload, policy, rollback, devices }: Order): Promise<Map<string, number>> {
    const groups = new Map<string, { placed: Placed; ids: string[] }>();
    for (const [id, placed] of devices) {
      const key = `${placed.bundle} ${placed.versionId}`;
      const group = groups.get(key) ?? { placed, ids: [] };
      group.ids.push(id);
      groups.set(key, group);
    }
    const revisions = new Map<string, number>();
    // As many statements as there are bundles to go back to, not as there are devices.
    for (const { placed, ids } of groups.values()) {
      const told = await this.desired.assign(tx, { deviceIds: ids, workload, target: { bundle: placed.bundle, versionId: placed.versionId!, variantOf: (id: string) => devices.get(id)!.variant, policy, rollback } });
      for (const [id, revision] of told) revisions.set(id, revision);
    }
    return revisions;
  }

  async unassign(tx: Tx, ids: readonly string[], workload: string): Promise<Map<string, number>> {
    return ids.length === 0 ? new Map() : this.desired.unassign(tx, { deviceIds: [...ids], workload });
  }

  /** Which variant of a bundle a device was last told to run; what it reports may only stand in for it, while an Edge TPU is away. */
  private async told(tx: Tx, workload: string, of: readonly { id: string; bundle: string }[]): Promise<Map<string, string>> {
    if (of.length === 0) return new Map();
    const rows = await tx.query<{ id: string; variant: string }[]>(`
      SELECT DISTINCT ON (s.id) s.id, e.variant FROM unnest($1::text[], $2::text[]) AS s(id, bundle) JOIN rollouts r ON r.bundle = s.bundle AND r.workload = $3
        JOIN rollout_executions e ON e.rollout_id = r.id AND e.device_id = s.id AND e.revision IS NOT NULL ORDER BY s.id, e.revision DESC`, [of.map(({ id }) => id), of.map(({ bundle }) => bundle), workload]);
    return new Map(rows.map(({ id, variant }) => [id, variant]));
  }

  private async rows(tx: Tx, ids: readonly string[], workload: string): Promise<Row[]> {
    if (ids.length === 0) return [];
    return tx.query<Row[]>(`
      SELECT d.id, d.labels, d.online, r.health, d.capabilities, d.retired_at IS NOT NULL AS retired, r.workloads -> $2 AS reported,
        w.bundle AS wanted, w.version_id AS "wantedVersion", w.variant AS "wantedVariant",
        (SELECT jsonb_build_object('reason', p.reason, 'by', p.pinned_by) FROM device_pins p WHERE p.device_id = d.id AND p.workload IN ('', $2) ORDER BY p.workload DESC LIMIT 1) AS pin
      FROM devices d LEFT JOIN reported r ON r.device_id = d.id LEFT JOIN desired_workloads w ON w.device_id = d.id AND w.workload = $2
      WHERE d.id = ANY($1)`, [ids, workload]);
  }
}
