import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { appendHead, extractorOf, headModel, learn, learnDefaults, readModel, realEmbedding, scoresOf, type Head, type HeadMethod, type LearnSample } from '@reefkeeper/edgetpu';
import { dequantise, Interpreter, resizePixels } from '@reefkeeper/inference';
import { embeddingModel } from '../../../test/support/embeddings.ts';

const coral = join(process.env.REEF_SHARED ?? join(import.meta.dirname, '../../../../shared'), 'fixtures/coral');
const extractorFile = join(coral, 'mobilenet_v1_1.0_224_quant_embedding_extractor.tflite');

/** Every embedding of these inputs, as TensorFlow Lite gives them. */
function embeddingsOf(file: Buffer, inputs: readonly Buffer[]): Float32Array[] {
  const extractor = extractorOf(readModel(file), { isExtractor: true });
  const interpreter = Interpreter.load(file);
  const found = inputs.map((input) => realEmbedding(extractor, interpreter.run([input]).outputs[extractor.output]!));
  interpreter.close();
  return found;
}

function learnt(file: Buffer, samples: readonly LearnSample[], method: HeadMethod, before: Head | null = null): Head {
  const steps = learn(samples, extractorOf(readModel(file), { isExtractor: true }), { ...learnDefaults, method, before });
  let step = steps.next();
  while (!step.done) step = steps.next();
  return step.value.head;
}

/** What the file's head computes, in real numbers from the file's own quantised constants: only rounding tells it from TensorFlow Lite. */
function computed(file: Buffer, embedding: Float32Array): Float64Array {
  const { head, tensor } = extractorOf(readModel(file));
  const length = Math.hypot(...embedding);
  const unit = embedding.map((value) => Math.round((value / length) * 128) / 128);
  // scoresOf normalises; the steps of 1/128 that the runtime has between its operators must not be undone.
  const scores = scoresOf({ weights: head!.weights.map((row) => row.map((value) => value * Math.hypot(...unit))), bias: head!.bias }, unit);
  expect(tensor.quantisation!.scale).toHaveLength(1);
  return scores;
}

const colours: Record<string, [number, number, number]> = { red: [220, 20, 20], green: [20, 200, 30], blue: [20, 30, 220], yellow: [230, 220, 20] };

/** Plain pictures of a colour in many shades. */
function pictures(type: 'INT8' | 'UINT8', each = 12): { label: string; input: Buffer }[] {
  return Object.entries(colours).flatMap(([label, base]) => Array.from({ length: each }, (_, shade) => ({
    label,
    input: Buffer.from(Uint8Array.from({ length: 32 * 32 * 3 }, (_value, at) => (Math.round(base[at % 3]! * (0.6 + shade / 30) + ((at * 7 + shade) % 11)) - (type === 'INT8' ? 128 : 0)) & 0xff)),
  })));
}

describe.each(['INT8', 'UINT8'] as const)('a head on an %s extractor in TensorFlow Lite', (type) => {
  const file = embeddingModel({ type });
  const shown = pictures(type);
  const embeddings = embeddingsOf(file, shown.map(({ input }) => input));
  const samples = shown.map(({ label }, at): LearnSample => ({ name: `${at}`, label, embedding: embeddings[at]! }));

  it.each(['imprinting', 'softmax-regression'] as const)('%s: answers as the float computation, and right', (method) => {
    const head = learnt(file, samples, method);
    const bytes = Buffer.from(appendHead(readModel(file), head, { isExtractor: true }));
    const interpreter = Interpreter.load(bytes);
    expect(interpreter.outputs.map(({ shape }) => shape)).toEqual([[1, 4], [1, 24]]);
    let worst = 0;
    for (const [at, { label, input }] of shown.entries()) {
      const { outputs } = interpreter.run([input]);
      const scores = dequantise(outputs[0]!, interpreter.outputs[0]!);
      expect(head.labels[scores.indexOf(Math.max(...scores))]).toBe(label);
      // The embedding still comes out as before: the head changes nothing in front of it.
      expect(realEmbedding(extractorOf(readModel(bytes)), outputs[1]!)).toEqual(embeddings[at]);
      const [logitStep, wanted] = [(head.logits.high - head.logits.low) / 255, computed(bytes, embeddings[at]!)];
      // Half a step of a logit, one of the normalised row where the runtime's integer square root differs, half a step of a score.
      scores.forEach((score, which) => { worst = Math.max(worst, Math.abs(score - wanted[which]!) / (1 / 256 + wanted[which]! * (1 - wanted[which]!) * 3 * logitStep)); });
    }
    expect(worst).toBeLessThanOrEqual(1);
    interpreter.close();
  });

  it('the head alone gives the scores that the whole model gives', () => {
    const head = learnt(file, samples, 'imprinting');
    const extractor = extractorOf(readModel(file), { isExtractor: true });
    const [whole, alone] = [Interpreter.load(Buffer.from(appendHead(readModel(file), head, { isExtractor: true }))), Interpreter.load(Buffer.from(headModel(extractor, head)))];
    for (const { input } of shown) {
      const [scores, embedding] = whole.run([input]).outputs as [Buffer, Buffer];
      expect(alone.run([embedding]).outputs[0]).toEqual(scores);
    }
    for (const one of [whole, alone]) one.close();
  });

  it('a class more: the old ones are still known, and the rows before it are the same bytes', () => {
    const first = learnt(file, samples.filter(({ label }) => label !== 'yellow'), 'imprinting');
    const three = Buffer.from(appendHead(readModel(file), first, { isExtractor: true }));
    const { head: before } = extractorOf(readModel(three));
    const four = learnt(three, samples.filter(({ label }) => label === 'yellow'), 'imprinting', before);
    const interpreter = Interpreter.load(Buffer.from(appendHead(readModel(three), four)));
    for (const { label, input } of shown) {
      const scores = dequantise(interpreter.run([input]).outputs[0]!, interpreter.outputs[0]!);
      expect(four.labels[scores.indexOf(Math.max(...scores))]).toBe(label);
    }
    expect(four.weights.slice(0, 3)).toEqual(first.weights);
    interpreter.close();
  });
});

describe.runIf(existsSync(extractorFile))('the public MobileNet v1 extractor', () => {
  const file = existsSync(extractorFile) ? readFileSync(extractorFile) : Buffer.alloc(0);
  const picture = (name: string): Buffer => resizePixels(...bitmap(readFileSync(join(coral, 'imprinting', `${name}.bmp`))), { width: 224, height: 224, channels: 3, resize: 'stretch' });

  it('four photographs imprint three classes, and the three test photographs are right', () => {
    const train = ['cat_train_0', 'dog_train_0', 'hotdog_train_0', 'hotdog_train_1'];
    const embeddings = embeddingsOf(file, train.map(picture));
    const head = learnt(file, train.map((name, at) => ({ name, label: name.split('_')[0]!, embedding: embeddings[at]!, heldOut: false })), 'imprinting');
    const interpreter = Interpreter.load(Buffer.from(appendHead(readModel(file), head, { isExtractor: true })));
    const answers = ['cat_test_0', 'dog_test_0', 'hotdog_test_0'].map((name) => {
      const scores = dequantise(interpreter.run([picture(name)]).outputs[0]!, interpreter.outputs[0]!);
      return { is: name.split('_')[0], answered: head.labels[scores.indexOf(Math.max(...scores))], sure: Math.max(...scores) > 0.6 };
    });
    interpreter.close();
    expect(answers).toEqual(['cat', 'dog', 'hotdog'].map((label) => ({ is: label, answered: label, sure: true })));
  });
});

/** Uncompressed 24-bit BMP, which sharp does not read: rows from the bottom up, blue first, padded to 4 bytes. */
function bitmap(bytes: Buffer): [Buffer, { width: number; height: number; channels: 3 }] {
  const [start, width, height] = [bytes.readUInt32LE(10), bytes.readInt32LE(18), bytes.readInt32LE(22)];
  const stride = (width * 3 + 3) & ~3;
  const pixels = Buffer.alloc(width * height * 3);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const from = start + (height - 1 - y) * stride + x * 3;
      pixels.set([bytes[from + 2]!, bytes[from + 1]!, bytes[from]!], (y * width + x) * 3);
    }
  }
  return [pixels, { width, height, channels: 3 }];
}
