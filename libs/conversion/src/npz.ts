import { inflateRawSync } from 'node:zlib';
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

/** Of all arrays together: a small archive must not unpack to more than a Buffer holds. */
const mostUnpacked = 2 ** 31 - 1;

/** Walks the central directory (APPNOTE.TXT 4.3.12): local headers may lack sizes. NumPy writes ZIP64 extra fields even for small arrays. */
function zipEntries(bytes: Buffer): { name: string; content: Buffer }[] {
  const end = bytes.lastIndexOf(Buffer.from('PK\u0005\u0006', 'latin1'));
  if (end < 0) throw unreadable('it is not a ZIP archive');
  const entries: { name: string; content: Buffer }[] = [];
  let unpacked = 0;
  let at = bytes.readUInt32LE(end + 16);
  for (let left = bytes.readUInt16LE(end + 10); left > 0; left -= 1) {
    const method = bytes.readUInt16LE(at + 10);
    const [nameLength, extraLength, commentLength] = [bytes.readUInt16LE(at + 28), bytes.readUInt16LE(at + 30), bytes.readUInt16LE(at + 32)];
    const name = bytes.toString('utf8', at + 46, at + 46 + nameLength);
    const header = { size: bytes.readUInt32LE(at + 20), full: bytes.readUInt32LE(at + 24), local: bytes.readUInt32LE(at + 42) };
    const { size, full, local } = Object.values(header).includes(0xffff_ffff) ? zip64(bytes.subarray(at + 46 + nameLength, at + 46 + nameLength + extraLength), header) : header;
    if (method !== 0 && method !== 8) throw unreadable(`${name} is packed with method ${method}`);
    unpacked += method === 0 ? size : full;
    if (unpacked > mostUnpacked) throw unreadable('its arrays are larger than 2 GiB together');
    const start = local + 30 + bytes.readUInt16LE(local + 26) + bytes.readUInt16LE(local + 28);
    const packed = bytes.subarray(start, start + size);
    entries.push({ name, content: method === 0 ? packed : inflateRawSync(packed, { maxOutputLength: Math.max(1, full) }) });
    at += 46 + nameLength + extraLength + commentLength;
  }
  return entries;
}

/** Extra field 1: the 64-bit values, in this order, of those that are all ones in the header. */
function zip64(extra: Buffer, header: { size: number; local: number; full: number }): { size: number; local: number; full: number } {
  let { size, local, full } = header;
  for (let at = 0; at + 4 <= extra.length; at += 4 + extra.readUInt16LE(at + 2)) {
    if (extra.readUInt16LE(at) !== 1) continue;
    let value = at + 4;
    const next = () => { value += 8; return Number(extra.readBigUInt64LE(value - 8)); };
    if (full === 0xffff_ffff) full = next();
    if (size === 0xffff_ffff) size = next();
    if (local === 0xffff_ffff) local = next();
  }
  return { size, local, full };
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
