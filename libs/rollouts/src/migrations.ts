import type { MigrationInterface, QueryRunner } from 'typeorm';

export class Rollouts1764000005001 implements MigrationInterface {
  name = 'Rollouts1764000005001';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE rollouts (
        id uuid PRIMARY KEY,
        name text NOT NULL,
        version_ref text NOT NULL,
        version_id text NOT NULL,
        bundle text NOT NULL,
        workload text NOT NULL,
        selector text NOT NULL,
        state text NOT NULL CHECK (state IN ('DRAFT', 'AWAITING_APPROVAL', 'SCHEDULED', 'RUNNING', 'PAUSED', 'ROLLING_BACK', 'SUCCEEDED', 'ROLLED_BACK', 'ABORTED')),
        state_reason jsonb NOT NULL,
        wave integer NOT NULL DEFAULT 0,
        settings jsonb NOT NULL,
        plan jsonb NOT NULL,
        supersede boolean NOT NULL DEFAULT false,
        wait_until timestamptz,
        start_at timestamptz,
        created_at timestamptz NOT NULL,
        created_by text NOT NULL,
        started_at timestamptz,
        ended_at timestamptz
      )`);
    await runner.query("CREATE INDEX rollouts_due ON rollouts (wait_until) WHERE state IN ('SCHEDULED', 'RUNNING', 'PAUSED', 'ROLLING_BACK')");
    await runner.query('CREATE INDEX rollouts_newest ON rollouts (created_at DESC, id DESC)');
    await runner.query(`
      CREATE TABLE rollout_waves (
        rollout_id uuid NOT NULL REFERENCES rollouts ON DELETE CASCADE,
        index integer NOT NULL,
        state text NOT NULL CHECK (state IN ('PENDING', 'RUNNING', 'ANALYSING', 'PASSED', 'FAILED', 'INCONCLUSIVE', 'SKIPPED')),
        size integer NOT NULL,
        verdicts jsonb NOT NULL DEFAULT '[]',
        started_at timestamptz,
        analysing_at timestamptz,
        deadline_at timestamptz,
        ended_at timestamptz,
        PRIMARY KEY (rollout_id, index)
      )`);
    await runner.query(`
      CREATE TABLE rollout_executions (
        rollout_id uuid NOT NULL REFERENCES rollouts ON DELETE CASCADE,
        device_id text NOT NULL,
        wave integer NOT NULL,
        variant text NOT NULL,
        state text NOT NULL,
        step text,
        percent real,
        failure jsonb,
        revision bigint,
        previous_bundle text,
        previous_version_id text,
        previous_variant text,
        baseline jsonb,
        assigned_at timestamptz,
        settled_at timestamptz,
        rollback_state text,
        rollback_revision bigint,
        rollback_failure jsonb,
        rollback_assigned_at timestamptz,
        rollback_settled_at timestamptz,
        PRIMARY KEY (rollout_id, device_id)
      )`);
    // What a pass follows: a handful of open rows among ten thousand settled ones.
    await runner.query("CREATE INDEX rollout_executions_open ON rollout_executions (rollout_id) WHERE state IN ('QUEUED', 'IN_PROGRESS') OR rollback_state IN ('QUEUED', 'IN_PROGRESS')");
    await runner.query('CREATE INDEX rollout_executions_device ON rollout_executions (device_id, assigned_at DESC)');
    await runner.query(`
      CREATE TABLE rollout_events (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        rollout_id uuid NOT NULL REFERENCES rollouts ON DELETE CASCADE,
        at timestamptz NOT NULL,
        kind text NOT NULL,
        wave integer,
        code text NOT NULL,
        message text NOT NULL,
        numbers jsonb NOT NULL DEFAULT '{}',
        actor text NOT NULL
      )`);
    await runner.query('CREATE INDEX rollout_events_of ON rollout_events (rollout_id, id)');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE rollout_events, rollout_executions, rollout_waves, rollouts');
  }
}

/** Devices that somebody has left out of their wave's verdict: their state stays what it was, a terminal one too. */
export class ExecutionsSkipped1764000005101 implements MigrationInterface {
  name = 'ExecutionsSkipped1764000005101';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE rollout_executions ADD COLUMN skipped boolean NOT NULL DEFAULT false');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE rollout_executions DROP COLUMN skipped');
  }
}

export class RolloutPacing1764000005110 implements MigrationInterface {
  name = 'RolloutPacing1764000005110';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE rollouts ADD COLUMN stop_at timestamptz, ADD COLUMN waiting jsonb');
    await runner.query('ALTER TABLE rollout_executions ADD COLUMN bytes bigint NOT NULL DEFAULT 0');
    await runner.query(`
      CREATE TABLE rollout_freezes (
        id uuid PRIMARY KEY,
        selector text NOT NULL,
        until timestamptz NOT NULL,
        reason text NOT NULL,
        created_at timestamptz NOT NULL,
        created_by text NOT NULL,
        lifted_at timestamptz,
        lifted_by text
      )`);
    await runner.query('CREATE INDEX rollout_freezes_active ON rollout_freezes (until) WHERE lifted_at IS NULL');
    // What a pass asks of a wave that is told bit by bit: whom it told lately, and who is left.
    await runner.query('CREATE INDEX rollout_executions_told ON rollout_executions (rollout_id, assigned_at)');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE rollout_freezes');
    await runner.query('DROP INDEX rollout_executions_told');
    await runner.query('ALTER TABLE rollout_executions DROP COLUMN bytes');
    await runner.query('ALTER TABLE rollouts DROP COLUMN waiting, DROP COLUMN stop_at');
  }
}

/** Rollouts that go on for devices that come after their success. */
export class LateJoiners1764000005111 implements MigrationInterface {
  name = 'LateJoiners1764000005111';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE rollouts ADD COLUMN late_stopped jsonb');
    await runner.query('DROP INDEX rollouts_due');
    await runner.query("CREATE INDEX rollouts_due ON rollouts (wait_until) WHERE state IN ('SCHEDULED', 'RUNNING', 'PAUSED', 'ROLLING_BACK', 'SUCCEEDED')");
    await runner.query('CREATE INDEX rollouts_started ON rollouts (workload, started_at)');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP INDEX rollouts_started');
    await runner.query('DROP INDEX rollouts_due');
    await runner.query("CREATE INDEX rollouts_due ON rollouts (wait_until) WHERE state IN ('SCHEDULED', 'RUNNING', 'PAUSED', 'ROLLING_BACK')");
    await runner.query('ALTER TABLE rollouts DROP COLUMN late_stopped');
  }
}

export class ExecutionTransfer1764000005120 implements MigrationInterface {
  name = 'ExecutionTransfer1764000005120';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE rollout_executions ADD COLUMN transfer jsonb');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE rollout_executions DROP COLUMN transfer');
  }
}

/** From when the installation's time runs, where a device has waited meanwhile; and what it found wrong with the version after its success. */
export class ExecutionWaitsAndFaults1764000005130 implements MigrationInterface {
  name = 'ExecutionWaitsAndFaults1764000005130';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE rollout_executions ADD COLUMN timeout_from timestamptz, ADD COLUMN fault jsonb');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE rollout_executions DROP COLUMN fault, DROP COLUMN timeout_from');
  }
}

export class SiteLimits1764000005140 implements MigrationInterface {
  name = 'SiteLimits1764000005140';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE site_limits (
        site text PRIMARY KEY,
        max_in_progress integer,
        bytes_per_second bigint,
        set_at timestamptz NOT NULL,
        set_by text NOT NULL
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE site_limits');
  }
}
