import { createReadStream } from 'node:fs';
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join, relative, sep } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { segmentsOf } from '@reefkeeper/bundle';
import { encodeLearned } from '@reefkeeper/bundle/learned';
import { extractorOf, learnFromImages, readModel, type LearnImage, type Session } from '@reefkeeper/edgetpu';
import { answersOnce } from '@reefkeeper/inference';
import { ReefError } from '@reefkeeper/platform/errors';
import type { LearnArgs, LearnStep } from '@reefkeeper/protocol';
import { x as extract } from 'tar';
import { downloadBlob, retrying, type DownloadOptions } from './download.ts';
import type { Gateway } from './gateway.ts';
import { imageInput, type Runner } from './runner.ts';
import { Store } from './store.ts';

// Loaded when a device is asked to learn, and not before: most never are.

export interface LearningWorld {
  /** Serves the workload now. It goes on serving: images to learn from come in between frames. */
  runner: () => Runner | undefined;
  store: Store;
  gateway: () => Gateway;
  /** An empty folder for this learning alone, and how much of the disk is not ours. */
  dir: string;
  reserveBytes: number;
  tflite: string | undefined;
  onProgress: (step: LearnStep, percent: number) => void;
  signal: AbortSignal;
  download?: Pick<DownloadOptions, 'tries' | 'firstDelayMs' | 'maxDelayMs'>;
}

const most = { images: 2_000, unpackedBytes: 512 * 1024 * 1024 };
const imageName = /\.(?:jpe?g|png|webp|gif|tiff?|bmp)$/i;

/**
 * Learns a new head on the extractor that the workload runs and offers it to the fleet, which makes a version of it. What runs on this device does not
 * change by that; the version comes back as any other does.
 * @throws ReefError `learn.*`, `inference.*`, `artifact.*`, `gateway.*`
 */
export async function learnAndOffer(command: string, args: LearnArgs, world: LearningWorld): Promise<Record<string, unknown>> {
  const runner = world.runner();
  if (!runner) throw new ReefError('inference.not_running', 'unavailable', `Nothing is served by ${args.workload} now; an extractor has to run before anything can be learnt on it.`);
  const { manifest, slot } = runner;
  const variant = manifest.variants.find(({ name }) => name === slot.variant)!;
  if (segmentsOf(variant).length > 1) throw new ReefError('learn.segmented', 'invalid', `${args.workload} runs a model that is cut into segments (${variant.name}); nothing can be learnt on it here. Roll out a version of it that is compiled whole.`);
  const extractor = extractorOf(readModel(await readFile(world.store.blobPath(variant.file.digest))), { isExtractor: manifest.task === 'embedding' });
  const images = await imagesOf(args, world);
  const current = (): Runner => {
    const now = world.runner();
    // Embeddings of two models must not be mixed; the same one, started again, is the same.
    if (now && now.slot.bundle !== slot.bundle) throw new ReefError('learn.model_changed', 'conflict', 'The workload got another version while it learnt. Send the command again.');
    if (!now) throw new ReefError('inference.not_running', 'unavailable', `The inference process of ${args.workload} ended while it learnt.`);
    return now;
  };
  const session = await learnFromImages(images, extractor, { method: args.method, holdout: args.holdout, seed: args.seed, before: args.add ? extractor.head : null }, {
    embed: async ({ path }) => answerTo(current(), path, extractor.output),
    inputOf: async ({ path }) => imageInput(current(), path),
    answers: async (model, inputs) => (await answersOnce(model, inputs.map((one) => [one]), { library: world.tflite, dir: world.dir, signal: world.signal })).map(([first]) => first!),
    onProgress: world.onProgress, signal: world.signal,
  });
  const { selfTest, report } = session;
  if (selfTest.accuracy < args.minAccuracy) {
    throw new ReefError('learn.not_good_enough', 'invalid', `Its own test gives ${(100 * selfTest.accuracy).toFixed(1)} % on ${selfTest.images} images, less than the ${(100 * args.minAccuracy).toFixed(1)} % that were asked for. Nothing was offered. Give more images, or other ones.`, { detail: { accuracy: selfTest.accuracy, confusion: selfTest.confusion, labels: report.labels } });
  }
  world.onProgress('offer', 0);
  const content = packed(session, runner, extractor.features);
  const offered = await offer(command, content, world);
  return {
    ...offered, labels: report.labels, images: selfTest.images, accuracy: selfTest.accuracy, heldOut: selfTest.heldOut, confusion: selfTest.confusion,
    unreadable: session.unreadable.slice(0, 20).map(({ name }) => name), unreadableCount: session.unreadable.length, offeredBytes: content.length,
  };
}

/** Between questions of others: the child answers one after the other. */
function answerTo(runner: Runner, path: string, output: number): Promise<Uint8Array> {
  return runner.use(async () => (await runner.infer([await imageInput(runner, path)])).outputs[output]!);
}

function packed({ head, report, selfTest, cases, unreadable }: Session, runner: Runner, features: number): Buffer {
  const { slot, tfliteVersion } = runner;
  const { labels: _labels, ...told } = report;
  return encodeLearned({
    bundle: slot.bundle, variant: slot.variant, backend: slot.backend, head,
    report: { ...told, selfTest, unreadable: unreadable.slice(0, 100), tools: { tensorflowLite: tfliteVersion, features: String(features) } },
    cases: cases.map(({ input, scores, ...one }) => ({ ...one, input: Buffer.from(input), scores: Buffer.from(scores) })),
  });
}

async function offer(command: string, content: Buffer, { gateway, signal, download, onProgress }: LearningWorld): Promise<Record<string, unknown>> {
  const path = `/v1/learned/${command}`;
  let answer: unknown;
  // The same offer twice is the same version, so a line that breaks is no reason to learn again.
  await retrying({ ...download, signal }, path, async () => { answer = await gateway().upload(path, content, signal); }, async () => 0);
  onProgress('offer', 100);
  return answer as Record<string, unknown>;
}

/** Fetches the archive and unpacks it: a folder per class, perhaps inside one more. @throws ReefError `learn.archive_unreadable`, `learn.no_classes`, `learn.too_many` */
async function imagesOf({ images }: LearnArgs, world: LearningWorld): Promise<LearnImage[]> {
  const { dir, signal } = world;
  const store = await Store.open(join(dir, 'store'), world.reserveBytes);
  world.onProgress('download', 0);
  await downloadBlob(world.gateway(), store, images, { ...world.download, signal, onShare: (share) => world.onProgress('download', 100 * share) });
  const folder = join(dir, 'images');
  await mkdir(folder);
  let [files, bytes] = [0, 0];
  let fault: ReefError | undefined;
  try {
    await pipeline(createReadStream(store.blobPath(images.digest)), extract({
      cwd: folder, strict: true, preservePaths: false, noChmod: true, noMtime: true,
      // Only plain images: links and devices are no business of ours.
      filter: (path, entry) => {
        if (!('type' in entry) || (entry.type !== 'File' && entry.type !== 'OldFile') || !imageName.test(path)) return false;
        [files, bytes] = [files + 1, bytes + (entry.size ?? 0)];
        if (files > most.images || bytes > most.unpackedBytes) fault = new ReefError('learn.too_many', 'invalid', `A device learns from at most ${most.images} images of ${most.unpackedBytes} bytes together. Give fewer or smaller ones; the model sees them small anyway.`);
        return !fault;
      },
    }) as unknown as NodeJS.WritableStream, { signal });
  } catch (cause) {
    signal.throwIfAborted();
    throw new ReefError('learn.archive_unreadable', 'invalid', `The images cannot be unpacked: ${(cause as Error).message}. Send a .tar.gz with a folder per class.`, { cause });
  }
  if (fault) throw fault;
  await rm(store.blobPath(images.digest), { force: true });
  const found = (await readdir(folder, { recursive: true, withFileTypes: true })).filter((one) => one.isFile()).map((one) => join(one.parentPath, one.name)).sort();
  const parts = found.map((path) => ({ path, names: relative(folder, path).split(sep) }));
  // An archive of a folder holds that folder; the classes are then one below.
  const inside = parts.length > 0 && parts.every(({ names }) => names.length > 2 && names[0] === parts[0]!.names[0]) ? 1 : 0;
  const labelled = parts.filter(({ names }) => names.length > inside + 1);
  if (labelled.length === 0) throw new ReefError('learn.no_classes', 'invalid', found.length === 0 ? 'There is no image in the archive: JPEG, PNG, WebP, GIF and TIFF files are.' : 'No image lies in a folder of its class: make a folder for each class and put its images in it.');
  return labelled.map(({ path, names }) => ({ path, name: names.slice(inside).join('/'), label: names[inside]! }));
}
