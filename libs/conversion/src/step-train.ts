import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { readWhole, ReefError, type Buckets } from '@reefkeeper/platform';
import type { BuildRequest } from './job.ts';
import type { PythonTools } from './python-tools.ts';
import type { StepContext, StepExecutor, StepOutputs } from './steps.ts';
import { bucketRows, type BucketRow } from './training-images.ts';
import { trainAtVertex } from './vertex-train.ts';
import type { VertexTraining } from './vertex.ts';

const tar = { mediaType: 'application/x-tar', role: 'training' };
const fetchers = 8;

/**
 * Trains a new last layer; what it leaves takes the place of source, samples and labels for the steps after it. Only jobs that ask for it
 * have this step.
 */
export function trainStep(python: PythonTools, buckets: Buckets, vertex: VertexTraining): StepExecutor<'train'> {
  return {
    // AutoML's queue, hours and export; what runs here has a limit of its own.
    timeoutMs: 30 * 3_600_000,
    async inputs(context) {
      const { source, training, preprocessing, input, signature, outputs } = context.request;
      // Not the same twice, and it costs: never taken from another job.
      if (training?.vertex) return null;
      // Objects that are not named by generation may be other ones by now.
      if ((await rowsOf(context)).some(({ generation }) => generation === null)) return null;
      return { images: source.digest, filename: source.filename, training, preprocessing, input, signature, outputs, tools: await python.toolset() };
    },
    async run(context) {
      const { source, training, preprocessing } = context.request;
      if (!training) return { skipped: 'there is nothing to train' };
      if (training.vertex) return { output: await trainAtVertex(context, vertex, buckets) };
      const files = { output: 'trained.tar', calibration: 'training-images.tar', evaluation: 'held-out-images.tar' };
      const made = Object.fromEntries(Object.entries(files).map(([name, file]) => [name, join(context.workDir, file)])) as typeof files;
      const base = training.base ? { base: await context.fetch(training.base.digest, `base/${training.base.filename}`), baseFilename: training.base.filename, baseDigest: training.base.digest } : { basePackage: await python.fetchBase(context) };
      const report = await python.train(context, {
        images: await imagesIn(context, buckets), imagesFilename: source.filename, ...base, ...made, epochs: training.epochs, holdout: training.holdout, seed: training.seed,
        preprocessing: { resize: preprocessing.resize ?? 'stretch', ...scaleOf(preprocessing, training.base === null) },
      });
      const keep = async (file: keyof typeof files) => ({ ...(await context.keep(made[file], tar)), filename: files[file] });
      return { output: { ...report, dataset: { ...source }, seed: training.seed, model: await keep('output'), calibration: await keep('calibration'), evaluation: await keep('evaluation') } };
    },
  };
}

/** EfficientNet-Lite0's own scale, or -1 to 1 as everywhere else. */
function scaleOf({ mean, std }: BuildRequest['preprocessing'], own: boolean): { mean: number[]; std: number[] } {
  const list = (value: number | number[] | undefined, otherwise: number) => (value === undefined ? [otherwise] : Array.isArray(value) ? value : [value]);
  return { mean: list(mean, own ? 127 : 127.5), std: list(std, own ? 128 : 127.5) };
}

async function rowsOf({ request, objects }: Pick<StepContext, 'request' | 'objects'>): Promise<BucketRow[]> {
  return request.source.filename.toLowerCase().endsWith('.csv') ? bucketRows((await readWhole(objects, request.source.digest)).toString('utf8')) : [];
}

/** The archive, or a folder with the table and what it names in buckets. */
async function imagesIn(context: StepContext, buckets: Buckets): Promise<string> {
  const { source } = context.request;
  if (!source.filename.toLowerCase().endsWith('.csv')) return context.fetch(source.digest, `images/${source.filename}`);
  const folder = join(context.workDir, 'images');
  await context.fetch(source.digest, `images/${source.filename}`);
  const rows = await rowsOf(context);
  if (rows.length === 0) throw new ReefError('train.table_alone', 'invalid', `${source.filename} names no gs:// object, and files beside it were not sent. Send an archive with the table and the images in it, which is what reef train does with a table of local files.`);
  let done = 0;
  const missing: string[] = [];
  const next = rows.values();
  await Promise.all(Array.from({ length: fetchers }, async () => {
    for (const row of next) {
      context.signal.throwIfAborted();
      await fetchRow(row, folder, buckets, context.signal).catch((thrown: unknown) => {
        if (!(thrown instanceof ReefError) || thrown.code !== 'bucket.object_missing') throw thrown;
        missing.push(row.name);
      });
      done += 1;
      context.progress((10 * done) / rows.length, `fetching image ${done} of ${rows.length}`);
    }
  }));
  // The training names them among its findings.
  if (missing.length > 0) context.log(`${missing.length} images are not in the bucket any more: ${missing.slice(0, 5).join(', ')}`, 'err');
  return folder;
}

async function fetchRow({ bucket, name, generation }: BucketRow, folder: string, buckets: Buckets, signal: AbortSignal): Promise<void> {
  if (name.split('/').some((part) => part === '' || part === '.' || part === '..')) throw new ReefError('train.table_unreadable', 'invalid', `The object name ${name} is no path; images under such a name cannot be used.`);
  const path = join(folder, 'gs', bucket, name);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, await buffer(await buckets.read(bucket, name, generation ?? undefined)), { signal });
}

/** What the steps after training work on. */
export function afterTraining(request: BuildRequest, trained: StepOutputs['train'] | null | undefined): BuildRequest {
  if (!trained) return request;
  const { outputs: _outputs, signature: _signature, ...rest } = request;
  const file = ({ digest, filename }: { digest: string; filename: string }) => ({ digest, filename });
  const { resize, mean, std } = trained.preprocessing;
  const preprocessing = { ...(resize ? { resize } : {}), ...(mean === undefined ? {} : { mean }), ...(std === undefined ? {} : { std }) };
  return { ...rest, source: file(trained.model), calibration: trained.calibration && file(trained.calibration), evaluation: trained.evaluation && file(trained.evaluation), labels: trained.labels, task: 'classification', input: {}, preprocessing };
}

/** The part that goes into the signed lineage: enough to train again, and what came of it. */
export function trainingLineage(trained: StepOutputs['train']): Record<string, unknown> {
  if ('vertex' in trained) return { vertex: trained.vertex, dataset: trained.dataset, heldOut: trained.heldOut && { images: trained.heldOut.images, accuracy: trained.heldOut.accuracy } };
  const { base, dataset, classes, seed, epochs, best, stopped, heldOut, labels, tools } = trained;
  return { base, dataset, classes, labels: labels.length, seed, epochs, best, stopped, heldOut: { images: heldOut.images, accuracy: heldOut.accuracy, loss: heldOut.loss }, tools };
}
