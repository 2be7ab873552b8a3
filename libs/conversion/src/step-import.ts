import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Preprocessing } from '@reefkeeper/bundle';
import { analyze, looksLike, readModel } from '@reefkeeper/edgetpu';
import { ReefError } from '@reefkeeper/platform/errors';
import type { UploadedFile } from './job.ts';
import { importLearned, isLearned } from './learned-head.ts';
import type { PythonTools } from './python-tools.ts';
import { givenBorders, outputOf, type StepContext, type StepExecutor, type StepOutputs } from './steps.ts';
import { bordersOf, checkLabels, preprocessingFor } from './tensors.ts';

/** What no converter can start from, whatever its name says. */
const hopeless: ReadonlySet<string> = new Set(['empty', 'image', 'html', 'git-lfs', 'executable', 'pytorch', 'json', 'numpy']);

/** Raised whenever this step's answers change, so that earlier ones are not taken. */
const importEdition = 3;

/** Finds out what the source is, and refuses early what could only fail later. */
export function importStep(python: PythonTools): StepExecutor<'import'> {
  return {
    timeoutMs: 30 * 60_000,
    inputs: async (context) => {
      const { request } = context;
      return isLearned(context) ? { source: request.source.digest, learning: request.learning, edition: importEdition } : {
      source: request.source.digest, filename: request.source.filename, input: request.input, outputs: request.outputs, signature: request.signature,
      converter: request.converter, labels: request.labels?.length, task: request.task, calibrated: request.calibration !== null,
      edition: importEdition,
      // TensorFlow Lite files are read here, without Python.
      tools: request.source.filename.endsWith('.tflite') ? null : await python.toolset(),
      };
    },
    async run(context) {
      if (isLearned(context)) {
        const output = await importLearned(context);
        context.log(output.description);
        return { output };
      }
      const { request } = context;
      const path = await context.fetch(request.source.digest, `source/${request.source.filename}`);
      const stored = await context.objects.stat(request.source.digest);
      const bytes = await readFile(path);
      const kind = looksLike(bytes);
      if (hopeless.has(kind.kind)) throw new ReefError('source.unsupported', 'invalid', `${request.source.filename} is ${kind.description}. ${kind.advice}`, { detail: { filename: request.source.filename, kind: kind.kind } });
      const onnx = kind.kind === 'onnx' || (kind.kind === 'unknown' && request.source.filename.endsWith('.onnx'));
      const output = onnx ? await fromOnnx(context, path, stored, python) : kind.kind === 'tflite' ? fromTflite(request.source, bytes, stored) : await fromPython(context, path, stored, python);
      checkLabels(request.labels, request.task, output.outputs);
      if (needsCalibration(output) && !request.calibration) {
        throw new ReefError('calibration.missing', 'invalid', `${output.description} has to be quantised, which takes calibration samples: give an archive of about 100 typical images (or an .npz) as calibration.`);
      }
      for (const warning of output.warnings) context.log(warning, 'err');
      context.log(`${request.source.filename} is ${output.description}; inputs ${output.inputs.map(({ name, shape }) => `${name} [${shape.join(', ')}]`).join(', ')}`);
      return { output };
    },
  };
}

export function needsCalibration({ kind }: Pick<StepOutputs['import'], 'kind'>): boolean {
  return kind !== 'tflite_int8' && kind !== 'edgetpu';
}

/** Of the model's first input, as the user gave its shape or the model has it. */
export function preprocessingOf(context: Pick<StepContext, 'request' | 'outputs'>): Preprocessing {
  const own = outputOf(context, 'import').inputs[0]?.shape ?? [];
  const { shape } = givenBorders(context);
  // A shape may be given without the batch.
  const given = shape && shape.length === own.length - 1 ? [1, ...shape] : shape;
  return preprocessingFor(given ?? own, context.request.preprocessing);
}

function fromTflite({ filename, digest }: UploadedFile, bytes: Buffer, source: StepOutputs['import']['source']): StepOutputs['import'] {
  const model = readModel(bytes);
  const { verdict, faults } = analyze(model);
  const kind = verdict === 'already_compiled' ? 'edgetpu' : faults.some(({ code }) => code === 'quant.not_quantized') ? 'tflite_float' : 'tflite_int8';
  const description = { edgetpu: 'A model compiled for the Edge TPU', tflite_float: 'A float TensorFlow Lite model', tflite_int8: 'A quantised TensorFlow Lite model' }[kind];
  // A name proves nothing: many such files come out of exports that never ran the compiler.
  const misnamed = kind !== 'edgetpu' && filename.endsWith('_edgetpu.tflite');
  const warnings = misnamed ? [`${filename} calls itself compiled for the Edge TPU, but holds no edgetpu-custom-op: it is taken as what it is, ${description[0]!.toLowerCase()}${description.slice(1)} that is not compiled.`] : [];
  return { kind, source, model: { digest, filename, bytes: bytes.length }, description, ...bordersOf(model), signature: null, warnings, tools: {} };
}

async function fromPython(context: StepContext, source: string, stored: StepOutputs['import']['source'], python: PythonTools): Promise<StepOutputs['import']> {
  const { kind, description, inputs, outputs, signature, tools } = await python.inspectSource(context, source);
  return { kind, source: stored, model: { ...context.request.source, bytes: stored.bytes }, description, inputs, outputs, signature, warnings: [], tools };
}

/** Later steps read the float model that it is turned into, with channels last, as devices have images. */
async function fromOnnx(context: StepContext, source: string, stored: StepOutputs['import']['source'], python: PythonTools): Promise<StepOutputs['import']> {
  const output = join(context.workDir, 'from-onnx.tflite');
  const { maxError, tools } = await python.fromOnnx(context, { source, output });
  const bytes = await readFile(output);
  const { digest } = await context.keep(bytes, { mediaType: 'application/vnd.tensorflow.lite', role: 'model' });
  context.log(`turned into float TensorFlow Lite with channels last; answers differ from ONNX Runtime's by at most ${maxError.toPrecision(2)}`);
  const filename = `${context.request.source.filename.replace(/\.onnx$/, '')}.tflite`;
  return { ...fromTflite({ digest, filename }, bytes, stored), description: 'An ONNX model', tools };
}
