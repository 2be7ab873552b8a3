import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { inspectCompiled } from '@reefkeeper/edgetpu';
import { readWhole } from '@reefkeeper/platform';
import { ReefError } from '@reefkeeper/platform/errors';
import { compile, compilerVersion, findCompiler } from './compiler.ts';
import { outputOf, type StepContext, type StepExecutor, type StepOutputs } from './steps.ts';

const perRunMs = 10 * 60_000;

const noCompiler = 'There is no edgetpu_compiler on this worker, so the version runs on CPUs (cpu-int8) only. Install the package edgetpu-compiler (x86-64 Debian or Ubuntu, coral.ai/docs/edgetpu/compiler) '
  + 'or set REEF_EDGETPU_COMPILER to its path, then build the version again: finished steps are not run again.';

/** Compiles for each wanted Edge TPU runtime. */
export function compileStep(configured: string | undefined): StepExecutor<'compile'> {
  return {
    timeoutMs: 45 * 60_000,
    inputs: async (context) => {
      const compiler = await findCompiler(configured);
      return {
        model: outputOf(context, 'convert').model.digest, runtimes: context.request.runtimes, eligible: outputOf(context, 'analyze').eligible,
        compiler: compiler && (await compilerVersion(compiler, context.workDir, context.signal)),
      };
    },
    async run(context) {
      const { eligible, reason } = outputOf(context, 'analyze');
      if (!eligible) return { skipped: reason ?? 'The model cannot run on the Edge TPU.' };
      const compiler = await findCompiler(configured);
      if (!compiler) {
        if (configured) throw new ReefError('compile.not_started', 'invalid', `REEF_EDGETPU_COMPILER is ${configured}, which is not a program that can be run. Correct it on the workers.`);
        return { skipped: noCompiler };
      }
      const model = await context.fetch(outputOf(context, 'convert').model.digest, 'model.tflite');
      const compiled: StepOutputs['compile']['compiled'] = [];
      let version: string | null = null;
      for (const [index, runtime] of (context.request.runtimes ?? [null]).entries()) {
        context.progress(Math.round((100 * index) / (context.request.runtimes?.length ?? 1)), runtime === null ? 'compiling' : `compiling for runtime ${runtime}`);
        const made = await compiledFor(context, compiler, model, runtime);
        compiled.push(made.compiled);
        version = made.version ?? version;
      }
      return { output: { compiled, compilerVersion: version } };
    },
  };
}

async function compiledFor(context: StepContext, compiler: string, model: string, runtime: number | null) {
  const outDir = join(context.workDir, `compiled-${runtime ?? 'default'}`);
  await mkdir(outDir, { recursive: true });
  // Some compiler versions fail and then succeed on the same bytes.
  for (let tries = 1; ; tries += 1) {
    const { report, output, ended } = await compile(compiler, model, outDir, runtime, { signal: context.signal, timeoutMs: perRunMs });
    context.signal.throwIfAborted();
    context.log(ended.stdout);
    context.log(ended.stderr, 'err');
    if (report.ok) {
      const stored = await context.keep(output, { mediaType: 'application/vnd.tensorflow.lite', role: 'model' });
      const { minRuntime } = inspectCompiled(await readWhole(context.objects, stored.digest));
      return { compiled: { runtime: minRuntime, model: stored, report: report.models[0] as unknown as Record<string, unknown> ?? {} }, version: report.compilerVersion };
    }
    const failure = report.failure!;
    if (failure.retry === 'once' && tries === 1) continue;
    throw new ReefError(failure.code, 'invalid', failure.message, { detail: { evidence: failure.evidence, exitCode: ended.exitCode } });
  }
}
