import { inflateRawSync } from 'node:zlib';
import { ReefError } from '@reefkeeper/platform/errors';

export interface NpyArray {
  shape: number[];
  data: Float32Array;
}

/** A NumPy `.npz` archive of float32 arrays (as numpy.savez and savez_compressed write them), by array name. @throws ReefError `npz.unreadable` */
export function readNpz(bytes: Buffer): Map<string, NpyArray> {
  const arrays = new Map<string, NpyArray>();
  for (const { name, content } of zipEntries(bytes)) arrays.set(name.replace(/\.npy$/, ''), readNpy(content, name));
  return arrays;
}

/** Walks the central directory (APPNOTE.TXT 4.3.12): local headers may lack sizes. NumPy writes ZIP64 extra fields even for small arrays. */
function zipEntries(bytes: Buffer): { name: string; content: Buffer }[] {
  const end = bytes.lastIndexOf(Buffer.from('PK\u0005\u0006', 'latin1'));
  if (end < 0) throw unreadable('it is not a ZIP archive');
  const entries: { name: string; content: Buffer }[] = [];
  try {
    let at = bytes.readUInt32LE(end + 16);
    for (let left = bytes.readUInt16LE(end + 10); left > 0; left -= 1) {
      const method = bytes.readUInt16LE(at + 10);
      const [nameLength, extraLength, commentLength] = [bytes.readUInt16LE(at + 28), bytes.readUInt16LE(at + 30), bytes.readUInt16LE(at + 32)];
      const name = bytes.toString('utf8', at + 46, at + 46 + nameLength);
      let size = bytes.readUInt32LE(at + 20);
      let local = bytes.readUInt32LE(at + 42);
      if (size === 0xffff_ffff || local === 0xffff_ffff) ({ size, local } = zip64(bytes.subarray(at + 46 + nameLength, at + 46 + nameLength + extraLength), { size, local, full: bytes.readUInt32LE(at + 24) }));
      const start = local + 30 + bytes.readUInt16LE(local + 26) + bytes.readUInt16LE(local + 28);
      const packed = bytes.subarray(start, start + size);
      if (method !== 0 && method !== 8) throw unreadable(`${name} is packed with method ${method}`);
      entries.push({ name, content: method === 0 ? packed : inflateRawSync(packed, { maxOutputLength: 2 ** 31 - 1 }) });
      at += 46 + nameLength + extraLength + commentLength;
    }
  } catch (cause) {
    throw cause instanceof ReefError ? cause : unreadable((cause as Error).message, cause);
  }
  return entries;
}

/** Extra field 1: the 64-bit values, in this order, of those that are all ones in the header. */
function zip64(extra: Buffer, header: { size: number; local: number; full: number }): { size: number; local: number } {
  let { size, local } = header;
  for (let at = 0; at + 4 <= extra.length; at += 4 + extra.readUInt16LE(at + 2)) {
    if (extra.readUInt16LE(at) !== 1) continue;
    let value = at + 4;
    const next = () => { value += 8; return Number(extra.readBigUInt64LE(value - 8)); };
    if (header.full === 0xffff_ffff) next();
    if (size === 0xffff_ffff) size = next();
    if (local === 0xffff_ffff) local = next();
  }
  return { size, local };
}

/** numpy.lib.format, versions 1 to 3. */
function readNpy(content: Buffer, name: string): NpyArray {
  if (content.toString('latin1', 0, 6) !== '\u0093NUMPY') throw unreadable(`${name} is not a NumPy array`);
  const wide = content[6]! >= 2;
  const length = wide ? content.readUInt32LE(8) : content.readUInt16LE(8);
  const start = (wide ? 12 : 10) + length;
  const header = content.toString('latin1', wide ? 12 : 10, start);
  const type = /'descr': *'([^']+)'/.exec(header)?.[1];
  const shape = (/'shape': *\(([^)]*)\)/.exec(header)?.[1] ?? '').split(',').map((size) => size.trim()).filter(Boolean).map(Number);
  if (type !== '<f4' || /'fortran_order': *True/.test(header)) throw unreadable(`${name} is ${type}, not little-endian float32 in C order`);
  const count = shape.reduce((product, size) => product * size, 1);
  if (content.length - start < count * 4) throw unreadable(`${name} breaks off`);
  // A copy, since a view of floats must begin at an aligned offset.
  const data = new Float32Array(content.buffer.slice(content.byteOffset + start, content.byteOffset + start + count * 4));
  return { shape, data };
}

function unreadable(why: string, cause?: unknown): ReefError {
  return new ReefError('npz.unreadable', 'invalid', `The .npz archive cannot be read: ${why}.`, { cause });
}
