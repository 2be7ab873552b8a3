import type { Clock, Tx } from '@reefkeeper/platform';
import type { DataSource } from 'typeorm';
import { TelemetryWindow } from './telemetry.entity.ts';
import { merged, quantilesOf } from './telemetry.views.ts';

/**
 * A window as a row of a table outside: flat, snake case, times in RFC 3339 (UTC), sketches as quantiles in milliseconds. `labels` and `error_codes` are JSON in a string, which BigQuery takes for a
 * column of type JSON. (device, boot_id, seq) names it for ever: rows are delivered at least once.
 */
export interface ExportedWindow {
  device: string;
  boot_id: string;
  seq: number;
  workload: string;
  bundle: string;
  variant: string;
  backend: string;
  /** By the device's clock, which may be wrong. */
  started_at: string;
  received_at: string;
  duration_ms: number;
  inferences: number;
  errors: number;
  error_codes: string;
  p50_ms: number | null;
  p95_ms: number | null;
  p99_ms: number | null;
  labelled: number;
  correct: number;
  temperature_c: number | null;
  drift_psi: number | null;
  /** Of the device when the row left. */
  labels: string;
}

/** Takes rows to where they are analysed; settles when all of them are kept there. */
export interface WindowSink { publish(rows: readonly ExportedWindow[]): Promise<void> }

const biteRows = 1_000;
/** The clocks of controllers, which write `received_at`, may differ by less than this. */
const skewMs = 10_000;
/** How much time one look reads at most: a backlog is sorted in pieces. */
const stretchMs = 60_000;
const looksPerRun = 50;

interface Position { at: Date; device: string; boot: string; seq: string }

/**
 * Hands windows on in the order of their receipt, each at least once: the position moves when the sink has kept what lies before it. Its row's lock lets one process at a time do it; whoever dies leaves
 * the position where it was. What another transaction may still commit is not passed by: nothing younger than the oldest one that writes is read.
 */
export class WindowExport {
  constructor(private readonly db: DataSource, private readonly sink: WindowSink, private readonly clock: Clock) {}

  /** @returns how many rows left */
  async run(): Promise<number> {
    // Exports begin with the first run; what was there before stays where it is.
    await this.db.query('INSERT INTO telemetry_export (at) VALUES ($1) ON CONFLICT DO NOTHING', [this.clock.now()]);
    let sent = 0;
    for (let look = 0; look < looksPerRun; look++) {
      const went = await this.db.transaction((tx) => this.look(tx));
      if (went === undefined) break;
      sent += went;
    }
    return sent;
  }

  /** @returns undefined when there is nothing to do for now */
  private async look(tx: Tx): Promise<number | undefined> {
    const [position] = await tx.query<Position[]>('SELECT at, device, boot, seq FROM telemetry_export FOR UPDATE SKIP LOCKED');
    if (!position) return undefined;
    const [{ oldest }] = await tx.query<[{ oldest: Date | null }]>("SELECT min(xact_start) AS oldest FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() AND datname = current_database()");
    const now = this.clock.now().getTime();
    const horizon = Math.min(oldest?.getTime() ?? now, now) - skewMs;
    const until = new Date(Math.min(horizon, position.at.getTime() + stretchMs));
    if (until <= position.at) return undefined;

    const rows = await tx.getRepository(TelemetryWindow).createQueryBuilder('w')
      .where('w.received_at >= :at AND w.received_at < :until AND (w.received_at, w.device_id, w.boot_id, w.seq) > (:at, :device, :boot, :seq)', { ...position, until })
      .orderBy('w.receivedAt').addOrderBy('w.deviceId').addOrderBy('w.bootId').addOrderBy('w.seq').take(biteRows).getMany();
    if (rows.length > 0) await this.sink.publish(await this.exported(tx, rows));
    const last = rows.length === biteRows ? rows.at(-1)! : undefined;
    await tx.query('UPDATE telemetry_export SET at = $1, device = $2, boot = $3, seq = $4', [last?.receivedAt ?? until, last?.deviceId ?? '', last?.bootId ?? '', last?.seq ?? -1]);
    return rows.length;
  }

  private async exported(tx: Tx, rows: readonly TelemetryWindow[]): Promise<ExportedWindow[]> {
    const devices = await tx.query<{ id: string; labels: Record<string, string> }[]>('SELECT id, labels FROM devices WHERE id = ANY($1)', [[...new Set(rows.map(({ deviceId }) => deviceId))]]);
    const labels = new Map(devices.map((device) => [device.id, JSON.stringify(device.labels)]));
    return rows.map((row) => {
      const { p50Ms, p95Ms, p99Ms } = quantilesOf(merged([row.latency.total ?? row.latency.invoke]));
      return {
        device: row.deviceId, boot_id: row.bootId, seq: row.seq, workload: row.workload, bundle: row.bundle, variant: row.variant, backend: row.backend,
        started_at: row.startedAt.toISOString(), received_at: row.receivedAt.toISOString(), duration_ms: row.durationMs,
        inferences: row.inferences, errors: row.errorCount, error_codes: JSON.stringify(row.errors), p50_ms: p50Ms, p95_ms: p95Ms, p99_ms: p99Ms,
        labelled: row.labelled, correct: row.correct, temperature_c: row.temperatureC, drift_psi: row.drift?.psi ?? null, labels: labels.get(row.deviceId) ?? '{}',
      };
    });
  }
}
