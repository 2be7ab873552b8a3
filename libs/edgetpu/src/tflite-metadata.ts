import { ReefError } from '@reefkeeper/platform/errors';
import { DamagedBytes, FlatTable } from './flat-reader.ts';
import type { TfliteModel } from './model.ts';
import { zipEntries } from './zip.ts';

/** What a `.tflite` file says about itself (TFLite Metadata, metadata_schema.fbs). Its makers wrote it by hand: claims, not facts. */
export interface TfliteMetadata {
  name: string | null;
  description: string | null;
  /** real = (pixel - mean) / std of the first input, as its maker says. */
  normalisation: { mean: number[]; std: number[] } | null;
  /** Of the first output, from the file packed along. */
  labels: string[] | null;
}

const normalizationOptions = 1;
const labelFiles: ReadonlySet<number> = new Set([2, 3]);

/** Null for a model without metadata. @throws ReefError `model.metadata_unreadable` */
export function metadataOf(model: Pick<TfliteModel, 'metadata'>, file: Uint8Array): TfliteMetadata | null {
  const packed = model.metadata.find(({ name }) => name === 'TFLITE_METADATA')?.bytes;
  if (!packed || packed.byteLength === 0) return null;
  try {
    // A copy, since a table inside another buffer would be read by offsets of the whole.
    const root = FlatTable.root(Uint8Array.from(packed));
    const [graph] = root.tables(3);
    const input = graph?.tables(2)[0];
    const output = graph?.tables(3)[0];
    const options = input?.tables(4).find((unit) => unit.ubyte(0) === normalizationOptions)?.table(1);
    const [mean, std] = [options?.floats(0), options?.floats(1)];
    const labels = output?.tables(6).find((one) => labelFiles.has(one.byte(2)))?.string(0);
    return { name: root.string(0), description: root.string(1), normalisation: mean?.length && std?.length ? { mean, std } : null, labels: labels ? linesOf(file, labels) : null };
  } catch (thrown) {
    if (thrown instanceof ReefError) throw thrown;
    if (!(thrown instanceof Error)) throw thrown;
    const why = thrown instanceof DamagedBytes || thrown instanceof RangeError ? thrown.message : `the files packed with it cannot be read (${thrown.message})`;
    throw new ReefError('model.metadata_unreadable', 'invalid', `The metadata inside the TensorFlow Lite file is damaged: ${why}.`, { cause: thrown });
  }
}

function linesOf(file: Uint8Array, name: string): string[] | null {
  const content = zipEntries(file).find((one) => one.name === name)?.content;
  const lines = content?.toString('utf8').split('\n').map((line) => line.trim()).filter(Boolean);
  return lines && lines.length > 0 ? lines : null;
}
