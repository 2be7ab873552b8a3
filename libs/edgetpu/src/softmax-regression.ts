import { randomOf } from '@reefkeeper/platform/random';
import { dot, logitsOf, normalised, softmax, type Head } from './head.ts';
import { imprint, type Embedded } from './imprinting.ts';

export interface RegressionOptions {
  seed: number;
  /** At most. */
  epochs: number;
  /** Of the first epoch; it falls as 1 / (1 + epoch / 50). On normalised embeddings 4 would still converge. */
  learningRate: number;
  /** Weight decay, per step and unit of learning rate. */
  l2: number;
  batch: number;
  /** Epochs without a better validation loss that end it. */
  patience: number;
}

export const regressionDefaults: RegressionOptions = { seed: 1, epochs: 200, learningRate: 1, l2: 1e-4, batch: 16, patience: 20 };

export interface Epoch {
  epoch: number;
  /** Mean cross entropies. */
  loss: number;
  validationLoss: number;
}

/** So far beyond what was seen may a logit lie before it is clipped, as a share of their range. */
const logitMargin = 0.25;

/**
 * Softmax regression on normalised embeddings: stochastic gradient descent from the imprinted weights on, the best epoch by validation loss kept. Yields every
 * epoch, so that whoever runs it on a device can let others run in between.
 * @param validation stops it; with none it runs all epochs
 */
export function* softmaxRegression(samples: readonly Embedded[], validation: readonly Embedded[], options: Partial<RegressionOptions> = {}): Generator<Epoch, { head: Head; epochs: Epoch[]; best: number }> {
  const { seed, epochs, learningRate, l2, batch, patience } = { ...regressionDefaults, ...options };
  const start = imprint(samples);
  const { labels } = start;
  const [weights, bias] = [start.weights.map((row) => Float32Array.from(row)), new Float32Array(labels.length)];
  const units = samples.map(({ label, embedding }) => ({ truth: labels.indexOf(label), unit: normalised(embedding) }));
  const judged = validation.map(({ label, embedding }) => ({ truth: labels.indexOf(label), unit: normalised(embedding) }));
  const random = randomOf(seed);
  const history: Epoch[] = [];
  let best = { epoch: 0, loss: lossOf({ weights, bias }, judged), weights: weights.map((row) => row.slice()), bias: bias.slice() };
  for (let epoch = 1; epoch <= epochs; epoch += 1) {
    const rate = learningRate / (1 + (epoch - 1) / 50);
    const order = shuffled(units, random);
    let loss = 0;
    for (let from = 0; from < order.length; from += batch) {
      const part = order.slice(from, from + batch);
      const errors = part.map(({ truth, unit }) => {
        const scores = softmax(logitsOf({ weights, bias }, unit));
        loss -= Math.log(Math.max(scores[truth]!, 1e-12));
        scores[truth]! -= 1;
        return scores;
      });
      for (let at = 0; at < labels.length; at += 1) {
        const row = weights[at]!;
        const decay = 1 - rate * l2;
        for (let column = 0; column < row.length; column += 1) row[column]! *= decay;
        for (const [index, { unit }] of part.entries()) {
          const step = (rate * errors[index]![at]!) / part.length;
          if (step === 0) continue;
          for (let column = 0; column < row.length; column += 1) row[column]! -= step * unit[column]!;
          bias[at]! -= step;
        }
      }
    }
    const validationLoss = lossOf({ weights, bias }, judged);
    const told = { epoch, loss: loss / order.length, validationLoss };
    history.push(told);
    // Without a validation part the last one is as good as any.
    if (judged.length === 0 || validationLoss < best.loss) best = { epoch, loss: validationLoss, weights: weights.map((row) => row.slice()), bias: bias.slice() };
    yield told;
    if (judged.length > 0 && epoch - best.epoch >= patience) break;
  }
  const { low, high } = rangeOf(best, [...units, ...judged]);
  const middle = (low + high) / 2;
  // A quantised range holds 0, and softmax does not see what is taken off all logits alike: with 0 in its middle no step of it is lost.
  return {
    head: { method: 'softmax-regression', labels, samples: start.samples, sums: null, weights: best.weights, bias: best.bias.map((value) => value - middle), logits: { low: low - middle, high: high - middle } },
    epochs: history, best: best.epoch,
  };
}

function lossOf(head: Pick<Head, 'weights' | 'bias'>, samples: readonly { truth: number; unit: Float32Array }[]): number {
  return samples.reduce((sum, { truth, unit }) => sum - Math.log(Math.max(softmax(logitsOf(head, unit))[truth]!, 1e-12)), 0) / Math.max(1, samples.length);
}

/** Seen logits and a margin, but not beyond what an embedding of length 1 can reach at all. */
function rangeOf(head: Pick<Head, 'weights' | 'bias'>, samples: readonly { unit: Float32Array }[]): Head['logits'] {
  let [low, high] = [Infinity, -Infinity];
  for (const { unit } of samples) for (const logit of logitsOf(head, unit)) [low, high] = [Math.min(low, logit), Math.max(high, logit)];
  const margin = Math.max(logitMargin * (high - low), 1e-3);
  const reach = head.weights.map((row, at) => ({ length: Math.sqrt(dot(row, row)), offset: head.bias[at]! }));
  return { low: Math.max(low - margin, Math.min(...reach.map(({ length, offset }) => offset - length))), high: Math.min(high + margin, Math.max(...reach.map(({ length, offset }) => offset + length))) };
}

/** Fisher and Yates. */
export function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const order = [...items];
  for (let at = order.length - 1; at > 0; at -= 1) {
    const other = Math.floor(random() * (at + 1));
    [order[at], order[other]] = [order[other]!, order[at]!];
  }
  return order;
}
