import { buffer } from 'node:stream/consumers';
import { metadataOf, readModel } from '@reefkeeper/edgetpu';
import { parseBucketAddress, ReefError, type Buckets } from '@reefkeeper/platform';
import { exportAt } from './bucket-layout.ts';
import { exportPreprocessing } from './bucket-preprocessing.ts';
import type { StepContext, StepOutputs } from './steps.ts';
import { bordersOf } from './tensors.ts';
import type { VertexTraining } from './vertex.ts';

/** Trains at Google and brings the export here; the steps after it see a compiled model. */
export async function trainAtVertex(context: StepContext, vertex: VertexTraining, buckets: Buckets): Promise<StepOutputs['train']> {
  const { source, training } = context.request;
  const options = training!.vertex!;
  const { evaluation, ...run } = await vertex.run({
    name: `reef-${context.jobId}`, project: options.project, location: options.location, table: tableOf(source), modelType: options.modelType, nodeHours: options.nodeHours, output: options.output,
  }, { signal: context.signal, progress: (percent, message) => context.progress(percent, message), log: (text) => context.log(text) });
  const address = run.exported.endsWith('/') ? run.exported : `${run.exported}/`;
  const { bucket, path } = parseBucketAddress(address);
  const found = exportAt(address, path, await buckets.list(bucket, path, 1_000));
  const bytes = await buffer(await buckets.read(bucket, found.model.name, found.model.generation));
  const stored = await context.keep(bytes, { mediaType: 'application/vnd.tensorflow.lite', role: 'training' });
  const model = readModel(bytes);
  const metadata = metadataOf(model, bytes);
  const text = async (object: typeof found.labels) => (object ? (await buffer(await buckets.read(bucket, object.name, object.generation))).toString('utf8').replace(/^\uFEFF/, '') : null);
  const labels = (await text(found.labels))?.split('\n').map((line) => line.trim()).filter(Boolean) ?? metadata?.labels ?? null;
  const { preprocessing, warnings } = exportPreprocessing(bordersOf(model).inputs[0], await text(found.metadata), metadata);
  for (const warning of warnings) context.log(warning, 'err');
  context.log(`${address}: ${found.layout === 'edgetpu' ? 'a model compiled for the Edge TPU' : 'a model'} of ${stored.bytes} bytes, ${labels?.length ?? 0} labels`);
  return {
    vertex: { ...run, modelType: options.modelType, nodeHours: options.nodeHours }, labels, preprocessing, dataset: { ...source }, issues: [],
    heldOut: evaluation,
    model: { ...stored, filename: found.model.name.split('/').at(-1)! }, calibration: null, evaluation: null,
  };
}

function tableOf({ origin }: StepContext['request']['source']): string {
  if (origin?.address.toLowerCase().endsWith('.csv')) return origin.address;
  throw new ReefError('train.table_needed', 'invalid', 'Vertex AI reads its images by a table in a bucket: give the address of one (gs://bucket/import.csv, rows gs://bucket/image.jpg,label) as images.');
}
