import { access, constants, copyFile, mkdir, readFile, stat } from 'node:fs/promises';
import { basename, delimiter, join } from 'node:path';
import { parseCommandString } from 'execa';
import { inspectCompiled, parseCompilerReport, type CompiledModel, type CompilerReport } from '@reefkeeper/edgetpu';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import { compilerFlags, hardLimitMs, type CompileOptions } from './compile-options.ts';
import { runGroup, type Ended } from './process-group.ts';

/** The words that start the compiler. `{dir}`, `{uid}` and `{gid}` in them stand for its working folder and for us. */
export type CompilerCommand = readonly string[];

/**
 * The compiler as configured, or the first `edgetpu_compiler` on the search path; null = there is none. `configured` is a path, a command with
 * arguments, or the same as a JSON list of words (for words with spaces): `docker run --rm --init -v {dir}:{dir} -w {dir} image edgetpu_compiler`.
 * @throws ReefError `compile.not_started` when what is configured cannot be run
 */
export async function findCompiler(configured: string | undefined, searchPath = process.env.PATH ?? ''): Promise<CompilerCommand | null> {
  const folders = searchPath.split(delimiter).filter(Boolean);
  const first = async (name: string) => {
    for (const path of name.includes('/') ? [name] : folders.map((folder) => join(folder, name))) if (await isProgram(path)) return path;
    return undefined;
  };
  if (!configured) {
    const found = await first('edgetpu_compiler');
    return found ? [found] : null;
  }
  if (await isProgram(configured)) return [configured];
  const [program = '', ...rest] = wordsOf(configured);
  const found = await first(program);
  if (!found) throw new ReefError('compile.not_started', 'invalid', `REEF_EDGETPU_COMPILER is ${configured}, and ${program || 'that'} is not a program that can be run. Correct it on the workers.`, { detail: { configured } });
  return [found, ...rest];
}

function wordsOf(configured: string): string[] {
  if (!configured.trimStart().startsWith('[')) return parseCommandString(configured);
  try {
    const words: unknown = JSON.parse(configured);
    if (Array.isArray(words) && words.length > 0 && words.every((word) => typeof word === 'string')) return words as string[];
  } catch {
    // Falls through to the same refusal.
  }
  throw new ReefError('compile.not_started', 'invalid', `REEF_EDGETPU_COMPILER starts with [ but is not a JSON list of words: ${configured}`, { detail: { configured } });
}

async function isProgram(path: string): Promise<boolean> {
  return (await access(path, constants.X_OK).then(() => true, () => false)) && (await stat(path)).isFile();
}

function wordsIn(command: CompilerCommand, dir: string): string[] {
  const values: Record<string, string> = { dir, uid: `${process.getuid?.() ?? 0}`, gid: `${process.getgid?.() ?? 0}` };
  return command.map((word) => word.replaceAll(/\{(dir|uid|gid)\}/g, (_, name: string) => values[name]!));
}

/** What the compiler calls itself; null when it does not say. */
export async function compilerVersion(command: CompilerCommand, workDir: string, signal: AbortSignal): Promise<string | null> {
  const cwd = join(workDir, 'compiler-version');
  await mkdir(cwd, { recursive: true });
  const { stdout, stderr } = await runGroup([...wordsIn(command, cwd), '--version'], { cwd, signal, timeoutMs: 30_000 });
  return /version (\S+)/.exec(stdout + stderr)?.[1] ?? null;
}

export interface CompiledFile {
  path: string;
  facts: CompiledModel;
}

export interface CompileRun {
  report: CompilerReport;
  /** One for each model, or for each segment; only if the report is good. */
  files: CompiledFile[];
  ended: Ended;
  commandLine: string[];
}

/** One run of the compiler, in `dir`, which must not exist. Several models on one command line share the chip's memory afterwards. */
export async function compile(command: CompilerCommand, models: readonly string[], dir: string, options: CompileOptions, runtime: number | null, signal: AbortSignal): Promise<CompileRun> {
  await mkdir(dir, { recursive: true });
  // Copies beside the output, so that one folder is all that a container has to see.
  const names = models.map((model) => basename(model));
  for (const [at, model] of models.entries()) await copyFile(model, join(dir, names[at]!));
  const commandLine = [...wordsIn(command, dir), ...compilerFlags(options, runtime), '--out_dir', dir, ...names.map((name) => join(dir, name))];
  const ended = await runGroup(commandLine, { cwd: dir, signal, timeoutMs: hardLimitMs(options) });
  const outputs = names.flatMap((name) => outputsOf(name.replace(/\.tflite$/, ''), options.numSegments)).map((name) => join(dir, name));
  const read = await Promise.all(outputs.map(readOutput));
  const report = parseCompilerReport(ended.stdout, ended.stderr, {
    exitCode: ended.exitCode, signal: ended.signal, outputExists: !read.some((one) => one === 'missing'), nothingInOutput: read.includes('uncompiled'),
    needsRuntime: Math.max(...read.map((one) => (typeof one === 'string' ? 0 : one.facts.minRuntime))), askedRuntime: runtime,
  });
  return { report, files: read.filter((one) => typeof one !== 'string'), ended, commandLine };
}

function outputsOf(stem: string, segments: number | undefined): string[] {
  return segments === undefined ? [`${stem}_edgetpu.tflite`] : Array.from({ length: segments }, (_, index) => `${stem}_segment_${index}_of_${segments}_edgetpu.tflite`);
}

/** What the compiler says it made is believed only when it can be read back. */
async function readOutput(path: string): Promise<CompiledFile | 'missing' | 'uncompiled'> {
  try {
    return { path, facts: inspectCompiled(await readFile(path)) };
  } catch (thrown) {
    return asReefError(thrown).code === 'model.not_compiled' ? 'uncompiled' : 'missing';
  }
}
