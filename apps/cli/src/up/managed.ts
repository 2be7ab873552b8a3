import { spawn, type ChildProcess } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { createWriteStream, renameSync, statSync, type WriteStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { ReefError } from '@reefkeeper/platform/errors';

export type ManagedState = 'starting' | 'ready' | 'restarting' | 'stopped';

export interface ManagedSpec {
  name: string;
  /** Built entry file. */
  main: string;
  args?: string[];
  env: Record<string, string>;
  logFile: string;
  /** Shown in the status view. */
  at?: string;
}

const readyMs = 60_000;
const stopMs = 12_000;
const firstRestartMs = 500;
const mostRestartMs = 15_000;
/** A process that held out this long starts again without delay. */
const stableMs = 30_000;
const mostLogBytes = 16 * 1024 ** 2;

/** One of our processes: started, watched, started again with back-off when it dies, stopped in order. It notices by its IPC channel when we are gone. */
export class Managed extends EventEmitter<{ change: [] }> {
  state: ManagedState = 'stopped';
  restarts = 0;
  since = Date.now();
  private child: ChildProcess | undefined;
  private wanted = false;
  private restartMs = firstRestartMs;
  private log: WriteStream | undefined;
  private lastWords: string[] = [];

  constructor(readonly spec: ManagedSpec) {
    super();
  }

  get pid(): number | undefined {
    return this.child?.pid;
  }

  /** Resolves when it says that it is ready. @throws ReefError `up.process_failed` with its last words when it ends before that */
  async start(): Promise<void> {
    this.wanted = true;
    await this.launch();
  }

  async stop(): Promise<void> {
    this.wanted = false;
    const child = this.child;
    if (child && child.exitCode === null && child.signalCode === null) {
      const gone = new Promise((resolve) => { child.once('exit', resolve); });
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), stopMs);
      await gone;
      clearTimeout(timer);
    }
    this.move('stopped');
    this.log?.end();
  }

  private launch(): Promise<void> {
    this.move(this.restarts > 0 ? 'restarting' : 'starting');
    this.log = this.openLog();
    const log = this.log;
    const child = spawn(process.execPath, [this.spec.main, ...(this.spec.args ?? [])], { env: { ...process.env, ...this.spec.env }, stdio: ['ignore', 'pipe', 'pipe', 'ipc'] });
    this.child = child;
    child.stderr!.on('data', (chunk: Buffer) => {
      log.write(chunk);
      this.lastWords = [...this.lastWords, ...chunk.toString('utf8').split('\n').filter(Boolean)].slice(-6);
    });
    const begun = Date.now();
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new ReefError('up.process_failed', 'unavailable', `${this.spec.name} did not become ready within ${readyMs / 1_000} s; see ${this.spec.logFile}.`)), readyMs);
      createInterface({ input: child.stdout! }).on('line', (line) => {
        log.write(`${line}\n`);
        if (!line.startsWith('{"ready":true')) return;
        clearTimeout(late);
        this.move('ready');
        resolve();
      });
      child.on('error', (cause) => log.write(`${cause.message}\n`));
      child.on('exit', (code, signal) => {
        clearTimeout(late);
        const stable = Date.now() - begun > stableMs;
        log.write(`${this.spec.name} ended with ${signal ?? code}\n`);
        reject(new ReefError('up.process_failed', 'unavailable', `${this.spec.name} ended with ${signal ?? `code ${code}`} before it was ready:\n${this.lastWords.map((line) => `  ${line}`).join('\n')}\nThe whole log: ${this.spec.logFile}`));
        if (!this.wanted) return;
        this.restartMs = stable ? firstRestartMs : Math.min(2 * this.restartMs, mostRestartMs);
        this.restarts += 1;
        this.move('restarting');
        setTimeout(() => { if (this.wanted) this.launch().catch(() => {}); }, this.restartMs);
      });
    });
  }

  private move(state: ManagedState): void {
    this.state = state;
    this.since = Date.now();
    this.emit('change');
  }

  private openLog(): WriteStream {
    this.log?.end();
    try {
      if (statSync(this.spec.logFile).size > mostLogBytes) renameSync(this.spec.logFile, `${this.spec.logFile}.1`);
    } catch {
      // The first of its kind.
    }
    return createWriteStream(this.spec.logFile, { flags: 'a' });
  }
}
