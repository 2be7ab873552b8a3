import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { chooseGolden, type Candidate } from './golden-choice.ts';
import { compare, judgeParity } from './parity.ts';
import { compareBoxes } from './parity-heads.ts';
import type { ComparedTensor, ParityOptions, SamplePair } from './parity-samples.ts';
import { checkLabels, preprocessingFor, quantise } from './tensors.ts';

const range = { low: -1, high: 1, step: 1 / 128 };
const probabilities: ComparedTensor = { name: 'probs', shape: [1, 2], range: { low: 0, high: 255 / 256, step: 1 / 256 } };
const options: ParityOptions = {
  task: 'classification', inputs: [{ name: 'image', shape: [1, 4], range }], outputs: [probabilities], labels: ['cat', 'dog'], sameAsCalibration: false, conversionWarnings: [],
};
const pair = (float: number[], int8: number[], label: number | null = null, input: number[] = [0, 0.5, -0.5, 1]): SamplePair => ({ inputs: [input], float: [float], int8: [int8], label });
const many = (count: number, sample: SamplePair) => Array.from({ length: count }, () => sample);
const of = (samples: SamplePair[], more: Partial<ParityOptions> = {}) => compare(samples, { ...options, ...more });
const codes = (samples: SamplePair[], more: Partial<ParityOptions> = {}) => of(samples, more).findings!.map(({ code }) => code);
const [cat, dog] = [[0.9, 0.1], [0.2, 0.8]];

describe('comparison', () => {
  it('counts agreement, accuracy and confusions, per class too', () => {
    const parity = of([...many(30, pair(cat, [0.8, 0.2], 0)), ...many(10, pair(dog, [0.6, 0.4], 1))]);
    expect(parity).toMatchObject({ samples: 40, agreement: 0.75, accuracy: { labelled: 40, float: 1, int8: 0.75 } });
    expect(parity.perClass).toEqual([{ label: 'cat', count: 30, float: 1, int8: 1 }, { label: 'dog', count: 10, float: 1, int8: 0 }]);
    expect(parity.confusions).toEqual([{ truth: 'cat', answer: 'cat', count: 30 }, { truth: 'dog', answer: 'cat', count: 10 }]);
    expect(parity.outputs[0]!.maxError).toBeCloseTo(0.4);
  });

  it.each<[string, SamplePair[], object, string | undefined]>([
    ['alike', many(20, pair(cat, cat)), {}, undefined],
    ['nothing to compare', [], {}, undefined],
    ['too little agreement', [...many(8, pair([1, 0], [1, 0])), ...many(2, pair([1, 0], [0, 1]))], {}, 'agrees with the original on 80.0 % of 10'],
    ['less is allowed', [...many(8, pair([1, 0], [1, 0])), ...many(2, pair([1, 0], [0, 1]))], { agreement: 0.8 }, undefined],
    ['accuracy lost', [...many(19, pair([1, 0], [1, 0], 0)), ...many(2, pair([1, 0], [0, 1], 0))], {}, 'costs 9.5 % of accuracy'],
    ['better than before', [...many(19, pair([1, 0], [1, 0], 0)), pair([1, 0], [0, 1], 1)], {}, undefined],
  ])('judges: %s', (_what, samples, thresholds, message) => {
    const verdict = judgeParity(of(samples), thresholds);
    if (message === undefined) expect(verdict).toEqual({ ok: true });
    else expect(verdict).toMatchObject({ ok: false, code: 'verify.disagrees', message: expect.stringContaining(message) as string });
  });

  it('judges other tasks by cosine', () => {
    const vector: Partial<ParityOptions> = { task: 'embedding', outputs: [{ name: 'vector', shape: [1, 3], range: null }] };
    expect(judgeParity(of(many(20, pair([1, 0, 0], [0, 1, 0])), vector), {})).toMatchObject({ ok: false, numbers: { cosine: 0 } });
    expect(judgeParity(of(many(20, pair([1, 2, 3], [1.01, 2, 2.98])), vector), {})).toEqual({ ok: true });
  });

  it('gives shares between 0 and 1 for any answers', () => {
    const numbers = fc.array(fc.double({ noNaN: true, min: -1e6, max: 1e6 }), { minLength: 3, maxLength: 3 });
    fc.assert(fc.property(fc.array(fc.tuple(numbers, numbers, fc.option(fc.nat(2))), { minLength: 1, maxLength: 20 }), (rows) => {
      const parity = of(rows.map(([float, int8, label]) => pair(float, int8, label)));
      for (const value of [parity.agreement!, parity.accuracy?.float ?? 0, parity.accuracy?.int8 ?? 0]) expect(value >= 0 && value <= 1).toBe(true);
      expect(Math.abs(parity.outputs[0]!.cosine!)).toBeLessThanOrEqual(1.000_001);
      expect(of(rows.map(([float, , label]) => pair(float, float, label))).agreement).toBe(1);
      // Numbers so small that their squares have but a few bits left once gave more than 1.
    }), { examples: [[[[[1.1310411971273393e-161, 0, 0], [3.2761780501193924e-162, 0, 0], null]]]] });
  });
});

describe('a fault that was planted is named', () => {
  const good = [...many(15, pair(cat, cat, 0)), ...many(15, pair(dog, dog, 1))];

  it('and nothing else is: a good conversion has no findings', () => {
    expect(codes(good)).toEqual([]);
  });

  it.each<[string, string, 'error' | 'warning', SamplePair[], Partial<ParityOptions>, string]>([
    ['constant output', 'verify.constant_output', 'error', [...many(10, pair(cat, cat)), ...many(10, pair(dog, cat))], {}, 'same answer "probs" to every sample'],
    ['answers that are not numbers', 'verify.not_finite', 'error', many(20, pair(cat, [Number.NaN, Number.NaN])), {}, 'of the quantised model'],
    ['an original that is broken', 'verify.not_finite', 'error', many(20, pair([Number.POSITIVE_INFINITY, 0], cat)), {}, 'of the original'],
    ['one-coloured calibration, so that inputs are clipped', 'verify.input_clipped', 'warning', good.map((one) => ({ ...one, inputs: [[3, 0, 0, 0]] })), {}, '25.0 % of the values given to "image"'],
    ['a narrow output range', 'verify.saturated_output', 'warning', good.map((one) => ({ ...one, float: [[4, -4]], int8: [[255 / 256, 0]] })), { task: 'embedding' }, '100.0 % of the original'],
    ['swapped labels', 'verify.label_order', 'error', [...many(15, pair(cat, cat, 1)), ...many(15, pair(dog, dog, 0))], {}, '"dog" are answered "cat", "cat" are answered "dog". As given, the original is right on 0.0 %; renamed it would be on 100.0 %'],
    ['labels without the background class', 'verify.label_order', 'error', [...many(5, pair([0, 1, 0], [0, 1, 0], 0)), ...many(5, pair([0, 0, 1], [0, 0, 1], 1)), ...many(15, pair([1, 0, 0], [1, 0, 0]))], { labels: ['cat', 'dog', 'owl'] }, 'background class, which belongs first'],
    ['a class lost', 'verify.class_lost', 'warning', [...many(40, pair(cat, cat, 0)), ...many(5, pair(dog, cat, 1)), pair(dog, dog)], {}, 'most of a class: "dog"'],
    ['samples of one class', 'verify.one_class', 'warning', many(30, pair(cat, [0.8, 0.2])), {}, 'class 0 to every sample'],
    ['few samples', 'verify.few_samples', 'warning', [pair(cat, cat), pair(dog, dog)], {}, 'Only 2 samples'],
    ['nothing held out', 'verify.not_held_out', 'warning', good, { sameAsCalibration: true }, 'held-out'],
    ['a small calibration set', 'convert.warning', 'warning', good, { conversionWarnings: ['The calibration set has only 3 samples.'] }, 'only 3'],
  ])('%s', (_what, code, severity, samples, more, words) => {
    const parity = of(samples, more);
    expect(parity.findings).toEqual(expect.arrayContaining([{ code, severity, message: expect.stringContaining(words) as string }]));
    expect(parity.findings!.filter((one) => one.code === code)).toHaveLength(1);
    if (severity === 'error') expect(judgeParity(parity, { agreement: 0, accuracyDrop: 1 })).toMatchObject({ ok: false, code });
  });

  it('a model that takes one class for another is not taken for one with swapped labels', () => {
    const [owl, eel] = [[0, 0, 1, 0], [0, 0, 0, 1]];
    expect(codes([...many(9, pair(owl, owl, 0)), ...many(4, pair(eel, eel, 3)), ...many(3, pair([0, 1, 0, 0], [0, 1, 0, 0], 1))], { labels: ['cat', 'dog', 'owl', 'eel'] })).not.toContain('verify.label_order');
  });

  it('a model that is merely bad is not taken for one with swapped labels', () => {
    const random = Array.from({ length: 60 }, (_, at) => pair(at % 2 ? cat : dog, at % 2 ? cat : dog, at % 3 === 0 ? 1 : 0));
    expect(codes(random)).not.toContain('verify.label_order');
    expect(codes(good)).not.toContain('verify.label_order');
  });

  it('an original that tells its samples apart by less than two steps is not held against the quantised model', () => {
    expect(codes([...many(15, pair([0.5, 0.5], [0.5, 0.5])), ...many(15, pair([0.501, 0.499], [0.5, 0.5]))])).not.toContain('verify.constant_output');
  });
});

describe('boxes', () => {
  const tensor = (name: string, ...shape: number[]): ComparedTensor => ({ name, shape, range: null });
  const post = [tensor('boxes', 1, 3, 4), tensor('classes', 1, 3), tensor('scores', 1, 3), tensor('count', 1)];
  const answer = (first: number[], kind = 1, score = 0.9) => [[...first, 0.5, 0.5, 0.9, 0.9, 0, 0, 0, 0], [kind, 2, 0], [score, 0.7, 0.1], [3]];
  const detection = (float: number[][], int8: number[][]): SamplePair => ({ inputs: [[0]], float, int8, label: null });
  const near = [0.1, 0.1, 0.4, 0.41];

  it.each<[string, number[][], object]>([
    ['the same', answer([0.1, 0.1, 0.4, 0.4]), { agreement: 1, original: 2, quantised: 2, matched: 2, meanIou: 1 }],
    ['nearly the same', answer(near), { agreement: 1, matched: 2 }],
    ['elsewhere', answer([0.6, 0.1, 0.9, 0.4]), { agreement: 0.5, matched: 1, meanIou: 1 }],
    ['of another class', answer(near, 0), { agreement: 0.5, matched: 1 }],
    ['not seen', answer(near, 1, 0.3), { agreement: 2 / 3, original: 2, quantised: 1, matched: 1 }],
  ])('post-processed, one is %s', (_what, int8, expected) => {
    const parity = of([detection(answer([0.1, 0.1, 0.4, 0.4]), int8)], { task: 'detection', outputs: post });
    expect(parity.boxes).toMatchObject(expected);
    expect(parity.agreement).toBe(parity.boxes!.agreement);
  });

  it('with rows of class scores, as centre and size', () => {
    const rows = [tensor('boxes', 1, 2, 4), tensor('scores', 1, 2, 3)];
    const float = [[0.5, 0.5, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1], [0, 0.9, 0.1, 0.3, 0.1, 0.2]];
    expect(compareBoxes([detection(float, float)], { outputs: rows })).toMatchObject({ original: 1, matched: 1, meanIou: 1 });
    const moved = [[0.6, 0.5, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1], float[1]!];
    expect(compareBoxes([detection(float, moved)], { outputs: rows })).toMatchObject({ agreement: 0, matched: 0, meanIou: null });
  });

  it('are not read out of offsets to anchors, or of no boxes at all', () => {
    const rows = [tensor('boxes', 1, 2, 4), tensor('scores', 1, 2, 3)];
    const offsets = [[0.5, -0.5, -2, 0.1, 1, 1, -1, -1], [0, 0.9, 0.1, 0.3, 0.1, 0.2]];
    expect(compareBoxes([detection(offsets, offsets)], { outputs: rows })).toBeNull();
    expect(compareBoxes([detection([[1, 2]], [[1, 2]])], { outputs: [tensor('x', 1, 2)] })).toBeNull();
    expect(of([detection(offsets, offsets)], { task: 'detection', outputs: rows })).toMatchObject({ agreement: null });
  });

  it('none found by either is no agreement and no disagreement', () => {
    const none = answer(near, 1, 0.1).map((values, index) => (index === 2 ? [0.1, 0.1, 0.1] : values));
    expect(of([detection(none, none)], { task: 'detection', outputs: post })).toMatchObject({ agreement: null, boxes: { original: 0, quantised: 0 } });
  });
});

describe('masks', () => {
  const outputs = (...shape: number[]): ComparedTensor[] => [{ name: 'mask', shape, range: null }];
  const mask = (float: number[], int8: number[]): SamplePair => ({ inputs: [[0]], float: [float], int8: [int8], label: null });

  it.each<[string, number[], number[], number[]]>([
    ['scores per class', [1, 2, 2, 2], [1, 0, 1, 0, 0, 1, 0, 1], [1, 0, 0, 1, 0, 1, 0, 1]],
    ['the class itself', [1, 2, 2], [0, 0, 1, 1], [0, 1, 1, 1]],
    ['chance of the foreground', [1, 2, 2, 1], [0.1, 0.2, 0.9, 0.8], [0.1, 0.6, 0.9, 0.8]],
  ])('given as %s', (_what, shape, float, int8) => {
    const parity = of([mask(float, int8)], { task: 'segmentation', outputs: outputs(...shape), labels: ['ground', 'reef'] });
    expect(parity.agreement).toBe(0.75);
    expect(parity.masks!.perClass).toEqual([{ label: 'ground', iou: 1 / 2, pixels: 2 }, { label: 'reef', iou: 2 / 3, pixels: 3 }]);
    expect(judgeParity(parity, {})).toMatchObject({ ok: false, message: expect.stringContaining('75.0 % of the pixels') as string });
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
