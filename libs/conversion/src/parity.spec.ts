import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { chooseGolden, type Candidate } from './golden-choice.ts';
import { compare, judgeParity, type SamplePair } from './parity.ts';
import { checkLabels, preprocessingFor, quantise } from './tensors.ts';

const options = { task: 'classification', outputNames: ['probs'], labels: ['cat', 'dog'], sameAsCalibration: false } as const;
const pair = (float: number[], int8: number[], label: number | null = null): SamplePair => ({ float: [float], int8: [int8], label });
const many = (count: number, sample: SamplePair) => Array.from({ length: count }, () => sample);
const of = (samples: SamplePair[], more: object = {}) => compare(samples, { ...options, outputNames: ['probs'], labels: ['cat', 'dog'], ...more });

describe('comparison', () => {
  it('counts agreement and accuracy, per class too', () => {
    const parity = of([...many(30, pair([0.9, 0.1], [0.8, 0.2], 0)), ...many(10, pair([0.2, 0.8], [0.6, 0.4], 1))]);
    expect(parity).toMatchObject({ samples: 40, agreement: 0.75, accuracy: { labelled: 40, float: 1, int8: 0.75 }, warnings: [] });
    expect(parity.perClass).toEqual([{ label: 'cat', count: 30, float: 1, int8: 1 }, { label: 'dog', count: 10, float: 1, int8: 0 }]);
    expect(parity.outputs[0]!.maxError).toBeCloseTo(0.4);
  });

  it.each<[string, SamplePair[], object, string | undefined]>([
    ['alike', many(20, pair([0.9, 0.1], [0.9, 0.1])), {}, undefined],
    ['nothing to compare', [], {}, undefined],
    ['too little agreement', [...many(8, pair([1, 0], [1, 0])), ...many(2, pair([1, 0], [0, 1]))], {}, 'agrees with the original on 80.0 % of 10'],
    ['less is allowed', [...many(8, pair([1, 0], [1, 0])), ...many(2, pair([1, 0], [0, 1]))], { agreement: 0.8 }, undefined],
    ['accuracy lost', [...many(19, pair([1, 0], [1, 0], 0)), ...many(2, pair([1, 0], [0, 1], 0))], {}, 'costs 9.5 % of accuracy'],
    ['better than before', [...many(19, pair([1, 0], [1, 0], 0)), pair([1, 0], [0, 1], 1)], {}, undefined],
    ['answers that are not numbers', many(5, pair([1, 0], [Number.NaN, Number.NaN])), { agreement: 0 }, 'not finite numbers'],
  ])('judges: %s', (_what, samples, thresholds, message) => {
    const verdict = judgeParity(of(samples), thresholds);
    if (message === undefined) expect(verdict).toEqual({ ok: true });
    else expect(verdict).toMatchObject({ ok: false, message: expect.stringContaining(message) as string });
  });

  it('judges other tasks by cosine', () => {
    const verdict = judgeParity(of(many(20, pair([1, 0, 0], [0, 1, 0])), { task: 'embedding' }), {});
    expect(verdict).toMatchObject({ ok: false, numbers: { cosine: 0 } });
    expect(judgeParity(of(many(20, pair([1, 2, 3], [1.01, 2, 2.98])), { task: 'embedding' }), {})).toEqual({ ok: true });
  });

  it('warns of constant answers and of few samples', () => {
    expect(of([pair([1, 0], [1, 0]), pair([0, 1], [1, 0])]).warnings).toEqual([expect.stringContaining('same answer'), expect.stringContaining('Only 2')]);
  });

  it('gives shares between 0 and 1 for any answers', () => {
    const numbers = fc.array(fc.double({ noNaN: true, min: -1e6, max: 1e6 }), { minLength: 3, maxLength: 3 });
    fc.assert(fc.property(fc.array(fc.tuple(numbers, numbers, fc.option(fc.nat(2))), { minLength: 1, maxLength: 20 }), (rows) => {
      const parity = of(rows.map(([float, int8, label]) => pair(float, int8, label)));
      for (const value of [parity.agreement!, parity.accuracy?.float ?? 0, parity.accuracy?.int8 ?? 0]) expect(value >= 0 && value <= 1).toBe(true);
      expect(Math.abs(parity.outputs[0]!.cosine!)).toBeLessThanOrEqual(1.000_001);
      expect(of(rows.map(([float, , label]) => pair(float, float, label))).agreement).toBe(1);
    }));
  });
});

describe('golden cases', () => {
  const candidate = (...values: number[]): Candidate => ({ input: [Buffer.from([1])], outputs: [Buffer.from(Int8Array.from(values).buffer)] });

  it('are of different answers, the clear ones first', () => {
    const chosen = chooseGolden([candidate(10, 9, 0), candidate(100, 0, 0), candidate(90, 0, 0), candidate(0, 50, 0)], ['int8'], 'classification');
    expect(chosen.map((one) => one.expect.outputs[0]!.readInt8(0))).toEqual([100, 0, 90, 10]);
    expect(chosen.map((one) => one.expect.top1)).toEqual([0, 1, 0, null]);
    expect(chooseGolden([candidate(100, 0)], ['int8'], 'embedding')[0]!.expect.top1).toBeNull();
  });

  it('are few, and fewer when inputs are large', () => {
    expect(chooseGolden(Array.from({ length: 50 }, () => candidate(1, 2)), ['int8'], 'classification')).toHaveLength(8);
    expect(chooseGolden([1, 2, 3].map(() => ({ ...candidate(1, 2), input: [Buffer.alloc(9 * 1024 * 1024)] })), ['int8'], 'classification')).toHaveLength(1);
  });
});

describe('tensors', () => {
  it('are quantised as TensorFlow Lite does', () => {
    expect([...new Int8Array(quantise([-1, 0, 1, 5], { dtype: 'int8', scale: 1 / 127.5, zeroPoint: -1 }))]).toEqual([-128, -1, 127, 127]);
    expect([...quantise([0, 1, -3], { dtype: 'uint8', scale: 1 / 255, zeroPoint: 0 })]).toEqual([0, 255, 0]);
    expect(() => quantise([1], { dtype: 'int32', scale: null, zeroPoint: null })).toThrow(expect.objectContaining({ code: 'verify.input_type' }));
  });

  it.each([
    [[1, 224, 224, 3], { mean: 127, std: 128 }, { kind: 'image', width: 224, height: 224, channels: 3, resize: 'center-crop', mean: [127], std: [128] }],
    [[null, 96, 128, 1], { resize: 'stretch' as const }, { kind: 'image', width: 128, height: 96, channels: 1, resize: 'stretch', mean: [127.5], std: [127.5] }],
    [[1, 40], {}, { kind: 'raw' }],
    [[1, 8, 8, 64], {}, { kind: 'raw' }],
  ])('an input of %j', (shape, wanted, expected) => {
    expect(preprocessingFor(shape, wanted)).toEqual(expected);
  });

  it('labels must fit the output', () => {
    checkLabels(['a', 'b'], 'classification', [{ shape: [1, 2] }]);
    checkLabels(['a', 'b'], 'detection', [{ shape: [1, 10, 4] }]);
    checkLabels(null, 'classification', [{ shape: [1, 2] }]);
    expect(() => checkLabels(['a', 'b'], 'classification', [{ shape: [1, 3] }])).toThrow(/3 classes apart, but 2 labels.*background/);
  });
});
