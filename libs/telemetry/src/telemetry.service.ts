import { Inject, Injectable } from '@nestjs/common';
import { hintingEach, prepared, type Clock, type Tx } from '@reefkeeper/platform';
import { addMoments, Sketch, type MetricMoments, type Telemetry as Window } from '@reefkeeper/protocol';
import { DataSource } from 'typeorm';
import { driftOf, driftSums } from './drift.ts';
import { TelemetryWindow } from './telemetry.entity.ts';
import { merged, quantilesOf } from './telemetry.views.ts';

export interface Ingested {
  /** Rows that are new. */
  stored: number;
  /** Windows that were there already: MQTT delivers at least once. */
  repeated: number;
  unknown: string[];
  refused: { device: string; seq: number; reason: string }[];
}

/** What a device did over a stretch of time. `inferences` counts the failed ones too. */
export interface Health {
  inferences: number;
  errors: number;
  latency: Sketch;
  labelled: number;
  correct: number;
  /** Mean of the windows that know it; null when none does. */
  temperatureC: number | null;
  /** Mean population stability index, each window weighed by its scores and cleared of what chance alone adds (so it may be below 0); null when none was sent. */
  drift: { psi: number; scores: number } | null;
  /** Of the site's own program, added up over the windows. */
  metrics: Record<string, MetricMoments>;
}

/** A window in short, as a rollout judged it: of the bundle in question, or of another that had it in shadow (then nothing but `shadow`). */
export interface WindowFacts extends Pick<TelemetryWindow, 'inferences' | 'labelled' | 'correct' | 'temperatureC' | 'metrics' | 'drift'> { receivedAt: Date; errors: number; latency: string | null; shadow: { frames: number; agreed: number } | null }

/** A candidate beside the active model over a stretch of time. */
export interface Shadowed { frames: number; agreed: number; errors: number; latency: Sketch; active: Sketch }

export interface HealthQuestion {
  device: string;
  /** Every bundle when absent. */
  bundle?: string | undefined;
  from?: Date | undefined;
  to?: Date | undefined;
  /** Only this long before the last window that fits: a device that was away is judged by what it did when it was there. */
  lastS?: number | undefined;
}

export interface SeriesQuestion {
  /** One line per bundle over these devices; every device when absent. */
  devices?: readonly string[] | undefined;
  workload?: string | undefined;
  from: Date;
  to: Date;
  stepS: number;
  /** One line per device, or per bundle over all of them. */
  by: 'device' | 'bundle';
}

export interface SeriesPoint {
  at: Date;
  group: string;
  bundle: string;
  inferences: number;
  errors: number;
  p50Ms: number | null;
  p95Ms: number | null;
  p99Ms: number | null;
  labelled: number;
  accuracy: number | null;
  temperatureC: number | null;
  /** As in `Health`: how far the scores have moved from each device's reference. */
  drift: { psi: number; scores: number } | null;
}

const storeWindows = prepared(`
  WITH sent AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamptz[], $9::int[], $10::int[],
      $11::jsonb[], $12::int[], $13::jsonb[], $14::int[], $15::int[], $16::text[], $17::real[], $19::jsonb[], $20::jsonb[], $21::jsonb[], $22::jsonb[])
      AS s(device_id, boot_id, seq, workload, bundle, variant, backend, started_at, duration_ms, inferences, errors, error_count, latency, labelled, correct, scores, temperature_c, shadow, metrics, drift, lost)
  ), known AS (
    SELECT id FROM devices WHERE id = ANY($1::text[])
  ), stored AS (
    INSERT INTO telemetry_windows (device_id, boot_id, seq, workload, bundle, variant, backend, started_at, received_at, duration_ms, inferences, errors, error_count, latency, labelled, correct, scores, temperature_c, shadow, metrics, drift, lost)
    SELECT s.device_id, s.boot_id, s.seq, s.workload, s.bundle, s.variant, s.backend, s.started_at, $18, s.duration_ms, s.inferences, s.errors, s.error_count, s.latency, s.labelled, s.correct, s.scores, s.temperature_c, s.shadow, s.metrics, s.drift, s.lost
    FROM sent s JOIN known k ON k.id = s.device_id
    ORDER BY s.device_id, s.boot_id, s.seq
    ON CONFLICT DO NOTHING RETURNING device_id
  ), told AS (${hintingEach('telemetry', 'SELECT DISTINCT device_id AS id FROM stored')})
  SELECT (SELECT array_agg(id) FROM known) AS known, (SELECT count(*) FROM stored) AS total, (SELECT count(told) FROM told) AS hints`);

@Injectable()
export class Telemetry {
  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock) {}

  /**
   * Stores a batch in one statement. The caller acknowledges the messages after this returns; sending the same again
   * changes nothing. Unknown devices and unreadable sketches are left out and named, so one device cannot hold up the rest.
   */
  async ingest(batch: readonly { device: string; window: Window }[]): Promise<Ingested> {
    const refused: Ingested['refused'] = [];
    const rows = new Map<string, { device: string; window: Window }>();
    for (const one of batch) {
      const fault = faultOf(one.window);
      if (fault) refused.push({ device: one.device, seq: one.window.seq, reason: fault });
      else rows.set(`${one.device}\n${one.window.bootId}\n${one.window.seq}`, one);
    }
    const usable = [...rows.values()];
    if (usable.length === 0) return { stored: 0, repeated: 0, unknown: [], refused };
    const column = <T>(pick: (window: Window) => T): T[] => usable.map(({ window }) => pick(window));
    const [answer] = await this.db.query<{ known: string[] | null; total: string }[]>(storeWindows, [usable.map(({ device }) => device), column((w) => w.bootId), column((w) => w.seq), column((w) => w.workload), column((w) => w.bundle), column((w) => w.variant), column((w) => w.backend), column((w) => w.startedAt),
        column((w) => w.durationMs), column((w) => w.inferences), column((w) => JSON.stringify(w.errors)), column((w) => Object.values(w.errors).reduce((sum, n) => sum + n, 0)), column((w) => JSON.stringify(w.latency)),
        column((w) => w.labelled), column((w) => w.correct), column((w) => w.scores ?? null), column((w) => w.temperatureC), this.clock.now(),
        column((w) => jsonOrNull(w.shadow)), column((w) => jsonOrNull(w.metrics)), column((w) => jsonOrNull(w.drift)), column((w) => jsonOrNull(w.lost))]);
    const known = new Set(answer!.known ?? []);
    const stored = Number(answer!.total);
    const fromKnown = usable.filter(({ device }) => known.has(device)).length;
    return { stored, repeated: batch.length - refused.length - stored - (usable.length - fromKnown), unknown: [...new Set(usable.map(({ device }) => device).filter((device) => !known.has(device)))], refused };
  }

  /** Health of each device over the same stretch; a device without a window is not in the map. */
  async healthOf(ids: readonly string[], window: { workload: string } & Omit<HealthQuestion, 'device'>): Promise<Map<string, Health>> {
    return this.healthOfEach(this.db, window.workload, ids.map((device) => ({ device, ...window })));
  }

  /** Health where every device has its own bundle and stretch; one statement for any number. Latency is of the whole, or of one stage where it is told apart. */
  async healthOfEach(on: DataSource | Tx, workload: string, questions: readonly HealthQuestion[], stage: 'total' | 'invoke' = 'total'): Promise<Map<string, Health>> {
    if (questions.length === 0) return new Map();
    const rows = await on.query<{ device: string; inferences: string; errors: string; labelled: string; correct: string; temperature: number | null; psi: number | null; scores: string | null; metrics: Record<string, MetricMoments>[] | null; sketches: (string | null)[] }[]>(`
      SELECT q.device, sum(w.inferences) AS inferences, sum(w.error_count) AS errors, sum(w.labelled) AS labelled, sum(w.correct) AS correct, avg(w.temperature_c) AS temperature,
        ${driftSums('w')},
        array_agg(w.metrics) FILTER (WHERE w.metrics IS NOT NULL) AS metrics,
        array_agg(coalesce(w.latency ->> $7, w.latency ->> 'total', w.latency ->> 'invoke')) AS sketches
      FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::float8[]) AS q(device, bundle, "from", "to", last_s)
      LEFT JOIN LATERAL (
        SELECT max(l.received_at) - make_interval(secs => q.last_s) AS since FROM telemetry_windows l
        WHERE q.last_s IS NOT NULL AND l.device_id = q.device AND l.workload = $6 AND (q.bundle IS NULL OR l.bundle = q.bundle) AND l.received_at < coalesce(q."to", 'infinity')
      ) last ON true
      JOIN telemetry_windows w ON w.device_id = q.device AND w.workload = $6 AND (q.bundle IS NULL OR w.bundle = q.bundle)
        AND w.received_at >= greatest(coalesce(q."from", '-infinity'), coalesce(last.since, '-infinity')) AND w.received_at < coalesce(q."to", 'infinity')
      GROUP BY q.device`,
      [questions.map((q) => q.device), questions.map((q) => q.bundle ?? null), questions.map((q) => q.from ?? null), questions.map((q) => q.to ?? null), questions.map((q) => q.lastS ?? null), workload, stage]);
    return new Map(rows.map((row) => [row.device, {
      inferences: Number(row.inferences), errors: Number(row.errors), labelled: Number(row.labelled), correct: Number(row.correct), latency: merged(row.sketches),
      temperatureC: row.temperature, drift: driftOf(row), metrics: addedUp(row.metrics ?? []),
    }]));
  }

  /** What each device said of a candidate beside its active model, whichever that was. A device that has not shadowed it is not in the map. */
  async shadowOfEach(on: DataSource | Tx, workload: string, questions: readonly { device: string; bundle: string; from: Date }[]): Promise<Map<string, Shadowed>> {
    if (questions.length === 0) return new Map();
    const rows = await on.query<{ device: string; frames: string; agreed: string; errors: string; latency: string[]; active: string[] }[]>(`
      SELECT q.device, sum((w.shadow ->> 'frames')::bigint) AS frames, sum((w.shadow ->> 'agreed')::bigint) AS agreed, sum((w.shadow ->> 'errors')::bigint) AS errors,
        array_agg(w.shadow ->> 'latency') AS latency, array_agg(w.shadow ->> 'active') AS active
      FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS q(device, bundle, "from")
      JOIN telemetry_windows w ON w.device_id = q.device AND w.workload = $4 AND w.shadow ->> 'bundle' = q.bundle AND w.received_at >= q."from"
      GROUP BY q.device`,
      [questions.map((q) => q.device), questions.map((q) => q.bundle), questions.map((q) => q.from), workload]);
    return new Map(rows.map((row) => [row.device, { frames: Number(row.frames), agreed: Number(row.agreed), errors: Number(row.errors), latency: merged(row.latency), active: merged(row.active) }]));
  }

  /** The windows themselves, oldest first, with the whole latency as its sketch. */
  async windowsOfEach(workload: string, questions: readonly { device: string; bundle: string; from: Date; to: Date }[]): Promise<Map<string, WindowFacts[]>> {
    const rows = await this.db.query<(WindowFacts & { device: string })[]>(`
      SELECT q.device, w.received_at AS "receivedAt", CASE WHEN ours THEN inferences ELSE 0 END AS inferences, CASE WHEN ours THEN error_count ELSE 0 END AS errors, CASE WHEN ours THEN labelled ELSE 0 END AS labelled,
        CASE WHEN ours THEN correct ELSE 0 END AS correct, CASE WHEN ours THEN coalesce(latency ->> 'total', latency ->> 'invoke') END AS latency, CASE WHEN ours THEN temperature_c END AS "temperatureC",
        CASE WHEN ours THEN metrics END AS metrics, CASE WHEN ours THEN drift END AS drift,
        CASE WHEN shadow ->> 'bundle' = q.bundle THEN jsonb_build_object('frames', shadow -> 'frames', 'agreed', shadow -> 'agreed') END AS shadow
      FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[]) AS q(device, bundle, "from", "to")
      JOIN telemetry_windows w ON w.device_id = q.device AND w.workload = $5 AND (w.bundle = q.bundle OR w.shadow ->> 'bundle' = q.bundle) AND w.received_at >= q."from" AND w.received_at < q."to"
      CROSS JOIN LATERAL (SELECT w.bundle = q.bundle AS ours) AS whose
      ORDER BY q.device, w.received_at, w.seq`,
      [questions.map((q) => q.device), questions.map((q) => q.bundle), questions.map((q) => q.from), questions.map((q) => q.to), workload]);
    const windows = new Map<string, WindowFacts[]>();
    for (const { device, ...facts } of rows) {
      const own = windows.get(device);
      if (own) own.push(facts);
      else windows.set(device, [facts]);
    }
    return windows;
  }

  /** Points for plots, oldest first. Sketches are merged, so a p95 over many devices is the p95 of all their inferences. */
  async series(question: SeriesQuestion): Promise<SeriesPoint[]> {
    const rows = await this.db.query<{ at: Date; group: string; bundle: string; inferences: string; errors: string; labelled: string; correct: string; temperature: number | null; psi: number | null; scores: string | null; sketches: (string | null)[] }[]>(`
      SELECT to_timestamp(floor(extract(epoch FROM received_at) / $5) * $5) AS at, CASE WHEN $6 THEN device_id ELSE bundle END AS "group", bundle,
        sum(inferences) AS inferences, sum(error_count) AS errors, sum(labelled) AS labelled, sum(correct) AS correct, avg(temperature_c) AS temperature, ${driftSums('w')},
        array_agg(coalesce(latency ->> 'total', latency ->> 'invoke')) AS sketches
      FROM telemetry_windows w
      WHERE received_at >= $1 AND received_at < $2 AND ($3::text IS NULL OR workload = $3) AND ($4::text[] IS NULL OR device_id = ANY($4))
      GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`,
      [question.from, question.to, question.workload ?? null, question.devices ?? null, question.stepS, question.by === 'device']);
    return rows.map((row) => {
      const { p50Ms, p95Ms, p99Ms } = quantilesOf(merged(row.sketches));
      const labelled = Number(row.labelled);
      return {
        at: row.at, group: row.group, bundle: row.bundle, inferences: Number(row.inferences), errors: Number(row.errors),
        p50Ms, p95Ms, p99Ms, labelled, accuracy: labelled > 0 ? Number(row.correct) / labelled : null, temperatureC: row.temperature, drift: driftOf(row),
      };
    });
  }

  /** The newest windows of a device, newest first. */
  async latest(device: string, limit = 50, workload?: string): Promise<TelemetryWindow[]> {
    return this.db.getRepository(TelemetryWindow).find({ where: { deviceId: device, ...(workload ? { workload } : {}) }, order: { receivedAt: 'DESC', seq: 'DESC' }, take: limit });
  }

  /** Deletes windows received more than `keepS` ago, in bites that never hold many locks. Returns how many. */
  async sweep(keepS: number, biteRows = 10_000): Promise<number> {
    const before = new Date(this.clock.now().getTime() - keepS * 1_000);
    for (let total = 0; ;) {
      const [, deleted] = await this.db.query<[unknown, number]>(`
        DELETE FROM telemetry_windows WHERE ctid = ANY(ARRAY(SELECT ctid FROM telemetry_windows WHERE received_at < $1 LIMIT $2))`, [before, biteRows]);
      total += deleted;
      if (deleted < biteRows) return total;
    }
  }
}

function faultOf(window: Window): string | undefined {
  if (window.correct > window.labelled) return `${window.correct} right answers of ${window.labelled} labelled frames`;
  const { shadow } = window;
  if (shadow && shadow.agreed + shadow.errors > shadow.frames) return `${shadow.agreed} agreed and ${shadow.errors} failed of ${shadow.frames} shadow frames`;
  try {
    for (const encoded of [...Object.values(window.latency), ...(shadow ? [shadow.latency, shadow.active] : [])]) Sketch.fromBase64(encoded);
    if (window.scores) Sketch.fromBase64(window.scores);
  } catch (error) {
    return (error as Error).message;
  }
  return undefined;
}

function addedUp(windows: readonly Record<string, MetricMoments>[]): Record<string, MetricMoments> {
  const whole: Record<string, MetricMoments> = {};
  for (const window of windows) for (const [name, moments] of Object.entries(window)) whole[name] = addMoments(whole[name], moments);
  return whole;
}

const jsonOrNull = (value: unknown): string | null => (value === undefined ? null : JSON.stringify(value));
