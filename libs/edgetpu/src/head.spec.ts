import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { compiledModel } from './tflite-builder.fixture.ts';
import { analyze, inspectCompiled, readModel, writeModel } from './index.ts';
import { appendHead, extractorOf, headModel, normalised, scoresOf, withoutHead, type Head } from './head.ts';
import { imprint } from './imprinting.ts';
import { embeddingModel } from '../../../test/support/embeddings.ts';
import { sharedModel, sharedPresent } from './shared.fixture.ts';
import { TfliteBuilder } from './tflite-builder.fixture.ts';

const headFor = (features: number, classes = 3): Head => imprint(Array.from({ length: classes }, (_, at) => ({ label: `class-${at}`, embedding: Array.from({ length: features }, (_value, column) => (column % classes === at ? 1 : 0.1)) })));
const refused = (code: string) => expect.objectContaining({ code });

describe('appendHead', () => {
  it.each(['INT8', 'UINT8'] as const)('puts three operators behind an %s embedding and keeps it as the second output', (type) => {
    const model = readModel(appendHead(readModel(embeddingModel({ type })), headFor(24)));
    const graph = model.subgraphs[0]!;
    expect(graph.operators.slice(-3).map(({ op, version }) => `${op}@${version}`)).toEqual(type === 'INT8' ? ['L2_NORMALIZATION@2', 'FULLY_CONNECTED@4', 'SOFTMAX@2'] : ['L2_NORMALIZATION@1', 'FULLY_CONNECTED@1', 'SOFTMAX@1']);
    expect(graph.outputs.map((index) => graph.tensors[index]!.name)).toEqual(['head/scores', 'embedding']);
    expect(graph.operators.at(-1)!.options.beta).toBe(1);
    expect(graph.operators.every(({ customOptions }) => customOptions === null)).toBe(true);
    // One weight scale: TensorFlow Lite 2.9 computes a dense layer of several wrongly.
    expect(graph.tensors.find(({ name }) => name === 'head/weights')!.quantisation!.scale).toHaveLength(1);
    // Of unsigned models the analyzer itself complains.
    if (type === 'INT8') expect(analyze(model).faults.filter(({ severity }) => severity === 'error')).toEqual([]);
  });

  it('constants lie on 16-byte borders', () => {
    const bytes = appendHead(readModel(embeddingModel()), headFor(24, 5));
    for (const { data } of readModel(bytes).subgraphs[0]!.tensors) if (data) expect((data.byteOffset - bytes.byteOffset) % 16).toBe(0);
  });

  it('what it says of the head is read back, and taken off again nothing of it is left', () => {
    fc.assert(fc.property(fc.integer({ min: 2, max: 40 }), fc.integer({ min: 2, max: 9 }), fc.boolean(), (features, classes, twice) => {
      const bare = readModel(embeddingModel({ features }));
      let bytes = appendHead(bare, headFor(features, classes));
      if (twice) bytes = appendHead(readModel(bytes), headFor(features, classes));
      const { head, features: found } = extractorOf(readModel(bytes));
      expect(found).toBe(features);
      expect(head).toMatchObject({ method: 'imprinting', labels: headFor(features, classes).labels, samples: Array.from({ length: classes }, () => 1) });
      for (const [at, row] of headFor(features, classes).weights.entries()) expect(Math.max(...row.map((value, column) => Math.abs(value - head!.weights[at]![column]!)))).toBeLessThan(16 / 127);
      expect(head!.sums).toEqual(headFor(features, classes).sums);
      expect(Buffer.from(writeModel(withoutHead(readModel(bytes))))).toEqual(Buffer.from(writeModel(bare)));
    }), { numRuns: 20 });
  });

  it('of a classifier with an embedding beside its scores only the embedding is built on', () => {
    const model = readModel(appendHead(readModel(embeddingModel({ withScores: true })), headFor(24)));
    expect(model.subgraphs[0]!.outputs.map((index) => model.subgraphs[0]!.tensors[index]!.name)).toEqual(['head/scores', 'embedding']);
  });

  it('the part for the Edge TPU stays as it is, the head runs on the CPU', () => {
    const compiled = Buffer.from(compiledModel({}, { output: 'an_embedding' }));
    const withHead = Buffer.from(appendHead(readModel(compiled), headFor(10), { isExtractor: true }));
    const [before, after] = [inspectCompiled(compiled), inspectCompiled(withHead)];
    expect(after).toMatchObject({ minRuntime: before.minRuntime, tokens: before.tokens, onChipBytes: before.onChipBytes, cpuOps: { L2_NORMALIZATION: 1, FULLY_CONNECTED: 1, SOFTMAX: 1 } });
    const options = (bytes: Buffer) => Buffer.from(readModel(bytes).subgraphs[0]!.operators[0]!.customOptions!);
    expect(options(withHead)).toEqual(options(compiled));
    const { customOptions } = readModel(withHead).subgraphs[0]!.operators[0]!;
    expect((customOptions!.byteOffset - withHead.byteOffset) % 16).toBe(0);
  });

  it.runIf(sharedPresent)('of the public extractor, compiled, too', () => {
    const name = 'coral/mobilenet_v1_1.0_224_quant_embedding_extractor';
    const model = readModel(sharedModel(`${name}_edgetpu.tflite`));
    const bytes = appendHead(model, headFor(1024), { isExtractor: true });
    expect(inspectCompiled(bytes)).toMatchObject({ cpuOps: { L2_NORMALIZATION: 1, FULLY_CONNECTED: 1, SOFTMAX: 1 }, tokens: inspectCompiled(sharedModel(`${name}_edgetpu.tflite`)).tokens });
    // The same head stands behind both, since both give the embedding in the same quantisation.
    const onCpu = readModel(appendHead(readModel(sharedModel(`${name}.tflite`)), headFor(1024), { isExtractor: true })).subgraphs[0]!.tensors;
    for (const tensor of readModel(bytes).subgraphs[0]!.tensors.filter(({ name: own }) => own.startsWith('head/'))) {
      expect(onCpu.find(({ name: own }) => own === tensor.name)).toMatchObject({ shape: tensor.shape, type: tensor.type, quantisation: tensor.quantisation });
    }
  });

  it('logits are quantised to a range with 0 in it, whatever the head says', () => {
    const logits = ({ low, high }: Head['logits']) => readModel(appendHead(readModel(embeddingModel()), { ...headFor(24), logits: { low, high } })).subgraphs[0]!.tensors.find(({ name }) => name === 'head/logits')!.quantisation!;
    fc.assert(fc.property(fc.float({ min: -100, max: 100, noNaN: true }), fc.float({ min: Math.fround(0.1), max: 100, noNaN: true }), (low, size) => {
      const { scale: [scale], zeroPoint: [zero] } = logits({ low, high: low + size });
      expect((-128 - zero!) * scale!).toBeLessThanOrEqual(Math.min(0, low) + scale!);
      expect((127 - zero!) * scale!).toBeGreaterThanOrEqual(Math.max(0, low + size) - scale!);
    }), { numRuns: 20 });
  });

  it('refuses a head for another extractor', () => {
    expect(() => appendHead(readModel(embeddingModel()), headFor(25))).toThrow(refused('learn.head_differs'));
  });
});

describe('extractorOf', () => {
  const classifier = () => {
    const net = new TfliteBuilder();
    net.output(net.softmax(net.dense(net.flatten(net.input([1, 4, 4, 3])), 10)));
    return readModel(net.build());
  };

  it('is not fooled by a classifier, whatever the caller says', () => {
    expect(() => extractorOf(classifier())).toThrow(refused('learn.no_extractor'));
    expect(() => extractorOf(classifier(), { isExtractor: true })).toThrow(refused('learn.no_extractor'));
  });

  it('needs one quantised row', () => {
    const net = new TfliteBuilder();
    net.output(net.conv(net.input([1, 8, 8, 3]), 8));
    expect(() => extractorOf(readModel(net.build()), { isExtractor: true })).toThrow(/has the shape \[1, 8, 8, 8\]/);
  });

  it('a note that does not fit the file is no head', () => {
    const model = readModel(embeddingModel());
    const lying = { ...model, metadata: [{ name: 'reef.head', bytes: new TextEncoder().encode('{"schema":1,"method":"imprinting","labels":["a"],"tensors":1,"operators":1}') }] };
    expect(extractorOf(readModel(writeModel(lying)), { isExtractor: true }).head).toBeNull();
  });
});

it('the head alone takes the embedding and gives the scores', () => {
  const graph = readModel(headModel(extractorOf(readModel(embeddingModel()), { isExtractor: true }), headFor(24))).subgraphs[0]!;
  expect(graph).toMatchObject({ inputs: [0], operators: [{ op: 'L2_NORMALIZATION' }, { op: 'FULLY_CONNECTED' }, { op: 'SOFTMAX' }] });
});

it('scores are a distribution, whatever the embedding', () => {
  fc.assert(fc.property(fc.array(fc.float({ noNaN: true, min: -1e6, max: 1e6 }), { minLength: 6, maxLength: 6 }), (embedding) => {
    expect([...scoresOf(headFor(6), embedding)].reduce((sum, score) => sum + score, 0)).toBeCloseTo(1, 6);
    const length = Math.hypot(...normalised(embedding));
    expect(length === 0 || Math.abs(length - 1) < 1e-5).toBe(true);
  }));
});
