import { randomUUID } from 'node:crypto';
import pg from 'pg';
import type { DataSource } from 'typeorm';
import { openDatabase, type SchemaSlice } from '@reefkeeper/platform';

export interface TestDatabase {
  url: string;
  db: DataSource;
  drop(): Promise<void>;
}

/** An empty database of its own, migrated for `slices`. */
export async function testDatabase(slices: SchemaSlice[] = []): Promise<TestDatabase> {
  const server = process.env.REEF_TEST_DATABASE_URL;
  if (!server) throw new Error('REEF_TEST_DATABASE_URL is not set: run through vitest, whose global setup starts PostgreSQL');
  const name = `t_${randomUUID().replaceAll('-', '')}`;
  await admin(server, `CREATE DATABASE ${name}`);
  const url = new URL(server);
  url.pathname = `/${name}`;
  const db = await openDatabase({ url: url.href, slices, poolSize: 5 });
  return {
    url: url.href,
    db,
    drop: async () => {
      if (db.isInitialized) await db.destroy();
      await admin(server, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
    },
  };
}

async function admin(url: string, sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}
