import { DamagedBytes } from './flat-reader.ts';

const typeInt = 1, typeUint = 2, typeString = 5, typeMap = 9, typeVector = 10, typeVectorInt = 11, typeVectorUint = 12, typeBlob = 25;

export type FlexValue = { kind: 'bytes'; bytes: Uint8Array } | { kind: 'ints'; ints: number[] } | { kind: 'other' };

/**
 * The top level of a FlexBuffer that is a map, as far as compiled models use them: integers, lists of integers, strings and blobs.
 * npm's reader decodes every string as UTF-8, but the compiler stores its binary package as one; and it loops on damaged lengths.
 */
export function readFlexMap(bytes: Uint8Array): Map<string, FlexValue> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const fail = (fault: string): never => { throw new DamagedBytes(`its options ${fault}`); };
  if (bytes.byteLength < 3) fail('are empty');

  const uint = (at: number, width: number): number => {
    if (at < 0 || at + width > bytes.byteLength) fail('point outside themselves');
    switch (width) {
      case 1: return view.getUint8(at);
      case 2: return view.getUint16(at, true);
      case 4: return view.getUint32(at, true);
      default: return Number(view.getBigUint64(at, true));
    }
  };
  const int = (at: number, width: number): number => {
    const value = uint(at, width);
    const span = 2 ** (8 * width);
    return value >= span / 2 ? value - span : value;
  };
  const target = (at: number, width: number): number => at - uint(at, width);
  /** `packed` = type and, for what lies elsewhere, its width; `width` = the width of the slot at `at`. */
  const value = (at: number, width: number, packed: number): FlexValue => {
    const type = packed >> 2;
    const inner = 1 << (packed & 3);
    if (type === typeInt) return { kind: 'ints', ints: [int(at, width)] };
    if (type === typeUint) return { kind: 'ints', ints: [uint(at, width)] };
    if (type === typeString || type === typeBlob) {
      const start = target(at, width);
      const length = uint(start - inner, inner);
      if (start + length > bytes.byteLength) fail('are cut off');
      return { kind: 'bytes', bytes: bytes.subarray(start, start + length) };
    }
    if (type === typeVector || type === typeVectorInt || type === typeVectorUint) {
      const start = target(at, width);
      const length = uint(start - inner, inner);
      if (start + length * inner > bytes.byteLength || length > 4096) fail('hold a list that is too long');
      const scalar = (index: number): number => {
        const kind = type === typeVector ? uint(start + length * inner + index, 1) >> 2 : typeInt;
        return kind === typeInt || kind === typeUint ? int(start + index * inner, inner) : NaN;
      };
      return { kind: 'ints', ints: Array.from({ length }, (_, index) => scalar(index)).filter((number) => !Number.isNaN(number)) };
    }
    return { kind: 'other' };
  };

  const rootWidth = uint(bytes.byteLength - 1, 1);
  const rootType = uint(bytes.byteLength - 2, 1);
  if (rootType >> 2 !== typeMap || ![1, 2, 4, 8].includes(rootWidth)) fail('are no map');
  const width = 1 << (rootType & 3);
  const start = target(bytes.byteLength - 2 - rootWidth, rootWidth);
  const size = uint(start - width, width);
  const keyWidth = uint(start - 2 * width, width);
  const keys = target(start - 3 * width, width);
  if (size > 64 || ![1, 2, 4, 8].includes(keyWidth)) fail('are no map of this kind');
  const found = new Map<string, FlexValue>();
  for (let index = 0; index < size; index += 1) {
    const keyAt = target(keys + index * keyWidth, keyWidth);
    let end = keyAt;
    while (end - keyAt < 64 && uint(end, 1) !== 0) end += 1;
    const key = String.fromCharCode(...bytes.subarray(keyAt, end));
    found.set(key, value(start + index * width, width, uint(start + size * width + index, 1)));
  }
  return found;
}

