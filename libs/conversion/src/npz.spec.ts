import { deflateRawSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { ReefError } from '@reefkeeper/platform/errors';
import { mutationsOf } from '../../../test/support/mutations.ts';
import { readNpz } from './npz.ts';

function npy(values: number[], shape: number[], type = '<f4'): Buffer {
  const text = `{'descr': '${type}', 'fortran_order': False, 'shape': (${shape.join(', ')}${shape.length === 1 ? ',' : ''}), }`;
  const header = Buffer.from(`${text.padEnd(117)}\n`, 'latin1');
  const size = Buffer.alloc(2);
  size.writeUInt16LE(header.length);
  return Buffer.concat([Buffer.from('\u0093NUMPY\u0001\u0000', 'latin1'), size, header, Buffer.from(Float32Array.from(values).buffer)]);
}

/** As numpy.savez writes: ZIP64 extra field in the local header, sizes in the central directory. */
function zip(entries: Record<string, Buffer>, packed = false): Buffer {
  const parts: Buffer[] = [];
  const central: Buffer[] = [];
  let offset = 0;
  for (const [name, raw] of Object.entries(entries)) {
    const content = packed ? deflateRawSync(raw) : raw;
    const local = Buffer.alloc(30);
    local.write('PK\u0003\u0004', 'latin1');
    local.writeUInt16LE(packed ? 8 : 0, 8);
    local.writeUInt16LE(name.length, 26);
    local.writeUInt16LE(20, 28);
    const entry = Buffer.alloc(46);
    entry.write('PK\u0001\u0002', 'latin1');
    entry.writeUInt16LE(packed ? 8 : 0, 10);
    entry.writeUInt32LE(content.length, 20);
    entry.writeUInt32LE(raw.length, 24);
    entry.writeUInt16LE(name.length, 28);
    entry.writeUInt32LE(offset, 42);
    const written = [local, Buffer.from(name), Buffer.alloc(20), content];
    parts.push(...written);
    offset += written.reduce((sum, part) => sum + part.length, 0);
    central.push(entry, Buffer.from(name));
  }
  const directory = Buffer.concat(central);
  const end = Buffer.alloc(22);
  end.write('PK\u0005\u0006', 'latin1');
  end.writeUInt16LE(Object.keys(entries).length, 10);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...parts, directory, end]);
}

describe('npz', () => {
  it.each([['stored', false], ['deflated', true]])('reads arrays, %s', (_what, packed) => {
    const arrays = readNpz(zip({ 'input_0.npy': npy([1, 2, 3, 4, 5, 6], [2, 3]), 'output_0.npy': npy([0.5], [1]) }, packed));
    expect(arrays.get('input_0')).toEqual({ shape: [2, 3], data: Float32Array.from([1, 2, 3, 4, 5, 6]) });
    expect(arrays.get('output_0')!.data[0]).toBe(0.5);
  });

  it.each<[string, Buffer]>([
    ['no archive', Buffer.from('hello')],
    ['a cut archive', zip({ 'a.npy': npy([1, 2], [2]) }).subarray(100)],
    ['another type', zip({ 'a.npy': npy([1], [1], '<f8') })],
    ['too few numbers', zip({ 'a.npy': npy([1], [9]) })],
    ['something else', zip({ 'a.txt': Buffer.from('hello') })],
  ])('refuses %s', (_what, bytes) => {
    expect(() => readNpz(bytes)).toThrow(expect.objectContaining({ code: 'npz.unreadable' }));
  });

  it.each([['stored', false], ['deflated', true]])('1,000 damaged archives, %s: arrays or a refusal', (_what, packed) => {
    const bytes = zip({ 'input_0.npy': npy([1, 2, 3, 4, 5, 6], [2, 3]), 'output_0.npy': npy([0.5], [1]) }, packed);
    let refused = 0;
    for (const { how, bytes: damaged } of mutationsOf(bytes, { count: 1000, seed: packed ? 11 : 12 })) {
      try {
        for (const { shape, data } of readNpz(Buffer.from(damaged)).values()) if (data.length !== shape.reduce((product, size) => product * size, 1)) throw new Error('numbers are missing');
      } catch (cause) {
        if (!(cause instanceof ReefError && cause.code === 'npz.unreadable')) throw new Error(how, { cause });
        refused += 1;
      }
    }
    expect(refused).toBeGreaterThan(200);
    expect(refused).toBeLessThan(950);
  });

  it('an archive that unpacks to more than it says, and one with a shape that is none', () => {
    const bomb = zip({ 'a.npy': Buffer.alloc(10_000_000) }, true);
    bomb.writeUInt32LE(10, bomb.lastIndexOf('PK\u0001\u0002') + 24);
    expect(() => readNpz(bomb)).toThrow(expect.objectContaining({ code: 'npz.unreadable' }));
    expect(() => readNpz(zip({ 'a.npy': npy([1], [-1, -1]) }))).toThrow(expect.objectContaining({ code: 'npz.unreadable', message: expect.stringContaining('shape (-1, -1)') as string }));
  });
});
