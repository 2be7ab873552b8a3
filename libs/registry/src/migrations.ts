import type { MigrationInterface, QueryRunner } from 'typeorm';

export class Registry1764000002001 implements MigrationInterface {
  name = 'Registry1764000002001';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE models (
        name text PRIMARY KEY,
        description text,
        created_at timestamptz NOT NULL,
        created_by text NOT NULL
      )`);
    await runner.query(`
      CREATE TABLE versions (
        id uuid PRIMARY KEY,
        model text NOT NULL REFERENCES models (name),
        version integer NOT NULL CHECK (version > 0),
        state text NOT NULL CHECK (state IN ('DRAFT', 'BUILDING', 'READY', 'FAILED', 'CANCELED')),
        task text NOT NULL,
        labels jsonb,
        notes text,
        lineage jsonb,
        parity jsonb,
        analysis jsonb,
        error jsonb,
        bundle_digest text,
        envelope_digest text,
        created_at timestamptz NOT NULL,
        created_by text NOT NULL,
        ready_at timestamptz,
        UNIQUE (model, version),
        CHECK (state <> 'READY' OR (bundle_digest IS NOT NULL AND envelope_digest IS NOT NULL))
      )`);
    await runner.query('CREATE INDEX versions_bundle ON versions (bundle_digest) WHERE bundle_digest IS NOT NULL');
    await runner.query(`
      CREATE TABLE variants (
        version_id uuid NOT NULL REFERENCES versions (id) ON DELETE CASCADE,
        name text NOT NULL,
        kind text NOT NULL CHECK (kind IN ('cpu-int8', 'edgetpu')),
        min_runtime integer,
        digest text NOT NULL,
        bytes bigint NOT NULL,
        details jsonb,
        PRIMARY KEY (version_id, name)
      )`);
    await runner.query(`
      CREATE TABLE artifacts (
        digest text PRIMARY KEY,
        bytes bigint NOT NULL,
        media_type text NOT NULL,
        role text NOT NULL,
        created_at timestamptz NOT NULL
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE variants, versions, models, artifacts');
  }
}

export class VersionHold1764000002010 implements MigrationInterface {
  name = 'VersionHold1764000002010';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE versions ADD COLUMN hold jsonb, ADD COLUMN confirmed_at timestamptz, ADD COLUMN confirmed_by text');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE versions DROP COLUMN hold, DROP COLUMN confirmed_at, DROP COLUMN confirmed_by');
  }
}

export class CompiledParts1764000002011 implements MigrationInterface {
  name = 'CompiledParts1764000002011';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query("ALTER TABLE versions ADD COLUMN failed_variants jsonb NOT NULL DEFAULT '[]', ADD COLUMN pipelines jsonb NOT NULL DEFAULT '[]'");
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE versions DROP COLUMN failed_variants, DROP COLUMN pipelines');
  }
}

export class ArtifactsTouched1764000002012 implements MigrationInterface {
  name = 'ArtifactsTouched1764000002012';

  async up(runner: QueryRunner): Promise<void> {
    // What is stored already counts as used now: nothing goes because of the upgrade.
    await runner.query('ALTER TABLE artifacts ADD COLUMN touched_at timestamptz NOT NULL DEFAULT now()');
    await runner.query('CREATE INDEX artifacts_touched ON artifacts (touched_at)');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE artifacts DROP COLUMN touched_at');
  }
}

export class Deltas1764000002020 implements MigrationInterface {
  name = 'Deltas1764000002020';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE deltas (
        from_digest text NOT NULL,
        to_digest text NOT NULL,
        digest text,
        bytes bigint,
        made_at timestamptz NOT NULL,
        used_at timestamptz NOT NULL,
        PRIMARY KEY (from_digest, to_digest),
        CHECK ((digest IS NULL) = (bytes IS NULL))
      )`);
    await runner.query('CREATE INDEX deltas_object ON deltas (digest) WHERE digest IS NOT NULL');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE deltas');
  }
}

export class AgentVariants1764000002030 implements MigrationInterface {
  name = 'AgentVariants1764000002030';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE variants DROP CONSTRAINT variants_kind_check, ADD CONSTRAINT variants_kind_check CHECK (kind IN ('cpu-int8', 'edgetpu', 'agent'))`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE variants DROP CONSTRAINT variants_kind_check, ADD CONSTRAINT variants_kind_check CHECK (kind IN ('cpu-int8', 'edgetpu'))`);
  }
}
