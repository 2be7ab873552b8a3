import { Inject, Injectable } from '@nestjs/common';
import { makeDelta, mostDeltaInputBytes } from '@reefkeeper/bundle';
import { readWhole, ReefError, type Clock, type ObjectStore, type StoredObject, type Tx } from '@reefkeeper/platform';
import { DataSource } from 'typeorm';
import { Registry } from './registry.service.ts';

/** How exactly `used_at` is kept: not a write for each of many downloads. */
const touchEveryMs = 3_600_000;

/** Pairs that wait their turn in one process; a device that asks for one after the other must not hold up the rest for long. */
const mostWaiting = 32;

interface Row { digest: string | null; bytes: string | null; usedAt: Date }

/**
 * Deltas between stored files, made when the first device asks and kept as objects. One pair is made once, however many ask at however many
 * replicas; one process makes one at a time. Rows that nobody used for the retention go, and their objects with them (`Retention`).
 */
@Injectable()
export class Deltas {
  /** In the making here, by pair. Only saves work: what is made is in the database. */
  private readonly making = new Map<string, Promise<StoredObject | null>>();
  private last: Promise<unknown> = Promise.resolve();

  constructor(
    @Inject(DataSource) private readonly db: DataSource,
    @Inject('CLOCK') private readonly clock: Clock,
    @Inject('OBJECTS') private readonly objects: ObjectStore,
    @Inject(Registry) private readonly registry: Registry,
  ) {}

  /** The stored delta that makes `to` out of `from`; null where there is none worth sending, or one of the two is gone. @throws ReefError `delta.not_ready` */
  async between(from: string, to: string): Promise<StoredObject | null> {
    const found = await this.find(from, to, this.db.manager);
    if (found !== undefined) return found;
    const key = `${from} ${to}`;
    let made = this.making.get(key);
    if (!made) {
      if (this.making.size >= mostWaiting) throw new ReefError('delta.not_ready', 'unavailable', 'Too many deltas are being made. Ask again.');
      made = this.last.then(() => this.make(from, to)).finally(() => this.making.delete(key));
      this.making.set(key, made);
      this.last = made.catch(() => {});
    }
    return made;
  }

  private async make(from: string, to: string): Promise<StoredObject | null> {
    return this.db.transaction(async (tx) => {
      // Another replica at the same pair: whoever comes second finds the row. Let go by the database however this process ends.
      await tx.query('SELECT pg_advisory_xact_lock(hashtextextended($1, 1))', [`delta ${from} ${to}`]);
      const found = await this.find(from, to, tx);
      if (found !== undefined) return found;
      const sizes = await Promise.all([from, to].map((digest) => this.objects.stat(digest).catch(() => undefined)));
      if (sizes.includes(undefined)) return null;
      const small = sizes.reduce((sum, size) => sum + size!.bytes, 0) <= mostDeltaInputBytes;
      const delta = small ? await makeDelta(await readWhole(this.objects, from), await readWhole(this.objects, to)) : undefined;
      const kept = delta ? await this.registry.keep(delta, { mediaType: 'application/zstd', role: 'delta' }) : null;
      await tx.query('INSERT INTO deltas (from_digest, to_digest, digest, bytes, made_at, used_at) VALUES ($1, $2, $3, $4, $5, $5)', [from, to, kept?.digest ?? null, kept?.bytes ?? null, this.clock.now()]);
      return kept;
    });
  }

  /** @returns undefined where the pair has not been tried, or its bytes have gone */
  private async find(from: string, to: string, tx: Tx): Promise<StoredObject | null | undefined> {
    const pair = [from, to];
    const [row] = (await tx.query('SELECT digest, bytes, used_at AS "usedAt" FROM deltas WHERE from_digest = $1 AND to_digest = $2', pair)) as Row[];
    if (!row) return undefined;
    if (this.clock.now().getTime() - row.usedAt.getTime() > touchEveryMs) {
      const lost = row.digest ? await this.registry.claim([row.digest], tx) : [];
      if (lost.length > 0) await tx.query('DELETE FROM deltas WHERE from_digest = $1 AND to_digest = $2 AND digest = $3', [...pair, row.digest]);
      else await tx.query('UPDATE deltas SET used_at = greatest(used_at, $3) WHERE from_digest = $1 AND to_digest = $2', [...pair, this.clock.now()]);
      if (lost.length > 0) return undefined;
    }
    return row.digest ? { digest: row.digest, bytes: Number(row.bytes) } : null;
  }
}
