import { chmod, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Manifest } from '@reefkeeper/bundle';
import { ReefError } from '@reefkeeper/platform/errors';
import { openLogger } from '@reefkeeper/platform/logger';
import { capture, type CaptureFacts } from '@reefkeeper/protocol';
import type { Answer } from './answer.ts';
import { Captures, jpegOf, maskedBy } from './captures.ts';
import { Disk } from './disk.ts';

let dir: string;
let now = 0;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'reef-captures-'));
  now = 0;
});
afterEach(async () => rm(dir, { recursive: true, force: true }));

const white = (width = 400, height = 200) => sharp({ create: { width, height, channels: 3, background: '#fff' } }).withExif({ IFD0: { Copyright: 'somebody' } }).jpeg().toBuffer();
const answer = (...scores: number[]): Answer => ({
  slot: { bundle: 'ab'.repeat(32), variant: 'cpu-int8', backend: 'cpu' }, manifest: { task: 'classification', labels: ['cat', 'dog', 'eel'] } as unknown as Manifest, preprocessUs: 0, invokeUs: 0, stagesUs: [0], totalUs: 0,
  tensors: { inputs: [], outputs: [{ name: 's', shape: [1, 3], dtype: 'float32', scale: null, zeroPoint: null, bytes: 12 }] }, outputs: [new Uint8Array(Float32Array.from(scores).buffer)],
});
const open = (more: { maxBytes?: number; mask?: string } = {}) => Captures.open(join(dir, 'kept'), new Disk(dir), { maxBytes: more.maxBytes ?? 10_000_000, mask: more.mask, log: openLogger('agent', 'silent'), clock: () => now });
const config = capture.parse({ perHour: 60, uncertainBelow: 0.2 });
const script = async (text: string) => {
  const file = join(dir, 'mask.sh');
  await writeFile(file, `#!/bin/sh\n${text}\n`);
  await chmod(file, 0o755);
  return file;
};
async function sent(captures: Captures): Promise<{ id: string; facts: CaptureFacts; jpeg: Buffer }[]> {
  const all: { id: string; facts: CaptureFacts; jpeg: Buffer }[] = [];
  await captures.drain(async (id, facts, jpeg) => { all.push({ id, facts, jpeg }); });
  return all;
}
const pixelAt = async (jpeg: Buffer, x: number, y: number) => [...(await sharp(jpeg).extract({ left: x, top: y, width: 1, height: 1 }).raw().toBuffer())];

describe('what is captured', () => {
  it('only what the model was not sure of, so many an hour, and nothing twice', async () => {
    const captures = await open();
    const offer = async (...scores: number[]) => {
      captures.offer('w', await white(), answer(...scores), config);
      await captures.settled();
    };
    await offer(0.5, 0.45, 0.05);
    // The first minute of an agent is not captured, however often it starts.
    expect(captures.count).toBe(0);
    now = 60_000;
    await offer(0.9, 0.1, 0);
    await offer(0.4, 0.5, 0.1);
    await offer(0.5, 0.45, 0.05);
    now = 119_000;
    await offer(0.5, 0.45, 0.05);
    expect(captures.count).toBe(1);
    now = 120_000;
    await offer(0.5, 0.45, 0.05);
    captures.offer('w', await white(), answer(0.5, 0.45, 0.05), { ...config, workloads: ['other'] });
    // Still there after a restart.
    const all = await sent(await open());
    expect(all.map(({ facts }) => facts)).toMatchObject([{ workload: 'w', prediction: 'dog', score: 0.5, margin: expect.closeTo(0.1, 5), backend: 'cpu' }, { prediction: 'cat' }]);
    expect(await readdir(join(dir, 'kept'))).toEqual([]);
  });

  it('stays within its bytes, and waits while nobody takes it; what is refused for good goes', async () => {
    const captures = await open({ maxBytes: 3_000 });
    for (let at = 1; at <= 6; at += 1) {
      now = at * 60_000;
      captures.offer('w', await white(), answer(0.5, 0.49, 0.01), config);
      await captures.settled();
    }
    const kept = captures.count;
    expect(kept).toBeGreaterThan(0);
    expect(kept).toBeLessThan(6);
    await captures.drain(async () => { throw new ReefError('gateway.unreachable', 'unavailable', 'x'); });
    expect(captures.count).toBe(kept);
    await captures.drain(async () => { throw new ReefError('request.invalid', 'invalid', 'x'); });
    expect(captures.count).toBe(0);
  });
});

describe('what leaves the device', () => {
  it('is small, upright, has no metadata, and is black where it must be', async () => {
    const jpeg = await jpegOf(await white(4_000, 2_000), [{ left: 0, top: 0, width: 0.25, height: 0.5 }, { left: 0.9, top: 0.9, width: 1, height: 1 }]);
    const { width, height, exif } = await sharp(jpeg).metadata();
    expect([width, height, exif]).toEqual([1_024, 512, undefined]);
    expect((await pixelAt(jpeg, 100, 100)).every((value) => value < 10)).toBe(true);
    expect((await pixelAt(jpeg, 1_000, 500)).every((value) => value < 10)).toBe(true);
    expect((await pixelAt(jpeg, 600, 300)).every((value) => value > 245)).toBe(true);
  });

  it('goes through the mask, which may change it, keep it back, or fail: then it is forgotten', async () => {
    const black = join(dir, 'black.jpg');
    await sharp({ create: { width: 10, height: 10, channels: 3, background: '#000' } }).jpeg().toFile(black);
    const jpeg = await white();
    expect((await sharp((await maskedBy(await script(`cat > /dev/null; cat ${black}`), jpeg))!).metadata()).width).toBe(10);
    expect(await maskedBy(await script('cat > /dev/null'), jpeg)).toBeUndefined();
    for (const bad of ['cat; exit 3', 'echo no image', 'cat > /dev/null; kill -9 $$']) await expect(maskedBy(await script(bad), jpeg)).rejects.toMatchObject({ code: 'capture.mask_failed' });
    await expect(maskedBy(await script('exec sleep 30'), jpeg, 200)).rejects.toMatchObject({ code: 'capture.mask_failed' });
    await expect(maskedBy(join(dir, 'nothing'), jpeg)).rejects.toMatchObject({ code: 'capture.mask_failed' });
    const captures = await open({ mask: await script('exit 1') });
    now = 60_000;
    captures.offer('w', jpeg, answer(0.5, 0.5, 0), config);
    await captures.settled();
    expect(await readdir(join(dir, 'kept'))).toEqual([]);
  });
});
