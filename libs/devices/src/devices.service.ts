import { Inject, Injectable } from '@nestjs/common';
import { hint, hintEach, hintingEach, prepared, ReefError, type Clock } from '@reefkeeper/platform';
import type { Presence } from '@reefkeeper/protocol';
import { DataSource } from 'typeorm';
import { record } from './audit.ts';
import { applyRules, keepRules } from './config-rules.service.ts';
import { Device, DevicePin, type DesiredState, DesiredWorkload, ReportedState } from './device.entity.ts';
import { parseSelector, selectorSql } from './selector.ts';

export interface DeviceView extends Device {
  /** `config`: what it is told, which is its `own` over that of the `rules` that match, named in the order in which they win. */
  desired: { revision: number; publishedRevision: number; config: DesiredState['config']; own: DesiredState['config']; rules: string[]; workloads: Record<string, DesiredWorkload> };
  reported: ReportedState | null;
  pins: DevicePin[];
}

const labelKey = /^[A-Za-z0-9]([A-Za-z0-9_./-]{0,61}[A-Za-z0-9])?$/;
const labelValue = /^([A-Za-z0-9]([A-Za-z0-9_./-]{0,61}[A-Za-z0-9])?)?$/;

export interface DeviceList { items: DeviceView[]; nextCursor: string | null; /** Where it was asked for. */ total?: number }

const storePresence = prepared(`
  WITH changed AS (
    UPDATE devices d SET online = s.online, session = s.session, last_seen_at = CASE WHEN s.online THEN $4 ELSE d.last_seen_at END FROM unnest($1::text[], $2::boolean[], $3::bigint[]) AS s(id, online, session)
    JOIN (SELECT id FROM devices WHERE id = ANY($1) AND retired_at IS NULL ORDER BY id FOR NO KEY UPDATE) l ON l.id = s.id
    WHERE d.id = s.id AND d.session <= s.session AND (d.online <> s.online OR d.session <> s.session) RETURNING d.id
  )
  ${hintingEach('device', 'SELECT id FROM changed')}`);

@Injectable()
export class Devices {
  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock) {}

  /** Ids of the devices in service that match, in order. @throws ReefError `selector.invalid` */
  async select(selector: string): Promise<string[]> {
    const { sql, params } = selectorSql(parseSelector(selector), 'labels', 1);
    const rows = await this.db.query<{ id: string }[]>(`SELECT id FROM devices WHERE retired_at IS NULL AND ${sql} ORDER BY id`, params);
    return rows.map(({ id }) => id);
  }

  /** @param query.cursor the last id of the page before @param query.total whether to count those on every page */
  async list(query: { selector?: string | undefined; online?: boolean | undefined; health?: string | undefined; bundle?: string | undefined; /** A part of it. */ id?: string | undefined; limit: number; cursor?: string | undefined; total?: boolean | undefined }): Promise<DeviceList> {
    const { sql, params } = selectorSql(parseSelector(query.selector ?? ''), 'labels', 5);
    const those = `devices WHERE retired_at IS NULL AND ($1::boolean IS NULL OR online = $1) AND ($2::text IS NULL OR EXISTS (SELECT 1 FROM reported r WHERE r.device_id = id AND r.health = $2))
        AND ($3::text IS NULL OR EXISTS (SELECT 1 FROM reported r, jsonb_each(r.workloads) w WHERE r.device_id = id AND w.value ->> 'running' = $3)) AND ($4::text IS NULL OR strpos(id, $4) > 0) AND ${sql}`;
    const asked = [query.online ?? null, query.health ?? null, query.bundle ?? null, query.id || null, ...params];
    const rows = await this.db.query<{ id: string }[]>(`SELECT id FROM ${those} AND ($${asked.length + 1}::text IS NULL OR id > $${asked.length + 1}) ORDER BY id LIMIT $${asked.length + 2}`, [...asked, query.cursor ?? null, query.limit + 1]);
    const ids = rows.slice(0, query.limit).map(({ id }) => id);
    const [counted] = query.total ? await this.db.query<{ total: number }[]>(`SELECT count(*)::int AS total FROM ${those}`, asked) : [];
    return { items: await this.views(ids), nextCursor: rows.length > query.limit ? ids.at(-1)! : null, ...counted };
  }

  /** @throws ReefError `device.unknown` */
  async get(id: string): Promise<DeviceView> {
    const [found] = await this.views([id]);
    if (!found) throw unknownDevice(id);
    return found;
  }

  /** Replaces the labels. @throws ReefError `device.unknown`, `labels.invalid` */
  async label(id: string, labels: Record<string, string>, actor: string): Promise<DeviceView> {
    checkLabels(labels);
    await this.db.transaction(async (tx) => {
      await keepRules(tx);
      const changed = await tx.query<[unknown[], number]>('UPDATE devices SET labels = $2 WHERE id = $1 AND retired_at IS NULL RETURNING id', [id, labels]);
      if (changed[1] === 0) throw unknownDevice(id);
      await record(tx, { at: this.clock.now(), actor, action: 'device.label', subject: id, detail: { labels } });
      await applyRules(tx, [id]);
      await hint(tx, { kind: 'device', id });
    });
    return this.get(id);
  }

  /**
   * The device keeps what it runs: rollouts leave it out until it is unpinned. One that it was told before goes on, and so does the way back.
   * @param workload every one where absent
   * @throws ReefError `device.unknown`
   */
  async pin(id: string, { workload = '', reason }: { workload?: string | undefined; reason: string }, actor: string): Promise<DeviceView> {
    const at = this.clock.now();
    await this.db.transaction(async (tx) => {
      const pinned = await tx.query<unknown[]>(`
        INSERT INTO device_pins (device_id, workload, reason, pinned_by, pinned_at) SELECT id, $2, $3, $4, $5 FROM devices WHERE id = $1 AND retired_at IS NULL
        ON CONFLICT (device_id, workload) DO UPDATE SET reason = EXCLUDED.reason, pinned_by = EXCLUDED.pinned_by, pinned_at = EXCLUDED.pinned_at RETURNING device_id`, [id, workload, reason, actor, at]);
      if (pinned.length === 0) throw unknownDevice(id);
      await record(tx, { at, actor, action: 'device.pin', subject: id, detail: { workload: workload || null, reason } });
      await hint(tx, { kind: 'device', id });
    });
    return this.get(id);
  }

  /** @throws ReefError `device.unknown`, `device.not_pinned` */
  async unpin(id: string, workload: string | undefined, actor: string): Promise<DeviceView> {
    await this.db.transaction(async (tx) => {
      const [, changed] = await tx.query<[unknown[], number]>('DELETE FROM device_pins WHERE device_id = $1 AND workload = $2 RETURNING device_id', [id, workload ?? '']);
      if (changed === 0) {
        const { pins } = await this.get(id);
        throw new ReefError('device.not_pinned', 'not_found', `${id} is not pinned${workload ? ` for ${workload}` : ' for every workload'}${pins.length > 0 ? `, but for ${pins.map((pin) => pin.workload || 'every workload').join(', ')}` : ''}.`, { detail: { id, workload: workload ?? null } });
      }
      await record(tx, { at: this.clock.now(), actor, action: 'device.unpin', subject: id, detail: { workload: workload ?? null } });
      await hint(tx, { kind: 'device', id });
    });
    return this.get(id);
  }

  /** Takes a device out of service for good: its certificates are revoked and nothing is wanted of it any more. @throws ReefError `device.unknown` */
  async retire(id: string, reason: string, actor: string): Promise<void> {
    const at = this.clock.now();
    await this.db.transaction(async (tx) => {
      const changed = await tx.query<[unknown[], number]>('UPDATE devices SET retired_at = $2, retired_reason = $3, online = false WHERE id = $1 AND retired_at IS NULL RETURNING id', [id, at, reason]);
      if (changed[1] === 0) throw unknownDevice(id);
      await tx.query('UPDATE certificates SET revoked_at = $2 WHERE device_id = $1 AND revoked_at IS NULL', [id, at]);
      await tx.query('DELETE FROM desired_workloads WHERE device_id = $1', [id]);
      await tx.query('UPDATE desired SET revision = revision + 1 WHERE device_id = $1', [id]);
      await record(tx, { at, actor, action: 'device.retire', subject: id, detail: { reason } });
      await hint(tx, { kind: 'device', id });
      await hint(tx, { kind: 'desired', id });
    });
  }

  /** Whether this certificate still opens doors. */
  async mayConnect(id: string, serial: string): Promise<boolean> {
    const [row] = await this.db.query<unknown[]>(
      'SELECT 1 FROM certificates c JOIN devices d ON d.id = c.device_id WHERE d.id = $1 AND d.retired_at IS NULL AND c.serial = $2 AND c.revoked_at IS NULL',
      [id, serial.toLowerCase()],
    );
    return row !== undefined;
  }

  /** In the order in which they came. A will may arrive after the birth of the next connection: a lower session changes nothing. */
  async presence(batch: readonly { device: string; presence: Presence }[]): Promise<void> {
    const last = new Map<string, Presence>();
    for (const { device, presence } of batch) if (presence.session >= (last.get(device)?.session ?? -1)) last.set(device, presence);
    await this.db.query(storePresence, [[...last.keys()], [...last.values()].map(({ online }) => online), [...last.values()].map(({ session }) => session), this.clock.now()]);
  }

  /**
   * Takes for offline every device that the broker keeps no presence of: a will is lost when the broker goes down with its device.
   * @param heard the devices whose presence was retained, or came since
   * @returns those that changed
   */
  async absent(heard: readonly string[]): Promise<string[]> {
    return this.db.transaction(async (tx) => {
      const [changed] = await tx.query<[{ id: string }[], number]>('UPDATE devices SET online = false WHERE online AND NOT id = ANY($1) RETURNING id', [heard]);
      const gone = changed.map(({ id }) => id);
      await hintEach(tx, 'device', gone);
      return gone;
    });
  }

  /** Certificates that are revoked and would otherwise still be good. */
  async revoked(): Promise<{ serial: string; revokedAt: Date }[]> {
    return this.db.query('SELECT serial, revoked_at AS "revokedAt" FROM certificates WHERE revoked_at IS NOT NULL AND not_after > $1 ORDER BY revoked_at', [this.clock.now()]);
  }

  private async views(ids: string[]): Promise<DeviceView[]> {
    if (ids.length === 0) return [];
    const manager = this.db.manager;
    const [devices, states, wanted, reports, pins] = await Promise.all([
      manager.createQueryBuilder(Device, 'd').where('d.id = ANY(:ids)', { ids }).orderBy('d.id').getMany(),
      this.db.query<{ device_id: string; revision: string; published_revision: string; config: DesiredState['config']; ruled: DesiredState['config']; rules: string[] }[]>('SELECT * FROM desired WHERE device_id = ANY($1)', [ids]),
      manager.createQueryBuilder(DesiredWorkload, 'w').where('w.device_id = ANY(:ids)', { ids }).getMany(),
      manager.createQueryBuilder(ReportedState, 'r').where('r.device_id = ANY(:ids)', { ids }).getMany(),
      manager.createQueryBuilder(DevicePin, 'p').where('p.device_id = ANY(:ids)', { ids }).orderBy('p.workload').getMany(),
    ]);
    const stateOf = new Map(states.map((row) => [row.device_id, row]));
    const reportOf = new Map(reports.map((row) => [row.deviceId, row]));
    const pinsOf = Map.groupBy(pins, ({ deviceId }) => deviceId);
    return devices.map((device) => {
      const state = stateOf.get(device.id);
      return {
        ...device,
        desired: {
          revision: Number(state?.revision ?? 0), publishedRevision: Number(state?.published_revision ?? 0), config: { ...state?.ruled, ...state?.config }, own: state?.config ?? {}, rules: state?.rules ?? [],
          workloads: Object.fromEntries(wanted.filter(({ deviceId }) => deviceId === device.id).map((row) => [row.workload, row])),
        },
        reported: reportOf.get(device.id) ?? null,
        pins: pinsOf.get(device.id) ?? [],
      };
    });
  }
}

export function unknownDevice(id: string): ReefError {
  return new ReefError('device.unknown', 'not_found', `There is no device "${id}" in service. See the list of devices.`, { detail: { id } });
}

/** @throws ReefError `labels.invalid` */
export function checkLabels(labels: Record<string, string>): void {
  for (const [key, value] of Object.entries(labels)) {
    if (!labelKey.test(key) || !labelValue.test(value)) throw new ReefError('labels.invalid', 'invalid', `The label ${key}=${value} is not allowed: keys and values are 1 to 63 of A-Z a-z 0-9 _ . / -, beginning and ending with a letter or digit.`, { detail: { key, value } });
  }
}
