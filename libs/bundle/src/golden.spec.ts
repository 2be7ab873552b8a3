import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decodeGolden, encodeGolden, judgeGolden, topOf, type GoldenCase } from './index.ts';

const int8 = (...values: number[]) => Buffer.from(Int8Array.from(values).buffer);
const float = (...values: number[]) => Buffer.from(Float32Array.from(values).buffer);

function golden(expected: Buffer, top1: number | null, dtype: 'int8' | 'float32' = 'int8', maxStepDiff = 16): GoldenCase {
  return { input: [Buffer.from([1, 2, 3])], expect: { top1, outputs: [expected], dtypes: [dtype], tolerance: { maxStepDiff } } };
}

describe('golden pack', () => {
  it('comes back as packed, whatever the bytes', () => {
    const bytes = fc.oneof(fc.uint8Array({ maxLength: 64 }), fc.uint8Array({ minLength: 1_000, maxLength: 1_200 })).map((array) => Buffer.from(array));
    const one = fc.record({ input: fc.array(bytes, { minLength: 1, maxLength: 3 }), output: bytes, top1: fc.option(fc.nat(10)) });
    fc.assert(fc.property(fc.array(one, { minLength: 1, maxLength: 5 }), (cases) => {
      const pack = { cases: cases.map(({ input, output, top1 }) => ({ ...golden(output, top1), input })) };
      expect(decodeGolden(encodeGolden(pack))).toEqual(pack);
    }), { numRuns: 50 });
  });

  it.each<[string, Buffer]>([
    ['not gzip', Buffer.from('hello')],
    ['not JSON', gzipSync('hello')],
    ['empty', gzipSync('{"schema":1,"cases":[]}')],
    ['a bomb', gzipSync(Buffer.alloc(80 * 1024 * 1024))],
    ['a bomb in two members', Buffer.concat([gzipSync(Buffer.alloc(40 * 1024 * 1024)), gzipSync(Buffer.alloc(40 * 1024 * 1024))])],
  ])('refuses what is %s', (_what, bytes) => {
    expect(() => decodeGolden(bytes)).toThrow(expect.objectContaining({ code: 'golden.malformed' }));
  });
});

describe('judgement', () => {
  it.each<[string, GoldenCase, Buffer[], string | undefined]>([
    ['equal', golden(int8(-128, 100, 5), 1), [int8(-128, 100, 5)], undefined],
    ['two steps off, as arm64 is', golden(int8(-128, 100, 5), 1), [int8(-126, 98, 7)], undefined],
    ['too far', golden(int8(-128, 100, 5), 1), [int8(-128, 83, 5)], '17.0 steps'],
    ['the other way round', golden(int8(0, 100, 90), 1), [int8(0, 94, 96)], 'top-1 is class 2 instead of 1'],
    ['no top-1 wanted', golden(int8(0, 100, 99), null), [int8(0, 99, 100)], undefined],
    ['too short', golden(int8(1, 2), 1), [int8(1)], '1 bytes'],
    ['an output missing', golden(int8(1, 2), 1), [], '0 outputs'],
    ['signed wrap', golden(int8(127), 0), [int8(-128)], '255.0 steps'],
    ['float within', golden(float(0, 1), 1, 'float32'), [float(0.01, 0.99)], undefined],
    ['float not a number', golden(float(0, 1), 1, 'float32'), [float(Number.NaN, 1)], 'NaN'],
    ['float constant', golden(float(1, 1), null, 'float32'), [float(1, 1.1)], 'steps'],
  ])('%s', (_what, one, outputs, reason) => {
    const judged = judgeGolden(one, outputs);
    if (reason === undefined) expect(judged).toMatchObject({ ok: true });
    else expect(judged).toMatchObject({ ok: false, reason: expect.stringContaining(reason) as string });
  });

  it('accepts the expected output itself, and nothing further than the tolerance', () => {
    fc.assert(fc.property(fc.int8Array({ minLength: 1, maxLength: 50 }), fc.nat(40), fc.nat(49), (values, tolerance, at) => {
      const expected = int8(...values);
      expect(judgeGolden(golden(expected, topOf(values), 'int8', tolerance), [expected])).toMatchObject({ ok: true });
      const moved = Int8Array.from(values);
      const index = at % values.length;
      moved[index] = values[index]! > 0 ? values[index]! - tolerance - 1 : values[index]! + tolerance + 1;
      expect(judgeGolden(golden(expected, null, 'int8', tolerance), [int8(...moved)]).ok).toBe(false);
    }));
  });
});
