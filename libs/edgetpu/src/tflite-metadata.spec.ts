import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { metadataOf } from './tflite-metadata.ts';
import { readModel } from './model.ts';
import { sharedModel, sharedPresent } from './shared.fixture.ts';
import { TfliteBuilder } from './tflite-builder.fixture.ts';
import { zipEntries } from './zip.ts';

const plain = () => {
  const net = new TfliteBuilder();
  return net.output(net.softmax(net.dense(net.flatten(net.input([1, 4, 4, 3])), 2)));
};

/** Stored, not packed; offsets count from `base`. */
function zip(name: string, content: string, base = 0): Buffer {
  const [title, body] = [Buffer.from(name), Buffer.from(content)];
  const sizes = [crc32(body), body.length, body.length];
  const local = Buffer.alloc(30);
  [[0, 0x04034b50], [14, sizes[0]!], [18, sizes[1]!], [22, sizes[2]!]].forEach(([at, value]) => local.writeUInt32LE(value!, at));
  local.writeUInt16LE(title.length, 26);
  const entry = Buffer.alloc(46);
  [[0, 0x02014b50], [16, sizes[0]!], [20, sizes[1]!], [24, sizes[2]!], [42, base]].forEach(([at, value]) => entry.writeUInt32LE(value!, at));
  entry.writeUInt16LE(title.length, 28);
  const end = Buffer.alloc(22);
  [[0, 0x06054b50], [12, 46 + title.length], [16, base + 30 + title.length + body.length]].forEach(([at, value]) => end.writeUInt32LE(value!, at));
  end.writeUInt16LE(1, 8);
  end.writeUInt16LE(1, 10);
  return Buffer.concat([local, title, body, entry, title, end]);
}

describe('metadata inside a model', () => {
  it('a model without has none', () => {
    const bytes = plain().build();
    expect(metadataOf(readModel(bytes), bytes)).toBeNull();
  });

  it.skipIf(!sharedPresent)('of a published model: what its maker says of pixels, and the labels packed along', () => {
    const bytes = sharedModel('coral/mobilenet_v2_1.0_224_quant.tflite');
    const found = metadataOf(readModel(bytes), bytes)!;
    expect(found).toMatchObject({ name: 'ImageClassifier', normalisation: { mean: [127.5], std: [127.5] } });
    expect(found.labels).toHaveLength(1001);
    expect(found.labels!.slice(0, 2)).toEqual(['background', 'tench, Tinca tinca']);
  });

  it.skipIf(!sharedPresent)('damaged anywhere: an answer or an error, and no other', () => {
    const bytes = sharedModel('coral/mobilenet_v1_0.25_128_quant.tflite');
    const model = readModel(bytes);
    const packed = model.metadata.find(({ name }) => name === 'TFLITE_METADATA')!.bytes;
    fc.assert(fc.property(fc.array(fc.tuple(fc.nat(packed.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 }), (changes) => {
      const broken = Uint8Array.from(packed);
      for (const [at, value] of changes) broken[at] = value;
      try {
        metadataOf({ metadata: [{ name: 'TFLITE_METADATA', bytes: broken }] }, bytes);
      } catch (thrown) {
        expect(thrown).toMatchObject({ code: 'model.metadata_unreadable' });
      }
    }), { numRuns: 2_000 });
    expect(() => metadataOf({ metadata: [{ name: 'TFLITE_METADATA', bytes: packed.subarray(0, 20) }] }, bytes)).toThrow(expect.objectContaining({ code: 'model.metadata_unreadable' }));
  });
});

describe('a ZIP archive', () => {
  it.each([['at the begin', 0, 0], ['behind other bytes, which its offsets count', 50, 50], ['behind other bytes, which they do not', 50, 0]] as const)('%s', (_where, before, base) => {
    const bytes = Buffer.concat([Buffer.alloc(before, 1), zip('labels.txt', 'a cat', base)]);
    expect(zipEntries(bytes).map(({ name, content }) => [name, content.toString()])).toEqual([['labels.txt', 'a cat']]);
  });
  it('something else is refused in words', () => {
    expect(() => zipEntries(Buffer.from('no archive'))).toThrow('it is not a ZIP archive');
  });
});
