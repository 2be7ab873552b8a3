import { describe, expect, it } from 'vitest';
import { detectionHead, matchBoxes, type Detection } from './index.ts';

const outputs = [{ shape: [1, 2, 4] }, { shape: [1, 2] }, { shape: [1, 2] }, { shape: [1] }];
const boxes = [0.1, 0.2, 0.5, 0.6, 0, 0, 0, 0];

describe('detections of a single answer', () => {
  it('are read in either order of classes and scores', () => {
    const found = [{ box: [0.1, 0.2, 0.5, 0.6], kind: 3, score: 0.75 }];
    for (const answer of [[boxes, [3, 0], [0.75, 0], [1]], [boxes, [0.75, 0], [3, 0], [1]]]) expect(detectionHead(outputs, [answer])!(answer)).toEqual(found);
  });
  it('none is none, not something unreadable', () => {
    const nothing = [Array<number>(8).fill(0), [0, 0], [0, 0], [0]];
    expect(detectionHead(outputs, [nothing])!(nothing)).toEqual([]);
  });
  it('match one to one, by class and overlap', () => {
    const one = (left: number, kind = 0, score = 0.9): Detection => ({ box: [0, left, 1, left + 1], kind, score });
    expect(matchBoxes([one(0), one(3)], [one(0.1), one(0.2), one(3, 1)])).toEqual({ matched: 1, overlap: expect.closeTo(0.9 / 1.1, 6) });
  });
});
