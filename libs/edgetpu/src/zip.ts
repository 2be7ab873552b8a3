import { inflateRawSync } from 'node:zlib';

/** Of all files together: a small archive must not unpack to more than a Buffer holds. */
const mostUnpacked = 2 ** 31 - 1;

/**
 * The files of a ZIP archive, which may have other bytes before it (APPNOTE.TXT 4.3.12). Walks the central directory, since local headers may
 * lack sizes. NumPy writes ZIP64 extra fields even for small arrays.
 * @throws Error in words for a sentence ("it is not a ZIP archive"), and what Buffer and zlib refuse (RangeError, Z_DATA_ERROR)
 */
export function zipEntries(archive: Uint8Array): { name: string; content: Buffer }[] {
  const bytes = Buffer.from(archive.buffer, archive.byteOffset, archive.byteLength);
  const end = bytes.lastIndexOf(Buffer.from('PK\u0005\u0006', 'latin1'));
  if (end < 0) throw new Error('it is not a ZIP archive');
  const entries: { name: string; content: Buffer }[] = [];
  let unpacked = 0;
  const listed = bytes.readUInt32LE(end + 16);
  // Offsets count from the archive's own begin: some writers append one without counting what is before it.
  const before = listed === 0xffff_ffff || bytes.readUInt32LE(listed) === 0x0201_4b50 ? 0 : Math.max(0, end - bytes.readUInt32LE(end + 12) - listed);
  let at = listed + before;
  for (let left = bytes.readUInt16LE(end + 10); left > 0; left -= 1) {
    const method = bytes.readUInt16LE(at + 10);
    const [nameLength, extraLength, commentLength] = [bytes.readUInt16LE(at + 28), bytes.readUInt16LE(at + 30), bytes.readUInt16LE(at + 32)];
    const name = bytes.toString('utf8', at + 46, at + 46 + nameLength);
    const header = { size: bytes.readUInt32LE(at + 20), full: bytes.readUInt32LE(at + 24), local: bytes.readUInt32LE(at + 42) };
    const { size, full, local } = Object.values(header).includes(0xffff_ffff) ? zip64(bytes.subarray(at + 46 + nameLength, at + 46 + nameLength + extraLength), header) : header;
    if (method !== 0 && method !== 8) throw new Error(`${name} is packed with method ${method}`);
    unpacked += method === 0 ? size : full;
    if (unpacked > mostUnpacked) throw new Error('its files are larger than 2 GiB together');
    const from = local + before;
    const start = from + 30 + bytes.readUInt16LE(from + 26) + bytes.readUInt16LE(from + 28);
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
