import { gunzipSync, gzipSync } from 'node:zlib';
import { z } from 'zod';
import { ReefError } from '@reefkeeper/platform/errors';
import { dtype, type Dtype } from './manifest.ts';

/** One input with the answer it must give. A device runs it before it serves the model. */
export interface GoldenCase {
  /** Raw bytes of each input tensor. */
  input: Buffer[];
  expect: {
    /** Index of the highest value of the first output; null where that says nothing (no classes, or two values too close). */
    top1: number | null;
    outputs: Buffer[];
    dtypes: Dtype[];
    tolerance: { maxStepDiff: number };
  };
}

export interface GoldenPack {
  cases: GoldenCase[];
}

export type GoldenJudgement = { ok: true; worstStepDiff: number } | { ok: false; reason: string };

/**
 * Quantisation steps that one value may differ. The x86-64 and arm64 kernels round differently, 1 to 2 steps apart on whole
 * models; a damaged or mis-compiled model is off by tens.
 */
export const defaultMaxStepDiff = 16;

/** A pack is refused beyond this, packed or not: it comes from the network. */
const maxPackBytes = 64 * 1024 * 1024;

const packed = z.object({
  schema: z.literal(1),
  cases: z.array(z.object({
    input: z.array(z.base64()).min(1).max(16),
    expect: z.object({
      top1: z.number().int().nonnegative().nullable(),
      outputs: z.array(z.base64()).min(1).max(64),
      dtypes: z.array(dtype),
      tolerance: z.object({ maxStepDiff: z.number().nonnegative() }),
    }),
  })).min(1).max(1_000),
});

/** Deterministic: the same pack gives the same bytes. @throws ReefError `golden.malformed` */
export function encodeGolden(pack: GoldenPack): Buffer {
  const body = packed.safeParse({
    schema: 1,
    cases: pack.cases.map((one) => ({
      input: one.input.map(base64),
      expect: { ...one.expect, outputs: one.expect.outputs.map(base64) },
    })),
  });
  if (!body.success) throw malformed(z.prettifyError(body.error), body.error);
  return Buffer.concat(pieces(JSON.stringify(body.data), body.data.cases.flatMap(({ input }) => input)).map((piece) => gzipSync(piece, { level: 9 })));
}

/**
 * The text, cut before and after each large input. Each piece becomes a gzip member of its own (RFC 1952, section 2.2: readers join them), so
 * that the same input gives the same bytes whatever the answers before it: of a retrained model's pack a delta then carries the answers only.
 */
function pieces(text: string, inputs: readonly string[]): string[] {
  const found: string[] = [];
  let from = 0;
  for (const input of inputs) {
    if (input.length < 1_024) continue;
    const at = text.indexOf(input, from);
    found.push(text.slice(from, at), input);
    from = at + input.length;
  }
  return [...found, text.slice(from)];
}

/** @throws ReefError `golden.malformed` */
export function decodeGolden(bytes: Uint8Array): GoldenPack {
  if (bytes.byteLength > maxPackBytes) throw malformed(`${bytes.byteLength} bytes are over ${maxPackBytes}`);
  let json: unknown;
  try {
    json = JSON.parse(gunzipSync(bytes, { maxOutputLength: maxPackBytes }).toString('utf8'));
  } catch (cause) {
    throw malformed((cause as Error).message, cause);
  }
  const parsed = packed.safeParse(json);
  if (!parsed.success) throw malformed(z.prettifyError(parsed.error), parsed.error);
  return {
    cases: parsed.data.cases.map((one) => ({
      input: one.input.map(raw),
      expect: { ...one.expect, outputs: one.expect.outputs.map(raw) },
    })),
  };
}

/** Whether a model answered a case as it should: every value within the tolerance, and the same top-1. */
export function judgeGolden(golden: GoldenCase, outputs: readonly Uint8Array[]): GoldenJudgement {
  const { expect } = golden;
  if (outputs.length !== expect.outputs.length) return { ok: false, reason: `the model has ${outputs.length} outputs, the golden case ${expect.outputs.length}` };
  let worst = 0;
  for (const [index, wanted] of expect.outputs.entries()) {
    const got = outputs[index]!;
    if (got.byteLength !== wanted.byteLength) return { ok: false, reason: `output ${index} has ${got.byteLength} bytes, expected ${wanted.byteLength}` };
    const kind = expect.dtypes[index] ?? 'int8';
    const [a, b] = [valuesOf(wanted, kind), valuesOf(got, kind)];
    const step = stepOf(a, kind);
    for (let at = 0; at < a.length; at += 1) {
      const difference = Math.abs(a[at]! - b[at]!) / step;
      // Written so that NaN fails.
      if (!(difference <= expect.tolerance.maxStepDiff)) {
        return { ok: false, reason: `output ${index}, value ${at}: ${b[at]} instead of ${a[at]}, ${difference.toFixed(1)} steps apart where ${expect.tolerance.maxStepDiff} are allowed` };
      }
      worst = Math.max(worst, difference);
    }
  }
  if (expect.top1 !== null) {
    const top = topOf(valuesOf(outputs[0]!, expect.dtypes[0] ?? 'int8'));
    if (top !== expect.top1) return { ok: false, reason: `top-1 is class ${top} instead of ${expect.top1}` };
  }
  return { ok: true, worstStepDiff: worst };
}

/** Index of the first highest value. */
export function topOf(values: ArrayLike<number>): number {
  let best = 0;
  for (let at = 1; at < values.length; at += 1) if (values[at]! > values[best]!) best = at;
  return best;
}

/** A tensor's bytes (little-endian) as numbers, not dequantised. */
export function valuesOf(bytes: Uint8Array, kind: Dtype): ArrayLike<number> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const read = (size: number, at: (offset: number) => number) => Float64Array.from({ length: Math.floor(bytes.byteLength / size) }, (_, index) => at(index * size));
  switch (kind) {
    case 'int8': return new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    case 'uint8': case 'bool': return bytes;
    case 'int16': return read(2, (offset) => view.getInt16(offset, true));
    case 'float16': return read(2, (offset) => view.getFloat16(offset, true));
    case 'int32': return read(4, (offset) => view.getInt32(offset, true));
    case 'float32': return read(4, (offset) => view.getFloat32(offset, true));
    case 'int64': return read(8, (offset) => Number(view.getBigInt64(offset, true)));
    case 'float64': return read(8, (offset) => view.getFloat64(offset, true));
  }
}

/** What counts as one step: 1 for integers; for floats a 255th of the expected range, as int8 would resolve it. */
function stepOf(values: ArrayLike<number>, kind: Dtype): number {
  if (!kind.startsWith('float')) return 1;
  let [low, high] = [Infinity, -Infinity];
  for (let at = 0; at < values.length; at += 1) {
    low = Math.min(low, values[at]!);
    high = Math.max(high, values[at]!);
  }
  return Math.max((high - low) / 255, 1e-6);
}

function base64(bytes: Buffer): string {
  return bytes.toString('base64');
}

function raw(text: string): Buffer {
  return Buffer.from(text, 'base64');
}

function malformed(why: string, cause?: unknown): ReefError {
  return new ReefError('golden.malformed', 'invalid', `This is not a usable golden pack: ${why}. Build the version again.`, { cause });
}
