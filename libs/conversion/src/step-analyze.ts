import { analyze, readModel, type Fault } from '@reefkeeper/edgetpu';
import { readWhole } from '@reefkeeper/platform';
import { ReefError } from '@reefkeeper/platform/errors';
import { outputOf, type StepExecutor } from './steps.ts';

/** Raised whenever the analyzer's answers change, so that earlier ones are not taken. */
const analyzerEdition = 1;

/** Operator-level pre-flight of the quantised model. */
export const analyzeStep: StepExecutor<'analyze'> = {
  timeoutMs: 5 * 60_000,
  inputs: async (context) => ({ model: outputOf(context, 'convert').model.digest, edition: analyzerEdition, runtimes: context.request.runtimes }),
  async run(context) {
    const model = readModel(await readWhole(context.objects, outputOf(context, 'convert').model.digest));
    const runtimes = context.request.runtimes ?? [];
    const analysis = analyze(model, runtimes.length > 0 ? { minRuntime: Math.max(...runtimes) } : {});
    const shown = { ...analysis } as unknown as Record<string, unknown>;
    context.log(analysis.summary);
    for (const fault of analysis.faults) context.log(`${fault.severity}: ${fault.message} (${fault.code})`, fault.severity === 'error' ? 'err' : 'out');
    const wrong = analysis.faults.find(breaksEverywhere);
    if (wrong) {
      await context.record({ analysis: shown });
      throw new ReefError(wrong.code, 'invalid', wrong.message, { detail: { tensor: wrong.tensor ?? null, op: wrong.op ?? null, faults: analysis.faults.length } });
    }
    const stops = analysis.faults.find(({ severity }) => severity === 'error');
    const eligible = analysis.verdict !== 'already_compiled' && !stops;
    return { output: { analysis: shown, eligible, reason: analysis.verdict === 'already_compiled' ? 'The model is compiled already.' : stops?.message ?? null } };
  },
};

/**
 * Faults that make the model wrong or unusable on any device (float parts, open shapes, per-channel dense layers, which TensorFlow
 * Lite 2.9 computes wrongly without a word). The others only keep it off the Edge TPU.
 */
function breaksEverywhere({ severity, code }: Fault): boolean {
  return severity === 'error' && (code.startsWith('quant.') || code.startsWith('shape.'));
}
