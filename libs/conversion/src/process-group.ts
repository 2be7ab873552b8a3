import { spawn } from 'node:child_process';
import { open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';

export interface Ended {
  stdout: string;
  stderr: string;
  exitCode: number | null;
  signal: NodeJS.Signals | null;
  /** It was ended because its time was up. */
  timedOut: boolean;
  durationMs: number;
}

export interface GroupOptions {
  /** An empty folder of this run alone. What it prints is written to `stdout.txt` and `stderr.txt` in it. */
  cwd: string;
  signal: AbortSignal;
  timeoutMs: number;
}

const mostOutputBytes = 64 * 1024 * 1024;
const politeMs = 800;
const watchMs = 250;

/**
 * Becomes the program, after leaving a guard behind in its process group that waits on our end of a pipe: when this process dies, even by SIGKILL,
 * the pipe closes and the guard takes the group with it. Forked twice, so that the program does not have a child it never made.
 */
const guarded = 'exec 3<&0 0</dev/null; ( (read -r _ <&3; kill -9 0) & ); exec 3<&-; exec "$@"';

/**
 * Runs a program in a process group of its own, so that on abort or timeout everything it started ends with it (the compiler is a shell wrapper around a
 * binary that forks): SIGTERM first, for `docker run` passes that on to the container, SIGKILL soon after. Output goes to files, so that a
 * process that escaped the group cannot hold us up by holding a pipe. Never throws: what could not start says so in `stderr`.
 */
export async function runGroup(command: readonly string[], { cwd, signal, timeoutMs }: GroupOptions): Promise<Ended> {
  const began = performance.now();
  const files = { stdout: join(cwd, 'stdout.txt'), stderr: join(cwd, 'stderr.txt') };
  const [out, err] = [await open(files.stdout, 'w'), await open(files.stderr, 'w')];
  let timedOut = false;
  let flooded = false;
  let failure = '';
  const { exitCode, by } = await new Promise<{ exitCode: number | null; by: NodeJS.Signals | null }>((resolve) => {
    const child = spawn('/bin/sh', ['-c', guarded, 'sh', ...command], { cwd, detached: true, stdio: ['pipe', out.fd, err.fd], env: { PATH: process.env.PATH ?? '', HOME: cwd, LC_ALL: 'C', ...(process.env.DOCKER_HOST ? { DOCKER_HOST: process.env.DOCKER_HOST } : {}) } });
    child.stdin!.on('error', () => {});
    const kill = (how: NodeJS.Signals) => {
      try {
        if (child.pid) process.kill(-child.pid, how);
      } catch {
        // Gone already.
      }
    };
    let last: NodeJS.Timeout | undefined;
    const stop = () => {
      kill('SIGTERM');
      last ??= setTimeout(() => kill('SIGKILL'), politeMs);
    };
    const limit = setTimeout(() => { timedOut = true; stop(); }, timeoutMs);
    const watch = setInterval(() => void Promise.all(Object.values(files).map(async (file) => stat(file))).then((found) => {
      if (found.every(({ size }) => size < mostOutputBytes)) return;
      flooded = true;
      stop();
    }, () => {}), watchMs);
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true });
    const end = (code: number | null, how: NodeJS.Signals | null) => {
      clearTimeout(limit);
      clearTimeout(last);
      clearInterval(watch);
      signal.removeEventListener('abort', stop);
      // The guard, and whatever else is left of the group.
      kill('SIGKILL');
      resolve({ exitCode: code, by: how });
    };
    child.on('error', (error) => { failure = error.message; end(null, null); });
    child.on('exit', end);
  });
  await Promise.all([out.close(), err.close()]);
  const read = async (file: string) => readFile(file, 'utf8').catch(() => '');
  const notes = [failure, flooded ? `It printed more than ${mostOutputBytes} bytes and was stopped.` : ''].filter(Boolean);
  return { stdout: await read(files.stdout), stderr: [await read(files.stderr), ...notes].filter(Boolean).join('\n'), exitCode, signal: by, timedOut, durationMs: Math.round(performance.now() - began) };
}
