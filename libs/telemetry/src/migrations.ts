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
