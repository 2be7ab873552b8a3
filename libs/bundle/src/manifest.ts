import { createHash } from 'node:crypto';
import canonicalize from 'canonicalize';
import { z } from 'zod';
import { ReefError } from '@reefkeeper/platform/errors';

// Every object is loose: a field that a newer controller added must survive parsing, or the digest would change.
const digest = z.string().regex(/^[0-9a-f]{64}$/, 'a SHA-256 in 64 lower-case hex digits');
const file = z.looseObject({ digest, bytes: z.number().int().nonnegative() });

export const modelName = z.string().regex(/^[a-z0-9][a-z0-9-]{0,62}$/, 'a model name is 1 to 63 of a-z 0-9 -, not starting with -');

export const dtype = z.enum(['int8', 'uint8', 'int16', 'int32', 'int64', 'float16', 'float32', 'float64', 'bool']);
export type Dtype = z.infer<typeof dtype>;

export const tensorSpec = z.looseObject({
  name: z.string().max(512),
  shape: z.array(z.number().int().nonnegative()).max(8),
  dtype,
  /** real = (quantised - zeroPoint) * scale; null for a tensor that is not quantised per tensor. */
  scale: z.number().nullable(),
  zeroPoint: z.number().int().nullable(),
});
export type TensorSpec = z.infer<typeof tensorSpec>;

export const preprocessing = z.discriminatedUnion('kind', [
  z.looseObject({
    kind: z.literal('image'),
    width: z.number().int().positive().max(8_192),
    height: z.number().int().positive().max(8_192),
    channels: z.union([z.literal(3), z.literal(1)]),
    resize: z.enum(['stretch', 'center-crop']),
    /** real = (pixel - mean) / std with pixels 0 to 255, then quantised by the input's scale and zero point. One per channel. */
    mean: z.array(z.number()).min(1).max(3),
    std: z.array(z.number().positive()).min(1).max(3),
  }),
  /** The caller supplies the tensor's bytes. */
  z.looseObject({ kind: z.literal('raw') }),
]);
export type Preprocessing = z.infer<typeof preprocessing>;

/** The reserved model whose versions are releases of the agent. */
export const agentModel = 'reef-agent';

export const modelTask = z.enum(['classification', 'detection', 'segmentation', 'embedding', 'other']);
/** A release of the agent travels as a bundle, too. */
export const task = z.enum([...modelTask.options, 'agent']);
export type Task = z.infer<typeof task>;

export const variantKind = z.enum(['cpu-int8', 'edgetpu', 'agent']);
export type VariantKind = z.infer<typeof variantKind>;

/** How many Edge TPUs a variant of this name runs on: `edgetpu-14` on one, `edgetpu-14-x2` on two, all others on none. */
export function edgeTpusOf(variant: string): number {
  return variant.startsWith('edgetpu') ? Math.max(1, Number(/-x(\d{1,2})$/.exec(variant)?.[1] ?? 1)) : 0;
}

/** The name that `edgeTpusOf` reads. @param minRuntime null where the compiler's own was asked for */
export function edgeTpuVariant(minRuntime: number | null, edgeTpus = 1): string {
  return `edgetpu${minRuntime === null ? '' : `-${minRuntime}`}${edgeTpus === 1 ? '' : `-x${edgeTpus}`}`;
}

/** The variant that any device runs, without an Edge TPU. */
export const cpuVariant = 'cpu-int8';

/**
 * What a device may run where `name` is wanted, best first: that one; those for fewer Edge TPUs, one of each number, the most first; the CPU's where
 * the policy lets it. So it is also what a device keeps files of. Of several of one number it is the newest that needs no newer runtime than `name`, or else the oldest: whether the
 * device's runtime takes it is for the device to say, whose answer may change behind a download. Empty where there is no `name`.
 */
export function choicesFor<V extends { name: string; minRuntime: number | null }>(name: string, variants: readonly V[], cpuFallback: boolean): V[] {
  const wanted = variants.find((variant) => variant.name === name);
  if (!wanted) return [];
  const tooNew = ({ minRuntime }: V) => (minRuntime ?? 0) > (wanted.minRuntime ?? Infinity);
  const fewer = variants.filter((variant) => edgeTpusOf(variant.name) > 0 && edgeTpusOf(variant.name) < edgeTpusOf(name));
  const likeliestFirst = fewer.toSorted((a, b) => edgeTpusOf(b.name) - edgeTpusOf(a.name) || Number(tooNew(a)) - Number(tooNew(b)) || ((b.minRuntime ?? 0) - (a.minRuntime ?? 0)) * (tooNew(a) ? -1 : 1));
  const onePerNumber = likeliestFirst.filter((variant, at) => edgeTpusOf(variant.name) !== edgeTpusOf(likeliestFirst[at - 1]?.name ?? ''));
  return [wanted, ...onePerNumber, ...variants.filter((variant) => variant.name === cpuVariant && variant !== wanted && cpuFallback && edgeTpusOf(name) > 0)];
}

export const manifestVariant = z.looseObject({
  name: z.string().regex(/^[a-z0-9][a-z0-9-]{0,39}$/),
  kind: variantKind,
  /** Lowest RuntimeVersion of libedgetpu that runs it; null for all but `edgetpu`. */
  minRuntime: z.number().int().nullable(),
  /** Parameter-caching tokens of a compiled model: models with a common one stay on one Edge TPU together. */
  cacheTokens: z.array(z.string().max(64)).max(64).optional(),
  file,
  /** A model that is cut for several Edge TPUs: `file` is its first segment, these follow in order. Its name says how many (`edgetpu-14-x2`). */
  moreSegments: z.array(file).min(1).max(15).optional(),
}).refine(({ name, kind, moreSegments = [] }) => (kind === 'edgetpu' && edgeTpusOf(name) > 1) === moreSegments.length > 0 && (moreSegments.length === 0 || edgeTpusOf(name) === moreSegments.length + 1), {
  path: ['moreSegments'], message: 'a variant has as many segments as its name says Edge TPUs (edgetpu-14-x2 has two)',
});
export type ManifestVariant = z.infer<typeof manifestVariant>;

/** The files that a variant is run from, in order: one, or its segments. */
export function segmentsOf({ file: first, moreSegments = [] }: ManifestVariant): { digest: string; bytes: number }[] {
  return [first, ...moreSegments];
}

/** The files of a variant by the names that they have in statements and comparisons. */
export function partsOf(variant: ManifestVariant): { part: string; digest: string; bytes: number }[] {
  return segmentsOf(variant).map(({ digest, bytes }, at) => ({ part: at === 0 ? variant.name : `${variant.name}, segment ${at + 1}`, digest, bytes }));
}

const sourceFile = z.looseObject({ digest, filename: z.string().max(255) });

/** Where a version came from: enough to make it again. */
export const lineage = z.looseObject({
  source: sourceFile,
  calibration: sourceFile.nullable(),
  evaluation: sourceFile.nullable(),
  job: z.string().nullable(),
  /** `name@2`: the version this one was made from or follows. */
  parent: z.string().nullable(),
  /** Tool name to version (`tensorflow`, `reef-convert`, `edgetpu_compiler`). */
  tools: z.record(z.string(), z.string()),
  /** What the conversion and the pre-flight let pass with a word: float parts, few calibration samples, a file that misnames itself. */
  warnings: z.array(z.string()).optional(),
});
export type Lineage = z.infer<typeof lineage>;

/** Something wrong, or to be known, about a conversion; an `error` keeps the version from being published. Codes are stable. */
export const parityFinding = z.looseObject({ code: z.string(), severity: z.enum(['error', 'warning']), message: z.string() });
export type ParityFinding = z.infer<typeof parityFinding>;

/** The float original against the quantised model on held-out inputs. Fractions are 0 to 1. */
export const parity = z.looseObject({
  samples: z.number().int().nonnegative(),
  /**
   * Share of samples where both give the same top-1 (classification), of boxes (detection: F1 at IoU 0.5) or of pixels (segmentation) where both
   * say the same; null for other outputs.
   */
  agreement: z.number().nullable(),
  /** Share of labelled samples answered right; null without labels. */
  accuracy: z.looseObject({ labelled: z.number().int().nonnegative(), float: z.number(), int8: z.number() }).nullable(),
  outputs: z.array(z.looseObject({ name: z.string(), cosine: z.number().nullable(), maxError: z.number().nullable(), meanError: z.number().nullable() })),
  perClass: z.array(z.looseObject({ label: z.string(), count: z.number().int(), float: z.number(), int8: z.number() })),
  /** Cells of the quantised model's confusion matrix that are not empty. */
  confusions: z.array(z.looseObject({ truth: z.string(), answer: z.string(), count: z.number().int() })).optional(),
  /** Detection: boxes of score 0.5 or more. */
  boxes: z.looseObject({ agreement: z.number().nullable(), original: z.number().int(), quantised: z.number().int(), matched: z.number().int(), meanIou: z.number().nullable() }).optional(),
  /** Segmentation. */
  masks: z.looseObject({ agreement: z.number(), meanIou: z.number(), perClass: z.array(z.looseObject({ label: z.string(), iou: z.number(), pixels: z.number().int() })) }).optional(),
  findings: z.array(parityFinding).optional(),
});
export type Parity = z.infer<typeof parity>;

export const manifest = z.looseObject({
  schema: z.literal(1),
  model: modelName,
  version: z.number().int().positive(),
  task,
  /** In output order; null where the output has no classes. */
  labels: z.array(z.string().max(256)).max(100_000).nullable(),
  inputs: z.array(z.looseObject({ ...tensorSpec.shape, preprocessing })).max(16),
  outputs: z.array(tensorSpec).max(64),
  variants: z.array(manifestVariant).min(1).max(16),
  golden: z.looseObject({ ...file.shape, cases: z.number().int().positive() }).nullable(),
  lineage,
  parity: parity.nullable(),
  createdAt: z.iso.datetime(),
}).refine((bundle) => bundle.task === 'agent' || (bundle.inputs.length > 0 && bundle.outputs.length > 0), { path: ['inputs'], message: 'a model has inputs and outputs' });
export type Manifest = z.infer<typeof manifest>;

/**
 * The manifest's bytes as RFC 8785 canonical JSON: the same manifest gives the same bytes everywhere.
 * @throws ReefError `bundle.malformed`
 */
export function canonicalManifest(value: Manifest): Buffer {
  return canonicalBytes(parseManifest(value));
}

/** The bundle's name: SHA-256 of the canonical manifest. @throws ReefError `bundle.malformed` */
export function bundleDigest(value: Manifest): string {
  return createHash('sha256').update(canonicalManifest(value)).digest('hex');
}

/** @throws ReefError `bundle.malformed` */
export function parseManifest(value: unknown): Manifest {
  const parsed = manifest.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new ReefError('bundle.malformed', 'invalid', `The bundle manifest is not usable: ${z.prettifyError(parsed.error)}`, { cause: parsed.error });
}

/** RFC 8785. @throws ReefError `bundle.malformed` for what JSON cannot hold (NaN, cycles) */
export function canonicalBytes(value: unknown): Buffer {
  try {
    return Buffer.from(canonicalize(value)!, 'utf8');
  } catch (cause) {
    throw new ReefError('bundle.malformed', 'invalid', `This cannot be written as canonical JSON: ${(cause as Error).message}`, { cause });
  }
}
