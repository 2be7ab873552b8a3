import { Inject, Injectable } from '@nestjs/common';
import { hint, type Clock, type Tx } from '@reefkeeper/platform';
import { desired, type AgentConfig, type Desired as DesiredMessage, type Policy } from '@reefkeeper/protocol';
import { DataSource } from 'typeorm';
import { recordEach } from './audit.ts';
import { unknownDevice } from './devices.service.ts';

const publishLock = 0x7265_6570;

export interface Assignment {
  deviceIds: readonly string[];
  workload: string;
  target: { bundle: string; versionId: string | null; variantOf(deviceId: string): string; policy: Policy; rollback?: boolean };
}

/** The devices after this one, in a ring, that are online at its site and hand out files; none for one that does not take part. */
const peersOf = (id: string): string => `(
  SELECT COALESCE(jsonb_agg(jsonb_build_object('id', p.id, 'host', p.capabilities #> '{peer,host}', 'port', p.capabilities #> '{peer,port}')), '[]')
  FROM devices me CROSS JOIN LATERAL (
    SELECT id, capabilities FROM devices WHERE capabilities ? 'peer' AND labels ->> 'site' = me.labels ->> 'site' AND retired_at IS NULL AND online AND id <> me.id ORDER BY id < me.id, id LIMIT 8) p
  WHERE me.id = ${id} AND me.capabilities ? 'peer')`;

export interface Told { device: string; retired: boolean; message: DesiredMessage }

/**
 * What every device should run. Each change raises the device's revision; a row with published_revision < revision is waiting to go
 * out, so nothing is lost if the process that changed it dies before telling anyone.
 */
@Injectable()
export class Desired {
  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock) {}

  /** The new revision of each device, by id; retired and unknown devices are missing. In the caller's transaction, two statements for any number. */
  async assign(tx: Tx, { deviceIds, workload, target }: Assignment): Promise<Map<string, number>> {
    const ids = await this.inService(tx, deviceIds);
    if (ids.length === 0) return new Map();
    await tx.query(`
      INSERT INTO desired_workloads (device_id, workload, bundle, version_id, variant, policy, rollback, rollback_to)
      SELECT sent.id, $3, $4, $5, sent.variant, $6, $7, NULL FROM unnest($1::text[], $2::text[]) AS sent(id, variant)
      ON CONFLICT (device_id, workload) DO UPDATE SET bundle = excluded.bundle, version_id = excluded.version_id,
        variant = excluded.variant, policy = excluded.policy, rollback = excluded.rollback,
        rollback_to = CASE WHEN excluded.rollback THEN NULL WHEN desired_workloads.bundle = excluded.bundle THEN desired_workloads.rollback_to ELSE desired_workloads.bundle END`,
    [ids, ids.map((id) => target.variantOf(id)), workload, target.bundle, target.versionId, target.policy, target.rollback ?? false]);
    return this.raise(tx, ids);
  }

  /** Nothing of this workload any more. */
  async unassign(tx: Tx, { deviceIds, workload }: { deviceIds: readonly string[]; workload: string }): Promise<Map<string, number>> {
    const [gone] = await tx.query<[{ device_id: string }[], number]>('DELETE FROM desired_workloads WHERE device_id = ANY($1) AND workload = $2 RETURNING device_id', [deviceIds, workload]);
    return this.raise(tx, gone.map(({ device_id: id }) => id));
  }

  /**
   * Changes what is named of the devices' own configuration, which goes before every rule, and leaves the rest.
   * @param handBack settings of which it says nothing any more: rules, or the defaults, decide
   * @returns how many devices @throws ReefError `device.unknown`, where it is about a single one
   */
  async configure(deviceIds: readonly string[], config: Partial<AgentConfig>, actor: string, handBack: readonly string[] = []): Promise<number> {
    return this.db.transaction(async (tx) => {
      const ids = await this.inService(tx, deviceIds);
      if (deviceIds.length === 1 && ids.length === 0) throw unknownDevice(deviceIds[0]!);
      await tx.query('INSERT INTO desired (device_id, config) SELECT unnest($1::text[]), $2 ON CONFLICT (device_id) DO UPDATE SET config = (desired.config - $3::text[]) || excluded.config', [ids, config, handBack]);
      await this.raise(tx, ids);
      await recordEach(tx, { at: this.clock.now(), actor, action: 'device.configure', subjects: ids, detail: { config, ...(handBack.length > 0 ? { handBack } : {}) } });
      return ids.length;
    });
  }

  /** Messages that wait to go out, oldest device first. Retired devices are told to run nothing. */
  async unpublished(limit: number): Promise<Told[]> {
    const rows = await this.db.query<{ device_id: string }[]>('SELECT device_id FROM desired WHERE published_revision < revision ORDER BY device_id LIMIT $1', [limit]);
    return this.messages(rows.map(({ device_id: id }) => id));
  }

  /** The whole wanted state as devices are told it. Devices of which nothing was ever wanted are missing. */
  async messages(ids: readonly string[]): Promise<Told[]> {
    if (ids.length === 0) return [];
    const rows = await this.db.query<{ id: string; retired: boolean; revision: number; config: Partial<AgentConfig>; peers: AgentConfig['peers']; workloads: Record<string, { bundle: string; variant: string; policy: Policy; rollback: boolean; rollbackTo: string | null }> }[]>(`
      SELECT d.device_id AS id, (SELECT retired_at IS NOT NULL FROM devices WHERE id = d.device_id) AS retired, d.revision::float8 AS revision, d.ruled || d.config AS config, ${peersOf('d.device_id')} AS peers, COALESCE(jsonb_object_agg(w.workload, jsonb_build_object(
        'bundle', w.bundle, 'variant', w.variant, 'policy', w.policy, 'rollback', w.rollback, 'rollbackTo', w.rollback_to)) FILTER (WHERE w.workload IS NOT NULL), '{}') AS workloads
      FROM desired d LEFT JOIN desired_workloads w ON w.device_id = d.device_id WHERE d.device_id = ANY($1) AND d.revision > 0 GROUP BY d.device_id`, [ids]);
    return rows.map(({ id, retired, revision, config, peers, workloads }) => ({
      device: id, retired,
      message: desired.schema.parse({
        revision, config: { ...config, peers },
        workloads: Object.fromEntries(Object.entries(workloads).map(([name, one]) => [name, { ...one, manifestUrl: `/v1/bundles/${one.bundle}` }])),
      }),
    }));
  }

  /**
   * Runs `work` while no other process publishes, so that an older revision is never retained at the broker over a newer one.
   * @returns false when another one is at it; it will see all rows that are committed by now, or the next sweep will
   */
  async publishing(work: () => Promise<void>): Promise<boolean> {
    return this.db.transaction(async (tx) => {
      const [lock] = await tx.query<{ got: boolean }[]>('SELECT pg_try_advisory_xact_lock($1) AS got', [publishLock]);
      if (lock!.got) await work();
      return lock!.got;
    });
  }

  /** Only forward: a slower replica that published an older revision takes nothing back. */
  async markPublished(published: readonly { device: string; revision: number }[]): Promise<void> {
    if (published.length === 0) return;
    await this.db.query(
      'UPDATE desired SET published_revision = sent.revision FROM unnest($1::text[], $2::bigint[]) AS sent(id, revision) WHERE device_id = sent.id AND published_revision < sent.revision',
      [published.map(({ device }) => device), published.map(({ revision }) => revision)],
    );
  }

  /** Sends the wanted state again, unchanged, to those who have not got what was published: a broker may lose its retained messages. */
  async publishAgain(tx: Tx, told: readonly { device: string; observedRevision: number | null }[]): Promise<void> {
    if (told.length === 0) return;
    const [behind] = await tx.query<[{ id: string }[], number]>(`
      UPDATE desired d SET published_revision = 0 FROM unnest($1::text[], $2::bigint[]) AS t(id, observed)
      JOIN (SELECT device_id AS id FROM desired WHERE device_id = ANY($1) ORDER BY device_id FOR UPDATE) l ON l.id = t.id
      WHERE d.device_id = t.id AND d.revision > t.observed AND d.published_revision >= d.revision RETURNING d.device_id AS id`,
    [told.map(({ device }) => device), told.map(({ observedRevision }) => observedRevision ?? 0)]);
    if (behind.length > 0) await hint(tx, { kind: 'desired', id: '*' });
  }

  /**
   * Asks devices that are there and have not said what they run since they came: their birth went missing, at a broker that forgot it or before anybody had subscribed. To get a wanted state that it
   * has already makes an agent say its birth again; a device of which nothing was ever wanted is told just that.
   * @returns how many were asked
   */
  async askSilent(silentS: number, limit: number): Promise<number> {
    return this.db.transaction(async (tx) => {
      const asked = await tx.query<{ device_id: string }[]>(`
        WITH silent AS (
          SELECT d.id FROM devices d LEFT JOIN reported r ON r.device_id = d.id
          WHERE d.online AND d.retired_at IS NULL AND d.last_seen_at < $1::timestamptz - make_interval(secs => $2) AND (r.device_id IS NULL OR d.capabilities IS NULL OR r.session < d.session)
          ORDER BY d.id LIMIT $3
        ), first AS (
          INSERT INTO desired (device_id, revision) SELECT id, 1 FROM silent ORDER BY id ON CONFLICT DO NOTHING RETURNING device_id
        ), again AS (
          UPDATE desired SET published_revision = 0 WHERE device_id IN (SELECT device_id FROM desired WHERE device_id IN (SELECT id FROM silent) AND published_revision > 0 AND published_revision >= revision ORDER BY device_id FOR UPDATE SKIP LOCKED) RETURNING device_id
        )
        SELECT device_id FROM first UNION SELECT device_id FROM again`, [this.clock.now(), silentS, limit]);
      if (asked.length > 0) await hint(tx, { kind: 'desired', id: '*' });
      return asked.length;
    });
  }

  private async inService(tx: Tx, ids: readonly string[]): Promise<string[]> {
    // Locked in one order, so that two rollouts over the same devices cannot deadlock.
    const rows = await tx.query<{ id: string }[]>('SELECT id FROM devices WHERE id = ANY($1) AND retired_at IS NULL ORDER BY id FOR NO KEY UPDATE', [ids]);
    return rows.map(({ id }) => id);
  }

  private async raise(tx: Tx, ids: readonly string[]): Promise<Map<string, number>> {
    if (ids.length === 0) return new Map();
    const raised = await tx.query<{ device_id: string; revision: string }[]>(
      'INSERT INTO desired (device_id, revision) SELECT unnest($1::text[]), 1 ON CONFLICT (device_id) DO UPDATE SET revision = desired.revision + 1 RETURNING device_id, revision',
      [ids],
    );
    await hint(tx, { kind: 'desired', id: ids.length === 1 ? ids[0]! : '*' });
    return new Map(raised.map(({ device_id: id, revision }) => [id, Number(revision)]));
  }
}
