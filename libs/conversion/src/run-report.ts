import type { DataSource } from 'typeorm';
import { hint, type Clock } from '@reefkeeper/platform';
import { etaS } from './job.ts';
import type { JobStep } from './job.entity.ts';

/** Per step; TensorFlow can be talkative. */
const maxLines = 5_000;
const maxLineLength = 2_000;

/** What a run tells while it runs: its heartbeat, progress and log. Written together, twice a second, and only while it owns the job. */
export class RunReport {
  private lines: { at: Date; stream: string; text: string }[] = [];
  private written = 0;
  private percent: number | null = null;
  private message: string | null = null;
  private moved: boolean;
  private flushing: Promise<unknown> = Promise.resolve();

  constructor(private readonly db: DataSource, private readonly clock: Clock, private readonly of: { jobId: string; owner: string; step: JobStep; typicalMs?: number | null }) {
    // What it usually takes can be told before it has got anywhere.
    this.moved = of.typicalMs !== undefined && of.typicalMs !== null;
  }

  progress(percent: number | null, message?: string): void {
    // Phases report their own percentages; a bar that runs backwards helps nobody.
    if (percent !== null) this.percent = Math.max(this.percent ?? 0, Math.min(100, percent));
    if (message !== undefined) this.message = message;
    this.moved = true;
  }

  log(text: string, stream: 'out' | 'err' = 'out'): void {
    for (const line of text.split(/\r?\n|\r/)) {
      const clean = line.replaceAll('\0', '').trimEnd();
      if (clean === '' || this.written > maxLines) continue;
      this.written += 1;
      const last = this.written > maxLines;
      this.lines.push({ at: this.clock.now(), stream: last ? 'err' : stream, text: last ? `More than ${maxLines} lines; the rest of this step is not kept.` : clean.slice(0, maxLineLength) });
    }
  }

  /** Beats until `end` is called, and at once on `look`. `stop` hears what the database says: asked to cancel, or the job is another's. */
  beat(everyMs: number, lostAfterMs: number, stop: (reason: 'cancel' | 'lost') => void): { look(): void; end(): void } {
    let lastHeard = performance.now();
    let busy = false;
    // Only beats write: their own hints come back as looks, and would keep each other going.
    const tick = async (write: boolean) => {
      if (busy) return;
      busy = true;
      try {
        const state = await this.heartbeat();
        lastHeard = performance.now();
        if (state === 'lost') stop('lost');
        else if (state === 'cancel') stop('cancel');
        if (write) await this.flush();
      } catch {
        // The database is away. Past the lease another worker may have the job, so this run must not go on.
        if (performance.now() - lastHeard > lostAfterMs) stop('lost');
      } finally {
        busy = false;
      }
    };
    const timer = setInterval(() => void tick(true), everyMs);
    return { look: () => void tick(false), end: () => clearInterval(timer) };
  }

  private async heartbeat(): Promise<'owned' | 'cancel' | 'lost'> {
    const [rows] = (await this.db.query('UPDATE jobs SET heartbeat_at = now() WHERE id = $1 AND owner = $2 RETURNING cancel_requested_at AS cancel', [this.of.jobId, this.of.owner])) as [{ cancel: Date | null }[], number];
    return rows[0] ? (rows[0].cancel ? 'cancel' : 'owned') : 'lost';
  }

  /** Writes what has gathered. One write at a time, so that lines keep their order. */
  async flush(): Promise<void> {
    const write = this.flushing.then(async () => this.write());
    this.flushing = write.catch(() => {});
    await write;
  }

  private async write(): Promise<void> {
    const { jobId, owner, step } = this.of;
    if (this.moved) {
      this.moved = false;
      const eta = etaS(this.clock.now().getTime() - step.startedAt!.getTime(), this.percent, this.of.typicalMs ?? null);
      await this.db.query("UPDATE job_steps SET percent = $3, eta_s = $4, message = $5 WHERE job_id = $1 AND ordinal = $2 AND EXISTS (SELECT 1 FROM jobs WHERE id = $1 AND owner = $6)", [jobId, step.ordinal, this.percent, eta, this.message, owner]);
      await hint(this.db, { kind: 'job', id: jobId });
    }
    if (this.lines.length === 0) return;
    const lines = this.lines;
    this.lines = [];
    await this.db.query('INSERT INTO job_log (job_id, at, step, stream, text) SELECT $1, line.at, $2, line.stream, line.text FROM unnest($3::timestamptz[], $4::text[], $5::text[]) WITH ORDINALITY AS line (at, stream, text, n) ORDER BY n',
      [jobId, step.name, lines.map((line) => line.at), lines.map((line) => line.stream), lines.map((line) => line.text)]);
    await hint(this.db, { kind: 'job_log', id: jobId });
  }
}
