import type { Command } from 'commander';
import { ReefError } from '@reefkeeper/platform/errors';
import { action } from '../context.ts';
import { numberWithin } from '../options.ts';
import type { Demand } from '../offline/check.ts';

interface CheckFlags { minRuntime?: string; allowFloatIo?: boolean; require: string; explain?: boolean; compiler?: string; compileTimeout: string; savePart?: string; rules?: boolean }

/** Tools on files: no controller, no credentials. The readers behind them are loaded when one runs. */
export function registerOffline(program: Command): void {
  program.command('check [file]')
    .description('before compiling: which operators of a .tflite file will run on the Edge TPU, and what to change')
    .option('--min-runtime <n>', 'lowest Edge TPU runtime it must run on, 10 to 14', '14')
    .option('--allow-float-io', 'float inputs and outputs are a warning, not an error')
    .option('--require <what>', 'exit 0 only if it maps: partial, full or verified (see docs/cli.md)', 'full')
    .option('--rules', 'list every operator that can run on the Edge TPU, and its limits')
    .option('--explain', 'run the compiler and, where it fails without a reason, find the smallest part that it fails on')
    .option('--compiler <command>', 'edgetpu_compiler, or a command that runs it; REEF_EDGETPU_COMPILER, or the first on the search path where absent')
    .option('--compile-timeout <seconds>', 'for each run of the compiler', '180')
    .option('--save-part <file>', 'keep the smallest failing part, for a report')
    .addHelpText('after', '\nExit codes: 0 it maps as required, 1 it does not, 2 no readable model.\n\nExamples:\n  reef check model.tflite\n  reef check model.tflite --min-runtime 13 --require partial --json\n  reef check model.tflite --explain')
    .action(action(async ({ output }, path: string | undefined, flags: CheckFlags) => {
      const { checkModel, checkText, demands, rules, rulesText } = await import('../offline/check.ts');
      const { openModelFile } = await import('../offline/model-file.ts');
      if (flags.rules) {
        output.show(rules(), rulesText);
        return 0;
      }
      if (path === undefined) throw new ReefError('option.invalid', 'invalid', 'Name a .tflite file, or ask for --rules.');
      if (!demands.includes(flags.require as Demand)) throw new ReefError('option.invalid', 'invalid', `--require takes ${demands.join(', ')}, not "${flags.require}".`);
      const file = await openModelFile(path);
      const report = checkModel(file, { minRuntime: numberWithin('--min-runtime', flags.minRuntime, [10, 14], { whole: true }), allowFloatIo: flags.allowFloatIo ?? false, require: flags.require as Demand });
      if (!flags.explain) {
        output.show(report, () => checkText(report));
        return report.passed ? 0 : 1;
      }
      const { explain, explanationText } = await import('../offline/explain.ts');
      if (report.verdict === 'already_compiled') throw new ReefError('option.invalid', 'invalid', `${path} is compiled already: --explain takes the model it was made from.`);
      const timeoutS = Number(flags.compileTimeout);
      if (!Number.isInteger(timeoutS) || timeoutS < 1 || timeoutS > 21_600) throw new ReefError('option.invalid', 'invalid', `--compile-timeout takes seconds from 1 to 21600, not "${flags.compileTimeout}".`);
      const stop = new AbortController();
      // The compiler runs in a process group of its own, which Ctrl-C does not reach.
      process.once('SIGINT', () => stop.abort());
      const explanation = await explain(file, {
        compiler: flags.compiler ?? process.env.REEF_EDGETPU_COMPILER, runtime: report.runtime, timeoutS, onProgress: (text) => output.note(text), signal: stop.signal, ...(flags.savePart && { savePart: flags.savePart }),
      });
      output.show({ ...report, explanation }, () => `${checkText(report)}\n\n${explanationText(explanation)}`);
      return report.passed && explanation.compiled ? 0 : 1;
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
