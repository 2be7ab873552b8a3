import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { randomOf } from '@reefkeeper/platform/random';
import { normalised, scoresOf } from './head.ts';
import { imprint, type Embedded } from './imprinting.ts';
import { learn, learnDefaults, split, type LearnOptions, type LearnSample } from './learn.ts';

const features = 16;
const traits = { features, nonNegative: false };

/** Clouds around one direction per class. */
function cloud(classes: number, each: number, spread: number, seed = 3): LearnSample[] {
  const random = randomOf(seed);
  const centres = Array.from({ length: classes }, () => Array.from({ length: features }, () => random() - 0.5));
  return Array.from({ length: classes * each }, (_, at) => ({ name: `image-${at}`, label: `class-${at % classes}`, embedding: centres[at % classes]!.map((value) => (value + (random() - 0.5) * spread) * (1 + random())) }));
}

function run(samples: readonly LearnSample[], options: Partial<LearnOptions> = {}) {
  const steps = learn(samples, traits, { ...learnDefaults, ...options });
  const progress: number[] = [];
  let step = steps.next();
  for (; !step.done; step = steps.next()) progress.push(step.value);
  return { ...step.value, progress };
}

const sample = fc.record({ label: fc.constantFrom('a', 'b', 'c', 'd'), embedding: fc.array(fc.float({ min: -8, max: 8, noNaN: true }), { minLength: 4, maxLength: 4 }) });

describe('imprinting', () => {
  it('adding in any parts and any order is learning all at once', () => {
    fc.assert(fc.property(fc.array(sample, { minLength: 2, maxLength: 20 }), fc.nat(20), (samples, cut) => {
      const [whole, parts] = [imprint(samples), imprint(samples.slice(cut), { before: cut > 0 && cut < samples.length ? imprint(samples.slice(0, cut)) : null })];
      const given = cut > 0 && cut < samples.length ? samples : samples.slice(cut);
      if (given.length === 0) return;
      const other = given === samples ? parts : imprint(given);
      for (const [at, label] of parts.labels.entries()) {
        const same = (given === samples ? whole : other).labels.indexOf(label);
        const reference = (given === samples ? whole : other).weights[same]!;
        expect(Math.max(...parts.weights[at]!.map((value, column) => Math.abs(value - reference[column]!)))).toBeLessThan(0.01);
      }
      // Embeddings that cancel each other but for the rounding of what is kept, which once decided where the class points.
    }), { examples: [
      [[['c', -4.968811473382573e-10, 0, 0, 0], ['c', 3.0710366689680177e-38, -6.234862277569153e-38, 0, -2.3351663640115147e-33], ['c', 0, 4.69790151225169e-10, 0, 0.000014678112165711354], ['a', 0, 0, 0, 0], ['c', 8.375239737845597e-12, 0, 0, -1.5084204923187936e-16]].map(([label, ...embedding]) => ({ label, embedding }) as Embedded & { embedding: number[] }), 2],
      [[[1, 1e-7, 0, 0], [0, 0, 0, 1], [0, 0, 0, -1], [-1, 0, 1e-7, 0]].map((embedding) => ({ label: 'a', embedding })), 2],
    ] });
  });

  it('a class whose images point every way says nothing', () => {
    const head = imprint([...[1, 2, -1, -2].map((value) => ({ label: 'none', embedding: [value, 1e-8, 0, 0] })), { label: 'one', embedding: [0, 0, 3, 0] }]);
    expect(Math.max(...head.weights[0]!.map(Math.abs))).toBeLessThan(0.01);
    expect([...head.weights[1]!]).toEqual([0, 0, 16, 0]);
  });

  it('a new class leaves the rows of the old ones as they were', () => {
    fc.assert(fc.property(fc.array(sample, { minLength: 2, maxLength: 10 }), (samples) => {
      const before = imprint(samples);
      const after = imprint([{ label: 'new', embedding: [1, 2, 3, 4] }], { before });
      expect(after.labels).toEqual([...before.labels, 'new']);
      expect(after.weights.slice(0, -1)).toEqual(before.weights);
      expect(after.samples).toEqual([...before.samples, 1]);
    }));
  });

  it('brightness does not count, only direction', () => {
    const bright = (factor: number): Embedded[] => cloud(3, 4, 0.2).map(({ label, embedding }) => ({ label, embedding: Array.from(embedding, (value) => value * factor) }));
    imprint(bright(9)).weights.forEach((row, at) => row.forEach((value, column) => expect(value).toBeCloseTo(imprint(bright(1)).weights[at]![column]!, 3)));
  });

  it('cannot add to what another method learnt', () => {
    const { head } = run(cloud(2, 12, 0.3), { method: 'softmax-regression' });
    expect(() => imprint(cloud(2, 1, 0.3), { before: head })).toThrow(expect.objectContaining({ code: 'learn.head_differs' }));
  });
});

describe('softmax regression', () => {
  it('tells apart what imprinting mixes up: a narrow class inside the cone of a wide one', () => {
    const random = randomOf(5);
    const axis = Array.from({ length: features }, (_, at) => (at === 0 ? 1 : 0));
    // Same mean direction but for one small, certain trait.
    const samples = Array.from({ length: 160 }, (_, at): LearnSample => {
      const trait = at % 2 === 0 ? 0.25 : -0.05;
      return { name: `${at}`, label: at % 2 === 0 ? 'marked' : 'plain', embedding: axis.map((value, column) => (column === 1 ? trait + (random() - 0.5) * 0.1 : value + (column > 1 ? (random() - 0.5) * 1.2 : 0))) };
    });
    const [imprinted, trained] = (['imprinting', 'softmax-regression'] as const).map((method) => run(samples, { method, holdout: 0.3 }).report);
    expect(trained!.heldOut!.accuracy).toBeGreaterThan(imprinted!.heldOut!.accuracy + 0.02);
    expect(trained!.heldOut!.accuracy).toBeGreaterThan(0.9);
    expect(trained!.training).toMatchObject({ learningRate: 1, stoppedOn: 'validation' });
  });

  it('the same seed gives the same head, and says how far it is', () => {
    const [one, other] = [run(cloud(3, 10, 0.8), { method: 'softmax-regression' }), run(cloud(3, 10, 0.8), { method: 'softmax-regression' })];
    expect(one.head).toEqual(other.head);
    expect(one.progress.at(-1)).toBe(1);
    expect(one.progress).toEqual([...one.progress].sort((a, b) => a - b));
  });

  it('every logit of what it has seen lies within the range it is quantised to', () => {
    const { head, learnt } = run(cloud(4, 10, 1), { method: 'softmax-regression' });
    for (const { embedding } of learnt) {
      const unit = normalised(embedding);
      for (const [at, row] of head.weights.entries()) {
        const logit = row.reduce((sum, value, column) => sum + value * unit[column]!, head.bias[at]!);
        expect(logit).toBeGreaterThanOrEqual(head.logits.low - 1e-4);
        expect(logit).toBeLessThanOrEqual(head.logits.high + 1e-4);
      }
    }
  });
});

describe('learn', () => {
  it('judges by images it has not learnt from, of every class', () => {
    const { report, heldOut, learnt } = run(cloud(4, 10, 0.4));
    expect(report.classes).toEqual(['class-0', 'class-1', 'class-2', 'class-3'].map((label) => ({ label, before: 0, learnt: 8, heldOut: 2 })));
    expect(report.heldOut).toMatchObject({ images: 8, accuracy: 1 });
    expect(new Set([...heldOut, ...learnt].map(({ name }) => name)).size).toBe(40);
    expect(heldOut.some(({ name }) => learnt.some((one) => one.name === name))).toBe(false);
  });

  it('one image per class is enough for imprinting, but then nothing is held out', () => {
    const { report, head } = run(cloud(3, 1, 0));
    expect(report.heldOut).toBeNull();
    expect(Math.max(...scoresOf(head, cloud(3, 1, 0)[0]!.embedding))).toBeGreaterThan(0.9);
  });

  it('who says which images are held out is obeyed', () => {
    const samples = cloud(2, 4, 0.2).map((one, at) => ({ ...one, heldOut: at >= 6 }));
    expect(run(samples).heldOut.map(({ name }) => name)).toEqual(['image-6', 'image-7']);
  });

  it('splits every class alike, keeps at least one to learn from, and the same seed splits alike', () => {
    fc.assert(fc.property(fc.array(fc.constantFrom('a', 'b', 'c'), { maxLength: 40 }), fc.double({ min: 0, max: 0.5, noNaN: true }), fc.nat(), (labels, holdout, seed) => {
      const samples = labels.map((label, at) => ({ name: `${at}`, label, embedding: [1] }));
      const parts = split(samples, holdout, seed);
      expect([...parts.learnt, ...parts.heldOut].length).toBe(samples.length);
      for (const label of new Set(labels)) expect(parts.learnt.some((one) => one.label === label)).toBe(true);
      expect(split(samples, holdout, seed)).toEqual(parts);
    }));
  });

  it.each([
    ['no images', [], {}, 'learn.too_few'],
    ['one class', cloud(1, 5, 0.1), {}, 'learn.one_class'],
    ['softmax regression on single images', cloud(3, 1, 0), { method: 'softmax-regression' as const }, 'learn.too_few'],
    ['a class that is only held out', [...cloud(2, 3, 0.1), { name: 'odd.jpg', label: 'other', embedding: new Float32Array(features), heldOut: true }], {}, 'learn.class_unknown'],
  ])('refuses %s', (_, samples, options, code) => {
    expect(() => run(samples, options)).toThrow(expect.objectContaining({ code }));
  });

  it('one new class is enough where there is a head to add to', () => {
    const { head } = run(cloud(2, 4, 0.2));
    const more = run(cloud(1, 4, 0.2, 9).map((one) => ({ ...one, label: 'new' })), { before: head });
    expect(more.report.labels).toEqual(['class-0', 'class-1', 'new']);
    expect(more.report.classes.map(({ before }) => before)).toEqual([3, 3, 0]);
  });
});
