import { mkdtemp, rm, chmod } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
// By its path: vitest resolves a package here to its build output, which a fresh clone does not have.
import { startEmbeddedPostgres } from '../libs/platform/src/embedded-postgres.ts';

/** One PostgreSQL for the whole run (or the one in DATABASE_URL); every test file makes a database of its own in it. */
export default async function setup(): Promise<(() => Promise<void>) | undefined> {
  if (process.env.DATABASE_URL) {
    process.env.REEF_TEST_DATABASE_URL = process.env.DATABASE_URL;
    return undefined;
  }
  const dir = await mkdtemp(join(tmpdir(), 'reef-test-pg-'));
  await chmod(dir, 0o755);
  const postgres = await startEmbeddedPostgres(dir, { throwaway: true });
  process.env.REEF_TEST_DATABASE_URL = postgres.url;
  return async () => {
    await postgres.stop();
    await rm(dir, { recursive: true, force: true });
  };
}
