import { gunzipSync, gzipSync } from 'node:zlib';
import { headMethods, type Head } from '@reefkeeper/edgetpu';
import { ReefError } from '@reefkeeper/platform/errors';
import { z } from 'zod';

/** As much as a device may send, packed; a head of 1,000 classes on 1,280 values has 5 MB, twice that with its sums. */
export const maxLearnedBytes = 32 * 1024 * 1024;
const maxUnpackedBytes = 96 * 1024 * 1024;

const share = z.number().min(0).max(1);
const count = z.number().int().nonnegative();
const labels = z.array(z.string().min(1).max(256)).min(2).max(4_096);
const judgement = z.object({ images: count, accuracy: share, confusion: z.array(z.array(count)) });

export const learnReport = z.object({
  method: z.enum(headMethods),
  classes: z.array(z.object({ label: z.string().max(256), before: count, learnt: count, heldOut: count })),
  /** By the float computation. */
  heldOut: judgement.nullable(),
  learnt: judgement,
  /** By the quantised head on the device's own TensorFlow Lite; of the images learnt from where none could be held out. */
  selfTest: judgement.extend({ heldOut: z.boolean() }),
  seed: z.number().int(),
  training: z.object({ learningRate: z.number(), l2: z.number(), batch: count, epochs: count, best: count, loss: z.number(), stoppedOn: z.enum(['validation', 'held-out', 'nothing']) }).nullable(),
  unreadable: z.array(z.object({ name: z.string().max(1_000), message: z.string().max(2_000) })).max(100),
  tools: z.record(z.string().max(64), z.string().max(200)),
});
export type LearnedReport = z.output<typeof learnReport>;

const packed = z.object({
  schema: z.literal(1),
  /** The bundle whose extractor it was learnt on, and the variant that gave the embeddings. */
  bundle: z.string().regex(/^[0-9a-f]{64}$/), variant: z.string().max(40), backend: z.enum(['edgetpu', 'cpu']),
  head: z.object({
    method: z.enum(headMethods), labels, features: z.number().int().min(2).max(65_536), samples: z.array(count), logits: z.object({ low: z.number(), high: z.number() }),
    weights: z.base64(), bias: z.base64(), sums: z.base64().nullable(),
  }),
  report: learnReport,
  cases: z.array(z.object({ name: z.string().max(1_000), label: z.string().max(256), heldOut: z.boolean(), input: z.base64(), scores: z.base64() })).min(1).max(16),
});

/** What a device has learnt: the head and nothing else of a model, how well it does, and images by which others can see that for themselves. */
export interface Learned {
  bundle: string;
  variant: string;
  backend: 'edgetpu' | 'cpu';
  head: Head;
  report: LearnedReport;
  /** `input`: bytes of the one input tensor; `scores`: what the device's own test answered. */
  cases: { name: string; label: string; heldOut: boolean; input: Buffer; scores: Buffer }[];
}

/** The same for the same: it is named by its digest. */
export function encodeLearned({ head, cases, ...rest }: Learned): Buffer {
  return gzipSync(JSON.stringify({
    schema: 1, bundle: rest.bundle, variant: rest.variant, backend: rest.backend,
    head: { method: head.method, labels: head.labels, features: head.weights[0]?.length ?? 0, samples: head.samples, logits: head.logits, weights: floats(head.weights), bias: floats([head.bias]), sums: head.sums && floats(head.sums) },
    report: rest.report, cases: cases.map((one) => ({ ...one, input: one.input.toString('base64'), scores: one.scores.toString('base64') })),
  } satisfies z.input<typeof packed>));
}

/** @throws ReefError `learn.malformed` */
export function decodeLearned(bytes: Uint8Array): Learned {
  if (bytes.byteLength > maxLearnedBytes) throw malformed(`${bytes.byteLength} bytes are over ${maxLearnedBytes}`);
  let json: unknown;
  try {
    json = JSON.parse(gunzipSync(bytes, { maxOutputLength: maxUnpackedBytes }).toString('utf8'));
  } catch (cause) {
    throw malformed((cause as Error).message, cause);
  }
  const parsed = packed.safeParse(json);
  if (!parsed.success) throw malformed(z.prettifyError(parsed.error), parsed.error);
  const { head, cases, report, bundle, variant, backend } = parsed.data;
  const classes = head.labels.length;
  const rows = (text: string, width: number, what: string): Float32Array[] => {
    const content = Buffer.from(text, 'base64');
    if (content.byteLength !== classes * width * 4) throw malformed(`its ${what} have ${content.byteLength} bytes instead of ${classes * width * 4}`);
    return Array.from({ length: classes }, (_, at) => Float32Array.from({ length: width }, (_value, column) => {
      const value = content.readFloatLE((at * width + column) * 4);
      if (!Number.isFinite(value)) throw malformed(`its ${what} hold ${value}`);
      return value;
    }));
  };
  if (new Set(head.labels).size !== classes) throw malformed('two classes have one name');
  if (head.samples.length !== classes) throw malformed('the counts of images do not fit the classes');
  if (!(head.logits.high > head.logits.low)) throw malformed('the range of logits is empty');
  const { confusion } = report.selfTest;
  if (confusion.length !== classes || confusion.some((row) => row.length !== classes)) throw malformed('the confusion matrix does not fit the classes');
  return {
    bundle, variant, backend, report,
    head: {
      method: head.method, labels: head.labels, samples: head.samples, logits: head.logits, weights: rows(head.weights, head.features, 'weights'),
      bias: Float32Array.from(rows(head.bias, 1, 'biases'), ([value]) => value!), sums: head.sums === null ? null : rows(head.sums, head.features, 'sums'),
    },
    cases: cases.map((one) => ({ ...one, input: Buffer.from(one.input, 'base64'), scores: Buffer.from(one.scores, 'base64') })),
  };
}

function floats(rows: readonly Float32Array[]): string {
  const out = Buffer.alloc(rows.reduce((sum, row) => sum + row.length, 0) * 4);
  let at = 0;
  for (const row of rows) for (const value of row) at = out.writeFloatLE(value, at);
  return out.toString('base64');
}

function malformed(why: string, cause?: unknown): ReefError {
  return new ReefError('learn.malformed', 'invalid', `This is not a usable result of a learning: ${why}.`, { cause });
}
