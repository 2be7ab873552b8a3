import { describe, expect, it } from 'vitest';
import { classify, resizePixels, softmax } from './index.ts';

describe('resizePixels', () => {
  const grey = (width: number, height: number) => ({ width, height, channels: 1 as const });
  const to = (width: number, height: number, resize: 'stretch' | 'center-crop' = 'stretch') => ({ ...grey(width, height), resize });

  it('leaves pixels of the right size alone', () => {
    expect([...resizePixels(Uint8Array.from([1, 2, 3, 4, 5, 6]), grey(3, 2), to(3, 2))]).toEqual([1, 2, 3, 4, 5, 6]);
  });
  it('enlarges with half-pixel centres: centres at -0.25, 0.25, 0.75, 1.25 of [0, 100]', () => {
    expect([...resizePixels(Uint8Array.from([0, 100]), grey(2, 1), to(4, 1))]).toEqual([0, 25, 75, 100]);
  });
  it('shrinks by sampling: centres at 0.5 and 2.5 of four', () => {
    expect([...resizePixels(Uint8Array.from([10, 20, 30, 41]), grey(4, 1), to(2, 1))]).toEqual([15, 36]);
    expect([...resizePixels(Uint8Array.from([0, 100, 200, 40]), grey(2, 2), to(1, 1))]).toEqual([85]);
  });
  it('crops to the centre with the target\'s proportions', () => {
    expect([...resizePixels(Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8]), grey(4, 2), to(2, 2, 'center-crop'))]).toEqual([2, 3, 6, 7]);
  });
  it('keeps colours apart, and makes grey by BT.601', () => {
    const pixels = Uint8Array.from([255, 0, 0, 0, 255, 0]);
    const frame = { width: 2, height: 1, channels: 3 as const };
    expect([...resizePixels(pixels, frame, { ...frame, resize: 'stretch' })]).toEqual([...pixels]);
    expect([...resizePixels(pixels, frame, to(2, 1))]).toEqual([76, 150]);
    expect([...resizePixels(Uint8Array.from([7]), grey(1, 1), { ...to(1, 1), channels: 3 })]).toEqual([7, 7, 7]);
  });
  it('refuses a frame that is not what it says', () => {
    expect(() => resizePixels(new Uint8Array(5), grey(2, 3), to(1, 1))).toThrow(expect.objectContaining({ code: 'inference.input_size' }));
    expect(() => resizePixels(new Uint8Array(0), grey(0, 0), to(1, 1))).toThrow(expect.objectContaining({ code: 'inference.input_size' }));
  });
});

describe('scores', () => {
  it('softmax: [0, ln 3] is [1/4, 3/4], and large values do not overflow', () => {
    expect([...softmax([0, Math.log(3)])]).toEqual([expect.closeTo(0.25, 6), expect.closeTo(0.75, 6)]);
    expect([...softmax([1_000, 1_000])]).toEqual([0.5, 0.5]);
  });
  it('takes a quantised distribution as it is', () => {
    // 26, 102 and 128 of 256 make 0.1016, 0.3984 and 0.5.
    const output = { dtype: 'uint8' as const, scale: 1 / 256, zeroPoint: 0 };
    expect(classify(Uint8Array.from([26, 128, 102]), output, { labels: ['a', 'b', 'c'], k: 2 })).toEqual([{ index: 1, label: 'b', score: 0.5 }, { index: 2, label: 'c', score: expect.closeTo(102 / 256, 6) }]);
  });
  it('takes anything else for logits; a class without a label is named by its number', () => {
    const output = { dtype: 'int8' as const, scale: 1, zeroPoint: 0 };
    expect(classify(Uint8Array.from([-2 & 0xff, 2]), output, { labels: ['a'] })).toEqual([{ index: 1, label: '1', score: expect.closeTo(1 / (1 + Math.exp(-4)), 5) }, { index: 0, label: 'a', score: expect.closeTo(1 / (1 + Math.exp(4)), 5) }]);
  });
});
