import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { analyze, closeOpenShapes, readModel } from '@reefkeeper/edgetpu';
import { ReefError } from '@reefkeeper/platform/errors';
import { better, flawOf, type Attempt } from './converters.ts';
import type { Converter } from './job.ts';
import { isLearned, learnedInputs, withLearnedHead } from './learned-head.ts';
import { judgeParity } from './parity.ts';
import { needsCalibration, preprocessingOf } from './step-import.ts';
import { examine } from './step-verify.ts';
import type { PythonTools } from './python-tools.ts';
import { outputOf, type StepContext, type StepExecutor, type StepOutputs } from './steps.ts';
import { bordersOf, checkLabels, preprocessingFor } from './tensors.ts';

/** Raised whenever this step's answers change, so that earlier ones are not taken. */
const convertEdition = 2;
/** For choosing a converter; the report is made of all samples. */
const samplesToChoose = 100;
const tflite = { mediaType: 'application/vnd.tensorflow.lite', role: 'model' };

/** Full-integer quantisation with batch 1; a source that is quantised already passes through. */
export function convertStep(python: PythonTools): StepExecutor<'convert'> {
  return {
    timeoutMs: 90 * 60_000,
    inputs: async (context) => {
      const { request } = context;
      if (isLearned(context)) return { source: request.source.digest, learning: request.learning, edition: convertEdition };
      return {
        source: request.source.digest, filename: request.source.filename, calibration: request.calibration?.digest, input: request.input, outputs: request.outputs,
        signature: request.signature, preprocessing: preprocessingOf(context), labels: request.labels?.length, task: request.task, allowFloatOps: request.allowFloatOps, converters: await convertersFor(context, python), edition: convertEdition,
        tools: needsCalibration(outputOf(context, 'import')) ? await python.toolset() : null,
      };
    },
    async run(context) {
      const source = outputOf(context, 'import');
      if (isLearned(context)) {
        const output = await described(context, await withLearnedHead(context, source.model.digest), { converter: null, calibrationSamples: 0, warnings: [], tools: {} });
        return { output: { ...output, inputs: await learnedInputs(context) } };
      }
      const path = await context.fetch(source.model.digest, `source/${source.model.filename}`);
      if (needsCalibration(source)) return { output: await best(context, path, python) };
      return { output: await described(context, await sound(path, source), { converter: null, calibrationSamples: 0, warnings: [], tools: {} }) };
    },
  };
}

/** Those that may be used, best first. One that is not installed is installed only when it is asked for by name. */
async function convertersFor(context: StepContext, python: PythonTools): Promise<Converter[]> {
  const first = python.first(context);
  return context.request.converter === 'auto' && (await python.has('tf2.15')) ? [first, 'tf2.15'] : [first];
}

/** The first result without a flaw, or the better one of all; what was tried and why is in the log. */
async function best(context: StepContext, path: string, python: PythonTools): Promise<StepOutputs['convert']> {
  const order = await convertersFor(context, python);
  const attempts: Attempt[] = [];
  for (const [index, converter] of order.entries()) {
    const attempt = await tried(context, path, python, converter, order.length > 1);
    attempts.push(attempt);
    const flaw = flawOf(attempt);
    if (!flaw) break;
    context.log(`${converter}: ${flaw}${index + 1 < order.length ? `; trying ${order[index + 1]!}` : ''}`, 'err');
  }
  const kept = attempts.reduce(better);
  if (!kept.output) throw kept.error ?? new Error('nothing was tried');
  if (attempts.length > 1) context.log(`kept the result of ${kept.converter}`);
  return kept.output;
}

async function tried(context: StepContext, path: string, python: PythonTools, converter: Converter, compared: boolean): Promise<Attempt> {
  try {
    const output = await quantised(context, path, python, converter);
    if (!compared) return { converter, output };
    const analysis = analyze(readModel(await readFile(resultOf(context, converter))), { allowFloatIo: context.request.allowFloatOps });
    const { parity } = await examine(context, python, output, samplesToChoose);
    const verdict = parity && judgeParity(parity, context.request.thresholds);
    return { converter, output, cpuOps: analysis.refused ? analysis.ops.length : analysis.cpuOps, agreement: parity?.agreement ?? null, disagrees: verdict && !verdict.ok ? verdict.message : null };
  } catch (error) {
    // A cancelled or timed out run is over; what this TensorFlow cannot do, another one may.
    if (!compared || context.signal.aborted || !(error instanceof ReefError) || error.retryable) throw error;
    return { converter, error };
  }
}

const resultOf = (context: StepContext, converter: Converter) => join(context.workDir, `${converter}.tflite`);

async function quantised(context: StepContext, path: string, python: PythonTools, converter: Converter): Promise<StepOutputs['convert']> {
  const { filename, digest } = context.request.calibration!;
  const { model, signature } = outputOf(context, 'import');
  const calibration = await context.fetch(digest, `calibration/${filename}`);
  const output = resultOf(context, converter);
  const { calibrationSamples, warnings, tools } = await python.convert(context, converter, { source: path, filename: model.filename, calibration, output, preprocessing: preprocessingOf(context), signature });
  return described(context, await readFile(output), { converter, calibrationSamples, warnings, tools: { ...tools, converter } });
}

async function described(context: StepContext, bytes: Buffer, about: Pick<StepOutputs['convert'], 'converter' | 'calibrationSamples' | 'warnings' | 'tools'>): Promise<StepOutputs['convert']> {
  const { request } = context;
  const borders = bordersOf(readModel(bytes));
  checkLabels(request.labels, request.task, borders.outputs);
  const model = await context.keep(bytes, tflite);
  for (const warning of about.warnings) context.log(warning, 'err');
  context.log(`cpu-int8 model of ${model.bytes} bytes, ${model.digest}`);
  return { ...about, model, inputs: borders.inputs.map((spec) => ({ ...spec, preprocessing: preprocessingFor(spec.shape, request.preprocessing) })), outputs: borders.outputs };
}

/** As it came, but with open sizes closed, which the compiler would refuse. */
async function sound(path: string, { kind }: StepOutputs['import']): Promise<Buffer> {
  const bytes = await readFile(path);
  if (kind === 'edgetpu') return bytes;
  const model = readModel(bytes);
  return analyze(model).faults.some(({ code }) => code === 'shape.open_signature') ? Buffer.from(closeOpenShapes(model)) : bytes;
}
