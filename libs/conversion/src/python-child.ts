import { spawn } from 'node:child_process';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { ReefError, type ErrorKind } from '@reefkeeper/platform/errors';
import type { PythonEvent } from './python-tools.ts';

export interface PythonRun {
  python: string;
  /** Module to run; ours, except in tests. */
  module?: string;
  command: string;
  request: Record<string, unknown>;
  /** An empty folder of this run alone: request, temporary files, HOME. */
  workDir: string;
  signal: AbortSignal;
  timeoutMs: number;
  /** Of the child and all below it. `ulimit -v` cannot be used: TensorFlow reserves address space it never touches. */
  maxRssBytes: number;
  onEvent(event: PythonEvent): void;
  /** Hands on how pip and npm reach their registries: for what fetches packages, and never for what opens a stranger's file. */
  fetches?: boolean;
  /** Where modules are found besides the environment; our package, except in tests. */
  path?: string;
}

const packageDir = fileURLToPath(new URL('../python/', import.meta.url));
const stderrBytes = 64 * 1024;
const watchMs = 250;

/**
 * Runs one command in one child process of its own group, so that it can be ended with all its children, whatever state it is in.
 * @returns the fields of its `result` event
 * @throws ReefError the child's own coded error, `convert.crashed` (ended by a signal), `convert.out_of_memory`, `job.timed_out`,
 *   `job.canceled`, `python.failed` (ended without saying why); `detail.stderr` has the tail of what it printed
 */
export async function runPython(run: PythonRun): Promise<Record<string, unknown>> {
  const home = join(run.workDir, 'home');
  await mkdir(home, { recursive: true });
  const requestFile = join(run.workDir, `${run.command}.json`);
  await writeFile(requestFile, JSON.stringify(run.request));
  const child = spawn(run.python, ['-m', run.module ?? 'reef_convert', run.command, '--request', requestFile], {
    cwd: run.workDir, detached: true, stdio: ['ignore', 'pipe', 'pipe'],
    env: { PATH: process.env.PATH ?? '/usr/bin:/bin', HOME: home, TMPDIR: home, PYTHONPATH: run.path ?? packageDir, REEF_PARENT: `${process.pid}`, PYTHONUNBUFFERED: '1', PYTHONDONTWRITEBYTECODE: '1', TF_CPP_MIN_LOG_LEVEL: '2', CUDA_VISIBLE_DEVICES: '-1', LC_ALL: 'C.UTF-8', ...(run.fetches ? fetchSettings() : {}) },
  });
  let ended: ReefError | undefined;
  const end = (why: ReefError) => {
    ended ??= why;
    killGroup(child.pid);
  };
  const abort = () => end(new ReefError('job.canceled', 'conflict', 'The job was cancelled.', { cause: run.signal.reason }));
  run.signal.addEventListener('abort', abort, { once: true });
  if (run.signal.aborted) abort();
  const timer = setTimeout(() => end(new ReefError('job.timed_out', 'invalid', `The step did not finish within ${Math.round(run.timeoutMs / 1_000)} s and was stopped.`)), run.timeoutMs);
  const watch = setInterval(() => void groupRss(child.pid).then((rss) => {
    if (rss > run.maxRssBytes) end(new ReefError('convert.out_of_memory', 'invalid', `The conversion took ${mib(rss)} MiB of memory; ${mib(run.maxRssBytes)} MiB are allowed. Use a smaller model or allow more.`, { detail: { rss, limit: run.maxRssBytes } }));
  }), watchMs);

  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => { stderr = (stderr + chunk.toString('utf8')).slice(-stderrBytes); });
  const answer: { result?: Record<string, unknown>; error?: ReefError } = {};
  const lines = createInterface({ input: child.stdout });
  lines.on('line', (line) => take(line, answer, run.onEvent));
  const drained = new Promise<void>((resolve) => { lines.once('close', resolve); });
  try {
    const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
      child.once('error', (cause) => reject(new ReefError('python.failed', 'unavailable', `Python could not be started (${run.python}): ${cause.message}`, { cause })));
      child.once('exit', (...how) => resolve(how));
    });
    await Promise.race([drained, new Promise((resolve) => { setTimeout(resolve, 2_000); })]);
    if (ended) throw withStderr(ended, stderr);
    if (answer.error) throw withStderr(answer.error, stderr);
    if (code === 0 && answer.result) return answer.result;
    const cause = causeIn(stderr);
    if (signal) throw new ReefError('convert.crashed', 'invalid', `TensorFlow crashed (${signal}).${cause && ` It last said: ${cause}`}`, { detail: { signal, stderr } });
    throw new ReefError('python.failed', 'bug', `The conversion ended with code ${code} and no answer.${cause && ` It last said: ${cause}`}`, { detail: { code, stderr } });
  } finally {
    clearTimeout(timer);
    clearInterval(watch);
    run.signal.removeEventListener('abort', abort);
    // Whatever the child started has no reason to live on.
    killGroup(child.pid);
  }
}

function fetchSettings(): Record<string, string> {
  return Object.fromEntries(Object.entries(process.env).filter((entry): entry is [string, string] => entry[1] !== undefined && /^(?:pip_|(?:https?|no|all)_proxy$|ssl_cert_|requests_ca_)/i.test(entry[0])));
}

function take(line: string, answer: { result?: Record<string, unknown>; error?: ReefError }, onEvent: PythonRun['onEvent']): void {
  let event: Record<string, unknown>;
  try {
    event = JSON.parse(line) as Record<string, unknown>;
    if (typeof event?.event !== 'string') throw new Error('not an event');
  } catch {
    onEvent({ event: 'log', level: 'info', message: line });
    return;
  }
  if (event.event === 'result') {
    const { event: _name, ...fields } = event;
    answer.result = fields;
  } else if (event.event === 'error') {
    answer.error = new ReefError(String(event.code), event.kind as ErrorKind, String(event.message), { detail: (event.detail ?? {}) as Record<string, unknown> });
  } else {
    onEvent(event as unknown as PythonEvent);
  }
}

function withStderr(error: ReefError, stderr: string): ReefError {
  return new ReefError(error.code, error.kind, error.message, { detail: { ...error.detail, stderr }, cause: error.cause });
}

/** The last line that looks like a reason: TensorFlow's native part prints "error: ..." among much else. */
function causeIn(stderr: string): string {
  const lines = stderr.trim().split('\n').filter(Boolean);
  return (lines.findLast((line) => /error[: ]|fatal|exception/i.test(line)) ?? lines.at(-1) ?? '').trim().slice(0, 500);
}

function killGroup(pid: number | undefined): void {
  if (!pid) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // Gone already.
  }
}

/** Resident bytes of every process of the group, from /proc; 0 where there is none. */
async function groupRss(group: number | undefined): Promise<number> {
  if (!group || process.platform !== 'linux') return 0;
  const pids = (await readdir('/proc').catch(() => [])).filter((name) => /^\d+$/.test(name));
  const sizes = await Promise.all(pids.map(async (pid) => {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    // The name in brackets may hold spaces; after it come state, parent, group (proc(5)).
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return Number(fields[2]) === group ? Number(fields[21]) * 4_096 : 0;
  }));
  return sizes.reduce((sum, size) => sum + size, 0);
}

function mib(size: number): number {
  return Math.round(size / 1024 ** 2);
}
