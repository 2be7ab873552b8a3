import { randomUUID } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { parseSelector, record, selectorSql } from '@reefkeeper/devices';
import { hint, ReefError, type Clock, type Tx } from '@reefkeeper/platform';
import { DataSource } from 'typeorm';
import { aboutDevicesSql, labelsSql } from './alert-sources.ts';
import { SilenceRow } from './alerts.entity.ts';

/** `alerts`: how many that are not closed it keeps quiet now. */
export type SilenceView = SilenceRow & { active: boolean; alerts: number };

/** Stretches of time in which nobody is told of alerts of devices that match: maintenance. Alerts open and close as ever. */
@Injectable()
export class Silences {
  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock) {}

  /** @throws ReefError `selector.invalid`, `silence.over` */
  async create({ selector, kinds, until, reason }: { selector: string; kinds: string[]; until: Date; reason: string }, actor: string): Promise<SilenceView> {
    parseSelector(selector);
    const now = this.clock.now();
    if (until <= now) throw new ReefError('silence.over', 'invalid', `${until.toISOString()} is past; a silence needs an end in the future.`, { detail: { until } });
    const id = randomUUID();
    await this.db.transaction(async (tx) => {
      await tx.insert(SilenceRow, { id, selector, kinds, until, reason, createdAt: now, createdBy: actor, liftedAt: null, liftedBy: null });
      await record(tx, { at: now, actor, action: 'silence.create', subject: id, detail: { selector, kinds, until, reason } });
      await hint(tx, { kind: 'alert', id });
    });
    return this.get(id);
  }

  /** Those that hold now, the first to end first; with `all` those that are over, too. */
  async list(all = false): Promise<SilenceView[]> {
    const rows = await this.db.getRepository(SilenceRow).createQueryBuilder('s').where(all ? 'true' : 's.lifted_at IS NULL AND s.until > :now', { now: this.clock.now() }).orderBy('s.until').limit(1_000).getMany();
    return Promise.all(rows.map((row) => this.view(row)));
  }

  /** @throws ReefError `silence.missing`, `silence.over` */
  async lift(id: string, actor: string): Promise<SilenceView> {
    const now = this.clock.now();
    await this.db.transaction(async (tx) => {
      const row = await tx.findOne(SilenceRow, { where: { id }, lock: { mode: 'pessimistic_write' } });
      if (!row) throw missing(id);
      if (row.liftedAt || row.until <= now) throw new ReefError('silence.over', 'conflict', `That silence is over${row.liftedBy ? `; ${row.liftedBy} lifted it` : ''}.`, { detail: { silence: id } });
      await tx.update(SilenceRow, { id }, { liftedAt: now, liftedBy: actor });
      await record(tx, { at: now, actor, action: 'silence.lift', subject: id, detail: { selector: row.selector } });
      await hint(tx, { kind: 'alert', id });
    });
    return this.get(id);
  }

  private async get(id: string): Promise<SilenceView> {
    const row = await this.db.getRepository(SilenceRow).findOneBy({ id });
    if (!row) throw missing(id);
    return this.view(row);
  }

  private async view(row: SilenceRow): Promise<SilenceView> {
    const active = row.liftedAt === null && row.until > this.clock.now();
    const { sql, params } = conditionOf(row, 1);
    const [counted] = active ? await this.db.query<{ n: number }[]>(`SELECT count(*)::int AS n FROM alerts a LEFT JOIN devices d ON d.id = a.device_id WHERE a.state IN ('OPEN', 'ACKNOWLEDGED') AND ${sql}`, params) : [];
    return { ...row, active, alerts: counted?.n ?? 0 };
  }
}

const missing = (id: string): ReefError => new ReefError('silence.missing', 'not_found', `There is no silence ${id}. \`reef alert silences\` lists them.`, { detail: { silence: id } });

function conditionOf({ selector, kinds }: Pick<SilenceRow, 'selector' | 'kinds'>, first: number): { sql: string; params: unknown[] } {
  const { sql, params } = selectorSql(parseSelector(selector), labelsSql, first + 1);
  return { sql: `(${params.length === 0 ? aboutDevicesSql : `${labelsSql} IS NOT NULL`} AND (cardinality($${first}::text[]) = 0 OR a.kind = ANY($${first}::text[])) AND ${sql})`, params: [kinds, ...params] };
}

/** Whether an alert `a` of device `d` is silenced now, as a condition with its parameters counted from `$first`. */
export async function silencedSql(on: DataSource | Tx, now: Date, first: number): Promise<{ sql: string; params: unknown[] }> {
  const active = await on.query<Pick<SilenceRow, 'selector' | 'kinds'>[]>('SELECT selector, kinds FROM alert_silences WHERE lifted_at IS NULL AND until > $1 ORDER BY until LIMIT 1000', [now]);
  const params: unknown[] = [];
  const conditions = active.map((one) => {
    const condition = conditionOf(one, first + params.length);
    params.push(...condition.params);
    return condition.sql;
  });
  return { sql: conditions.length === 0 ? 'false' : `(${conditions.join(' OR ')})`, params };
}
