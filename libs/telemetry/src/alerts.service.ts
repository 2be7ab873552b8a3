import { Inject, Injectable } from '@nestjs/common';
import { parseSelector, record, selectorSql } from '@reefkeeper/devices';
import { hint, ReefError, type Clock } from '@reefkeeper/platform';
import { DataSource } from 'typeorm';
import type { AlertState } from './alert.ts';
import { AlertRow } from './alerts.entity.ts';
import { silencedSql } from './silences.service.ts';

/** `silenced`: nobody is told of it just now. */
export type AlertView = Omit<AlertRow, 'told' | 'tellTries' | 'tellAfter'> & { silenced: boolean };

export interface AlertsQuestion {
  /** Open and acknowledged ones where absent. */
  states?: readonly AlertState[] | undefined;
  kind?: string | undefined;
  device?: string | undefined;
  rollout?: string | undefined;
  /** Labels of the devices they are about; those about no device are left out then. */
  selector?: string | undefined;
  limit: number;
  cursor?: string | undefined;
}

export interface AlertCounts { open: number; acknowledged: number; kinds: { kind: string; severity: string; open: number; acknowledged: number }[] }

/** How long closed alerts are kept. */
export const alertsKeepS = 90 * 86_400;

@Injectable()
export class Alerts {
  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock) {}

  /** Newest first. @throws ReefError `selector.invalid`, `cursor.invalid` */
  async list(question: AlertsQuestion): Promise<{ items: AlertView[]; nextCursor: string | null }> {
    if (question.cursor !== undefined && !/^\d{1,18}$/.test(question.cursor)) throw new ReefError('cursor.invalid', 'invalid', 'The cursor is not one of this list: leave it out, or take `nextCursor` of the page before.');
    const { sql, params } = selectorSql(parseSelector(question.selector ?? ''), 'd.labels', 7);
    const rows = await this.db.query<{ id: string }[]>(`
      SELECT a.id FROM alerts a LEFT JOIN devices d ON d.id = a.device_id
      WHERE a.state = ANY($1) AND ($2::text IS NULL OR a.kind = $2) AND ($3::text IS NULL OR a.device_id = $3) AND ($4::uuid IS NULL OR a.rollout_id = $4) AND ($5::bigint IS NULL OR a.seq < $5)
        AND ${params.length === 0 ? 'true' : `d.id IS NOT NULL AND ${sql}`}
      ORDER BY a.seq DESC LIMIT $6`,
    [question.states ?? ['OPEN', 'ACKNOWLEDGED'], question.kind ?? null, question.device ?? null, question.rollout ?? null, question.cursor ?? null, question.limit + 1, ...params]);
    const items = await this.views(rows.slice(0, question.limit).map(({ id }) => id));
    return { items, nextCursor: rows.length > question.limit ? String(items.at(-1)!.seq) : null };
  }

  /** @throws ReefError `alert.missing` */
  async get(id: string): Promise<AlertView> {
    const [found] = await this.views([id]);
    if (!found) throw missing(id);
    return found;
  }

  /** Of those that are not closed. */
  async counts(): Promise<AlertCounts> {
    const kinds = await this.db.query<AlertCounts['kinds']>(`
      SELECT kind, severity, count(*) FILTER (WHERE state = 'OPEN')::int AS open, count(*) FILTER (WHERE state = 'ACKNOWLEDGED')::int AS acknowledged
      FROM alerts WHERE state IN ('OPEN', 'ACKNOWLEDGED') GROUP BY kind, severity ORDER BY kind`);
    const sum = (pick: (one: AlertCounts['kinds'][number]) => number) => kinds.reduce((total, one) => total + pick(one), 0);
    return { open: sum(({ open }) => open), acknowledged: sum(({ acknowledged }) => acknowledged), kinds };
  }

  /**
   * Somebody knows of it and says what they do about it. It closes by itself as ever; when the condition comes back after that, it is a new alert.
   * @throws ReefError `alert.missing`, `alert.closed`
   */
  async acknowledge(id: string, note: string, actor: string): Promise<AlertView> {
    const now = this.clock.now();
    await this.db.transaction(async (tx) => {
      const [, changed] = await tx.query<[unknown[], number]>("UPDATE alerts SET state = 'ACKNOWLEDGED', acknowledged_at = $2, acknowledged_by = $3, note = $4 WHERE id = $1 AND state IN ('OPEN', 'ACKNOWLEDGED') RETURNING id", [id, now, actor, note]);
      if (changed === 0) {
        const { kind, subject, closedAt } = await this.get(id);
        throw new ReefError('alert.closed', 'conflict', `${kind} of ${subject} has closed by itself ${closedAt ? `at ${closedAt.toISOString()}` : 'just now'}; there is nothing to acknowledge.`, { detail: { alert: id } });
      }
      await record(tx, { at: now, actor, action: 'alert.acknowledge', subject: id, detail: { note } });
      await hint(tx, { kind: 'alert', id });
    });
    return this.get(id);
  }

  /** Forgets those that were closed more than `keepS` ago. Returns how many. */
  async sweep(keepS: number): Promise<number> {
    const [, deleted] = await this.db.query<[unknown, number]>("DELETE FROM alerts WHERE state = 'CLOSED' AND closed_at < $1", [new Date(this.clock.now().getTime() - keepS * 1_000)]);
    return deleted;
  }

  private async views(ids: string[]): Promise<AlertView[]> {
    if (ids.length === 0) return [];
    const [alerts, silenced] = await Promise.all([
      this.db.getRepository(AlertRow).createQueryBuilder('a').where("a.id = ANY(:ids) AND a.state <> 'PENDING'", { ids }).orderBy('a.seq', 'DESC').getMany(),
      silencedSql(this.db, this.clock.now(), 2).then(({ sql, params }) => this.db.query<{ id: string }[]>(`SELECT a.id FROM alerts a LEFT JOIN devices d ON d.id = a.device_id WHERE a.id = ANY($1) AND a.state <> 'CLOSED' AND ${sql}`, [ids, ...params])),
    ]);
    const quiet = new Set(silenced.map(({ id }) => id));
    return alerts.map((alert) => ({ ...alert, silenced: quiet.has(alert.id) }));
  }
}

const missing = (id: string): ReefError => new ReefError('alert.missing', 'not_found', `There is no alert ${id}. \`reef alert ls --all\` lists them.`, { detail: { alert: id } });
