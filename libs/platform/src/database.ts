import { createHash } from 'node:crypto';
import { DataSource, type EntityManager, type EntitySchema, type MigrationInterface } from 'typeorm';
import { ReefError } from './errors.ts';

type Constructor<T = object> = new (...args: never[]) => T;

/** What a library adds to the schema. Each app passes the slices it needs; migrations run in the order of their timestamps. */
export interface SchemaSlice {
  entities: (Constructor | EntitySchema)[];
  migrations: Constructor<MigrationInterface>[];
}

export interface DatabaseOptions {
  url: string;
  slices: SchemaSlice[];
  /** Connections held at most. */
  poolSize?: number;
  applicationName?: string;
}

/** Any number of processes may start at once: one migrates, the others wait for it on this advisory lock. */
const migrationLock = 0x7265_6566;

/**
 * Connects and brings the schema up to date.
 * @throws ReefError `database.unreachable`
 */
export async function openDatabase(options: DatabaseOptions): Promise<DataSource> {
  const db = new DataSource({
    type: 'postgres',
    url: options.url,
    entities: options.slices.flatMap((slice) => slice.entities) as never[],
    migrations: options.slices.flatMap((slice) => slice.migrations) as never[],
    migrationsTransactionMode: 'each',
    applicationName: options.applicationName ?? 'reefkeeper',
    poolSize: options.poolSize ?? 10,
    // A connection that dies idle (database restart) is replaced at its next use; without a listener it would end the process.
    poolErrorHandler: () => {},
  });
  try {
    await db.initialize();
  } catch (cause) {
    throw new ReefError('database.unreachable', 'unavailable', `PostgreSQL at ${withoutPassword(options.url)} does not answer: ${(cause as Error).message}. Check DATABASE_URL and that the server runs.`, { cause });
  }
  const runner = db.createQueryRunner();
  try {
    await runner.query('SELECT pg_advisory_lock($1)', [migrationLock]);
    await db.runMigrations();
  } finally {
    await runner.query('SELECT pg_advisory_unlock($1)', [migrationLock]);
    await runner.release();
  }
  return db;
}

/** Whether the database was away or is going away: the same may work a moment later. */
export function databaseGone(thrown: unknown): boolean {
  const { driverError, code = driverError?.code, message = '' } = (thrown ?? {}) as { driverError?: { code?: string }; code?: string; message?: string };
  // SQLSTATE classes 08 (connection) and 57P (shutdown), 53300 (too many connections), and what the socket says.
  return /^(08...|57P0[1-5]|53300|ECONNREFUSED|ECONNRESET|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|ENOTFOUND|EAI_AGAIN)$/.test(code ?? '')
    || /^(Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection error|Driver not Connected)/.test(message);
}

/** Whether the database refused a value as such (SQLSTATE class 22: a NUL in a text, a number out of range). */
export function valueRefused(thrown: unknown): boolean {
  return /^22...$/.test((thrown as { driverError?: { code?: string } } | undefined)?.driverError?.code ?? '');
}

/** A TypeORM manager inside a transaction; services take it as `tx` where the caller owns the transaction. */
export type Tx = EntityManager;

/**
 * For statements that run many times a second: each connection parses and plans it once. TypeORM hands the object on to pg as it is. A text is one statement for ever, so nothing that varies may be
 * written into it, and what it returns is named column by column (a new column behind a `*` would break it).
 */
export function prepared(text: string): string {
  return { name: createHash('sha256').update(text).digest('base64url'), text } as unknown as string;
}

function withoutPassword(url: string): string {
  return url.replace(/\/\/([^:/@]+):[^@]*@/, '//$1:***@');
}
