import { randomUUID } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { parseSelector, record, selectorSql } from '@reefkeeper/devices';
import { hint, ReefError, type Clock, type Tx } from '@reefkeeper/platform';
import { DataSource, type EntityManager } from 'typeorm';
import { FreezeRow } from './rollout.entity.ts';

export type FreezeView = FreezeRow & { active: boolean; devices: number };

/** Stretches of time in which no rollout tells a device anything new. The way back is never frozen. */
@Injectable()
export class Freezes {
  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock) {}

  /** @throws ReefError `selector.invalid`, `freeze.over` */
  async create({ selector, until, reason }: { selector: string; until: Date; reason: string }, actor: string): Promise<FreezeView> {
    parseSelector(selector);
    const now = this.clock.now();
    if (until <= now) throw new ReefError('freeze.over', 'invalid', `${until.toISOString()} is past; a freeze needs an end in the future.`, { detail: { until } });
    const id = randomUUID();
    await this.db.transaction(async (tx) => {
      await tx.insert(FreezeRow, { id, selector, until, reason, createdAt: now, createdBy: actor, liftedAt: null, liftedBy: null });
      await record(tx, { at: now, actor, action: 'freeze.create', subject: id, detail: { selector, until, reason } });
      await wakeRollouts(tx, now);
    });
    return this.get(id);
  }

  /** Those that hold now, the first to end first; with `all` those that are over, too. */
  async list(all = false): Promise<FreezeView[]> {
    const rows = await this.db.getRepository(FreezeRow).createQueryBuilder('f').where(all ? 'true' : 'f.lifted_at IS NULL AND f.until > :now', { now: this.clock.now() }).orderBy('f.until').limit(1_000).getMany();
    return Promise.all(rows.map((row) => this.view(row)));
  }

  /** @throws ReefError `freeze.missing`, `freeze.over` */
  async lift(id: string, actor: string): Promise<FreezeView> {
    if (!/^[0-9a-f-]{36}$/i.test(id)) throw missing(id);
    const now = this.clock.now();
    await this.db.transaction(async (tx) => {
      const row = await tx.findOne(FreezeRow, { where: { id }, lock: { mode: 'pessimistic_write' } });
      if (!row) throw missing(id);
      if (row.liftedAt || row.until <= now) throw new ReefError('freeze.over', 'conflict', `That freeze is over${row.liftedBy ? `; ${row.liftedBy} lifted it` : ''}.`, { detail: { freeze: id } });
      await tx.update(FreezeRow, { id }, { liftedAt: now, liftedBy: actor });
      await record(tx, { at: now, actor, action: 'freeze.lift', subject: id, detail: { selector: row.selector } });
      await wakeRollouts(tx, now);
    });
    return this.get(id);
  }

  async get(id: string): Promise<FreezeView> {
    const row = await this.db.getRepository(FreezeRow).findOneBy({ id });
    if (!row) throw missing(id);
    return this.view(row);
  }

  private async view(row: FreezeRow): Promise<FreezeView> {
    const { sql, params } = selectorSql(parseSelector(row.selector), 'labels', 1);
    const [counted] = await this.db.query<{ n: number }[]>(`SELECT count(*)::int AS n FROM devices WHERE retired_at IS NULL AND ${sql}`, params);
    return { ...row, active: row.liftedAt === null && row.until > this.clock.now(), devices: counted!.n };
  }
}

const missing = (id: string): ReefError => new ReefError('freeze.missing', 'not_found', `There is no freeze ${id}. \`reef freeze ls\` lists them.`, { detail: { freeze: id } });

export async function activeFreezes(on: Tx | EntityManager, now: Date): Promise<{ selector: string; until: Date; reason: string }[]> {
  return on.query('SELECT selector, until, reason FROM rollout_freezes WHERE lifted_at IS NULL AND until > $1', [now]);
}

/** Those in a pass right now see the change at their next look. */
export async function wakeRollouts(tx: Tx, now: Date): Promise<void> {
  const [woken] = await tx.query<[{ id: string }[], number]>(`
    UPDATE rollouts SET wait_until = $1 WHERE id IN (SELECT id FROM rollouts WHERE state IN ('RUNNING', 'SUCCEEDED') AND wait_until > $1 FOR UPDATE SKIP LOCKED) RETURNING id`, [now]);
  for (const { id } of woken) await hint(tx, { kind: 'rollout', id });
}
