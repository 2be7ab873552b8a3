import { describe, expect, it } from 'vitest';
import type { Manifest } from '@reefkeeper/bundle';
import type { Reading } from './answer.ts';
import { agree, Pace } from './shadow.ts';

describe('the pace of the model that serves', () => {
  const steady = (us: number, count: number) => Array.from({ length: count }, (_, at) => us + (at % 10) * 10);
  const said = (pace: Pace, frames: number[]) => frames.map((us) => pace.note(us)).filter((word) => word !== 'fine');

  it('is learnt first where it is not known, and left alone while it keeps it', () => {
    const pace = new Pace([], 20);
    expect(said(pace, steady(10_000, 30))).toEqual(Array(30).fill('learning'));
    expect(said(pace, steady(10_000, 400))).toEqual([]);
    // Within 20 %.
    expect(said(pace, steady(11_900, 400))).toEqual([]);
  });
  it('that falls is answered by fewer frames, three times, and then by none', () => {
    expect(said(new Pace(steady(10_000, 30), 20), steady(12_200, 200))).toEqual(['throttle', 'throttle', 'throttle', 'hurts', 'hurts']);
  });
  it('of a fast model moves by 2 ms without meaning anything', () => {
    expect(said(new Pace(steady(500, 60), 20), steady(2_400, 200))).toEqual([]);
    expect(said(new Pace(steady(500, 60), 20), steady(2_800, 40))).toEqual(['throttle']);
  });
  it('does not count single slow frames', () => {
    expect(said(new Pace(steady(10_000, 60), 20), steady(10_000, 400).map((us, at) => (at % 40 === 7 ? 90_000 : us)))).toEqual([]);
  });
});

describe('two models agree', () => {
  const info = (shape: number[]) => ({ name: 'x', shape, dtype: 'float32' as const, scale: null, zeroPoint: null, bytes: 0 });
  const reading = (task: string, labels: string[] | null, ...outputs: { shape: number[]; values: number[] }[]): Reading => ({
    manifest: { task, labels } as unknown as Manifest, tensors: { inputs: [], outputs: outputs.map(({ shape }) => info(shape)) }, outputs: outputs.map(({ values }) => new Uint8Array(Float32Array.from(values).buffer)),
  });
  const classes = (labels: string[] | null, ...values: number[]) => reading('classification', labels, { shape: [1, values.length], values });

  it('on the class, whatever its place and however sure', () => {
    expect(agree(classes(['a', 'b'], 0.9, 0.1), classes(['b', 'a'], 0.4, 0.6))).toBe(true);
    expect(agree(classes(['a', 'b'], 0.9, 0.1), classes(['a', 'b'], 0.4, 0.6))).toBe(false);
    expect(agree(classes(null, 0.9, 0.1), classes(['x', 'y'], 0.8, 0.2))).toBe(true);
  });
  it('on boxes that pair up', () => {
    const boxes = (...left: number[]) => reading('detection', null, { shape: [1, left.length, 4], values: left.flatMap((at) => [0, at, 1, at + 1]) }, { shape: [1, left.length, 2], values: left.flatMap(() => [0.9, 0.1]) });
    expect(agree(boxes(0, 3), boxes(3.1, 0.1))).toBe(true);
    expect(agree(boxes(0, 3), boxes(0, 7))).toBe(false);
  });
  it('on other outputs that point the same way', () => {
    const embedding = (...values: number[]) => reading('embedding', null, { shape: [1, 3], values });
    expect(agree(embedding(1, 2, 3), embedding(2, 4.1, 6))).toBe(true);
    expect(agree(embedding(1, 2, 3), embedding(3, -2, 1))).toBe(false);
    expect(agree(embedding(0, 0, 0), embedding(0, 0, 0))).toBe(true);
  });
});
