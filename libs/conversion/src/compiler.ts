import { spawn } from 'node:child_process';
import { access, constants, readFile, stat } from 'node:fs/promises';
import { basename, delimiter, join } from 'node:path';
import { parseCompilerReport, readModel, type CompilerReport } from '@reefkeeper/edgetpu';

/** `edgetpu_compiler` as configured, or the first on the search path. */
export async function findCompiler(configured: string | undefined, searchPath = process.env.PATH ?? ''): Promise<string | null> {
  const candidates = configured ? [configured] : searchPath.split(delimiter).filter(Boolean).map((folder) => join(folder, 'edgetpu_compiler'));
  for (const path of candidates) {
    if ((await access(path, constants.X_OK).then(() => true, () => false)) && (await stat(path)).isFile()) return path;
  }
  return null;
}

export interface Ended {
  stdout: string;
  stderr: string;
  exitCode: number | null;
  signal: NodeJS.Signals | null;
}

const mostOutput = 4 * 1024 * 1024;

/**
 * Runs a program in a process group of its own, so that on abort or timeout everything it started dies with it (the compiler is a shell
 * wrapper around a binary that forks). Never throws: what could not start says so in `stderr` with exit code null.
 */
export async function runGroup(file: string, args: string[], { cwd, signal, timeoutMs }: { cwd: string; signal: AbortSignal; timeoutMs: number }): Promise<Ended> {
  return new Promise((resolve) => {
    const child = spawn(file, args, { cwd, detached: true, stdio: ['ignore', 'pipe', 'pipe'], env: { PATH: process.env.PATH ?? '', HOME: cwd, LC_ALL: 'C' } });
    const out = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) child[name].setEncoding('utf8').on('data', (text: string) => { if (out[name].length < mostOutput) out[name] += text; });
    const kill = () => {
      try {
        if (child.pid) process.kill(-child.pid, 'SIGKILL');
      } catch {
        // Gone already.
      }
    };
    const timer = setTimeout(kill, timeoutMs);
    if (signal.aborted) kill();
    signal.addEventListener('abort', kill, { once: true });
    const end = (exitCode: number | null, by: NodeJS.Signals | null) => {
      clearTimeout(timer);
      signal.removeEventListener('abort', kill);
      // Whatever it left behind in the group.
      kill();
      resolve({ ...out, exitCode, signal: by });
    };
    child.on('error', (error) => { out.stderr += error.message; end(null, null); });
    child.on('close', end);
  });
}

export async function compilerVersion(path: string, cwd: string, signal: AbortSignal): Promise<string | null> {
  const { stdout, stderr } = await runGroup(path, ['--version'], { cwd, signal, timeoutMs: 15_000 });
  return /version (\S+)/.exec(stdout + stderr)?.[1] ?? null;
}

export interface CompileRun {
  report: CompilerReport;
  /** Of the compiled file; only if the report is good. */
  output: string;
  ended: Ended;
}

/** One run of the compiler for one runtime (null = its own default). */
export async function compile(compiler: string, model: string, outDir: string, runtime: number | null, { signal, timeoutMs }: { signal: AbortSignal; timeoutMs: number }): Promise<CompileRun> {
  const limitS = Math.max(30, Math.floor(timeoutMs / 1_000) - 10);
  const args = ['--show_operations', '--out_dir', outDir, '--timeout_sec', `${limitS}`, ...(runtime === null ? [] : ['--min_runtime_version', `${runtime}`]), model];
  const ended = await runGroup(compiler, args, { cwd: outDir, signal, timeoutMs });
  const output = join(outDir, basename(model).replace(/\.tflite$/, '_edgetpu.tflite'));
  const outputExists = await readFile(output).then((bytes) => { readModel(bytes); return true; }).catch(() => false);
  return { report: parseCompilerReport(ended.stdout, ended.stderr, { exitCode: ended.exitCode, signal: ended.signal, outputExists }), output, ended };
}
