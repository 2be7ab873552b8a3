import { createHash, randomBytes } from 'node:crypto';
import { Readable, Writable } from 'node:stream';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { applyDelta, encodeGolden, makeDelta, mostDeltaInputBytes } from './index.ts';

async function applied(from: Buffer, delta: Buffer, bytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  await applyDelta(from, Readable.from([delta]), new Writable({ write(chunk: Buffer, _encoding, done) { chunks.push(chunk); done(); } }), bytes);
  return Buffer.concat(chunks);
}

/** Bytes that do not compress, the same at every run. */
function noise(seed: string, bytes: number): Buffer {
  const blocks = Array.from({ length: Math.ceil(bytes / 64) }, (_, at) => createHash('sha512').update(`${seed} ${at}`).digest());
  return Buffer.concat(blocks).subarray(0, bytes);
}

describe('delta', () => {
  it('gives the new file back, whatever was inserted, removed or changed', async () => {
    const old = noise('old', 40_000);
    const edit = fc.record({ at: fc.nat(40_000), removed: fc.nat(3_000), added: fc.uint8Array({ maxLength: 3_000 }) });
    await fc.assert(fc.asyncProperty(fc.array(edit, { maxLength: 3 }), async (edits) => {
      const next = edits.reduce((file, { at, removed, added }) => Buffer.concat([file.subarray(0, at), added, file.subarray(at + removed)]), old);
      const delta = await makeDelta(old, next);
      if (!delta) return;
      expect((await applied(old, delta, next.length)).equals(next)).toBe(true);
    }), { numRuns: 40 });
  });

  it('is small where a head was retrained, also when everything after it has moved', async () => {
    const old = noise('weights', 4_000_000);
    const retrained = Buffer.concat([old.subarray(0, 1_000_000), noise('head', 130_000), old.subarray(1_120_000)]);
    const delta = await makeDelta(old, retrained);
    expect(delta!.length / retrained.length).toBeLessThan(0.036);
    expect((await applied(old, delta!, retrained.length)).equals(retrained)).toBe(true);
  });

  it('is not made where it saves less than a fifth, or the files are too large', async () => {
    const old = noise('a', 100_000);
    const mostlyNew = Buffer.concat([old.subarray(0, 15_000), noise('b', 85_000)]);
    expect(await makeDelta(old, mostlyNew)).toBeUndefined();
    expect(await makeDelta(old, Buffer.concat([old.subarray(0, 30_000), noise('b', 70_000)]))).toBeDefined();
    expect(await makeDelta(Buffer.alloc(0), old)).toBeUndefined();
    expect(await makeDelta(Buffer.alloc(mostDeltaInputBytes), old)).toBeUndefined();
  });

  it('says what it cannot use: another old file, damage, an end too early, a bomb', async () => {
    const old = noise('old', 200_000);
    const next = Buffer.concat([noise('x', 5_000), old]);
    const delta = (await makeDelta(old, next))!;
    const other = noise('other', 200_000);
    // A wrong dictionary goes unnoticed by Zstandard: the digest of the result is what tells.
    expect((await applied(other, delta, next.length)).equals(next)).toBe(false);
    for (const [from, bytes, size] of [[old, delta.subarray(0, delta.length - 20), next.length], [old, randomBytes(500), next.length], [old, delta, next.length + 1], [old, delta, next.length - 1]] as const) {
      await expect(applied(from, bytes, size)).rejects.toMatchObject({ code: 'delta.unusable' });
    }
    const bomb = (await makeDelta(old, Buffer.alloc(20_000_000)))!;
    expect(bomb.length).toBeLessThan(10_000);
    await expect(applied(old, bomb, 1_000_000)).rejects.toMatchObject({ code: 'delta.unusable', message: expect.stringContaining('more than 1000000') });
  });

  it('works on golden packs: the same inputs with other answers', async () => {
    const pack = (answer: string) => encodeGolden({ cases: Array.from({ length: 4 }, (_, at) => ({ input: [noise(`image ${at}`, 150_000)], expect: { top1: at, outputs: [noise(`${answer} ${at}`, 1_000)], dtypes: ['int8' as const], tolerance: { maxStepDiff: 16 } } })) });
    const [one, two] = [pack('one'), pack('two')];
    const delta = (await makeDelta(one, two))!;
    expect(delta.length / two.length).toBeLessThan(0.02);
    expect((await applied(one, delta, two.length)).equals(two)).toBe(true);
  });
});
