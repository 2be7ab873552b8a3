import { createHash } from 'node:crypto';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { basename, join, relative, resolve } from 'node:path';
import { appendHead, extractorOf, learnFromImages, type LearnImage } from '@reefkeeper/edgetpu';
import { answersOnce, openInferenceHost, quantisePixels, readImage, type ImagePreprocessing } from '@reefkeeper/inference';
import { ReefError } from '@reefkeeper/platform/errors';
import { openModelFile } from './model-file.ts';

export interface LearnHereOptions {
  extractor: string;
  images: string;
  out: string;
  /** Images that are only judged by. */
  test: string | undefined;
  /** A compiled extractor does not run here; the file that it was compiled from does. */
  fromCpu: string | undefined;
  method: 'imprinting' | 'softmax-regression';
  holdout: number;
  seed: number;
  add: boolean;
  mean: number[];
  std: number[];
  resize: 'stretch' | 'center-crop';
  onProgress: (percent: number, step: string) => void;
}

export interface LearntHere {
  file: string; labelsFile: string; method: string; labels: string[]; classes: { label: string; before: number; learnt: number; heldOut: number }[];
  images: number; accuracy: number; heldOut: boolean; confusion: number[][]; unreadable: string[]; unreadableCount: number;
}

const imageName = /\.(?:jpe?g|png|webp|gif|tiff?|bmp)$/i;

/** The same learning as on a device, on the TensorFlow Lite of this machine. @throws ReefError `learn.*`, `model.*`, `file.*` */
export async function learnHere(options: LearnHereOptions): Promise<LearntHere> {
  const { model } = await openModelFile(options.extractor);
  const { path, bytes, model: onCpu } = await openModelFile(options.fromCpu ?? options.extractor);
  if (!options.fromCpu && onCpu.subgraphs[0]!.operators.some(({ customCode }) => customCode === 'edgetpu-custom-op')) {
    throw new ReefError('learn.compiled_extractor', 'invalid', `${path} is compiled for the Edge TPU and does not run here. Name the file it was compiled from with --from-cpu; the head then goes onto the compiled one.`);
  }
  const [extractor, target] = [extractorOf(onCpu, { isExtractor: true }), extractorOf(model, { isExtractor: true })];
  const quantisation = ({ tensor: { type, quantisation: own } }: typeof extractor) => `${type} ${own!.scale[0]} ${own!.zeroPoint[0] ?? 0}`;
  if (extractor.features !== target.features || quantisation(extractor) !== quantisation(target)) throw new ReefError('learn.head_differs', 'conflict', `${options.extractor} was not compiled from ${path}: their embeddings differ (${target.features} values, ${quantisation(target)}; ${extractor.features} values, ${quantisation(extractor)}).`);
  const given = await imagesIn(options.images);
  const images = options.test ? [...given.map((one) => ({ ...one, heldOut: false })), ...(await imagesIn(options.test)).map((one) => ({ ...one, name: `test/${one.name}`, heldOut: true }))] : given;

  const host = openInferenceHost();
  host.on('exit', () => {});
  try {
    const loaded = await host.load({ path: resolve(path), digest: createHash('sha256').update(bytes).digest('hex') });
    const [, height, width, channels] = loaded.inputs[0]!.shape;
    if (loaded.inputs.length !== 1 || !height || !width || (channels !== 1 && channels !== 3)) throw new ReefError('learn.no_image_model', 'invalid', `${path} does not take one image, but ${loaded.inputs.map(({ shape }) => shape.join('x')).join(', ')}.`);
    const preprocessing: ImagePreprocessing = { kind: 'image', width, height, channels, resize: options.resize, mean: options.mean, std: options.std };
    const inputOf = async (image: LearnImage) => quantisePixels(await readImage(image.path, preprocessing), preprocessing, loaded.inputs[0]!);
    const { head, selfTest, report, unreadable } = await learnFromImages(images, extractor, { method: options.method, holdout: options.holdout, seed: options.seed, before: options.add ? target.head : null }, {
      embed: async (image) => (await loaded.infer([await inputOf(image)])).outputs[extractor.output]!, inputOf,
      answers: async (alone, inputs) => (await answersOnce(alone, inputs.map((one) => [one]))).map(([first]) => first!),
      onProgress: (step, percent) => options.onProgress(percent, step),
    });
    await mkdir(options.out, { recursive: true });
    const name = basename(options.extractor).replace(/(_edgetpu)?\.tflite$/i, (_, compiled: string | undefined) => `_learned${compiled ?? ''}.tflite`);
    const [file, labelsFile] = [join(options.out, name), join(options.out, 'labels.txt')];
    await writeFile(file, appendHead(model, head, { isExtractor: true }));
    await writeFile(labelsFile, `${head.labels.join('\n')}\n`);
    const made: LearntHere = {
      file, labelsFile, method: report.method, labels: report.labels, classes: report.classes, images: selfTest.images, accuracy: selfTest.accuracy, heldOut: selfTest.heldOut, confusion: selfTest.confusion,
      unreadable: unreadable.map(({ name: which }) => which), unreadableCount: unreadable.length,
    };
    await writeFile(join(options.out, 'report.json'), `${JSON.stringify({ ...made, training: report.training, seed: options.seed }, null, 2)}\n`);
    return made;
  } finally {
    await host.close();
  }
}

/** @throws ReefError `file.missing`, `learn.no_classes` */
async function imagesIn(folder: string): Promise<LearnImage[]> {
  const classes = (await readdir(folder, { withFileTypes: true }).catch((cause: unknown) => { throw new ReefError('file.missing', 'not_found', `There is no folder ${folder}.`, { cause }); })).filter((one) => one.isDirectory()).map(({ name }) => name).sort();
  const found = await Promise.all(classes.map(async (label) => (await readdir(join(folder, label), { recursive: true, withFileTypes: true }))
    .filter((one) => one.isFile() && imageName.test(one.name)).map((one) => join(one.parentPath, one.name)).sort().map((path) => ({ path, label, name: relative(folder, path) }))));
  if (found.flat().length === 0) throw new ReefError('learn.no_classes', 'invalid', `No image lies in a folder of its class below ${folder}: make a folder for each class and put its images in it.`);
  return found.flat();
}
