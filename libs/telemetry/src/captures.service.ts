import { Inject, Injectable } from '@nestjs/common';
import { parseSelector, selectorSql } from '@reefkeeper/devices';
import { ReefError, type Clock, type StoredObject } from '@reefkeeper/platform';
import type { CaptureFacts } from '@reefkeeper/protocol';
import { DataSource } from 'typeorm';
import { Capture } from './captures.entity.ts';

export interface CapturesQuestion {
  /** Labels of the devices they came from. */
  selector?: string | undefined;
  device?: string | undefined;
  workload?: string | undefined;
  /** `*` = any, `-` = none yet, else this one. */
  label?: string | undefined;
  limit: number;
  /** Those received before the one with this `seq`. */
  before?: number | undefined;
}

/** What the registry keeps for captures. */
export const captureRoots: readonly string[] = ['SELECT digest FROM captures'];

/** More than any device's own budget allows: one that sends more is broken or not ours. */
const mostPerHour = 3_600;

@Injectable()
export class Captures {
  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock) {}

  /** Before its bytes are taken in. @throws ReefError `capture.known_elsewhere`, `capture.too_many` */
  async mayStore(id: string, device: string): Promise<void> {
    const [row] = await this.db.query<{ owner: string | null; lately: number }[]>(
      'SELECT (SELECT device_id FROM captures WHERE id = $1) AS owner, (SELECT count(*)::int FROM captures WHERE device_id = $2 AND received_at > $3) AS lately', [id, device, new Date(this.clock.now().getTime() - 3_600_000)]);
    if (row!.owner !== null && row!.owner !== device) throw new ReefError('capture.known_elsewhere', 'conflict', `Another device has sent a picture with id ${id}.`);
    if (row!.owner === null && row!.lately >= mostPerHour) throw new ReefError('capture.too_many', 'unavailable', `This device has sent ${row!.lately} pictures within an hour; the rest may come later.`);
  }

  /** The same again changes nothing: a device that lost our answer sends it once more. @returns whether it is new */
  async record(id: string, device: string, facts: CaptureFacts, { digest, bytes }: StoredObject): Promise<boolean> {
    const [row] = await this.db.query<unknown[]>(`
      INSERT INTO captures (id, device_id, workload, bundle, variant, backend, prediction, score, margin, taken_at, received_at, digest, bytes)
      SELECT $1, d.id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13 FROM devices d WHERE d.id = $2 ON CONFLICT (id) DO NOTHING RETURNING 1`,
      [id, device, facts.workload, facts.bundle, facts.variant, facts.backend, facts.prediction, facts.score, facts.margin, facts.takenAt, this.clock.now(), digest, bytes]);
    return row !== undefined;
  }

  /** Newest first. @throws ReefError `selector.invalid` */
  async list(question: CapturesQuestion): Promise<{ items: Capture[]; nextCursor: string | null }> {
    const { sql, params } = selectorSql(parseSelector(question.selector ?? ''), 'd.labels', 6);
    const rows = await this.db.query<{ seq: string }[]>(`
      SELECT c.seq FROM captures c JOIN devices d ON d.id = c.device_id
      WHERE ($1::text IS NULL OR c.device_id = $1) AND ($2::text IS NULL OR c.workload = $2)
        AND ($3::text IS NULL OR ($3 = '*' AND c.label IS NOT NULL) OR ($3 = '-' AND c.label IS NULL) OR c.label = $3)
        AND ($4::bigint IS NULL OR c.seq < $4) AND ${sql}
      ORDER BY c.seq DESC LIMIT $5`, [question.device ?? null, question.workload ?? null, question.label ?? null, question.before ?? null, question.limit, ...params]);
    const seqs = rows.map(({ seq }) => Number(seq));
    const items = seqs.length === 0 ? [] : await this.db.getRepository(Capture).createQueryBuilder('c').where('c.seq IN (:...seqs)', { seqs }).orderBy('c.seq', 'DESC').getMany();
    return { items, nextCursor: items.length < question.limit ? null : String(items.at(-1)!.seq) };
  }

  /** @throws ReefError `capture.missing` */
  async get(id: string): Promise<Capture> {
    const found = await this.db.getRepository(Capture).findOneBy({ id });
    if (!found) throw new ReefError('capture.missing', 'not_found', `There is no captured picture ${id}.`);
    return found;
  }

  /** @param label null takes it back. @throws ReefError `capture.missing` */
  async label(id: string, label: string | null, actor: string): Promise<Capture> {
    await this.get(id);
    await this.db.getRepository(Capture).update({ id }, { label, labelledBy: label === null ? null : actor, labelledAt: label === null ? null : this.clock.now() });
    return this.get(id);
  }

  /** The picture goes with the next collection. @throws ReefError `capture.missing` */
  async remove(id: string): Promise<void> {
    const { affected } = await this.db.getRepository(Capture).delete({ id });
    if (!affected) throw new ReefError('capture.missing', 'not_found', `There is no captured picture ${id}.`);
  }

  /** Forgets those that nobody has labelled within `keepS`. Returns how many. */
  async sweep(keepS: number): Promise<number> {
    const { affected } = await this.db.getRepository(Capture).createQueryBuilder().delete().where('label IS NULL AND received_at < :before', { before: new Date(this.clock.now().getTime() - keepS * 1_000) }).execute();
    return affected ?? 0;
  }
}
