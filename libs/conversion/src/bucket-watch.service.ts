import { Inject, Injectable } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { asReefError, type Buckets, type Clock, type Logger } from '@reefkeeper/platform';
import { bucketImportRequest, BucketImports } from './bucket-imports.service.ts';
import { exportFolderOf, exportsIn, modelNameOf, waitsFor, type BucketExport } from './bucket-layout.ts';

export type WatchedState = 'WAITING' | 'IMPORTED' | 'REFUSED' | 'GIVEN_UP';

/** An export's folder as the watcher knows it. */
export interface WatchedExport {
  bucket: string;
  folder: string;
  state: WatchedState;
  /** What it waits for, or why it was refused. */
  reason: { code: string; message: string } | null;
  /** Of the last news of it. */
  seenAt: Date;
  /** The job of its newest import. */
  jobId: string | null;
}

export interface WatchOptions {
  /** An export is taken this long after the last news of its folder. */
  quietMs: number;
  /** Model names by address, the longest one that fits; others are named by their folder. */
  models: readonly { address: string; model: string }[];
}

const claimS = 900;
const longestWaitMs = 10 * 60_000;
/** An export that does not become whole within a day never will; news of it begin anew. */
const giveUpMs = 24 * 3_600_000;

/**
 * Turns "this object was written" into versions. Each folder is a row: a message only makes its row due, and the sweep looks at the bucket
 * itself. So messages may come twice, late or in any order; an export is imported once per state of its files, which the row written
 * with its job sees to.
 */
@Injectable()
export class BucketWatch {
  constructor(
    @Inject(DataSource) private readonly db: DataSource,
    @Inject('CLOCK') private readonly clock: Clock,
    @Inject('LOG') private readonly log: Logger,
    @Inject('BUCKETS') private readonly buckets: Buckets,
    @Inject(BucketImports) private readonly imports: BucketImports,
  ) {}

  /** Notes that an object was written. Committed when this returns. @returns whether it belongs to an export */
  async sighted(bucket: string, name: string, { quietMs }: Pick<WatchOptions, 'quietMs'>): Promise<boolean> {
    const folder = exportFolderOf(name);
    if (folder === null) return false;
    const now = this.clock.now();
    await this.db.query(`
      INSERT INTO bucket_exports (bucket, folder, state, seen_at, look_at) VALUES ($1, $2, 'WAITING', $3, $4)
      ON CONFLICT (bucket, folder) DO UPDATE SET state = 'WAITING', seen_at = excluded.seen_at, look_at = excluded.look_at`, [bucket, folder, now, new Date(now.getTime() + quietMs)]);
    return true;
  }

  /** Looks at every folder that is due. Any number of workers may; a claim that a dead one left ends by itself. @returns how many were imported */
  async sweep(options: WatchOptions): Promise<number> {
    const now = this.clock.now();
    const [due] = (await this.db.query(`
      UPDATE bucket_exports SET claimed_until = $1::timestamptz + make_interval(secs => $2) WHERE (bucket, folder) IN (
        SELECT bucket, folder FROM bucket_exports WHERE state = 'WAITING' AND look_at <= $1 AND (claimed_until IS NULL OR claimed_until < $1) ORDER BY look_at LIMIT 4 FOR UPDATE SKIP LOCKED)
      RETURNING bucket, folder, seen_at AS "seenAt"`, [now, claimS])) as [{ bucket: string; folder: string; seenAt: Date }[], number];
    let imported = 0;
    for (const row of due) if (await this.look(row, options)) imported += 1;
    return imported;
  }

  /** Newest news first. */
  async list(limit = 100): Promise<WatchedExport[]> {
    return this.db.query(`
      SELECT e.bucket, e.folder, e.state, e.reason, e.seen_at AS "seenAt", (SELECT job_id FROM bucket_imports i WHERE i.bucket = e.bucket AND i.folder = e.folder ORDER BY imported_at DESC LIMIT 1) AS "jobId"
      FROM bucket_exports e ORDER BY seen_at DESC LIMIT $1`, [limit]);
  }

  private async look(row: { bucket: string; folder: string; seenAt: Date }, options: WatchOptions): Promise<boolean> {
    const idleMs = this.clock.now().getTime() - row.seenAt.getTime();
    try {
      const found = exportsIn(await this.buckets.list(row.bucket, row.folder, 20_000)).find(({ folder }) => folder === row.folder);
      const waits = found ? waitsFor(found, idleMs, options.quietMs) : 'the model itself';
      if (!found || waits !== null) {
        await this.postpone(row, idleMs, options, { code: 'export.incomplete', message: `waits for ${waits}` });
        return false;
      }
      const made = await this.importOnce(row.bucket, found, options);
      await this.settle(row, 'IMPORTED', null);
      return made;
    } catch (thrown) {
      const { code, kind, message } = asReefError(thrown);
      if (kind === 'bug') this.log.error({ err: thrown, bucket: row.bucket, folder: row.folder }, 'import broke');
      if (kind === 'unavailable' || kind === 'bug') await this.postpone(row, idleMs, options, { code, message });
      else await this.settle(row, 'REFUSED', { code, message });
      return false;
    }
  }

  private async importOnce(bucket: string, found: BucketExport, { models }: WatchOptions): Promise<boolean> {
    if (await this.imports.known(bucket, found)) return false;
    const address = `gs://${bucket}/${found.folder}`;
    const rule = models.filter((one) => address.startsWith(one.address)).sort((a, b) => b.address.length - a.address.length)[0];
    try {
      const { version, job } = await this.imports.take(rule?.model ?? modelNameOf(bucket, found.folder), bucket, found, bucketImportRequest.parse({ address }), 'bucket-watch', async (tx, made) => {
        // The other worker's row is waited for here, so exactly one of two that copied the same export makes a version.
        if (!(await this.imports.note(tx, bucket, found, made.job))) throw new AlreadyThere();
      });
      this.log.info({ bucket, folder: found.folder, version: `${version.model}@${version.version}`, job: job.id }, 'export imported');
      return true;
    } catch (thrown) {
      if (thrown instanceof AlreadyThere) return false;
      throw thrown;
    }
  }

  private async postpone(row: { bucket: string; folder: string; seenAt: Date }, idleMs: number, { quietMs }: WatchOptions, reason: { code: string; message: string }): Promise<void> {
    if (idleMs > giveUpMs) {
      await this.settle(row, 'GIVEN_UP', reason);
      return;
    }
    const wait = Math.min(longestWaitMs, Math.max(quietMs, idleMs / 2));
    await this.db.query('UPDATE bucket_exports SET claimed_until = NULL, reason = $3, look_at = CASE WHEN seen_at = $4 THEN $5 ELSE look_at END WHERE bucket = $1 AND folder = $2',
      [row.bucket, row.folder, JSON.stringify(reason), row.seenAt, new Date(this.clock.now().getTime() + wait)]);
  }

  /** News that came meanwhile keep the row due. */
  private async settle(row: { bucket: string; folder: string; seenAt: Date }, state: WatchedState, reason: { code: string; message: string } | null): Promise<void> {
    await this.db.query('UPDATE bucket_exports SET claimed_until = NULL, state = CASE WHEN seen_at = $4 THEN $3 ELSE state END, reason = $5 WHERE bucket = $1 AND folder = $2',
      [row.bucket, row.folder, state, row.seenAt, reason && JSON.stringify(reason)]);
    if (state !== 'IMPORTED') this.log.warn({ bucket: row.bucket, folder: row.folder, state, ...reason }, 'export not imported');
  }
}

class AlreadyThere extends Error {}
