import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { analyze, closeOpenShapes, readModel } from '@reefkeeper/edgetpu';
import { needsCalibration } from './step-import.ts';
import type { PythonTools } from './python-tools.ts';
import { outputOf, type StepContext, type StepExecutor, type StepOutputs } from './steps.ts';
import { bordersOf, checkLabels, preprocessingFor } from './tensors.ts';

const tflite = { mediaType: 'application/vnd.tensorflow.lite', role: 'model' };

/** Full-integer quantisation with batch 1; a source that is quantised already passes through. */
export function convertStep(python: PythonTools): StepExecutor<'convert'> {
  return {
    timeoutMs: 90 * 60_000,
    inputs: async (context) => {
      const { request } = context;
      return {
        source: request.source.digest, filename: request.source.filename, calibration: request.calibration?.digest, input: request.input, outputs: request.outputs,
        signature: request.signature, preprocessing: preprocessingOf(context), labels: request.labels?.length, task: request.task, allowFloatOps: request.allowFloatOps,
        tools: needsCalibration(outputOf(context, 'import')) ? await python.toolset() : null,
      };
    },
    async run(context) {
      const source = outputOf(context, 'import');
      const { request } = context;
      const path = await context.fetch(request.source.digest, `source/${request.source.filename}`);
      const converted = needsCalibration(source) ? await quantised(context, path, source, python) : { bytes: await sound(path, source), calibrationSamples: 0, warnings: [], tools: {} };
      const borders = bordersOf(readModel(converted.bytes));
      checkLabels(request.labels, request.task, borders.outputs);
      const model = await context.keep(converted.bytes, tflite);
      for (const warning of converted.warnings) context.log(warning, 'err');
      context.log(`cpu-int8 model of ${model.bytes} bytes, ${model.digest}`);
      const { calibrationSamples, warnings, tools } = converted;
      return {
        output: {
          model, calibrationSamples, warnings, tools,
          inputs: borders.inputs.map((spec) => ({ ...spec, preprocessing: preprocessingFor(spec.shape, request.preprocessing) })), outputs: borders.outputs,
        },
      };
    },
  };
}

/** Of the source's first input, as the user gave its shape or the source has it. */
export function preprocessingOf(context: StepContext) {
  const own = outputOf(context, 'import').inputs[0]?.shape ?? [];
  const { shape } = context.request.input;
  // A shape may be given without the batch.
  const given = shape && shape.length === own.length - 1 ? [1, ...shape] : shape;
  return preprocessingFor(given ?? own, context.request.preprocessing);
}

async function quantised(context: StepContext, source: string, found: StepOutputs['import'], python: PythonTools) {
  const { filename, digest } = context.request.calibration!;
  const calibration = await context.fetch(digest, `calibration/${filename}`);
  const output = join(context.workDir, 'converted.tflite');
  const result = await python.convert(context, { source, calibration, output, preprocessing: preprocessingOf(context), signature: found.signature });
  return { bytes: await readFile(output), calibrationSamples: result.calibrationSamples, warnings: result.warnings, tools: result.tools };
}

/** As it came, but with open sizes closed, which the compiler would refuse. */
async function sound(path: string, { kind }: StepOutputs['import']): Promise<Buffer> {
  const bytes = await readFile(path);
  if (kind === 'edgetpu') return bytes;
  const model = readModel(bytes);
  return analyze(model).faults.some(({ code }) => code === 'shape.open_signature') ? Buffer.from(closeOpenShapes(model)) : bytes;
}
