import { analyze, readModel, type Fault } from '@reefkeeper/edgetpu';
import { readWhole } from '@reefkeeper/platform';
import { ReefError } from '@reefkeeper/platform/errors';
import { outputOf, type StepExecutor } from './steps.ts';

/** Raised whenever the analyzer's answers change, so that earlier ones are not taken. */
const analyzerEdition = 4;

const mostNamed = 5;

/** Operator-level pre-flight of the quantised model. */
export const analyzeStep: StepExecutor<'analyze'> = {
  timeoutMs: 5 * 60_000,
  inputs: async (context) => ({ model: outputOf(context, 'convert').model.digest, edition: analyzerEdition, runtimes: context.request.runtimes, allowFloatIo: context.request.allowFloatOps }),
  async run(context) {
    const model = readModel(await readWhole(context.objects, outputOf(context, 'convert').model.digest));
    const runtimes = context.request.runtimes ?? [];
    const allowFloatIo = context.request.allowFloatOps;
    const analysis = analyze(model, { allowFloatIo, ...(runtimes.length > 0 && { minRuntime: Math.max(...runtimes) }) });
    const shown = { ...analysis } as unknown as Record<string, unknown>;
    context.log(analysis.summary);
    for (const fault of analysis.faults) context.log(`${fault.severity}: ${fault.message} (${fault.code})`, fault.severity === 'error' ? 'err' : 'out');
    const wrong = analysis.faults.filter(breaksEverywhere);
    if (wrong[0]) {
      await context.record({ analysis: shown });
      throw new ReefError(wrong[0].code, 'invalid', refusal(wrong), { detail: { faults: wrong.map(({ code, message, tensor = null, op = null }) => ({ code, message, tensor, op })) } });
    }
    const stops = analysis.faults.find(({ severity }) => severity === 'error');
    const eligible = analysis.verdict !== 'already_compiled' && !stops;
    return { output: { analysis: shown, eligible, reason: analysis.verdict === 'already_compiled' ? 'The model is compiled already.' : stops?.message ?? null } };
  },
};

/** Every place at once, so that one more export is enough. */
function refusal(faults: readonly Fault[]): string {
  const more = faults.length - mostNamed;
  const border = faults.some(({ code }) => code === 'quant.float_input' || code === 'quant.float_output');
  return [...faults.slice(0, mostNamed).map(({ message }) => message), ...(more > 0 ? [`And ${more} more faults.`] : []), ...(border ? ['With allowFloatOps (--allow-float-ops) float inputs and outputs are only a warning.'] : [])].join(' ');
}

/**
 * Faults that make the model wrong or unusable on any device (float parts, open shapes, per-channel dense layers, which TensorFlow
 * Lite 2.9 computes wrongly without a word). The others only keep it off the Edge TPU.
 */
function breaksEverywhere({ severity, code }: Fault): boolean {
  return severity === 'error' && (code.startsWith('quant.') || code.startsWith('shape.'));
}
