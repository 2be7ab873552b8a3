import { ReefError } from '@reefkeeper/platform/errors';
import { randomOf } from '@reefkeeper/platform/random';
import { scoresOf, type Extractor, type Head, type HeadMethod } from './head.ts';
import { imprint, type Embedded } from './imprinting.ts';
import { regressionDefaults, shuffled, softmaxRegression, type Epoch, type RegressionOptions } from './softmax-regression.ts';

export interface LearnSample extends Embedded {
  /** For messages. */
  name: string;
  /** Never learnt from, always judged by; by lot where nobody says. */
  heldOut?: boolean;
}

export interface LearnOptions {
  method: HeadMethod;
  /** Share of each class that is only judged by, 0 to 0.5. */
  holdout: number;
  seed: number;
  /** The head to add to. */
  before?: Head | null;
  regression?: Partial<RegressionOptions>;
}

export const learnDefaults = { method: 'imprinting', holdout: 0.2, seed: 1 } as const satisfies LearnOptions;

/** Images answered; `confusion[true][answered]`, counts in the order of the labels. */
export interface Judgement { images: number; accuracy: number; confusion: number[][] }

export interface LearnReport {
  method: HeadMethod;
  labels: string[];
  /** `before` = images of the head that was added to. */
  classes: { label: string; before: number; learnt: number; heldOut: number }[];
  /** null where there were too few images to hold any out. */
  heldOut: Judgement | null;
  learnt: Judgement;
  seed: number;
  /** Of softmax regression. */
  training: (Pick<RegressionOptions, 'learningRate' | 'l2' | 'batch'> & { epochs: number; best: number; loss: number; stoppedOn: 'validation' | 'held-out' | 'nothing' }) | null;
}

export interface LearnResult { head: Head; report: LearnReport; heldOut: LearnSample[]; learnt: LearnSample[] }

/** From so many images of every class on, those that stop the training are not those that judge the result. */
const fewest = { toStop: 8, toHoldOut: 3 };

/**
 * Learns a head from embeddings. Yields progress, 0 to 1, so that others can run in between.
 * @throws ReefError `learn.one_class`, `learn.too_few`, `learn.head_differs`
 */
export function* learn(samples: readonly LearnSample[], { features, nonNegative }: Pick<Extractor, 'features' | 'nonNegative'>, options: LearnOptions): Generator<number, LearnResult> {
  const before = options.method === 'imprinting' ? options.before ?? null : null;
  check(samples, before, features, options.method);
  const { learnt, heldOut } = split(samples, options.holdout, options.seed);
  let head: Head;
  let training: LearnReport['training'] = null;
  if (options.method === 'imprinting') {
    head = imprint(learnt, { before, nonNegative });
  } else {
    const settings = { ...regressionDefaults, ...options.regression, seed: options.seed };
    const enough = [...countsOf(learnt).values()].every((count) => count >= fewest.toStop);
    const parts = enough ? split(learnt.map(({ name, label, embedding }) => ({ name, label, embedding })), 0.2, options.seed + 1) : { learnt, heldOut };
    const run = softmaxRegression(parts.learnt, parts.heldOut, settings);
    let step = run.next();
    for (; !step.done; step = run.next()) yield (step.value satisfies Epoch).epoch / settings.epochs;
    const { epochs, best } = step.value;
    head = { ...step.value.head, samples: step.value.head.labels.map((label) => countsOf(learnt).get(label) ?? 0) };
    training = { learningRate: settings.learningRate, l2: settings.l2, batch: settings.batch, epochs: epochs.length, best, loss: epochs[Math.max(0, best - 1)]?.loss ?? 0, stoppedOn: enough ? 'validation' : heldOut.length > 0 ? 'held-out' : 'nothing' };
  }
  yield 1;
  const of = (list: readonly LearnSample[], label: string): number => list.filter((one) => one.label === label).length;
  return {
    head, learnt, heldOut,
    report: {
      method: options.method, labels: head.labels, seed: options.seed, training,
      classes: head.labels.map((label) => ({ label, before: before?.samples[before.labels.indexOf(label)] ?? 0, learnt: of(learnt, label), heldOut: of(heldOut, label) })),
      heldOut: heldOut.length > 0 ? judge(heldOut, head.labels, ({ embedding }) => topOf(scoresOf(head, embedding))) : null,
      learnt: judge(learnt, head.labels, ({ embedding }) => topOf(scoresOf(head, embedding))),
    },
  };
}

/** @param answer index of the class a sample is taken for */
export function judge<S extends { label: string }>(samples: readonly S[], labels: readonly string[], answer: (sample: S, index: number) => number): Judgement {
  const confusion = labels.map(() => labels.map(() => 0));
  samples.forEach((sample, index) => { confusion[labels.indexOf(sample.label)]![answer(sample, index)]! += 1; });
  return { images: samples.length, confusion, accuracy: samples.length === 0 ? 0 : confusion.reduce((sum, row, at) => sum + row[at]!, 0) / samples.length };
}

/** Stratified: of each class its share, rounded, but at least one where there are three or more; what says itself which it is stays so. */
export function split(samples: readonly LearnSample[], holdout: number, seed: number): { learnt: LearnSample[]; heldOut: LearnSample[] } {
  const given = samples.some(({ heldOut }) => heldOut !== undefined);
  if (given) return { learnt: samples.filter(({ heldOut }) => !heldOut), heldOut: samples.filter(({ heldOut }) => heldOut) };
  const random = randomOf(seed);
  const out = new Set<LearnSample>();
  for (const label of new Set(samples.map((one) => one.label))) {
    const members = samples.filter((one) => one.label === label);
    const count = holdout === 0 || members.length < fewest.toHoldOut ? 0 : Math.min(members.length - 1, Math.max(1, Math.round(members.length * holdout)));
    for (const one of shuffled(members, random).slice(0, count)) out.add(one);
  }
  return { learnt: samples.filter((one) => !out.has(one)), heldOut: samples.filter((one) => out.has(one)) };
}

function check(samples: readonly LearnSample[], before: Head | null, features: number, method: HeadMethod): void {
  const learnt = samples.filter(({ heldOut }) => !heldOut);
  const counts = countsOf(learnt);
  const labels = new Set([...(before?.labels ?? []), ...counts.keys()]);
  if (learnt.length === 0) throw new ReefError('learn.too_few', 'invalid', 'There is no image to learn from. Give a folder for each class, with images in it.');
  if (labels.size < 2) throw new ReefError('learn.one_class', 'invalid', `All images are of one class (${[...labels].join('')}): with nothing to tell it from, there is nothing to learn. Give a folder for each of two or more classes${method === 'imprinting' ? ', or add to a model that has some' : ''}.`, { detail: { classes: [...labels] } });
  const few = [...counts].filter(([, count]) => count < 2);
  if (method === 'softmax-regression' && few.length > 0) throw new ReefError('learn.too_few', 'invalid', `Softmax regression needs two images of every class or more; of ${few.map(([label]) => label).join(', ')} there is one. Add images, or use imprinting, for which one is enough.`, { detail: { classes: few.map(([label]) => label) } });
  const unknown = samples.find(({ label, heldOut }) => heldOut && !labels.has(label));
  if (unknown) throw new ReefError('learn.class_unknown', 'invalid', `${unknown.name} is of class "${unknown.label}", which no image to learn from is of.`, { detail: { class: unknown.label } });
  const odd = samples.find(({ embedding }) => embedding.length !== features);
  if (odd) throw new ReefError('learn.head_differs', 'bug', `The embedding of ${odd.name} has ${odd.embedding.length} values instead of ${features}.`);
}

function countsOf(samples: readonly { label: string }[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { label } of samples) counts.set(label, (counts.get(label) ?? 0) + 1);
  return counts;
}

function topOf(scores: ArrayLike<number>): number {
  let top = 0;
  for (let at = 1; at < scores.length; at += 1) if (scores[at]! > scores[top]!) top = at;
  return top;
}
