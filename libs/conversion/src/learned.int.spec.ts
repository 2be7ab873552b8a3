import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bundleDigest, decodeGolden, loadOrCreateSigningKey, signBundle, type Manifest } from '@reefkeeper/bundle';
import { encodeLearned, type Learned } from '@reefkeeper/bundle/learned';
import { appendHead, extractorOf, inspectCompiled, learnDefaults, learnFromImages, readModel, writeModel, withoutHead, type Head } from '@reefkeeper/edgetpu';
import { answersOnce, dequantise, Interpreter } from '@reefkeeper/inference';
import { readWhole } from '@reefkeeper/platform';
import { refOf, type Version } from '@reefkeeper/registry';
import { compiledModel } from '@reefkeeper/edgetpu/fixture';
import { embeddingModel } from '../../../test/support/embeddings.ts';
import { Learnings } from './index.ts';
import { bordersOf } from './tensors.ts';
import { openPipelineWorld, type PipelineWorld } from './pipeline-world.fixture.ts';

let world: PipelineWorld;
let learnings: Learnings;
let parent: Version;

beforeAll(async () => {
  world = await openPipelineWorld();
  world.start();
  learnings = new Learnings(world.database.db, world.registry, world.jobs);
  await world.settled(await world.push('colours', embeddingModel(), { task: 'embedding', preprocessing: { mean: 0, std: 255, resize: 'stretch' } }));
  parent = await world.registry.versionByRef('colours@1');
  expect(parent).toMatchObject({ state: 'READY', task: 'embedding' });
});
afterAll(async () => world?.close());

const colours: Record<string, [number, number, number]> = { red: [220, 20, 20], green: [20, 200, 30], blue: [20, 30, 220] };

/** What a device does, here in this process: the same code with TensorFlow Lite beside it. */
async function learnt(file: Buffer, bundle: string): Promise<Learned> {
  const extractor = extractorOf(readModel(file), { isExtractor: true });
  const interpreter = Interpreter.load(file);
  const images = Object.keys(colours).flatMap((label) => Array.from({ length: 6 }, (_, at) => ({ name: `${label}/${at}`, label, path: `${at}` })));
  const inputOf = ({ label, path }: { label: string; path: string }) => Buffer.from(Uint8Array.from({ length: 32 * 32 * 3 }, (_, at) => (Math.round(colours[label]![at % 3]! * (0.7 + Number(path) / 20)) - 128) & 0xff));
  const session = await learnFromImages(images, extractor, learnDefaults, {
    embed: async (image) => interpreter.run([inputOf(image)]).outputs[extractor.output]!, inputOf: async (image) => inputOf(image),
    answers: async (model, inputs) => (await answersOnce(model, inputs.map((one) => [one]))).map(([first]) => first!), onProgress: () => {},
  });
  interpreter.close();
  const { labels: _labels, ...told } = session.report;
  return {
    bundle, variant: 'cpu-int8', backend: 'cpu', head: session.head, report: { ...told, selfTest: session.selfTest, unreadable: [], tools: { tensorflowLite: '2.9.0' } },
    cases: session.cases.map(({ input, scores, ...one }) => ({ ...one, input: Buffer.from(input), scores: Buffer.from(scores) })),
  };
}

const offerOf = (learned: Learned, more: Partial<Parameters<Learnings['offer']>[0]> = {}) => ({ device: 'cam-7', workload: 'classifier', command: randomUUID(), askedBy: 'ada', images: 'ab'.repeat(32), hold: true, content: encodeLearned(learned), ...more });

describe('what a device has learnt', () => {
  it('becomes a signed version with lineage that waits for somebody, and nothing but the head differs', async () => {
    const learned = await learnt(embeddingModel(), parent.bundleDigest!);
    const offer = offerOf(learned);
    const [made, again] = await Promise.all([learnings.offer(offer), learnings.offer(offer)]);
    expect(again.version.id).toBe(made.version.id);
    expect(await world.settled(made.job.id)).toMatchObject({ state: 'SUCCEEDED', steps: expect.arrayContaining([expect.objectContaining({ name: 'compile', state: 'SKIPPED' })]) });
    expect((await learnings.offer(offer)).version.id).toBe(made.version.id);

    const version = await world.registry.versionById(made.version.id);
    expect(version).toMatchObject({
      model: 'colours', state: 'READY', task: 'classification', labels: ['red', 'green', 'blue'], createdBy: 'ada', hold: { code: 'learn.unconfirmed', message: expect.stringContaining('cam-7') },
      parity: { samples: 3, accuracy: { labelled: 3, float: 1, int8: 1 }, perClass: expect.arrayContaining([{ label: 'red', count: 1, float: 1, int8: 1 }]) },
      lineage: { parent: 'colours@1', learning: { parent: 'colours@1', device: 'cam-7', workload: 'classifier', command: offer.command, images: 'ab'.repeat(32), method: 'imprinting', seed: 1, selfTest: { images: 3, accuracy: 1, heldOut: true } } },
    });
    const file = await readWhole(world.objects, version.variants.find(({ kind }) => kind === 'cpu-int8')!.digest);
    expect(Buffer.from(writeModel(withoutHead(readModel(file))))).toEqual(Buffer.from(writeModel(readModel(embeddingModel()))));
    const interpreter = Interpreter.load(file);
    for (const { label, input } of learned.cases) {
      const scores = dequantise(interpreter.run([input]).outputs[0]!, interpreter.outputs[0]!);
      expect(version.labels![scores.indexOf(Math.max(...scores))]).toBe(label);
    }
    interpreter.close();
    // Devices prove it on the images of the one that learnt it, and get its inputs as the parent had them.
    const { predicate } = JSON.parse(Buffer.from((JSON.parse(await world.text(version.envelopeDigest!)) as { payload: string }).payload, 'base64').toString()) as { predicate: { golden: { digest: string }; inputs: unknown[]; outputs: { name: string }[] } };
    expect(decodeGolden(await readWhole(world.objects, predicate.golden.digest)).cases.map(({ input: [input] }) => input)).toEqual(expect.arrayContaining([learned.cases[0]!.input]));
    expect(predicate.inputs).toMatchObject([{ preprocessing: { mean: [0], std: [255], resize: 'stretch' } }]);
    expect(predicate.outputs.map(({ name }) => name)).toEqual(['head/scores', 'embedding']);
  });

  it('needs nobody where the command says so, and may be of another model', async () => {
    const { job, version } = await learnings.offer(offerOf(await learnt(embeddingModel(), parent.bundleDigest!), { hold: false, model: 'taught' }));
    expect(await world.settled(job.id)).toMatchObject({ state: 'SUCCEEDED' });
    expect(await world.registry.versionById(version.id)).toMatchObject({ model: 'taught', version: 1, hold: null });
  });

  it.each([
    ['answers that the model does not give', 'learn.device_differs', (learned: Learned): Learned => ({ ...learned, cases: learned.cases.map((one) => ({ ...one, scores: Buffer.from(one.scores).reverse() })) })],
    ['a head for another extractor', 'learn.head_differs', (learned: Learned): Learned => ({ ...learned, head: { ...learned.head, weights: learned.head.weights.map((row) => row.subarray(1)), sums: null } as Head })],
    ['images of another size', 'learn.malformed', (learned: Learned): Learned => ({ ...learned, cases: learned.cases.map((one) => ({ ...one, input: one.input.subarray(1) })) })],
  ])('%s: refused, never published', async (_, code, alter) => {
    const { job, version } = await learnings.offer(offerOf(alter(await learnt(embeddingModel(), parent.bundleDigest!))));
    expect(await world.settled(job.id)).toMatchObject({ state: 'FAILED', error: { code } });
    expect(await world.registry.versionById(version.id)).toMatchObject({ state: 'FAILED', bundleDigest: null });
  });

  it('on a bundle that is none of ours, or damaged, is refused at the door', async () => {
    const learned = await learnt(embeddingModel(), 'ef'.repeat(32));
    await expect(learnings.offer(offerOf(learned))).rejects.toMatchObject({ code: 'learn.parent_unknown' });
    await expect(learnings.offer(offerOf(learned, { content: Buffer.from('no gzip') }))).rejects.toMatchObject({ code: 'learn.malformed' });
    const broken = encodeLearned({ ...learned, head: { ...learned.head, bias: Float32Array.of(1, Number.NaN, 2) } });
    await expect(learnings.offer(offerOf(learned, { content: broken }))).rejects.toMatchObject({ code: 'learn.malformed', message: expect.stringContaining('NaN') });
  });

  it('on an extractor that is compiled only: the same part for the Edge TPU, with the head behind it', async () => {
    const compiled = Buffer.from(compiledModel({}, { output: 'an_embedding' }));
    await world.settled(await world.push('compiled', compiled, { task: 'embedding' }));
    const of = await world.registry.versionByRef('compiled@1');
    const head = { ...(await learnt(embeddingModel({ features: 10, type: 'UINT8' }), of.bundleDigest!)) };
    const { job, version } = await learnings.offer(offerOf({ ...head, variant: of.variants[0]!.name, backend: 'edgetpu' }));
    expect(await world.settled(job.id)).toMatchObject({ state: 'SUCCEEDED' });
    const ready = await world.registry.versionById(version.id);
    expect(ready.variants.map(({ name }) => name)).toEqual(of.variants.map(({ name }) => name));
    const file = await readWhole(world.objects, ready.variants[0]!.digest);
    expect(inspectCompiled(file)).toMatchObject({ tokens: inspectCompiled(compiled).tokens, cpuOps: { L2_NORMALIZATION: 1, FULLY_CONNECTED: 1, SOFTMAX: 1 } });
    expect(file).toEqual(Buffer.from(appendHead(readModel(compiled), head.head, { isExtractor: true })));
    expect(refOf(ready)).toBe('compiled@2');
  });

  /** A version with a file for the CPU and a compiled one, as the compiler would leave it; the Edge TPU's part in it is made up. */
  async function published(model: string, compiled: Uint8Array, cut: Uint8Array[] = []): Promise<Version> {
    const onCpu = embeddingModel({ features: 10, type: 'UINT8' });
    const version = await world.registry.createVersion(model, { task: 'embedding' });
    await world.database.db.transaction(async (tx) => world.registry.move(version.id, 'BUILDING', tx));
    const [cpu, tpu] = [await world.objects.put(onCpu), await world.objects.put(Buffer.from(compiled))];
    const [first, ...moreSegments] = await Promise.all(cut.map((segment) => world.objects.put(Buffer.from(segment))));
    const files = [
      { name: 'cpu-int8', kind: 'cpu-int8' as const, minRuntime: null, file: { ...cpu } }, { name: 'edgetpu-14', kind: 'edgetpu' as const, minRuntime: 14, file: { ...tpu } },
      ...(first ? [{ name: `edgetpu-14-x${cut.length}`, kind: 'edgetpu' as const, minRuntime: 14, file: { ...first }, moreSegments: moreSegments.map((one) => ({ ...one })) }] : []),
    ];
    const { inputs, outputs } = bordersOf(readModel(onCpu));
    const manifest: Manifest = {
      schema: 1, model, version: 1, task: 'embedding', labels: null, inputs: inputs.map((spec) => ({ ...spec, preprocessing: { kind: 'image' as const, width: 32, height: 32, channels: 3 as const, resize: 'stretch' as const, mean: [0], std: [255] } })), outputs,
      variants: files, golden: null, lineage: { source: { digest: cpu.digest, filename: 'x.tflite' }, calibration: null, evaluation: null, job: null, parent: null, tools: {} }, parity: null, createdAt: '2026-01-01T00:00:00.000Z',
    };
    const envelope = await world.objects.put(Buffer.from(JSON.stringify(signBundle(manifest, await loadOrCreateSigningKey(world.dir)))));
    return world.registry.publish(version.id, {
      bundleDigest: bundleDigest(manifest), envelopeDigest: envelope.digest, labels: null, task: 'embedding', lineage: manifest.lineage, parity: null,
      variants: files.map(({ name, kind, minRuntime, file }) => ({ name, kind, minRuntime, ...file })),
    });
  }

  it('on both: the same head behind either file, without a compiler', async () => {
    const { tensor } = extractorOf(readModel(embeddingModel({ features: 10, type: 'UINT8' })));
    const compiled = readModel(compiledModel({}, { output: 'an_embedding' }));
    compiled.subgraphs[0]!.tensors[compiled.subgraphs[0]!.outputs[0]!]!.quantisation = tensor.quantisation;
    const of = await published('both', writeModel(compiled));
    const learned = await learnt(embeddingModel({ features: 10, type: 'UINT8' }), of.bundleDigest!);
    const { job, version } = await learnings.offer(offerOf(learned));
    expect(await world.settled(job.id)).toMatchObject({ state: 'SUCCEEDED' });
    const ready = await world.registry.versionById(version.id);
    expect(ready.variants.map(({ name }) => name)).toEqual(['cpu-int8', 'edgetpu-14']);
    const [cpu, tpu] = await Promise.all(ready.variants.map(async ({ digest }) => readModel(await readWhole(world.objects, digest)).subgraphs[0]!.tensors.filter(({ name }) => name.startsWith('head/'))));
    expect(tpu!.map(({ name, quantisation, data }) => ({ name, quantisation, data: data && Buffer.from(data) }))).toEqual(cpu!.map(({ name, quantisation, data }) => ({ name, quantisation, data: data && Buffer.from(data) })));
    expect(ready.parity).toMatchObject({ accuracy: { int8: 1 } });
  });

  it('beside a variant in segments: the head goes onto whole files, for the first segment is none of the extractor', async () => {
    const { tensor } = extractorOf(readModel(embeddingModel({ features: 10, type: 'UINT8' })));
    const compiled = readModel(compiledModel({}, { output: 'an_embedding' }));
    compiled.subgraphs[0]!.tensors[compiled.subgraphs[0]!.outputs[0]!]!.quantisation = tensor.quantisation;
    const of = await published('cut', writeModel(compiled), [compiledModel({}, { output: 'in_between' }), compiledModel()]);
    const { job, version } = await learnings.offer(offerOf(await learnt(embeddingModel({ features: 10, type: 'UINT8' }), of.bundleDigest!)));
    expect(await world.settled(job.id)).toMatchObject({ state: 'SUCCEEDED' });
    expect((await world.registry.versionById(version.id)).variants.map(({ name }) => name)).toEqual(['cpu-int8', 'edgetpu-14']);
  });

  it('on files that give the embedding in two quantisations: refused, for one head does not fit both', async () => {
    const of = await published('unlike', compiledModel({}, { output: 'an_embedding' }));
    const { job } = await learnings.offer(offerOf(await learnt(embeddingModel({ features: 10, type: 'UINT8' }), of.bundleDigest!)));
    expect(await world.settled(job.id)).toMatchObject({ state: 'FAILED', error: { code: 'learn.head_differs', step: 'compile' } });
  });
});
