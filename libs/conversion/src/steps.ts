import type { Lineage, Parity, Preprocessing, Task, TensorSpec } from '@reefkeeper/bundle';
import type { Logger, ObjectStore, StoredObject } from '@reefkeeper/platform';
import type { Publication } from '@reefkeeper/registry';
import type { AttemptBook } from './attempts.ts';
import type { BuildRequest, Converter, StepName, UploadedFile } from './job.ts';
import type { TrainingOutput } from './training-report.ts';

export type SourceKind = 'saved_model' | 'frozen_graph' | 'keras' | 'tflite_float' | 'tflite_int8' | 'edgetpu';

/** What each step leaves for the later ones. JSON only; files are named by digest. */
export interface StepOutputs {
  train: TrainingOutput;
  /** `model` is what later steps read: the source, or what an ONNX source was turned into. */
  import: { kind: SourceKind; source: StoredObject; model: UploadedFile & { bytes: number }; description: string; inputs: { name: string; shape: (number | null)[]; dtype: string }[]; outputs: { name: string; shape: (number | null)[]; dtype: string }[]; signature: string | null; warnings: string[]; tools: Record<string, string> };
  convert: { model: StoredObject; inputs: (TensorSpec & { preprocessing: Preprocessing })[]; outputs: TensorSpec[]; calibrationSamples: number; converter: Converter | null; warnings: string[]; tools: Record<string, string> };
  analyze: { analysis: Record<string, unknown>; eligible: boolean; reason: string | null };
  verify: { parity: Parity | null; golden: (StoredObject & { cases: number }) | null; labels: string[] | null; tools: Record<string, string> };
  compile: {
    compiled: { runtime: number; model: StoredObject; report: Record<string, unknown>; nondeterministic?: string | null }[];
    /** Cut into segments, one file for each Edge TPU. */
    pipelines?: { runtime: number; segments: StoredObject[]; nondeterministic: string | null }[];
    /** Wanted runtimes that came to nothing, while others did not; null = the compiler's default. */
    failed?: { runtime: number | null; segments?: number; code: string; message: string }[];
    compilerVersion: string | null;
  };
  inspect: {
    compiled: { minRuntime: number; model: StoredObject; details: Record<string, unknown> }[];
    pipelines?: { minRuntime: number; segments: { model: StoredObject; details: Record<string, unknown> }[] }[];
  };
  bundle: Publication;
}

export interface StepContext {
  jobId: string;
  version: { id: string; model: string; version: number; task: Task; createdAt: Date; parent: string | null };
  request: BuildRequest;
  /** Of the steps before; null for a skipped one. */
  outputs: { [K in StepName]?: StepOutputs[K] | null };
  /** An empty folder of this run alone, removed afterwards. */
  workDir: string;
  /** Aborted on cancel, timeout, lost ownership and worker stop. Children must be gone soon after. */
  signal: AbortSignal;
  objects: ObjectStore;
  logger: Logger;
  progress(percent: number | null, message?: string): void;
  log(text: string, stream?: 'out' | 'err'): void;
  /** Of the compiler, in this job and all others. */
  attempts: AttemptBook;
  /** Shows findings on the version at once, also when the step then refuses it. */
  record(found: { analysis?: Record<string, unknown>; parity?: Parity }): Promise<void>;
  /** Brings an object into the work folder. */
  fetch(digest: string, filename: string): Promise<string>;
  /** Stores a file or bytes. */
  keep(content: string | Buffer, about: { mediaType: string; role: string }): Promise<StoredObject>;
}

/** `reusable` false: another job on the same inputs does the work again. */
export type StepResult<K extends StepName> = { output: StepOutputs[K]; reusable?: boolean } | { skipped: string };

export interface StepExecutor<K extends StepName> {
  timeoutMs: number;
  /**
   * Everything the result depends on: input digests, options, tool versions. JSON. null = never taken from an earlier run.
   */
  inputs(context: StepContext): Promise<unknown>;
  run(context: StepContext): Promise<StepResult<K>>;
}

/** A step cannot lack an executor. */
export type Executors = { [K in StepName]: StepExecutor<K> };

/** What the user said of the source's inputs and outputs; nothing once it has been turned into another model, which says all itself. */
export function givenBorders({ request, outputs: { import: source } }: Pick<StepContext, 'request' | 'outputs'>): { name?: string | undefined; shape?: number[] | undefined; outputs?: string[] | undefined } {
  return source && source.model.digest !== request.source.digest ? {} : { ...request.input, outputs: request.outputs };
}

/** @throws when the step was skipped; callers ask only where the order of steps rules that out. */
export function outputOf<K extends StepName>(context: Pick<StepContext, 'outputs'>, step: K): StepOutputs[K] {
  const output = context.outputs[step];
  if (!output) throw new Error(`step ${step} has left no output`);
  return output as StepOutputs[K];
}

export type { Lineage };
