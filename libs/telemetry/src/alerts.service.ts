import { Inject, Injectable } from '@nestjs/common';
import { parseSelector, record, selectorSql } from '@reefkeeper/devices';
import { hint, hintEach, ReefError, type Clock } from '@reefkeeper/platform';
import { DataSource } from 'typeorm';
import type { AlertState } from './alert.ts';
import { labelsSql } from './alert-sources.ts';
import { AlertRow } from './alerts.entity.ts';
import { silencedSql } from './silences.service.ts';

/** `silenced`: nobody is told of it just now. */
export type AlertView = Omit<AlertRow, 'told' | 'tellTries' | 'tellAfter'> & { silenced: boolean };

export interface AlertsOf {
  kind?: string | undefined;
  device?: string | undefined;
  rollout?: string | undefined;
  /** Labels of the devices (or the site) they are about; others are left out then. */
  selector?: string | undefined;
}

export interface AlertsQuestion extends AlertsOf {
  /** Open and acknowledged ones where absent. */
  states?: readonly AlertState[] | undefined;
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
    const { sql, params } = conditionOf(question, 4);
    const rows = await this.db.query<{ id: string }[]>(`SELECT a.id FROM alerts a LEFT JOIN devices d ON d.id = a.device_id WHERE a.state = ANY($1) AND ($2::bigint IS NULL OR a.seq < $2) AND ${sql} ORDER BY a.seq DESC LIMIT $3`,
      [question.states ?? ['OPEN', 'ACKNOWLEDGED'], question.cursor ?? null, question.limit + 1, ...params]);
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

  /**
   * The same of all open ones that match; what somebody has taken up already stays theirs.
   * @param throughSeq the last that whoever asks has seen: what has come since is not acknowledged unseen
   * @returns how many. @throws ReefError `selector.invalid`
   */
  async acknowledgeAll(of: AlertsOf & { throughSeq?: number | undefined }, note: string, actor: string): Promise<number> {
    const now = this.clock.now();
    const { sql, params } = conditionOf(of, 5);
    return this.db.transaction(async (tx) => {
      // Locked in the order of ids, as the sweep and the webhook do it.
      const [rows] = await tx.query<[{ id: string }[], number]>(`
        WITH locked AS (
          SELECT a.id FROM alerts a LEFT JOIN devices d ON d.id = a.device_id WHERE a.state = 'OPEN' AND ($4::bigint IS NULL OR a.seq <= $4) AND ${sql} ORDER BY a.id FOR NO KEY UPDATE OF a
        )
        UPDATE alerts a SET state = 'ACKNOWLEDGED', acknowledged_at = $1, acknowledged_by = $2, note = $3 FROM locked WHERE a.id = locked.id RETURNING a.id`, [now, actor, note, of.throughSeq ?? null, ...params]);
      if (rows.length === 0) return 0;
      await record(tx, { at: now, actor, action: 'alert.acknowledge_all', subject: of.device ?? of.rollout ?? of.selector ?? of.kind ?? 'all', detail: { ...of, note, alerts: rows.length } });
      await hintEach(tx, 'alert', rows.map(({ id }) => id));
      return rows.length;
    });
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

/** Over alerts `a` and their devices `d`, parameters from `first` on. */
function conditionOf({ kind, device, rollout, selector }: AlertsOf, first: number): { sql: string; params: unknown[] } {
  const { sql, params } = selectorSql(parseSelector(selector ?? ''), labelsSql, first + 3);
  const equals = [`a.kind = $${first}`, `a.device_id = $${first + 1}`, `a.rollout_id = $${first + 2}::uuid`].map((one, at) => `($${first + at}::${at === 2 ? 'uuid' : 'text'} IS NULL OR ${one})`);
  return { sql: `${equals.join(' AND ')} AND ${params.length === 0 ? 'true' : `${labelsSql} IS NOT NULL AND ${sql}`}`, params: [kind ?? null, device ?? null, rollout ?? null, ...params] };
}

const missing = (id: string): ReefError => new ReefError('alert.missing', 'not_found', `There is no alert ${id}. \`reef alert ls --all\` lists them.`, { detail: { alert: id } });
