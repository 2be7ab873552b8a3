import type { MigrationInterface, QueryRunner } from 'typeorm';

export class Devices1764000001001 implements MigrationInterface {
  name = 'Devices1764000001001';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE devices (
        id text PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$'),
        labels jsonb NOT NULL DEFAULT '{}',
        online boolean NOT NULL DEFAULT false,
        session bigint NOT NULL DEFAULT -1,
        last_seen_at timestamptz,
        capabilities jsonb,
        enrolled_at timestamptz NOT NULL,
        retired_at timestamptz,
        retired_reason text
      )`);
    await runner.query(`
      CREATE TABLE desired (
        device_id text PRIMARY KEY REFERENCES devices ON DELETE CASCADE,
        revision bigint NOT NULL DEFAULT 0,
        published_revision bigint NOT NULL DEFAULT 0,
        config jsonb NOT NULL DEFAULT '{}'
      )`);
    // The outbox: almost always empty, however large the fleet.
    await runner.query('CREATE INDEX desired_unpublished ON desired (device_id) WHERE published_revision < revision');
    await runner.query(`
      CREATE TABLE desired_workloads (
        device_id text NOT NULL REFERENCES devices ON DELETE CASCADE,
        workload text NOT NULL,
        bundle text NOT NULL,
        version_id text,
        variant text NOT NULL,
        policy jsonb NOT NULL,
        rollback boolean NOT NULL DEFAULT false,
        rollback_to text,
        PRIMARY KEY (device_id, workload)
      )`);
    await runner.query(`
      CREATE TABLE reported (
        device_id text PRIMARY KEY REFERENCES devices ON DELETE CASCADE,
        boot_id text NOT NULL,
        seq bigint NOT NULL,
        session bigint NOT NULL,
        observed_revision bigint,
        health text NOT NULL,
        conditions jsonb NOT NULL DEFAULT '[]',
        workloads jsonb NOT NULL DEFAULT '{}',
        received_at timestamptz NOT NULL
      )`);
    await runner.query(`
      CREATE TABLE enrolment_tokens (
        hash text PRIMARY KEY,
        device_id text,
        labels jsonb NOT NULL DEFAULT '{}',
        uses_left integer NOT NULL CHECK (uses_left >= 0),
        expires_at timestamptz NOT NULL,
        created_by text NOT NULL,
        created_at timestamptz NOT NULL
      )`);
    await runner.query(`
      CREATE TABLE certificates (
        serial text PRIMARY KEY,
        device_id text NOT NULL REFERENCES devices ON DELETE CASCADE,
        not_after timestamptz NOT NULL,
        issued_at timestamptz NOT NULL,
        revoked_at timestamptz
      )`);
    await runner.query('CREATE INDEX certificates_device ON certificates (device_id)');
    await runner.query(`
      CREATE TABLE api_tokens (
        id uuid PRIMARY KEY,
        name text NOT NULL,
        role text NOT NULL CHECK (role IN ('viewer', 'operator', 'approver', 'admin')),
        hash text NOT NULL UNIQUE,
        created_at timestamptz NOT NULL,
        created_by text NOT NULL,
        last_used_at timestamptz,
        revoked_at timestamptz
      )`);
    await runner.query(`
      CREATE TABLE audit (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at timestamptz NOT NULL,
        actor text NOT NULL,
        action text NOT NULL,
        subject text NOT NULL,
        detail jsonb NOT NULL DEFAULT '{}'
      )`);
    await runner.query('CREATE INDEX audit_subject ON audit (subject, id)');
    await runner.query(`CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$`);
    await runner.query('CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION refuse_audit_change()');
    await runner.query('CREATE TRIGGER audit_never_emptied BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()');
    await runner.query(`
      CREATE TABLE device_commands (
        id uuid PRIMARY KEY,
        device_id text NOT NULL REFERENCES devices ON DELETE CASCADE,
        kind text NOT NULL,
        args jsonb NOT NULL DEFAULT '{}',
        state text NOT NULL CHECK (state IN ('QUEUED', 'SENT', 'SUCCEEDED', 'FAILED')),
        answer jsonb,
        created_by text NOT NULL,
        created_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        answered_at timestamptz
      )`);
    await runner.query("CREATE INDEX device_commands_queued ON device_commands (created_at) WHERE state = 'QUEUED'");
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE device_commands, audit, api_tokens, certificates, enrolment_tokens, reported, desired_workloads, desired, devices');
    await runner.query('DROP FUNCTION refuse_audit_change');
  }
}

export class DevicePins1764000001010 implements MigrationInterface {
  name = 'DevicePins1764000001010';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE device_pins (
        device_id text NOT NULL REFERENCES devices ON DELETE CASCADE,
        workload text NOT NULL DEFAULT '',
        reason text NOT NULL,
        pinned_by text NOT NULL,
        pinned_at timestamptz NOT NULL,
        PRIMARY KEY (device_id, workload)
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE device_pins');
  }
}

/** Rows that change with every report stay in their page, and their indexes with them (heap-only updates), where there is room for the next version. */
export class RoomForUpdates1764000001020 implements MigrationInterface {
  name = 'RoomForUpdates1764000001020';

  async up(runner: QueryRunner): Promise<void> {
    for (const table of ['reported', 'desired', 'desired_workloads', 'devices']) await runner.query(`ALTER TABLE ${table} SET (fillfactor = 60)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const table of ['reported', 'desired', 'desired_workloads', 'devices']) await runner.query(`ALTER TABLE ${table} RESET (fillfactor)`);
  }
}

export class DevicePeers1764000001030 implements MigrationInterface {
  name = 'DevicePeers1764000001030';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query("CREATE INDEX devices_peers ON devices ((labels ->> 'site'), id) WHERE capabilities ? 'peer'");
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP INDEX devices_peers');
  }
}

/** What is wrong is found without reading what is well. */
export class DevicesNotWell1764000001040 implements MigrationInterface {
  name = 'DevicesNotWell1764000001040';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query("CREATE INDEX reported_not_well ON reported (device_id) WHERE health <> 'HEALTHY'");
    await runner.query('CREATE INDEX devices_offline ON devices (id) WHERE NOT online AND retired_at IS NULL AND session >= 0');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP INDEX devices_offline');
    await runner.query('DROP INDEX reported_not_well');
  }
}

/** Configuration by selector that is kept; what it comes to for each device stands beside the device's own. */
export class ConfigRules1764000001050 implements MigrationInterface {
  name = 'ConfigRules1764000001050';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE config_rules (
        name text PRIMARY KEY,
        selector text NOT NULL,
        config jsonb NOT NULL,
        priority integer NOT NULL,
        set_at timestamptz NOT NULL,
        set_by text NOT NULL
      )`);
    await runner.query("ALTER TABLE desired ADD COLUMN ruled jsonb NOT NULL DEFAULT '{}', ADD COLUMN rules jsonb NOT NULL DEFAULT '[]'");
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE desired DROP COLUMN rules, DROP COLUMN ruled');
    await runner.query('DROP TABLE config_rules');
  }
}
