import type { MigrationInterface, QueryRunner } from 'typeorm';

export class Jobs1764000003001 implements MigrationInterface {
  name = 'Jobs1764000003001';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE jobs (
        id uuid PRIMARY KEY,
        version_id uuid NOT NULL REFERENCES versions (id) ON DELETE CASCADE,
        model text NOT NULL,
        ref text NOT NULL,
        state text NOT NULL CHECK (state IN ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELED', 'TIMED_OUT')),
        request jsonb NOT NULL,
        error jsonb,
        created_at timestamptz NOT NULL,
        created_by text NOT NULL,
        started_at timestamptz,
        ended_at timestamptz,
        cancel_requested_at timestamptz,
        owner uuid,
        heartbeat_at timestamptz,
        run_after timestamptz,
        changed_at timestamptz NOT NULL DEFAULT now(),
        message integer NOT NULL DEFAULT 1
      )`);
    await runner.query('CREATE INDEX jobs_by_age ON jobs (created_at DESC, id)');
    await runner.query('CREATE INDEX jobs_version ON jobs (version_id)');
    await runner.query("CREATE INDEX jobs_open ON jobs (changed_at) WHERE state IN ('QUEUED', 'RUNNING')");
    await runner.query(`
      CREATE TABLE job_steps (
        job_id uuid NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        ordinal integer NOT NULL,
        name text NOT NULL,
        state text NOT NULL CHECK (state IN ('PENDING', 'RUNNING', 'SUCCEEDED', 'CACHED', 'SKIPPED', 'FAILED', 'CANCELED', 'TIMED_OUT')),
        percent real,
        eta_s integer,
        message text,
        tries integer NOT NULL DEFAULT 0,
        losses integer NOT NULL DEFAULT 0,
        key text,
        output jsonb,
        error jsonb,
        started_at timestamptz,
        ended_at timestamptz,
        PRIMARY KEY (job_id, ordinal)
      )`);
    await runner.query("CREATE INDEX job_steps_key ON job_steps (key) WHERE state IN ('SUCCEEDED', 'CACHED')");
    await runner.query(`
      CREATE TABLE job_log (
        n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job_id uuid NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        at timestamptz NOT NULL,
        step text NOT NULL,
        stream text NOT NULL,
        text text NOT NULL
      )`);
    await runner.query('CREATE INDEX job_log_job ON job_log (job_id, n)');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE job_log, job_steps, jobs');
  }
}

export class CompileAttempts1764000003010 implements MigrationInterface {
  name = 'CompileAttempts1764000003010';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE compile_attempts (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job_id uuid NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        recipe text NOT NULL,
        inputs jsonb NOT NULL,
        compiler_version text,
        flags jsonb NOT NULL,
        started_at timestamptz NOT NULL,
        duration_ms integer,
        exit_code integer,
        signal text,
        result text,
        message text,
        final boolean NOT NULL DEFAULT false,
        outputs jsonb NOT NULL DEFAULT '[]',
        log_digest text
      )`);
    await runner.query('CREATE INDEX compile_attempts_recipe ON compile_attempts (recipe, id)');
    await runner.query('CREATE INDEX compile_attempts_job ON compile_attempts (job_id, id)');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE compile_attempts');
  }
}

export class JobPriority1764000003011 implements MigrationInterface {
  name = 'JobPriority1764000003011';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE jobs ADD COLUMN priority integer NOT NULL DEFAULT 0');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE jobs DROP COLUMN priority');
  }
}

export class CompiledTogether1764000003021 implements MigrationInterface {
  name = 'CompiledTogether1764000003021';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('CREATE TABLE compiled_together (recipe text PRIMARY KEY, outputs jsonb NOT NULL, nondeterministic text)');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE compiled_together');
  }
}

/** What a device has learnt for one command becomes one version, however often it says so. */
export class LearnedOnce1764000003040 implements MigrationInterface {
  name = 'LearnedOnce1764000003040';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query("CREATE UNIQUE INDEX jobs_learning ON jobs ((request #>> '{learning,command}')) WHERE request ? 'learning'");
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP INDEX jobs_learning');
  }
}
