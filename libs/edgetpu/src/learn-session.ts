import { setImmediate as turn } from 'node:timers/promises';
import { ReefError } from '@reefkeeper/platform/errors';
import { headModel, realEmbedding, type Extractor } from './head.ts';
import { judge, learn, type Judgement, type LearnOptions, type LearnResult, type LearnSample } from './learn.ts';

export interface LearnImage {
  /** As the user knows it. */
  name: string;
  label: string;
  path: string;
  heldOut?: boolean;
}

export type LearnStep = 'embed' | 'learn' | 'self-test';

/** What a learning needs of the world around it. */
export interface LearnWorld {
  /** The extractor's answer to an image, raw bytes. @throws ReefError `image.unreadable` */
  embed(image: LearnImage): Promise<Uint8Array>;
  /** The input tensor's bytes of an image. */
  inputOf(image: LearnImage): Promise<Uint8Array>;
  /** First output of a model to each of these inputs, as devices' own runtime computes it. */
  answers(model: Uint8Array, inputs: Uint8Array[]): Promise<Uint8Array[]>;
  onProgress(step: LearnStep, percent: number): void;
  signal?: AbortSignal;
}

/** An image with what the learnt model answered. */
export interface LearnCase { name: string; label: string; heldOut: boolean; input: Uint8Array; scores: Uint8Array }

export interface Session extends LearnResult {
  /** The quantised head's answers to the images that were held out, or where there are none to those it learnt from. */
  selfTest: Judgement & { heldOut: boolean };
  /** Evidence that others can compute again: of every class one where there is room, held-out ones first. */
  cases: LearnCase[];
  unreadable: { name: string; message: string }[];
}

const most = { cases: 8, caseBytes: 16 * 1024 * 1024 };

/** Embeds, learns and tests itself. @throws ReefError `learn.*` */
export async function learnFromImages(images: readonly LearnImage[], extractor: Extractor, options: LearnOptions, world: LearnWorld): Promise<Session> {
  const byName = new Map(images.map((image) => [image.name, image]));
  const raw = new Map<string, Uint8Array>();
  const unreadable: Session['unreadable'] = [];
  const samples: LearnSample[] = [];
  for (const [at, image] of images.entries()) {
    world.signal?.throwIfAborted();
    try {
      const bytes = await world.embed(image);
      raw.set(image.name, bytes);
      samples.push({ name: image.name, label: image.label, embedding: realEmbedding(extractor, bytes), ...(image.heldOut === undefined ? {} : { heldOut: image.heldOut }) });
    } catch (thrown) {
      if (!(thrown instanceof ReefError) || thrown.code !== 'image.unreadable') throw thrown;
      unreadable.push({ name: image.name, message: thrown.message });
    }
    world.onProgress('embed', (100 * (at + 1)) / images.length);
  }
  const lost = [...new Set(images.map(({ label }) => label))].filter((label) => !samples.some((one) => one.label === label));
  if (lost.length > 0) throw new ReefError('learn.unreadable', 'invalid', `Not one image of ${lost.join(', ')} can be read: ${unreadable.slice(0, 5).map(({ name }) => name).join(', ')}${unreadable.length > 5 ? ` and ${unreadable.length - 5} more` : ''}. JPEG, PNG, WebP, GIF and TIFF files can.`, { detail: { classes: lost, unreadable: unreadable.slice(0, 100) } });
  const steps = learn(samples, extractor, options);
  let step = steps.next();
  for (; !step.done; step = steps.next()) {
    world.onProgress('learn', 100 * step.value);
    // Whoever runs this has other things to do, too: an agent must go on talking to its broker.
    await turn();
    world.signal?.throwIfAborted();
  }
  const result = step.value;
  const judged = result.heldOut.length > 0 ? result.heldOut : result.learnt;
  const chosen = choose(result);
  world.onProgress('self-test', 0);
  const scores = await world.answers(headModel(extractor, result.head), [...judged, ...chosen].map(({ name }) => raw.get(name)!));
  const cases: LearnCase[] = [];
  for (const [at, one] of chosen.entries()) {
    const input = await world.inputOf(byName.get(one.name)!);
    if (cases.length > 0 && (cases.length + 1) * input.byteLength > most.caseBytes) break;
    cases.push({ name: one.name, label: one.label, heldOut: result.heldOut.includes(one), input, scores: scores[judged.length + at]! });
  }
  world.onProgress('self-test', 100);
  const signed = extractor.tensor.type === 'INT8';
  const answered = judge(judged, result.head.labels, (_, at) => topByte(scores[at]!, signed));
  return { ...result, selfTest: { ...answered, heldOut: result.heldOut.length > 0 }, cases, unreadable };
}

function choose({ heldOut, learnt }: LearnResult): LearnSample[] {
  const ranked = [...heldOut, ...learnt];
  const firsts = ranked.filter((one, at) => ranked.findIndex(({ label }) => label === one.label) === at);
  return [...firsts, ...ranked.filter((one) => !firsts.includes(one))].slice(0, most.cases);
}

function topByte(bytes: Uint8Array, signed: boolean): number {
  const values = signed ? new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength) : bytes;
  let top = 0;
  for (let at = 1; at < values.length; at += 1) if (values[at]! > values[top]!) top = at;
  return top;
}
