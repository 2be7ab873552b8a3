import type { MigrationInterface, QueryRunner } from 'typeorm';

export class TelemetryWindows1764000004001 implements MigrationInterface {
  name = 'TelemetryWindows1764000004001';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE telemetry_windows (
        device_id text NOT NULL,
        boot_id text NOT NULL,
        seq bigint NOT NULL,
        workload text NOT NULL,
        bundle text NOT NULL,
        variant text NOT NULL,
        backend text NOT NULL,
        started_at timestamptz NOT NULL,
        received_at timestamptz NOT NULL,
        duration_ms integer NOT NULL,
        inferences integer NOT NULL,
        errors jsonb NOT NULL DEFAULT '{}',
        error_count integer NOT NULL DEFAULT 0,
        latency jsonb NOT NULL DEFAULT '{}',
        labelled integer NOT NULL DEFAULT 0,
        correct integer NOT NULL DEFAULT 0,
        scores text,
        temperature_c real,
        PRIMARY KEY (device_id, boot_id, seq)
      )`);
    // Health asks for one bundle of one device over a stretch of time; plots and the sweep go by time alone.
    await runner.query('CREATE INDEX telemetry_windows_health ON telemetry_windows (device_id, workload, bundle, received_at)');
    // Rows arrive in the order of received_at, so a block range index finds a stretch of time at a thousandth of the size.
    await runner.query('CREATE INDEX telemetry_windows_received ON telemetry_windows USING brin (received_at) WITH (pages_per_range = 16, autosummarize = on)');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE telemetry_windows');
  }
}

/** What newer agents send besides; null where an agent sends none. */
export class TelemetryExtras1764000004002 implements MigrationInterface {
  name = 'TelemetryExtras1764000004002';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE telemetry_windows ADD COLUMN shadow jsonb, ADD COLUMN metrics jsonb, ADD COLUMN drift jsonb');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE telemetry_windows DROP COLUMN shadow, DROP COLUMN metrics, DROP COLUMN drift');
  }
}

/** Windows that a device threw away before this one. */
export class TelemetryLost1764000004003 implements MigrationInterface {
  name = 'TelemetryLost1764000004003';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE telemetry_windows ADD COLUMN lost jsonb');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE telemetry_windows DROP COLUMN lost');
  }
}

export class Captures1764000004004 implements MigrationInterface {
  name = 'Captures1764000004004';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE captures (
        id uuid PRIMARY KEY,
        seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
        device_id text NOT NULL,
        workload text NOT NULL,
        bundle text NOT NULL,
        variant text NOT NULL,
        backend text NOT NULL,
        prediction text NOT NULL,
        score real NOT NULL,
        margin real NOT NULL,
        taken_at timestamptz NOT NULL,
        received_at timestamptz NOT NULL,
        digest text NOT NULL,
        bytes integer NOT NULL,
        label text,
        labelled_by text,
        labelled_at timestamptz
      )`);
    await runner.query('CREATE INDEX captures_device ON captures (device_id, received_at)');
    await runner.query('CREATE INDEX captures_digest ON captures (digest)');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE captures');
  }
}

export class Alerts1764000004010 implements MigrationInterface {
  name = 'Alerts1764000004010';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE alerts (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
        kind text NOT NULL,
        subject text NOT NULL,
        device_id text,
        workload text,
        rollout_id uuid,
        severity text NOT NULL CHECK (severity IN ('critical', 'warning', 'info')),
        state text NOT NULL CHECK (state IN ('PENDING', 'OPEN', 'ACKNOWLEDGED', 'CLOSED')),
        since timestamptz NOT NULL,
        opened_at timestamptz,
        last_seen_at timestamptz NOT NULL,
        gone_since timestamptz,
        closed_at timestamptz,
        times integer NOT NULL DEFAULT 1,
        numbers jsonb NOT NULL DEFAULT '{}',
        summary text NOT NULL,
        advice text NOT NULL,
        acknowledged_at timestamptz,
        acknowledged_by text,
        note text,
        told text NOT NULL DEFAULT 'nothing' CHECK (told IN ('nothing', 'firing', 'resolved')),
        tell_tries integer NOT NULL DEFAULT 0,
        tell_after timestamptz
      )`);
    // The rule that one condition of one subject is one alert, whoever sweeps.
    await runner.query("CREATE UNIQUE INDEX alerts_live ON alerts (kind, subject) WHERE state <> 'CLOSED'");
    await runner.query("CREATE INDEX alerts_closed ON alerts (closed_at) WHERE state = 'CLOSED'");
    await runner.query('CREATE INDEX alerts_device ON alerts (device_id, seq)');
    // What the webhook was not told yet.
    await runner.query("CREATE INDEX alerts_untold ON alerts (tell_after) WHERE state <> 'PENDING' AND told <> CASE state WHEN 'CLOSED' THEN 'resolved' ELSE 'firing' END");
    await runner.query(`
      CREATE TABLE alert_silences (
        id uuid PRIMARY KEY,
        selector text NOT NULL,
        kinds text[] NOT NULL DEFAULT '{}',
        until timestamptz NOT NULL,
        reason text NOT NULL,
        created_at timestamptz NOT NULL,
        created_by text NOT NULL,
        lifted_at timestamptz,
        lifted_by text
      )`);
    await runner.query('CREATE INDEX alert_silences_active ON alert_silences (until) WHERE lifted_at IS NULL');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE alert_silences, alerts');
  }
}

/** How far windows have been handed on; one row at most. */
export class TelemetryExport1764000004020 implements MigrationInterface {
  name = 'TelemetryExport1764000004020';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query("CREATE TABLE telemetry_export (one boolean PRIMARY KEY DEFAULT true CHECK (one), at timestamptz NOT NULL, device text NOT NULL DEFAULT '', boot text NOT NULL DEFAULT '', seq bigint NOT NULL DEFAULT -1)");
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE telemetry_export');
  }
}

/** Untold alerts are found among those that are not closed and those closed lately; without a webhook this index would only have grown. */
export class AlertsToldWithoutIndex1764000004011 implements MigrationInterface {
  name = 'AlertsToldWithoutIndex1764000004011';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('DROP INDEX alerts_untold');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query("CREATE INDEX alerts_untold ON alerts (tell_after) WHERE state <> 'PENDING' AND told <> CASE state WHEN 'CLOSED' THEN 'resolved' ELSE 'firing' END");
  }
}
