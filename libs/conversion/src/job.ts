import { createHash } from 'node:crypto';
import { z } from 'zod';
import { vertexModels } from './vertex.ts';
import { canonicalBytes, modelName, modelTask } from '@reefkeeper/bundle';
import { ReefError, type ErrorKind } from '@reefkeeper/platform/errors';
import { compileOptions } from './compile-options.ts';

export const jobStates = ['QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELED', 'TIMED_OUT'] as const;
export type JobState = (typeof jobStates)[number];

export const stepStates = ['PENDING', 'RUNNING', 'SUCCEEDED', 'CACHED', 'SKIPPED', 'FAILED', 'CANCELED', 'TIMED_OUT'] as const;
export type StepState = (typeof stepStates)[number];

/** In the order they run. */
export const stepNames = ['train', 'import', 'convert', 'analyze', 'verify', 'compile', 'inspect', 'bundle'] as const;
export type StepName = (typeof stepNames)[number];

/** Those of one job: only who asks for training has that step. */
export function stepsOf({ training }: { training?: unknown }): readonly StepName[] {
  return training ? stepNames : stepNames.slice(1);
}

const settledJobs: ReadonlySet<JobState> = new Set<JobState>(['SUCCEEDED', 'FAILED', 'CANCELED', 'TIMED_OUT']);
const doneSteps: ReadonlySet<StepState> = new Set<StepState>(['SUCCEEDED', 'CACHED', 'SKIPPED']);

export function isSettled(state: JobState): boolean {
  return settledJobs.has(state);
}

/** Whether a step needs no more running. */
export function isDone(state: StepState): boolean {
  return doneSteps.has(state);
}

export const uploadedFile = z.object({
  digest: z.string().regex(/^[0-9a-f]{64}$/, 'the digest that POST /api/v1/uploads answered with'),
  filename: z.string().min(1).max(255).refine((name) => !/[/\\\0]/.test(name) && name !== '.' && name !== '..', 'a file name without a folder'),
});
export type UploadedFile = z.infer<typeof uploadedFile>;

/** Sets of pinned packages that convert, each in an environment of its own; the first is the default. */
export const converters = ['tf2.21', 'tf2.15'] as const;
export type Converter = (typeof converters)[number];

const channelValues = z.union([z.number(), z.array(z.number()).min(1).max(3)]);

/** A training at Google instead of here: AutoML image classification for edge devices, exported for the Edge TPU. */
export const vertexOptions = z.object({
  project: z.string().regex(/^[a-z][a-z0-9-]{4,28}[a-z0-9]$/, 'a Google Cloud project id'),
  location: z.string().regex(/^[a-z]+-[a-z]+\d+$/, 'a region, such as us-central1').default('us-central1'),
  modelType: z.enum(vertexModels).default('MOBILE_TF_VERSATILE_1'),
  /** Most that may be spent. */
  nodeHours: z.number().min(1).max(20).default(1),
  /** Where the export is written: gs://bucket/folder/ */
  output: z.string().max(1_400).regex(/^gs:\/\//, 'an address like gs://bucket/folder/'),
});

/** How a new last layer is learnt. The source is then the labelled images. */
export const trainingOptions = z.object({
  /** The network under it: any SavedModel, Keras file or frozen graph that reads one image. EfficientNet-Lite0 where absent. */
  base: uploadedFile.nullable().default(null),
  /** At most; the best one is kept, and training stops when it gets no better. */
  epochs: z.number().int().min(1).max(1_000).default(100),
  /** Share of the images that is never learnt from. */
  holdout: z.number().min(0.05).max(0.5).default(0.2),
  seed: z.number().int().min(0).max(2 ** 31 - 1).default(1),
  /** Base, epochs, holdout and seed are then Vertex AI's own. */
  vertex: vertexOptions.nullable().default(null),
});

/** What a version is built from, as given by the user. */
export const buildRequest = z.object({
  source: uploadedFile,
  /** Samples that the activation ranges are measured on. Not needed for a source that is quantised already. */
  calibration: uploadedFile.nullable().default(null),
  /** Held-out samples for the comparison with the original; the calibration samples where absent. */
  evaluation: uploadedFile.nullable().default(null),
  labels: z.array(z.string().min(1).max(256)).min(1).max(100_000).nullable().default(null),
  task: modelTask.default('classification'),
  input: z.object({ shape: z.array(z.number().int().min(1).max(65_536)).min(1).max(6).optional(), name: z.string().max(512).optional() }).default({}),
  /** Names of a frozen graph's output tensors. */
  outputs: z.array(z.string().max(512)).max(64).optional(),
  preprocessing: z.object({
    resize: z.enum(['stretch', 'center-crop']).optional(),
    /** real = (pixel - mean) / std, pixels 0 to 255. */
    mean: channelValues.optional(),
    std: channelValues.optional(),
  }).default({}),
  /** Signature of a SavedModel; `serving_default` where absent. */
  signature: z.string().max(200).optional(),
  thresholds: z.object({
    /** Least share of samples on which the quantised model must agree with the original. */
    agreement: z.number().min(0).max(1).optional(),
    /** Most accuracy that quantisation may cost, 0 to 1. */
    accuracyDrop: z.number().min(0).max(1).optional(),
  }).default({}),
  /** Edge TPU runtimes to compile for; the compiler's own default where absent. */
  runtimes: z.array(z.number().int().min(10).max(30)).max(5).optional(),
  compile: compileOptions.prefault({}),
  /** Jobs with a higher one go first; a step that runs is not interrupted. */
  priority: z.number().int().min(-100).max(100).default(0),
  training: trainingOptions.nullable().default(null),
  notes: z.string().max(2_000).optional(),
  /** Publish although the comparison with the original fails; the numbers stay in the report. */
  allowWorse: z.boolean().default(false),
  /** TensorFlow to convert with. auto: 2.21, and 2.15 too where it is installed and the first result is not fully mapped or disagrees. */
  converter: z.enum(['auto', ...converters]).default('auto'),
  /** Keep what cannot be quantised, inputs and outputs too, in float: it runs on the CPU. Each such place is a warning in the lineage. */
  allowFloatOps: z.boolean().default(false),
}).meta({ id: 'BuildRequest' });

/** Where the server itself copied a source from; users cannot say it. */
export interface SourceOrigin {
  /** gs://bucket/folder/ */
  address: string;
  objects: { name: string; generation: string; digest: string; bytes: number }[];
}

/** A version that a device has learnt; the source is then what the device sent. */
export interface LearningOrigin {
  /** `name@2`, the version that it was learnt on, and the digest of its signed manifest. */
  parent: string;
  envelope: string;
  /** The parent's files, named here so that they stay stored as long as the job does. */
  files: string[];
  device: string;
  workload: string;
  command: string;
  /** Digest of the archive that it learnt from. */
  images: string;
  hold: boolean;
}
export type BuildRequest = Omit<z.infer<typeof buildRequest>, 'source'> & { source: UploadedFile & { origin?: SourceOrigin }; learning?: LearningOrigin };
export type BuildRequestInput = z.input<typeof buildRequest>;

export const modelParam = modelName;

/** How one run of a step ended. */
export type StepOutcome =
  | { kind: 'succeeded' | 'cached' }
  | { kind: 'skipped'; reason: string }
  | { kind: 'failed'; error: ReefError }
  | { kind: 'canceled' }
  /** Without `error` it was the step's own limit. */
  | { kind: 'timedOut'; afterMs: number; error?: ReefError }
  /** The worker is stopping; another one shall start the step afresh. */
  | { kind: 'interrupted' };

export interface JobError {
  code: string;
  kind: ErrorKind;
  message: string;
  step?: StepName;
  detail?: Record<string, unknown>;
}

export interface AfterStep {
  step: StepState;
  /** RUNNING: there is more to do, after `waitMs`. */
  job: JobState;
  waitMs: number;
  error: JobError | null;
}

/** Only what may pass by itself is tried again, and not for ever. */
export const maxTries = 4;
const firstWaitMs = 1_000;

/** What becomes of step and job. `tries` counts this run; `jitter` is 0 to 1. */
export function afterStep(name: StepName, outcome: StepOutcome, { tries, last, jitter }: { tries: number; last: boolean; jitter: number }): AfterStep {
  switch (outcome.kind) {
    case 'succeeded': return { step: 'SUCCEEDED', job: last ? 'SUCCEEDED' : 'RUNNING', waitMs: 0, error: null };
    case 'cached': return { step: 'CACHED', job: last ? 'SUCCEEDED' : 'RUNNING', waitMs: 0, error: null };
    case 'skipped': return { step: 'SKIPPED', job: last ? 'SUCCEEDED' : 'RUNNING', waitMs: 0, error: null };
    case 'interrupted': return { step: 'PENDING', job: 'RUNNING', waitMs: 0, error: null };
    case 'canceled': return { step: 'CANCELED', job: 'CANCELED', waitMs: 0, error: { code: 'job.canceled', kind: 'conflict', message: `Canceled during ${name}.`, step: name } };
    case 'timedOut': return {
      step: 'TIMED_OUT', job: 'TIMED_OUT', waitMs: 0,
      error: outcome.error ? { code: outcome.error.code, kind: 'unavailable', message: outcome.error.message, step: name, detail: outcome.error.detail } : { code: 'step.timed_out', kind: 'unavailable', message: `The step ${name} did not end within ${Math.round(outcome.afterMs / 1_000)} s. Try the job again on a less busy worker, or with fewer samples.`, step: name },
    };
    case 'failed': {
      const { code, kind, message, detail } = outcome.error;
      const error = { code, kind, message, step: name, detail };
      if (!outcome.error.retryable || tries >= maxTries) return { step: 'FAILED', job: 'FAILED', waitMs: 0, error };
      // Between half and all of 1, 2, 4 s: several jobs that met the same fault do not come back at once.
      const full = firstWaitMs * 2 ** (tries - 1);
      return { step: 'PENDING', job: 'RUNNING', waitMs: Math.round(full / 2 + (full / 2) * jitter), error };
    }
  }
}

/** Seconds left by rule of three; before there is enough to go by, by how long such a step usually takes; null when neither tells. */
export function etaS(elapsedMs: number, percent: number | null, typicalMs: number | null = null): number | null {
  if (percent !== null && percent >= 2 && elapsedMs >= 1_000) return percent >= 100 ? 0 : Math.round((elapsedMs / 1_000) * (100 - percent) / percent);
  return typicalMs === null || typicalMs <= elapsedMs ? null : Math.round((typicalMs - elapsedMs) / 1_000);
}

/** Names a step's work: equal keys mean equal results, so that it need not be done again. */
export function stepKey(step: StepName, inputs: unknown): string {
  return createHash('sha256').update(canonicalBytes({ step, inputs: JSON.parse(JSON.stringify(inputs ?? null)) })).digest('hex');
}

/** Every stored object that a step's output names: anything with a digest and a size. */
export function objectsIn(output: unknown): string[] {
  if (Array.isArray(output)) return output.flatMap(objectsIn);
  if (typeof output !== 'object' || output === null) return [];
  const { digest, bytes } = output as { digest?: unknown; bytes?: unknown };
  const own = typeof digest === 'string' && typeof bytes === 'number' ? [digest] : [];
  return [...own, ...Object.values(output).flatMap(objectsIn)];
}
