import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Exports in buckets: what the watcher has heard of, and which states of them have become versions. */
export class BucketImports1764000003020 implements MigrationInterface {
  name = 'BucketImports1764000003020';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE bucket_exports (
        bucket text NOT NULL,
        folder text NOT NULL,
        state text NOT NULL CHECK (state IN ('WAITING', 'IMPORTED', 'REFUSED', 'GIVEN_UP')),
        reason jsonb,
        seen_at timestamptz NOT NULL,
        look_at timestamptz NOT NULL,
        claimed_until timestamptz,
        PRIMARY KEY (bucket, folder)
      )`);
    await runner.query("CREATE INDEX bucket_exports_due ON bucket_exports (look_at) WHERE state = 'WAITING'");
    // No reference to jobs: an export whose version was removed shall not come back by itself.
    await runner.query(`
      CREATE TABLE bucket_imports (
        bucket text NOT NULL,
        folder text NOT NULL,
        fingerprint text NOT NULL,
        job_id uuid NOT NULL,
        imported_at timestamptz NOT NULL,
        PRIMARY KEY (bucket, folder, fingerprint)
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE bucket_imports, bucket_exports');
  }
}
