import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Sketch } from '@reefkeeper/protocol';
import { Disk } from './disk.ts';
import { Drift, stabilityIndex } from './drift.ts';

const [A, B] = ['a'.repeat(64), 'b'.repeat(64)];
/** `count` scores in thousandths, evenly from `low` to `high`. */
const scores = (low: number, high: number, count: number) => Sketch.of(Array.from({ length: count }, (_, at) => low + ((high - low) * (at + 0.5)) / count));

describe('population stability index', () => {
  it('is nothing for the same, and what the formula gives for another spread', () => {
    expect(stabilityIndex(scores(100, 900, 1_000), scores(100, 900, 1_000))).toBe(0);
    // Of ten bins with a tenth each, all in the upper five: five bins (0.2 - 0.1) ln 2, five (0 - 0.1) ln 0.
    const upper = scores(500, 900, 1_000);
    const [full, none] = [200.5 / 1_005, 0.5 / 1_005];
    const reference = 100.5 / 1_005;
    const expected = 5 * (full - reference) * Math.log(full / reference) + 5 * (none - reference) * Math.log(none / reference);
    expect(stabilityIndex(scores(100, 900, 1_000), upper)).toBeCloseTo(expected, 0);
    expect(stabilityIndex(scores(100, 900, 1_000), upper)).toBeGreaterThan(0.25);
  });
  it('does not fail on a model that is always sure', () => {
    const sure = Sketch.of(Array<number>(500).fill(996));
    expect(stabilityIndex(sure, sure)).toBe(0);
    expect(stabilityIndex(sure, scores(300, 900, 100))).toBeGreaterThan(1);
  });
});

describe('drift', () => {
  let dir: string;
  beforeEach(async () => { dir = await mkdtemp(join(tmpdir(), 'reef-drift-')); });
  afterEach(async () => rm(dir, { recursive: true, force: true }));
  const window = (bundle: string, sketch: Sketch) => ({ workload: 'w', bundle, scores: sketch.toBase64() });

  it('learns from the first windows after the commit, over restarts, and begins anew with another bundle', async () => {
    const file = join(dir, 'drift.json');
    const before = await Drift.open(file, new Disk(dir));
    for (let part = 0; part < 4; part += 1) expect(await before.note(window(A, scores(100, 900, 125)))).toBeUndefined();
    const after = await Drift.open(file, new Disk(dir));
    expect(await after.note(window(A, scores(100, 900, 200)))).toMatchObject({ reference: 500, current: 200, psi: expect.closeTo(0, 1) });
    expect((await after.note(window(A, scores(100, 300, 200))))!.psi).toBeGreaterThan(0.25);
    // Too few to say anything, or none.
    expect(await after.note(window(A, scores(100, 300, 20)))).toBeUndefined();
    expect(await after.note({ workload: 'w', bundle: A })).toBeUndefined();
    expect(await after.note(window(B, scores(100, 300, 200)))).toBeUndefined();
  });
  it('begins anew from a damaged file', async () => {
    await writeFile(join(dir, 'drift.json'), '{');
    expect(await (await Drift.open(join(dir, 'drift.json'), new Disk(dir))).note(window(A, scores(1, 2, 600)))).toBeUndefined();
  });
});
