import type { Command } from 'commander';
import { ReefError } from '@reefkeeper/platform/errors';
import { action } from '../context.ts';
import type { Demand } from '../offline/check.ts';

interface CheckFlags { minRuntime?: string; allowFloatIo?: boolean; require: string }

/** Tools on files: no controller, no credentials. The readers behind them are loaded when one runs. */
export function registerOffline(program: Command): void {
  program.command('check <file>')
    .description('before compiling: which operators of a .tflite file will run on the Edge TPU, and what to change')
    .option('--min-runtime <n>', 'lowest Edge TPU runtime it must run on, 10 to 14', '14')
    .option('--allow-float-io', 'float inputs and outputs are a warning, not an error')
    .option('--require <what>', 'exit 0 only if it maps: partial, full or verified (see docs/cli.md)', 'full')
    .addHelpText('after', '\nExit codes: 0 it maps as required, 1 it does not, 2 no readable model.\n\nExamples:\n  reef check model.tflite\n  reef check model.tflite --min-runtime 13 --require partial --json')
    .action(action(async ({ output }, path: string, flags: CheckFlags) => {
      const { checkModel, checkText, demands } = await import('../offline/check.ts');
      const { openModelFile } = await import('../offline/model-file.ts');
      if (!demands.includes(flags.require as Demand)) throw new ReefError('option.invalid', 'invalid', `--require takes ${demands.join(', ')}, not "${flags.require}".`);
      const report = checkModel(await openModelFile(path), { minRuntime: runtimeOf(flags.minRuntime), allowFloatIo: flags.allowFloatIo ?? false, require: flags.require as Demand });
      output.show(report, () => checkText(report));
      return report.passed ? 0 : 1;
    }));

  program.command('inspect <files...>')
    .description('what is in .tflite files, compiled or not; several compiled ones: whether they stay on one Edge TPU together')
    .option('--source <model...>', 'the .tflite files they were compiled from, to predict latency')
    .addHelpText('after', '\nExamples:\n  reef inspect model_edgetpu.tflite --source model.tflite\n  reef inspect a_edgetpu.tflite b_edgetpu.tflite')
    .action(action(async ({ output }, paths: string[], flags: { source?: string[] }) => {
      const { inspectFiles, inspectText } = await import('../offline/inspect.ts');
      const { openModelFile } = await import('../offline/model-file.ts');
      const open = async (list: string[]) => Promise.all(list.map(openModelFile));
      const reports = inspectFiles(await open(paths), await open(flags.source ?? []));
      output.show(reports, () => inspectText(reports));
    }));
}

function runtimeOf(text: string | undefined): number {
  const runtime = Number(text);
  if (!Number.isInteger(runtime) || runtime < 10 || runtime > 14) throw new ReefError('option.invalid', 'invalid', `--min-runtime takes a whole number from 10 to 14, not "${text}".`);
  return runtime;
}
