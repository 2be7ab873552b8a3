import { spawn, type ChildProcess } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { createInterface } from 'node:readline';
import { ReefError, type ErrorKind } from '@reefkeeper/platform/errors';
import { RotatingLog } from './log-file.ts';

export type ManagedState = 'waiting' | 'starting' | 'ready' | 'restarting' | 'stopping' | 'stopped';

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

/** Generous: on a busy board ten processes start at once. */
const readyMs = 180_000;
const stopMs = 12_000;
const firstRestartMs = 500;
const mostRestartMs = 15_000;
/** A process that held out this long starts again without delay. */
const stableMs = 30_000;

/**
 * One of our processes: started, watched, started again with back-off when it dies, stopped in order. It notices by its IPC channel
 * when we are gone, however that came about.
 */
export class Managed extends EventEmitter<{ change: []; spawned: [pid: number]; gone: [] }> {
  state: ManagedState = 'waiting';
  restarts = 0;
  since = Date.now();
  private child: ChildProcess | undefined;
  private wanted = false;
  private restartMs = firstRestartMs;
  private timer: NodeJS.Timeout | undefined;
  private readonly log: RotatingLog;

  constructor(readonly spec: ManagedSpec) {
    super();
    this.log = new RotatingLog(spec.logFile);
  }

  get pid(): number | undefined {
    return this.running ? this.child!.pid : undefined;
  }

  private get running(): boolean {
    return this.child !== undefined && this.child.exitCode === null && this.child.signalCode === null;
  }

  /** Resolves when it says that it is ready. @throws ReefError `up.process_failed` with its last words when it ends before that */
  async start(): Promise<void> {
    this.wanted = true;
    this.move('starting');
    try {
      await this.launch();
    } catch (error) {
      // Dying before it was ever ready is a fault that trying again does not heal.
      await this.stop();
      throw error;
    }
  }

  async stop(): Promise<void> {
    this.wanted = false;
    clearTimeout(this.timer);
    const { child } = this;
    if (this.running) {
      this.move('stopping');
      const gone = new Promise((resolve) => { child!.once('exit', resolve); });
      child!.kill('SIGTERM');
      const timer = setTimeout(() => child!.kill('SIGKILL'), stopMs);
      await gone;
      clearTimeout(timer);
    }
    this.move('stopped');
    this.log.close();
  }

  private launch(): Promise<void> {
    // In a group of its own: Ctrl-C in a terminal goes to the whole group, and the order of stopping is ours to keep.
    const child = spawn(process.execPath, [this.spec.main, ...(this.spec.args ?? [])], { env: { ...process.env, ...this.spec.env }, stdio: ['ignore', 'pipe', 'pipe', 'ipc'], detached: true });
    this.child = child;
    if (child.pid) this.emit('spawned', child.pid);
    const lastWords: string[] = [];
    createInterface({ input: child.stderr! }).on('line', (line) => {
      this.log.write(line);
      lastWords.push(line);
      if (lastWords.length > 20) lastWords.shift();
    });
    const begun = Date.now();
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => {
        reject(new ReefError('up.process_failed', 'unavailable', `${this.spec.name} did not become ready within ${readyMs / 1_000} s; see ${this.spec.logFile}.`));
        child.kill('SIGKILL');
      }, readyMs);
      createInterface({ input: child.stdout! }).on('line', (line) => {
        this.log.write(line);
        if (!line.startsWith('{"ready":true')) return;
        clearTimeout(late);
        this.move('ready');
        resolve();
      });
      child.on('error', (cause) => lastWords.push(cause.message));
      // `close` and not `exit`: what it said last has arrived by then.
      child.on('close', (code, signal) => {
        clearTimeout(late);
        this.log.write(`${this.spec.name} ended with ${signal ?? code}`);
        this.emit('gone');
        reject(failureOf(this.spec, code, signal, lastWords));
        if (this.wanted && this.state !== 'starting') this.again(Date.now() - begun);
      });
    });
  }

  private again(livedMs: number): void {
    this.restartMs = livedMs > stableMs ? firstRestartMs : Math.min(2 * this.restartMs, mostRestartMs);
    this.restarts += 1;
    this.move('restarting');
    this.timer = setTimeout(() => { if (this.wanted) this.launch().catch(() => {}); }, this.restartMs);
  }

  private move(state: ManagedState): void {
    this.state = state;
    this.since = Date.now();
    this.emit('change');
  }
}

/** As `ReefError.exitCode` has it. */
const kindOfExit: Record<number, ErrorKind> = { 2: 'invalid', 3: 'forbidden', 4: 'not_found', 5: 'conflict' };

/** Our processes end a failed start with `error: message` and `code: ...`; what has no such line failed otherwise, and its last words must do. */
function failureOf(spec: ManagedSpec, exit: number | null, signal: string | null, words: string[]): ReefError {
  const at = words.findLastIndex((line) => line.startsWith('error: '));
  const said = at >= 0 ? words.slice(at).join('\n').replace(/^error: /, '').replace(/\ncode: .*$/s, '') : words.find((line) => /^\w*Error\b/.test(line)) ?? words.slice(-6).join('\n');
  const code = at >= 0 ? /^code: (.*)$/m.exec(words.slice(at).join('\n'))?.[1] : undefined;
  return new ReefError(code ?? 'up.process_failed', kindOfExit[exit ?? 0] ?? 'unavailable', `${spec.name} ended with ${signal ?? `code ${exit}`} before it was ready: ${said}\nThe whole log: ${spec.logFile}`, { detail: { process: spec.name } });
}
