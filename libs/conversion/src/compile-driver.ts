import { join } from 'node:path';
import { readWhole, type StoredObject } from '@reefkeeper/platform';
import { ReefError } from '@reefkeeper/platform/errors';
import { cachedTogether, inspectCompiled, type CompiledModel, type CompiledModelReport, type CompileFailureCode } from '@reefkeeper/edgetpu';
import type { CompileAttempt, Recipe, Together } from './attempts.ts';
import { compile, type CompileRun, type CompilerCommand } from './compiler.ts';
import { compilerFlags, hardLimitMs, type CompileOptions } from './compile-options.ts';
import type { StepContext } from './steps.ts';

/** Failures without a reason are worth so many runs: compiler 14 was seen to fail twice and succeed at the third. */
export const maxAttempts = 3;

/** Failures of the machine: the next run, perhaps elsewhere, starts afresh. All others are the answer to the recipe, and are kept. */
const passing: ReadonlySet<CompileFailureCode> = new Set<CompileFailureCode>(['compile.killed', 'compile.not_started', 'compile.output_missing']);

export interface Wanted {
  command: CompilerCommand;
  compilerVersion: string | null;
  /** Several are compiled together. */
  models: readonly { digest: string; path: string }[];
  runtime: number | null;
  options: CompileOptions;
}

export interface Compiled {
  /** In the order of models or segments. */
  files: { object: StoredObject; facts: CompiledModel; report: CompiledModelReport | null }[];
  compilerVersion: string | null;
  /** Why the files are not to be trusted unseen: the compiler gave different answers to the same question. */
  nondeterministic: string | null;
}

type Tools = Pick<StepContext, 'attempts' | 'keep' | 'log' | 'objects' | 'signal' | 'workDir'>;

/**
 * Brings one recipe (input bytes, compiler version, flags) to its end: every run of the compiler is recorded with all it printed, failures without a reason are
 * tried again, known ones are not tried at all, and a success after failures is compiled once more to see whether the bytes are the same.
 * @throws ReefError with the compiler's failure code; `compile.timed_out`
 */
export async function compileRecipe(context: Tools, wanted: Wanted): Promise<Compiled> {
  const recipe = recipeOf(wanted);
  const known = wanted.options.force ? null : await context.attempts.verdictOn(recipe);
  if (known) throw knownFailure(known);
  for (let tries = 1; ; tries += 1) {
    const run = await attempt(context, wanted, recipe, tries);
    if (run.ok) return settle(context, wanted, recipe, run);
    if (run.again) {
      context.log(`${run.error.message} Trying once more (${tries + 1} of ${maxAttempts}).`, 'err');
      continue;
    }
    throw run.error;
  }
}

/**
 * Several models on one command line. Each of their versions has a job of its own, and all of those take the files of one run.
 * @throws ReefError as `compileRecipe`; `compile.not_together` when the files do not share the chip after all
 */
export async function compileTogether(context: Tools, wanted: Wanted): Promise<Compiled> {
  const recipe = recipeOf(wanted);
  const known = await context.attempts.agree(recipe, null);
  if (known) return read(known);
  const made = await compileRecipe(context, wanted);
  const agreed = await context.attempts.agree(recipe, { outputs: made.files.map(({ object }) => object.digest), nondeterministic: made.nondeterministic });
  return agreed ? read(agreed) : checked(made);

  async function read({ outputs, nondeterministic }: Together): Promise<Compiled> {
    const files = await Promise.all(outputs.map(async (digest) => ({ object: await context.objects.stat(digest), facts: inspectCompiled(await readWhole(context.objects, digest)), report: null })));
    return checked({ files, compilerVersion: wanted.compilerVersion, nondeterministic });
  }
}

function checked(compiled: Compiled): Compiled {
  const [first, ...others] = compiled.files;
  if (first && others.every(({ facts }) => cachedTogether(first.facts, facts))) return compiled;
  throw new ReefError('compile.not_together', 'invalid', 'The compiler took the models together, but their files do not share a caching token: on one Edge TPU they would push each other out. Models without parameters on the chip cannot be co-compiled.',
    { detail: { tokens: compiled.files.map(({ facts }) => facts.tokens) } });
}

function recipeOf({ models, compilerVersion, options, runtime }: Wanted): Recipe {
  return { inputs: models.map(({ digest }) => digest), compilerVersion, flags: compilerFlags(options, runtime) };
}

interface Success { ok: true; files: Compiled['files']; compilerVersion: string | null }
interface Failure { ok: false; again: boolean; error: ReefError }

async function attempt(context: Tools, wanted: Wanted, recipe: Recipe, tries: number, last = tries >= maxAttempts): Promise<Success | Failure> {
  const id = await context.attempts.begin(recipe);
  const dir = join(context.workDir, `compile-${id}`);
  const run = await compile(wanted.command, wanted.models.map(({ path }) => path), dir, wanted.options, wanted.runtime, context.signal);
  context.log(run.ended.stdout);
  context.log(run.ended.stderr, 'err');
  const log = await context.keep(Buffer.from(transcript(run, dir)), { mediaType: 'text/plain; charset=utf-8', role: 'compile-log' });
  const facts = { durationMs: run.ended.durationMs, exitCode: run.ended.exitCode, signal: run.ended.signal, logDigest: log.digest };
  // Cancelled, or the worker is stopping: what came of the run says nothing about the recipe.
  if (context.signal.aborted) {
    await context.attempts.end(id, { ...facts, result: 'stopped', message: 'Stopped with its step.', final: false, outputs: [] });
    context.signal.throwIfAborted();
  }
  const failed = run.ended.timedOut ? timedOut(wanted.options) : failureOf(run);
  if (!failed) {
    const files: Compiled['files'] = [];
    for (const [at, { path, facts: read }] of run.files.entries()) {
      files.push({ object: await context.keep(path, { mediaType: 'application/vnd.tensorflow.lite', role: 'model' }), facts: read, report: run.report.models[at] ?? null });
    }
    await context.attempts.end(id, { ...facts, result: 'ok', message: null, final: false, outputs: files.map(({ object }) => object.digest) });
    return { ok: true, files, compilerVersion: run.report.compilerVersion };
  }
  const again = !run.ended.timedOut && run.report.failure?.retry === 'again' && !last;
  const final = !again && !run.ended.timedOut && !passing.has(run.report.failure!.code);
  await context.attempts.end(id, { ...facts, result: failed.code, message: failed.message, final, outputs: [] });
  return { ok: false, again, error: failed };
}

/** A success. Where the same recipe has failed without a reason before, its bytes are trusted only when two runs agree on them. */
async function settle(context: Tools, wanted: Wanted, recipe: Recipe, { files, compilerVersion }: Success): Promise<Compiled> {
  const digests = files.map(({ object }) => object.digest).join();
  const { failures, outputs } = await context.attempts.historyOf(recipe);
  const compiled = { files, compilerVersion, nondeterministic: null };
  if (failures === 0 || outputs.filter((made) => made.join() === digests).length > 1) return compiled;
  context.log(`The compiler has failed ${times(failures)} on the same bytes with the same flags. Compiling once more to compare.`);
  // Not the last one of its kind: a failure here must not stand in the way of a later build.
  const second = await attempt(context, wanted, recipe, 1, false);
  if (second.ok && second.files.map(({ object }) => object.digest).join() === digests) return compiled;
  const nondeterministic = `The compiler failed ${times(failures)} on the same bytes with the same flags before it succeeded, and ${second.ok ? 'a second success gave other bytes' : `failed again after that (${second.error.code})`}.`;
  context.log(nondeterministic, 'err');
  return { ...compiled, nondeterministic };
}

function failureOf({ report, ended }: CompileRun): ReefError | null {
  const { failure } = report;
  return failure && new ReefError(failure.code, 'invalid', failure.message, { detail: { evidence: failure.evidence, exitCode: ended.exitCode, signal: ended.signal } });
}

function timedOut(options: CompileOptions): ReefError {
  const limitS = Math.round(hardLimitMs(options) / 1_000);
  return new ReefError('compile.timed_out', 'invalid', `The compiler did not end within ${limitS} s and was stopped, with all it had started. Allow it more with timeoutS (reef model push --compile-timeout), or use a smaller input.`, { detail: { limitS } });
}

function knownFailure({ id, result, message, startedAt, compilerVersion, flags, jobId, logDigest }: CompileAttempt): ReefError {
  return new ReefError(result!, 'invalid',
    `${message} The compiler was not run again: compiler ${compilerVersion ?? 'of unknown version'} has failed like this on the same bytes with the same flags (job ${jobId}, ${startedAt.toISOString()}). `
    + 'To run it all the same: reef job retry JOB --force, or compile.force in the request.',
    { detail: { known: true, attempt: id, job: jobId, at: startedAt.toISOString(), flags, log: logDigest } });
}

/** Equal outputs give equal bytes, so what a run only has in common with itself (its folder, how long it took) is left out. */
function transcript({ commandLine, ended }: CompileRun, dir: string): string {
  const clean = (text: string) => text.replaceAll(dir, '.');
  const how = ended.signal ? `ended by ${ended.signal}` : `exit code ${ended.exitCode}`;
  return `$ ${clean(commandLine.join(' '))}\n${how}\n--- stdout\n${clean(ended.stdout)}\n--- stderr\n${clean(ended.stderr)}\n`;
}

function times(count: number): string {
  return count === 1 ? 'once' : count === 2 ? 'twice' : `${count} times`;
}
