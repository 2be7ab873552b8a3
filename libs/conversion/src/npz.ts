import { zipEntries } from '@reefkeeper/edgetpu';
import { ReefError } from '@reefkeeper/platform/errors';

export interface NpyArray {
  shape: number[];
  data: Float32Array;
}

/** A NumPy `.npz` archive of float32 arrays (as numpy.savez and savez_compressed write them), by array name. @throws ReefError `npz.unreadable` */
export function readNpz(bytes: Buffer): Map<string, NpyArray> {
  try {
    return new Map(zipEntries(bytes).map(({ name, content }) => [name.replace(/\.npy$/, ''), readNpy(content, name)]));
  } catch (cause) {
    // What Buffer and zlib refuse (RangeError, Z_DATA_ERROR) is the archive's fault as well.
    throw cause instanceof ReefError ? cause : unreadable((cause as Error).message, cause);
  }
}

/** numpy.lib.format, versions 1 to 3. */
function readNpy(content: Buffer, name: string): NpyArray {
  if (content.toString('latin1', 0, 6) !== '\u0093NUMPY') throw unreadable(`${name} is not a NumPy array`);
  const wide = content[6]! >= 2;
  const length = wide ? content.readUInt32LE(8) : content.readUInt16LE(8);
  // NumPy's own limit.
  if (length > 10_000) throw unreadable(`${name} has a header of ${length} bytes`);
  const start = (wide ? 12 : 10) + length;
  const header = content.toString('latin1', wide ? 12 : 10, start);
  const type = /'descr': *'([^']+)'/.exec(header)?.[1];
  const shape = (/'shape': *\(([^)]*)\)/.exec(header)?.[1] ?? '').split(',').map((size) => size.trim()).filter(Boolean).map(Number);
  if (type !== '<f4' || /'fortran_order': *True/.test(header)) throw unreadable(`${name} is ${type}, not little-endian float32 in C order`);
  if (!shape.every((size) => Number.isSafeInteger(size) && size >= 0)) throw unreadable(`${name} has the shape (${shape.slice(0, 32).join(', ')})`);
  const count = shape.reduce((product, size) => product * size, 1);
  if (content.length - start < count * 4) throw unreadable(`${name} breaks off`);
  // A copy, since a view of floats must begin at an aligned offset.
  const data = new Float32Array(content.buffer.slice(content.byteOffset + start, content.byteOffset + start + count * 4));
  return { shape, data };
}

function unreadable(why: string, cause?: unknown): ReefError {
  return new ReefError('npz.unreadable', 'invalid', `The .npz archive cannot be read: ${why}.`, { cause });
}
