import { ReefError } from '@reefkeeper/platform/errors';
import { compileRecipe, compileTogether } from './compile-driver.ts';
import { compileOptions, compilerFlags, type CompileOptions } from './compile-options.ts';
import { compileLearned, isLearned } from './learned-head.ts';
import { compilerVersion, findCompiler } from './compiler.ts';
import { outputOf, type StepContext, type StepExecutor, type StepOutputs } from './steps.ts';

const noCompiler = 'There is no edgetpu_compiler on this worker, so the version runs on CPUs (cpu-int8) only. Install the package edgetpu-compiler (x86-64 Debian or Ubuntu, coral.ai/docs/edgetpu/compiler) '
  + 'or set REEF_EDGETPU_COMPILER to its path, or to a command that runs it in a container (deploy/docker/compiler.Dockerfile), then build the version again: finished steps are not run again.';

/** Compiles for each wanted Edge TPU runtime. */
export function compileStep(configured: string | undefined): StepExecutor<'compile'> {
  return {
    // A backstop: each run of the compiler has a limit of its own.
    timeoutMs: 6 * 3_600_000,
    inputs: async (context) => {
      if (isLearned(context)) return { source: context.request.source.digest, learning: context.request.learning };
      const compiler = await findCompiler(configured);
      return {
        model: outputOf(context, 'convert').model.digest, flags: runtimesOf(context).flatMap((runtime) => cutsOf(context).map((cut) => compilerFlags(cut, runtime))), eligible: outputOf(context, 'analyze').eligible, together: optionsOf(context).together?.map((one) => one.digest),
        compiler: compiler && (await compilerVersion(compiler, context.workDir, context.signal)),
      };
    },
    async run(context) {
      if (isLearned(context)) {
        if (outputOf(context, 'import').kind === 'edgetpu') return { skipped: 'The model is compiled already.' };
        const output = await compileLearned(context);
        return 'skipped' in output ? output : { output };
      }
      const { eligible, reason } = outputOf(context, 'analyze');
      if (!eligible) return { skipped: reason ?? 'The model cannot run on the Edge TPU.' };
      const command = await findCompiler(configured);
      if (!command) return { skipped: noCompiler };
      const { digest } = outputOf(context, 'convert').model;
      const digests = optionsOf(context).together?.map((one) => one.digest) ?? [digest];
      const own = digests.indexOf(digest);
      if (own === -1) throw new ReefError('compile.together_changed', 'conflict', 'The int8 file of this version is not the one that was to be compiled with the others. Ask for the co-compilation again.', { detail: { digest, together: digests } });
      const models = [];
      for (const [at, one] of digests.entries()) models.push({ digest: one, path: await context.fetch(one, digests.length === 1 ? 'model.tflite' : `model-${at}.tflite`) });
      const version = await compilerVersion(command, context.workDir, context.signal);
      const output = { compiled: [], pipelines: [], failed: [], compilerVersion: version } as Required<StepOutputs['compile']>;
      const wanted = runtimesOf(context).flatMap((runtime) => cutsOf(context).map((options) => ({ runtime, options })));
      let first: ReefError | undefined;
      for (const [index, { runtime, options }] of wanted.entries()) {
        const what = `compiling${options.numSegments ? ` in ${options.numSegments} segments` : ''}${runtime === null ? '' : ` for runtime ${runtime}`}`;
        context.progress(Math.round((100 * index) / wanted.length), what);
        try {
          const { files, nondeterministic, ...made } = await (models.length > 1 ? compileTogether : compileRecipe)(context, { command, compilerVersion: version, models, runtime, options });
          if (options.numSegments) output.pipelines.push({ runtime: Math.max(...files.map(({ facts }) => facts.minRuntime)), segments: files.map(({ object }) => object), nondeterministic });
          else output.compiled.push({ runtime: files[own]!.facts.minRuntime, model: files[own]!.object, report: { ...files[own]!.report }, nondeterministic });
          output.compilerVersion ??= made.compilerVersion;
        } catch (thrown) {
          // One runtime's failure does not sink the others; anything that is not the compiler's answer does.
          if (context.signal.aborted || !(thrown instanceof ReefError) || !thrown.code.startsWith('compile.')) throw thrown;
          first ??= thrown;
          output.failed.push({ runtime, ...(options.numSegments ? { segments: options.numSegments } : {}), code: thrown.code, message: thrown.message });
          if (wanted.length > 1) context.log(`${what}: ${thrown.message} (${thrown.code})`, 'err');
        }
      }
      const made = [...output.compiled, ...output.pipelines];
      if (first && made.length === 0) throw first;
      // What the compiler may answer differently next time is asked again next time.
      return { output, reusable: output.failed.length === 0 && made.every(({ nondeterministic }) => !nondeterministic) };
    },
  };
}

function runtimesOf({ request }: Pick<StepContext, 'request'>): (number | null)[] {
  return request.runtimes && request.runtimes.length > 0 ? request.runtimes : [null];
}

/** What is cut into segments is compiled whole as well, for devices with fewer Edge TPUs. */
function cutsOf(context: Pick<StepContext, 'request'>): CompileOptions[] {
  const { numSegments, ...whole } = optionsOf(context);
  return numSegments === undefined ? [whole] : [{ ...whole, numSegments }, whole];
}

/** Jobs from before there were options have none. */
function optionsOf({ request }: Pick<StepContext, 'request'>): CompileOptions {
  return compileOptions.parse(request.compile ?? {});
}
