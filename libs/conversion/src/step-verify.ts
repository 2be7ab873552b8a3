import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { encodeGolden, type Dtype, type TensorSpec } from '@reefkeeper/bundle';
import { dequantise, openInferenceHost, type LoadedModel, type TensorInfo } from '@reefkeeper/inference';
import { ReefError } from '@reefkeeper/platform/errors';
import { randomOf } from '@reefkeeper/platform/random';
import { chooseGolden, type Candidate } from './golden-choice.ts';
import { isLearned, verifyLearned } from './learned-head.ts';
import { readNpz, type NpyArray } from './npz.ts';
import { compare, judgeParity } from './parity.ts';
import type { ComparedTensor, SamplePair } from './parity-samples.ts';
import { needsCalibration, preprocessingOf } from './step-import.ts';
import type { PythonTools } from './python-tools.ts';
import { outputOf, type StepContext, type StepExecutor, type StepOutputs } from './steps.ts';
import { checkLabels, quantise } from './tensors.ts';

/** More samples cost minutes and say little more; more bytes cost memory, in the child and here. */
const mostSamples = 500;
const mostSampleBytes = 128 * 1024 * 1024;
const verifyEdition = 2;

interface Samples {
  /** Per sample and input: real numbers. */
  inputs: Float32Array[][];
  /** The original's answers; null where there is no float original. */
  outputs: Float32Array[][] | null;
  labels: (number | null)[];
  tools: Record<string, string>;
}

/** Runs original and quantised model on the same samples, holds them against each other, and keeps golden cases for the devices. */
export function verifyStep(python: PythonTools): StepExecutor<'verify'> {
  return {
    timeoutMs: 60 * 60_000,
    inputs: async (context) => {
      const { request } = context;
      if (isLearned(context)) return { model: outputOf(context, 'convert').model.digest, learning: request.learning, source: request.source.digest, edition: verifyEdition };
      return {
        model: outputOf(context, 'convert').model.digest, source: request.source.digest, samples: (request.evaluation ?? request.calibration)?.digest, evaluation: request.evaluation?.digest,
        labels: request.labels, task: request.task, thresholds: request.thresholds, allowWorse: request.allowWorse, preprocessing: preprocessingOf(context), edition: verifyEdition,
        tools: needsCalibration(outputOf(context, 'import')) ? await python.toolset() : null,
      };
    },
    async run(context) {
      const { request } = context;
      const source = outputOf(context, 'import');
      const converted = outputOf(context, 'convert');
      checkLabels(request.labels, request.task, converted.outputs);
      if (source.kind === 'edgetpu') return { skipped: 'The source is compiled already: there is no original to compare with, and it runs only on an Edge TPU.' };
      if (isLearned(context)) return { output: await verifyLearned(context, converted) };

      const { samples, answers, parity } = await examine(context, python, converted);
      if (parity) {
        context.log(`agreement ${parity.agreement ?? 'n/a'} on ${parity.samples} samples; ${parity.accuracy ? `accuracy ${parity.accuracy.float} before, ${parity.accuracy.int8} after` : 'no labels'}`);
        for (const finding of parity.findings ?? []) context.log(`${finding.severity}: ${finding.message} (${finding.code})`, 'err');
        const verdict = judgeParity(parity, request.thresholds);
        if (!verdict.ok) {
          await context.record({ parity });
          if (!request.allowWorse) throw new ReefError(verdict.code, 'invalid', verdict.message, { detail: verdict.numbers });
          parity.findings = [...(parity.findings ?? []), { code: 'verify.published_worse', severity: 'warning', message: `Published although: ${verdict.message}` }];
        }
      }
      const cases = chooseGolden(answers.map(({ candidate }) => candidate), converted.outputs.map(({ dtype }) => dtype), request.task);
      const golden = await context.keep(encodeGolden({ cases }), { mediaType: 'application/vnd.reefkeeper.golden', role: 'golden' });
      return { output: { parity, golden: { ...golden, cases: cases.length }, labels: request.labels, tools: samples.tools } };
    },
  };
}

/** Both models' answers on the same samples. */
export async function examine(context: StepContext, python: PythonTools, converted: StepOutputs['convert'], most = mostSamples) {
  const { request } = context;
  const samples = needsCalibration(outputOf(context, 'import')) ? await fromOriginal(context, python, converted, most) : invented(converted.inputs);
  const answers = await answersOf(context, converted, samples);
  const pairs = samples.outputs?.map((float, index): SamplePair => ({ inputs: samples.inputs[index]!, float, int8: answers[index]!.real, label: samples.labels[index]! })) ?? [];
  const parity = samples.outputs && compare(pairs, {
    task: request.task, inputs: converted.inputs.map(compared), outputs: converted.outputs.map(compared), labels: request.labels,
    sameAsCalibration: !request.evaluation, conversionWarnings: converted.warnings,
  });
  return { samples, answers, parity };
}

async function fromOriginal(context: StepContext, python: PythonTools, { inputs, outputs, converter }: StepOutputs['convert'], most: number): Promise<Samples> {
  const { request } = context;
  const file = request.evaluation ?? request.calibration!;
  const { model, signature } = outputOf(context, 'import');
  const source = await context.fetch(model.digest, `source/${model.filename}`);
  const samples = await context.fetch(file.digest, `samples/${file.filename}`);
  const output = join(context.workDir, 'original.npz');
  const sampleBytes = 4 * [...inputs, ...outputs].reduce((sum, spec) => sum + sizeOf(spec), 0);
  const limit = Math.max(8, Math.min(most, Math.floor(mostSampleBytes / sampleBytes)));
  const result = await python.evaluate(context, converter!, { source, filename: model.filename, samples, samplesFilename: file.filename, output, preprocessing: preprocessingOf(context), signature, limit });
  const arrays = readNpz(await readFile(output));
  const rows = (kind: string, specs: readonly TensorSpec[]) => transpose(specs.map((spec, index) => split(arrays.get(`${kind}_${index}`), spec, `${kind} ${index}`)));
  return { inputs: rows('input', inputs), outputs: rows('output', outputs), labels: labelsOf(result.labels, request.labels, context), tools: result.tools };
}

function compared({ name, shape, dtype, scale, zeroPoint }: TensorSpec): ComparedTensor {
  if (scale === null || (dtype !== 'int8' && dtype !== 'uint8')) return { name, shape, range: null };
  const [low, high] = dtype === 'int8' ? [-128, 127] : [0, 255];
  return { name, shape, range: { low: (low - (zeroPoint ?? 0)) * scale, high: (high - (zeroPoint ?? 0)) * scale, step: scale } };
}

/** One row per sample. @throws ReefError `verify.shape_differs` */
function split(array: NpyArray | undefined, spec: TensorSpec, what: string): Float32Array[] {
  const size = sizeOf(spec);
  const count = array?.shape[0] ?? 0;
  if (!array || count === 0) throw new ReefError('samples.empty', 'invalid', 'There are no samples to verify the model with. Give an archive with images, or an .npz with arrays.');
  if (array.data.length !== count * size) {
    throw new ReefError('verify.shape_differs', 'bug', `The original's ${what} has shape [${array.shape.join(', ')}], the quantised model's [${spec.shape.join(', ')}]: they cannot be compared.`);
  }
  return Array.from({ length: count }, (_, at) => array.data.subarray(at * size, (at + 1) * size));
}

function sizeOf({ shape }: Pick<TensorSpec, 'shape'>): number {
  return shape.reduce((product, part) => product * part, 1);
}

function transpose(columns: Float32Array[][]): Float32Array[][] {
  return (columns[0] ?? []).map((_, row) => columns.map((column) => column[row]!));
}

/** Sample labels are class names or indexes. */
function labelsOf(given: (string | number | null)[], names: readonly string[] | null, context: StepContext): (number | null)[] {
  const unknown = new Set<string>();
  const known = given.map((label) => {
    if (label === null || label === '') return null;
    const index = names ? names.indexOf(`${label}`) : -1;
    if (index >= 0) return index;
    if (/^\d+$/.test(`${label}`)) return Number(label);
    unknown.add(`${label}`);
    return null;
  });
  if (unknown.size > 0) context.log(`Labels of samples that are not among the version's labels, and so not counted: ${[...unknown].slice(0, 10).join(', ')}`, 'err');
  return known;
}

/** For a source that was quantised elsewhere: repeatable noise over the input's range, enough for devices to prove they compute the same. */
function invented(specs: StepOutputs['convert']['inputs']): Samples {
  const next = randomOf(0x9e37_79b9);
  const inputs = Array.from({ length: 16 }, () => specs.map((spec) => {
    const low = spec.dtype === 'uint8' ? 0 : -128;
    return Float32Array.from({ length: sizeOf(spec) }, () => (low + Math.floor(next() * 256) - (spec.zeroPoint ?? 0)) * (spec.scale ?? 1 / 128));
  }));
  return { inputs, outputs: null, labels: inputs.map(() => null), tools: {} };
}

/** The quantised model's answers, from the runtime that devices use, in a child that may die without taking the worker along. */
async function answersOf(context: StepContext, { model, inputs, outputs }: StepOutputs['convert'], samples: Samples): Promise<{ candidate: Candidate; real: Float32Array[] }[]> {
  const path = await context.fetch(model.digest, 'model.tflite');
  const host = openInferenceHost();
  const stop = () => void host.close();
  context.signal.addEventListener('abort', stop, { once: true });
  try {
    const loaded = await host.load({ path, digest: model.digest });
    const answers = [];
    for (const [index, sample] of samples.inputs.entries()) {
      context.signal.throwIfAborted();
      const input = sample.map((values, at) => quantise(values, inputs[at]!));
      answers.push(await answer(loaded, input, outputs));
      if (index % 10 === 0) context.progress(60 + (40 * index) / samples.inputs.length, `sample ${index + 1} of ${samples.inputs.length} on TensorFlow Lite ${loaded.tfliteVersion}`);
    }
    return answers;
  } finally {
    context.signal.removeEventListener('abort', stop);
    await host.close();
  }
}

async function answer(loaded: LoadedModel, input: Buffer[], outputs: readonly TensorSpec[]): Promise<{ candidate: Candidate; real: Float32Array[] }> {
  const raw = (await loaded.infer(input)).outputs.map((bytes) => Buffer.from(bytes));
  return { candidate: { input, outputs: raw }, real: raw.map((bytes, at) => dequantise(bytes, outputs[at] as { dtype: Dtype & TensorInfo['dtype']; scale: number | null; zeroPoint: number | null })) };
}
