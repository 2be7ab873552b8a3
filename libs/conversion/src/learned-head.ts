import { decodeLearned, type Learned } from '@reefkeeper/bundle/learned';
import { encodeGolden, envelope, judgeGolden, parseManifest, segmentsOf, type Manifest, type Parity } from '@reefkeeper/bundle';
import { appendHead, extractorOf, inspectCompiled, readModel, type TfliteModel } from '@reefkeeper/edgetpu';
import { answersOnce } from '@reefkeeper/inference';
import { readWhole, ReefError, type ObjectStore } from '@reefkeeper/platform';
import { chooseGolden } from './golden-choice.ts';
import type { BuildRequest, LearningOrigin } from './job.ts';
import type { StepContext, StepOutputs } from './steps.ts';

// A version that a device has learnt: its parent's files with another head. The device sends the head alone, so that nothing but the head can differ; the files are
// put together here, one for every variant of the parent.

const tflite = { mediaType: 'application/vnd.tensorflow.lite', role: 'model' };

export type LearnedContext = StepContext & { request: BuildRequest & { learning: LearningOrigin } };

export function isLearned(context: StepContext): context is LearnedContext {
  return context.request.learning !== undefined;
}

interface Material { learned: Learned; parent: Manifest; isExtractor: boolean }

/** The signed manifest of the parent, as it was published. */
export async function parentOf(objects: ObjectStore, { envelope: digest }: Pick<LearningOrigin, 'envelope'>): Promise<Manifest> {
  const { payload } = envelope.parse(JSON.parse((await readWhole(objects, digest)).toString('utf8')));
  return parseManifest((JSON.parse(Buffer.from(payload, 'base64').toString('utf8')) as { predicate: unknown }).predicate);
}

async function materialOf({ request, objects }: LearnedContext): Promise<Material> {
  const parent = await parentOf(objects, request.learning);
  return { learned: decodeLearned(await readWhole(objects, request.source.digest)), parent, isExtractor: parent.task === 'embedding' };
}

/** What the later steps start from: the parent's file that runs on the CPU, or, where it has none, its compiled one. */
export async function importLearned(context: LearnedContext): Promise<StepOutputs['import']> {
  const { parent } = await materialOf(context);
  const { learning, source } = context.request;
  const file = parent.variants.find(({ kind }) => kind === 'cpu-int8') ?? parent.variants[0]!;
  const bordersOnly = ({ name, shape, dtype }: { name: string; shape: number[]; dtype: string }) => ({ name, shape, dtype });
  return {
    kind: file.kind === 'edgetpu' ? 'edgetpu' : 'tflite_int8', source: await context.objects.stat(source.digest), model: { digest: file.file.digest, bytes: file.file.bytes, filename: `${learning.parent}.tflite` },
    description: `A head learnt by ${learning.device} on ${learning.parent}`, inputs: parent.inputs.map(bordersOnly), outputs: parent.outputs.map(bordersOnly), signature: null, warnings: [], tools: {},
  };
}

/** The parent's file with the new head on it. @throws ReefError `learn.head_differs`, `learn.no_extractor` */
export async function withLearnedHead(context: LearnedContext, digest: string): Promise<Buffer> {
  const { learned: { head }, isExtractor } = await materialOf(context);
  return Buffer.from(appendHead(readModel(await readWhole(context.objects, digest)), head, { isExtractor }));
}

/** How frames become the input is the parent's. */
export async function learnedInputs(context: LearnedContext): Promise<StepOutputs['convert']['inputs']> {
  return (await parentOf(context.objects, context.request.learning)).inputs;
}

/** The new head on every compiled file of the parent: no compiler is needed, since nothing of the part for the Edge TPU changes. */
export async function compileLearned(context: LearnedContext): Promise<StepOutputs['compile'] | { skipped: string }> {
  const { parent, learned: { head }, isExtractor } = await materialOf(context);
  const compiled: StepOutputs['compile']['compiled'] = [];
  const quantisation = ({ tensor: { type, quantisation: own } }: ReturnType<typeof extractorOf>) => `${type} ${own!.scale[0]} ${own!.zeroPoint[0] ?? 0}`;
  const embeddings = new Set<string>();
  const open = async (digest: string): Promise<TfliteModel> => {
    const model = readModel(await readWhole(context.objects, digest));
    embeddings.add(quantisation(extractorOf(model, { isExtractor })));
    return model;
  };
  for (const { kind, file } of parent.variants) if (kind === 'cpu-int8') await open(file.digest);
  for (const variant of parent.variants) {
    const { name, kind, file } = variant;
    // Of a variant in segments no file is the extractor.
    if (kind !== 'edgetpu' || segmentsOf(variant).length > 1) continue;
    const bytes = Buffer.from(appendHead(await open(file.digest), head, { isExtractor }));
    compiled.push({ runtime: inspectCompiled(bytes).minRuntime, model: await context.keep(bytes, tflite), report: { learnedOn: name }, nondeterministic: null });
  }
  // Then a head learnt on one of them would be wrong on the other.
  if (embeddings.size > 1) throw new ReefError('learn.head_differs', 'conflict', `The variants of ${context.request.learning.parent} give their embeddings in different quantisations (${[...embeddings].join('; ')}), so that one head does not fit both. Compile the version again from its cpu-int8 file.`);
  if (compiled.length === 0) return { skipped: `${context.request.learning.parent} is not compiled for the Edge TPU.` };
  return { compiled, pipelines: [], failed: [], compilerVersion: null };
}

/**
 * Computes again what the device says its head answered, on the file that devices will run, and keeps those images as golden cases.
 * @throws ReefError `learn.device_differs`
 */
export async function verifyLearned(context: LearnedContext, { model, outputs }: StepOutputs['convert']): Promise<StepOutputs['verify']> {
  const { learned: { cases, report, head }, parent } = await materialOf(context);
  const inputBytes = parent.inputs[0]!.shape.reduce((product, size) => product * size, 1);
  const odd = cases.find(({ input }) => input.byteLength !== inputBytes);
  if (odd || parent.inputs.length !== 1) throw new ReefError('learn.malformed', 'invalid', `The image ${odd?.name ?? ''} that the device sent has ${odd?.input.byteLength ?? 0} bytes, the model takes ${inputBytes}.`);
  const answers = await answersOnce(await readWhole(context.objects, model.digest), cases.map(({ input }) => [input]), { dir: context.workDir, signal: context.signal });
  const dtypes = outputs.map(({ dtype }) => dtype);
  const golden = chooseGolden(cases.map(({ input }, at) => ({ input: [input], outputs: answers[at]!.map((bytes) => Buffer.from(bytes)) })), dtypes, 'classification');
  let worst = 0;
  for (const [at, { name, scores }] of cases.entries()) {
    const { top1 } = golden.find(({ input }) => input[0] === cases[at]!.input)?.expect ?? { top1: null };
    const verdict = judgeGolden({ input: [], expect: { top1, outputs: [Buffer.from(answers[at]![0]!)], dtypes: [dtypes[0]!], tolerance: { maxStepDiff: 16 } } }, [scores]);
    if (!verdict.ok) throw new ReefError('learn.device_differs', 'invalid', `The device answered ${name} otherwise than the model does here: ${verdict.reason}. Its runtime or its Edge TPU computes something else, or what it sent is damaged; learn again, and look at the device if it stays so.`, { detail: { image: name } });
    worst = Math.max(worst, verdict.worstStepDiff);
  }
  const { confusion, heldOut, images, accuracy } = report.selfTest;
  const kept = await context.keep(encodeGolden({ cases: golden }), { mediaType: 'application/vnd.reefkeeper.golden', role: 'golden' });
  context.log(`${cases.length} images of the device computed again, at most ${worst} steps apart; its own test: ${(100 * accuracy).toFixed(1)} % of ${images} ${heldOut ? 'held-out' : 'learnt'} images`);
  const float = report.heldOut ?? report.learnt;
  const parity: Parity = {
    samples: images, agreement: null, accuracy: { labelled: images, float: float.accuracy, int8: accuracy },
    outputs: [{ name: outputs[0]!.name, cosine: null, maxError: worst * (outputs[0]!.scale ?? 1), meanError: null }],
    perClass: head.labels.map((label, at) => {
      const [quantised, real] = [confusion, float.confusion].map((matrix) => ({ count: (matrix[at] ?? []).reduce((sum, one) => sum + one, 0), right: matrix[at]?.[at] ?? 0 })) as [{ count: number; right: number }, { count: number; right: number }];
      return { label, count: quantised.count, float: real.count === 0 ? 0 : real.right / real.count, int8: quantised.count === 0 ? 0 : quantised.right / quantised.count };
    }).filter(({ count }) => count > 0),
    confusions: confusion.flatMap((row, truth) => row.flatMap((count, answer) => (count > 0 ? [{ truth: head.labels[truth]!, answer: head.labels[answer]!, count }] : []))),
    findings: [
      ...(heldOut ? [] : [{ code: 'learn.nothing_held_out', severity: 'warning' as const, message: 'There were too few images to hold any out: the accuracy is that on the images it learnt from, and flatters.' }]),
      ...(heldOut && images < 20 ? [{ code: 'verify.few_samples', severity: 'warning' as const, message: `Only ${images} held-out images: the accuracy says little.` }] : []),
      ...(report.unreadable.length > 0 ? [{ code: 'learn.unreadable', severity: 'warning' as const, message: `${report.unreadable.length} images could not be read: ${report.unreadable.slice(0, 5).map(({ name }) => name).join(', ')}.` }] : []),
    ],
  };
  return { parity, golden: { ...kept, cases: golden.length }, labels: head.labels, tools: report.tools };
}

/** The part that goes into the signed lineage. */
export async function learnedLineage(context: LearnedContext): Promise<Record<string, unknown>> {
  const { learned: { report: { unreadable, heldOut: _heldOut, learnt: _learnt, selfTest, ...report }, variant, backend } } = await materialOf(context);
  const { envelope: _envelope, ...learning } = context.request.learning;
  return { ...learning, variant, backend, ...report, selfTest: { images: selfTest.images, accuracy: selfTest.accuracy, heldOut: selfTest.heldOut }, unreadable: unreadable.length };
}
