import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, extname, isAbsolute, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { create as createTar } from 'tar';
import { ReefError } from '@reefkeeper/platform/errors';
import type { Client } from '../client.ts';
import { action } from '../context.ts';
import { exportCaptures } from './captures.ts';
import { numberOf } from '../options.ts';
import { confusionTable, facts, percent, type Output } from '../output.ts';
import { buildOptions, followBuild, requestBody, uploadPath, type PushOptions, type Uploaded } from './models.ts';

/** As `GET /jobs/{id}` has it under `training`. */
export interface Training {
  labels: string[]; base: { name: string; features: number }; classes: { label: string; train: number; validation: number; heldOut: number }[];
  epochs: { epoch: number; validationLoss: number }[]; best: number; stopped: string; stoppedOn: string;
  heldOut: { images: number; accuracy: number; loss: number; confusion: number[][] };
  issues: { code: string; message: string; count: number; names: string[] }[];
}

/** A training at Vertex AI. */
export interface VertexTraining { vertex: { pipeline: string; exported: string; modelType: string }; heldOut: { images: number; accuracy: number; labels: string[]; confusion: number[][] } | null }

interface TrainOptions extends PushOptions { name: string; captures?: string | true; base?: string; epochs?: string; holdout?: string; seed?: string; vertex?: string; vertexLocation?: string; vertexOutput?: string; vertexHours?: string; labels?: never; calibration?: never; evaluation?: never }

export function registerTrain(program: Command): void {
  buildOptions(program.command('train [images]')
    .description('learn new classes: the last layer of a known network is trained anew on labelled images, and the result built like any model')
    .requiredOption('--name <name>', 'model name')
    .option('--captures [selector]', 'learn from the labelled pictures that devices captured, of all or of those that match, instead of <images>')
    .option('--base <path>', 'network to build on: a SavedModel folder, .keras, .h5 or frozen .pb; EfficientNet-Lite0 where absent')
    .option('--epochs <count>', 'at most; training stops when it gets no better', '100')
    .option('--holdout <share>', 'images that are never learnt from, 0.05 to 0.5', '0.2')
    .option('--seed <number>', 'of the draw and the training', '1')
    .option('--vertex <project>', 'train at Vertex AI (AutoML for edge devices) in this project instead of here; <images> is then gs://bucket/table.csv')
    .option('--vertex-location <region>', 'where', 'us-central1')
    .option('--vertex-output <address>', 'gs://bucket/folder/ for the export')
    .option('--vertex-hours <count>', 'node hours that may be spent', '1'))
    .addHelpText('after', `
<images> is a folder with a folder per class, an archive of it, a table as AutoML imports it ([TRAIN|VALIDATION|TEST,]file,label; files relative to it, or gs://),
or the address of any of these in a bucket.

Example:
  reef train ./flowers --name flowers --epochs 50`)
    .action(action(async ({ output, client }, given: string | undefined, options: TrainOptions) => {
      const api = await client();
      if ((given === undefined) === (options.captures === undefined)) throw new ReefError('option.invalid', 'invalid', 'Name a folder, archive or table of images, or say --captures.');
      const images = given === undefined ? await capturedImages(api, output, typeof options.captures === 'string' ? { selector: options.captures } : {}) : given.startsWith('gs://') ? given : await uploadImages(api, output, given);
      const body = {
        ...(await requestBody(api, output, options)), images,
        ...(options.base ? { base: await uploadPath(api, output, options.base, 'base') } : {}),
        epochs: numberOf('--epochs', options.epochs), holdout: numberOf('--holdout', options.holdout), seed: numberOf('--seed', options.seed),
        ...(options.vertex ? { vertex: { project: options.vertex, location: options.vertexLocation, output: options.vertexOutput ?? '', nodeHours: numberOf('--vertex-hours', options.vertexHours) } } : {}),
      };
      const made = await api.post<Parameters<typeof followBuild>[2]>(`/models/${encodeURIComponent(options.name)}/trainings`, body);
      // Also of a model that was then refused: its confusions say why.
      const { version } = await followBuild(api, output, made, options.watch, async ({ training }) => { if (training) output.step({ event: 'training', ...training }, `\n${'vertex' in training ? vertexText(training) : trainingText(training)}\n`); });
      return version.state === 'READY' || options.watch === false ? 0 : 1;
    }));
}

/** Uploads the labelled pictures that devices captured. */
export async function capturedImages(api: Client, output: Output, which: { selector?: string; device?: string; workload?: string }): Promise<Uploaded> {
  const scratch = await mkdtemp(join(tmpdir(), 'reef-captures-'));
  try {
    const labels = await exportCaptures(api, scratch, which);
    output.step({ event: 'captures', labels }, `captured pictures: ${Object.entries(labels).map(([label, count]) => `${label} ${count}`).join(', ')}`);
    return await uploadPath(api, output, scratch, 'images');
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

function vertexText({ vertex, heldOut }: VertexTraining): string {
  const about = facts([['trained by', `Vertex AI, ${vertex.modelType} (${vertex.pipeline})`], ['export', vertex.exported], ['held-out accuracy', heldOut ? `${percent(heldOut.accuracy)} of ${heldOut.images}` : 'not told']]);
  return [about, ...(heldOut ? confusionText(heldOut.labels, heldOut.confusion) : [])].join('\n\n');
}

export function trainingText({ labels, base, classes, epochs, best, stopped, stoppedOn, heldOut, issues }: Training): string {
  const { confusion } = heldOut;
  const parts = [facts([
    ['base', `${base.name}, ${base.features} features`],
    ['images', `${classes.reduce((sum, one) => sum + one.train + one.validation, 0)} learnt from, ${heldOut.images} held out, ${labels.length} classes`],
    ['epochs', `${epochs.length}, number ${best} kept: ${stopped}${stoppedOn === 'held-out' ? '; too few images for a validation part, so the held-out ones stopped it and flatter a little' : ''}`],
    ['held-out accuracy', `${percent(heldOut.accuracy)} (${confusion.reduce((sum, row, index) => sum + row[index]!, 0)} of ${heldOut.images}), loss ${heldOut.loss.toFixed(3)}`],
  ])];
  parts.push(...confusionText(labels, confusion));
  parts.push(...issues.map((one) => `${one.count} ${one.message}: ${one.names.slice(0, 5).join(', ')}${one.count > 5 ? `, and ${one.count - 5} more` : ''}`));
  return parts.join('\n\n');
}

function confusionText(labels: string[], confusion: number[][]): string[] {
  const parts = confusionTable(labels, confusion);
  const worst = confusion.flatMap((row, is) => row.flatMap((count, answered) => (is !== answered && count > 0 ? [{ is, answered, count, of: row.reduce((a, b) => a + b, 0) }] : []))).sort((a, b) => b.count - a.count || b.count / b.of - a.count / a.of);
  if (worst.length > 0) parts.push(`worst confusions\n${worst.slice(0, 5).map((one) => `  ${labels[one.is]} taken for ${labels[one.answered]}: ${one.count} of ${one.of}`).join('\n')}`);
  return parts;
}

async function uploadImages(api: Client, output: Output, path: string): Promise<unknown> {
  if (extname(path).toLowerCase() !== '.csv') return uploadPath(api, output, path, 'images');
  const scratch = await mkdtemp(join(tmpdir(), 'reef-train-'));
  try {
    return await uploadPath(api, output, await packTable(path, scratch), 'images');
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

/** A table of local files travels with them, as an archive in `scratch`; one of gs:// addresses alone. @returns what to send */
export async function packTable(path: string, scratch: string): Promise<string> {
  const text = await readFile(path, 'utf8').catch((cause: unknown) => { throw new ReefError('file.missing', 'not_found', `There is no file ${path}.`, { cause }); });
  const { csvRows } = await import('@reefkeeper/conversion/image-tables');
  const cells = csvRows(text, path).flat();
  const remote = cells.some((cell) => cell.startsWith('gs://'));
  const folder = dirname(resolve(path));
  const named = [...new Set(cells.filter((cell) => /\.(?:jpe?g|png|bmp|gif|webp|tiff?)$/i.test(cell) && !cell.startsWith('gs://')))];
  if (remote && named.length > 0) throw new ReefError('option.invalid', 'invalid', `${path} names files of this machine and objects of buckets. Put all of them in one place.`);
  if (remote) return path;
  const outside = named.find((one) => isAbsolute(one) || one.split('/').includes('..'));
  if (outside) throw new ReefError('option.invalid', 'invalid', `${path} names ${outside}; name files relative to the table and below its folder.`);
  // What is not there the training tells by name.
  const present = (await Promise.all(named.map(async (one) => ((await stat(join(folder, one)).catch(() => undefined))?.isFile() ? one : '')))).filter(Boolean);
  const file = join(scratch, `${basename(path, extname(path))}.tar.gz`);
  await createTar({ gzip: { level: 1 }, file, cwd: folder, portable: true, noMtime: true, follow: true }, [basename(path), ...present.sort()]);
  return file;
}
