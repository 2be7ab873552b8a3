import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { execa } from 'execa';
import getPort from 'get-port';
import pg from 'pg';
import { eventually } from './fleet.ts';

const root = join(import.meta.dirname, '../..');
const main = join(root, 'apps/cli/dist/main.js');

export interface Said { exitCode: number | undefined; stdout: string; stderr: string; json: unknown }

/** `reef`, as built, in a shell of its own. JSON on stdout is parsed where there is some; of several lines the last. */
export async function reef(args: string[], options: { env?: Record<string, string>; cwd?: string; timeoutMs?: number } = {}): Promise<Said> {
  const { exitCode, stdout, stderr } = await execa(process.execPath, [main, ...args], { reject: false, stdin: 'ignore', timeout: options.timeoutMs ?? 240_000, ...(options.cwd ? { cwd: options.cwd } : {}), env: { NO_COLOR: '1', ...options.env } });
  let json: unknown;
  try {
    json = JSON.parse(stdout.trim().split('\n').at(-1) ?? '');
  } catch {
    // Words for people.
  }
  return { exitCode, stdout, stderr, json };
}

export interface StackFlags { agents?: number; frames?: string; fps?: number; dir?: string; ports?: [number, number, number]; env?: Record<string, string> }

/**
 * A whole fleet on this machine, started as a user would: `reef up` on a folder and ports of its own. Where the environment names outside
 * infrastructure it runs on that, with a database and device names of its own, so that stacks do not meet there.
 */
export class RunningStack {
  readonly output: string[] = [];
  readonly agentName = `coral-${randomBytes(3).toString('hex')}`;
  private child!: ChildProcess;

  private constructor(readonly dir: string, readonly ports: [number, number, number], private readonly flags: StackFlags, private readonly database: string | undefined) {}

  static async up(flags: StackFlags = {}): Promise<RunningStack> {
    const stack = await RunningStack.launch(flags);
    await stack.ready();
    return stack;
  }

  /** Without waiting for it. */
  static async launch(flags: StackFlags = {}): Promise<RunningStack> {
    const dir = flags.dir ?? (await mkdtemp(join(tmpdir(), 'reef-up-')));
    // The embedded PostgreSQL does not run as root.
    await chmod(dir, 0o755);
    const database = process.env.DATABASE_URL && (await emptyDatabase(process.env.DATABASE_URL));
    const stack = new RunningStack(dir, flags.ports ?? [await getPort(), await getPort(), await getPort()], flags, database);
    stack.spawn();
    return stack;
  }

  get url(): string {
    return `http://127.0.0.1:${this.ports[0]}`;
  }

  agent(number: number): string {
    return `${this.agentName}-${number}`;
  }

  get pid(): number {
    return this.child.pid!;
  }

  async ready(timeoutMs = 240_000): Promise<void> {
    const { child } = this;
    await eventually(() => {
      if (child.exitCode !== null || child.signalCode !== null) throw new Error(`reef up ended with ${child.signalCode ?? child.exitCode}:\n${this.output.join('\n')}`);
      return this.output.some((line) => line.includes('Reefkeeper is up'));
    }, timeoutMs, () => this.output.join('\n'));
  }

  /** The command line on this stack; the credentials are where `reef up` has put them. */
  reef(...args: string[]): Promise<Said> {
    return reef(['--dir', this.dir, ...args]);
  }

  /** As `reef`, with --json; fails where the command does. */
  async json<T>(...args: string[]): Promise<T> {
    const said = await this.reef('--json', ...args);
    if (said.exitCode !== 0) throw new Error(`reef ${args.join(' ')} ended with ${said.exitCode}: ${said.stdout}${said.stderr}`);
    return said.json as T;
  }

  /** Process ids by name, from what `reef up` has written down. */
  async pidOf(name: string): Promise<number> {
    if (name === 'postgres') return Number((await readFile(join(this.dir, 'postgres/data/postmaster.pid'), 'utf8')).split('\n')[0]);
    return (JSON.parse(await readFile(join(this.dir, 'run', `${name}.pid`), 'utf8')) as { pid: number }).pid;
  }

  async kill(name: string): Promise<number> {
    const pid = await this.pidOf(name);
    process.kill(pid, 'SIGKILL');
    return pid;
  }

  /** Of the supervisor itself. */
  async signal(signal: NodeJS.Signals): Promise<number | null> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return this.child.exitCode;
    const gone = once(this.child, 'exit');
    this.child.kill(signal);
    await gone;
    return this.child.exitCode;
  }

  /** The same folder and ports again. */
  async again(): Promise<void> {
    this.output.length = 0;
    this.spawn();
    await this.ready();
  }

  async stop(): Promise<number | null> {
    return this.signal('SIGTERM');
  }

  async remove(): Promise<void> {
    await this.stop();
    await rm(this.dir, { recursive: true, force: true });
  }

  private spawn(): void {
    const { agents = 1, frames, fps = 10, env } = this.flags;
    const [port, gateway, mqtt] = this.ports;
    // A relative folder, as it is by default.
    this.child = spawn(process.execPath, [main, '--dir', basename(this.dir), 'up', '--agents', `${agents}`, '--agent-name', this.agentName, '--port', `${port}`, '--gateway-port', `${gateway}`, '--mqtt-port', `${mqtt}`, '--fps', `${fps}`, '--telemetry-window', '1', ...(frames ? ['--frames', frames] : [])], {
      cwd: dirname(this.dir), stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, NO_COLOR: '1', PYTHON_ENV_DIR: join(root, '.reef/python'), ...(this.database ? { DATABASE_URL: this.database } : {}), ...env },
    });
    for (const stream of [this.child.stdout!, this.child.stderr!]) createInterface({ input: stream }).on('line', (line) => this.output.push(line));
  }
}

async function emptyDatabase(server: string): Promise<string> {
  const url = new URL(server);
  url.pathname = `/e2e_${randomBytes(6).toString('hex')}`;
  const client = new pg.Client({ connectionString: server });
  await client.connect();
  try {
    await client.query(`CREATE DATABASE ${url.pathname.slice(1)}`);
  } finally {
    await client.end();
  }
  return url.href;
}
