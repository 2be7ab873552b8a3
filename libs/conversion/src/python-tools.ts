import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import type { Preprocessing } from '@reefkeeper/bundle';
import { ReefError } from '@reefkeeper/platform/errors';
import { runPython } from './python-child.ts';
import { ensurePythonEnv } from './python-env.ts';
import type { StepContext } from './steps.ts';

const tensors = z.array(z.object({ name: z.string(), shape: z.array(z.number().int().nullable()), dtype: z.string() }));
const tools = z.record(z.string(), z.string()).default({});

const inspected = z.object({
  kind: z.enum(['saved_model', 'frozen_graph', 'keras', 'tflite_float']), description: z.string(), signature: z.string().nullable().default(null), inputs: tensors, outputs: tensors, tools,
});
const converted = z.object({ calibrationSamples: z.number().int().nonnegative(), warnings: z.array(z.string()).default([]), tools });
const evaluated = z.object({ samples: z.number().int().nonnegative(), labels: z.array(z.union([z.string(), z.number()]).nullable()), tools });

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

/** The Python package `reef_convert`, one child process per call: TensorFlow's native code may crash, and only the child with it. */
export class PythonTools {
  private digest: Promise<string> | undefined;
  private env: Promise<{ python: string }> | undefined;

  constructor(private readonly options: PythonOptions) {}

  /** Names everything a result depends on besides its inputs: the package's sources with its pinned requirements. */
  async toolset(): Promise<string> {
    this.digest ??= digestOf(packageDir);
    return this.digest;
  }

  async inspectSource(context: StepContext, source: string) {
    return inspected.parse(await this.call(context, 'inspect-source', this.about(context, source, context.request.signature ?? null), inspectMs));
  }

  /** Full-integer quantisation into `output`. */
  async convert(context: StepContext, given: { source: string; calibration: string; output: string; preprocessing: Preprocessing; signature: string | null }) {
    const request = { ...this.about(context, given.source, given.signature), calibration: given.calibration, calibrationFilename: context.request.calibration!.filename, preprocessing: given.preprocessing, output: given.output, allowFloatOps: context.request.allowFloatOps };
    return converted.parse(await this.call(context, 'convert', request, convertMs));
  }

  /** The original's answers to samples, with the inputs it was given, into the `.npz` file `output`. */
  async evaluate(context: StepContext, given: { source: string; samples: string; samplesFilename: string; output: string; preprocessing: Preprocessing; signature: string | null; limit: number }) {
    const { source, signature, ...rest } = given;
    return evaluated.parse(await this.call(context, 'evaluate', { ...this.about(context, source, signature), ...rest }, convertMs));
  }

  private about({ request }: StepContext, source: string, signature: string | null) {
    return { source, filename: request.source.filename, signature, inputName: request.input.name ?? null, inputShape: request.input.shape ?? null, outputNames: request.outputs ?? null };
  }

  private async call(context: StepContext, command: 'inspect-source' | 'convert' | 'evaluate', request: Record<string, unknown>, timeoutMs: number): Promise<unknown> {
    const { python } = await this.open(context);
    return runPython({
      python, command, request, workDir: context.workDir, signal: context.signal, timeoutMs, maxRssBytes: this.options.maxRssBytes ?? 3 * 1024 ** 3,
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
  private async open(context: StepContext): Promise<{ python: string }> {
    const opening = this.env ?? ensurePythonEnv({ root: this.options.envDir, python: this.options.python, onProgress: (message) => { context.progress(null, message); context.log(message); }, signal: context.signal });
    this.env = opening;
    return opening.catch((error: unknown) => {
      if (this.env === opening) this.env = undefined;
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
