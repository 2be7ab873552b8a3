import { inspectCompiled, latencyFeatures, predictLatency, readModel, type Analysis } from '@reefkeeper/edgetpu';
import { readWhole, type StoredObject } from '@reefkeeper/platform';
import { outputOf, type StepContext, type StepExecutor } from './steps.ts';

const inspectEdition = 2;

/** Reads compiled files back: what the compiler really made, and how fast it should be. */
export const inspectStep: StepExecutor<'inspect'> = {
  timeoutMs: 5 * 60_000,
  inputs: async (context) => ({ compiled: context.outputs.compile?.compiled.map(({ model }) => model.digest), pipelines: context.outputs.compile?.pipelines?.map(({ segments }) => segments.map(({ digest }) => digest)), model: outputOf(context, 'convert').model.digest, edition: inspectEdition }),
  async run(context) {
    const converted = outputOf(context, 'convert');
    const direct = outputOf(context, 'import').kind === 'edgetpu';
    const files = direct ? [converted.model] : (context.outputs.compile?.compiled.map(({ model }) => model) ?? []);
    const pipelines = context.outputs.compile?.pipelines ?? [];
    if (files.length + pipelines.length === 0) return { skipped: 'Nothing was compiled.' };
    const source = direct ? null : readModel(await readWhole(context.objects, converted.model.digest));
    const compiled = [];
    for (const model of files) {
      const { parts, inputs: _inputs, outputs: _outputs, ...facts } = inspectCompiled(await readWhole(context.objects, model.digest));
      const features = source && latencyFeatures(source, outputOf(context, 'analyze').analysis as unknown as Analysis, facts);
      const details = { ...facts, parts: parts.length, features, latency: features && { usb3: predictLatency(features, 'usb3'), usb2: predictLatency(features, 'usb2') } };
      context.log(`runtime ${facts.minRuntime} or newer; ${facts.onChipBytes} bytes on the chip, ${facts.streamedBytes} streamed; on the CPU: ${JSON.stringify(facts.cpuOps)}`);
      compiled.push({ minRuntime: facts.minRuntime, model, details });
    }
    return { output: { compiled, pipelines: await Promise.all(pipelines.map(async ({ segments }) => inspectPipeline(context, segments))) } };
  },
};

async function inspectPipeline(context: Pick<StepContext, 'objects' | 'log'>, segments: StoredObject[]): Promise<{ minRuntime: number; segments: { model: StoredObject; details: Record<string, unknown> }[] }> {
  const read = await Promise.all(segments.map(async ({ digest }) => inspectCompiled(await readWhole(context.objects, digest))));
  for (const [index, facts] of read.entries()) context.log(`segment ${index + 1} of ${read.length}: ${facts.onChipBytes} bytes on its chip, ${facts.streamedBytes} streamed; on the CPU: ${JSON.stringify(facts.cpuOps)}`);
  return {
    minRuntime: Math.max(...read.map(({ minRuntime }) => minRuntime)),
    segments: segments.map((model, index) => {
      const { parts, ...facts } = read[index]!;
      return { model, details: { ...facts, parts: parts.length } };
    }),
  };
}
