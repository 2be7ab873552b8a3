import { setTimeout as sleep } from 'node:timers/promises';
import { ReefError } from '@reefkeeper/platform/errors';

export const vertexModels = ['MOBILE_TF_LOW_LATENCY_1', 'MOBILE_TF_VERSATILE_1', 'MOBILE_TF_HIGH_ACCURACY_1'] as const;

export interface VertexRun {
  /** Names everything at Google, so that a run which lost its worker is found again instead of being paid for twice. */
  name: string;
  project: string;
  location: string;
  /** gs:// address of a table in AutoML's import format. */
  table: string;
  modelType: (typeof vertexModels)[number];
  nodeHours: number;
  /** gs:// address that the export is written below. */
  output: string;
}

export interface VertexResult {
  dataset: string;
  pipeline: string;
  model: string;
  /** gs:// folder of the export. */
  exported: string;
  evaluation: VertexEvaluation | null;
}

export interface VertexEvaluation {
  labels: string[];
  /** `confusion[true][answered]`, counts. */
  confusion: number[][];
  images: number;
  accuracy: number;
}

export interface VertexEars {
  signal: AbortSignal;
  progress(percent: number | null, message: string): void;
  log(text: string): void;
}

/** The part of `@google-cloud/aiplatform` that is used. Its own declarations (20 MB) would slow down every build. */
/** One look at a time: its own `promise()` goes on looking after nobody wants to know. */
interface Operation { latestResponse: { done?: boolean | null }; getOperation(): Promise<[unknown, unknown]> }
interface Client { close(): Promise<void> }
interface Named { name: string; displayName?: string }
interface DatasetClient extends Client {
  listDatasets(request: object): Promise<[(Named & { dataItemCount?: string | number })[]]>;
  createDataset(request: object): Promise<[Operation]>;
  importData(request: object): Promise<[Operation]>;
}
interface Pipeline extends Named { state: string; error?: { message?: string } | null; modelToUpload?: { name?: string } | null; startTime?: { seconds?: string | number } | null }
interface PipelineClient extends Client {
  listTrainingPipelines(request: object): Promise<[Pipeline[]]>;
  createTrainingPipeline(request: object): Promise<[Pipeline]>;
  getTrainingPipeline(request: object): Promise<[Pipeline]>;
  cancelTrainingPipeline(request: object): Promise<unknown>;
}
interface ModelClient extends Client {
  exportModel(request: object): Promise<[Operation]>;
  listModelEvaluations(request: object): Promise<[{ metrics?: unknown }[]]>;
}
interface AiPlatform {
  v1: Record<'DatasetServiceClient' | 'PipelineServiceClient' | 'ModelServiceClient', new (options: object) => never>;
  helpers: { toValue(value: object): unknown; fromValue(value: unknown): unknown };
}
const library = '@google-cloud/aiplatform';

const schemas = 'gs://google-cloud-aiplatform/schema';
const settled: ReadonlySet<string> = new Set(['PIPELINE_STATE_SUCCEEDED', 'PIPELINE_STATE_FAILED', 'PIPELINE_STATE_CANCELLED']);

/**
 * AutoML image classification for edge devices on Vertex AI: data set, import, training, export. Every stage is looked for by its name before it
 * is begun, so the same run may be called again after any crash.
 */
export class VertexTraining {
  constructor(private readonly options: { /** Another server than Google's, `host:port` without TLS. */ endpoint?: string | undefined; pollMs?: number } = {}) {}

  /** @throws ReefError `vertex.denied`, `vertex.refused`, `vertex.training_failed`, `vertex.training_canceled`, `vertex.unavailable` */
  async run(run: VertexRun, ears: VertexEars): Promise<VertexResult> {
    const { v1, helpers } = (await import(library)) as AiPlatform;
    const options = await this.clientOptions(run.location);
    const datasets = new v1.DatasetServiceClient(options) as DatasetClient;
    const pipelines = new v1.PipelineServiceClient(options) as PipelineClient;
    const models = new v1.ModelServiceClient(options) as ModelClient;
    const parent = `projects/${run.project}/locations/${run.location}`;
    const mine = { parent, filter: `display_name="${run.name}"` };
    try {
      ears.progress(1, 'data set');
      let [[dataset]] = await datasets.listDatasets(mine);
      dataset ??= (await this.finished<Named & { dataItemCount?: string }>(await datasets.createDataset({ parent, dataset: { displayName: run.name, metadataSchemaUri: `${schemas}/dataset/metadata/image_1.0.0.yaml` } }), ears.signal)).result;
      let [[pipeline]] = await pipelines.listTrainingPipelines(mine);
      if (!pipeline && Number(dataset.dataItemCount ?? 0) === 0) {
        ears.progress(3, 'importing the images');
        ears.log(`${dataset.name}: importing ${run.table}`);
        await this.finished(await datasets.importData({ name: dataset.name, importConfigs: [{ gcsSource: { uris: [run.table] }, importSchemaUri: `${schemas}/dataset/ioformat/image_classification_single_label_io_format_1.0.0.yaml` }] }), ears.signal);
      }
      if (!pipeline) {
        [pipeline] = await pipelines.createTrainingPipeline({
          parent,
          trainingPipeline: {
            displayName: run.name, inputDataConfig: { datasetId: dataset.name.split('/').at(-1) }, modelToUpload: { displayName: run.name },
            trainingTaskDefinition: `${schemas}/trainingjob/definition/automl_image_classification_1.0.0.yaml`,
            trainingTaskInputs: helpers.toValue({ modelType: run.modelType, budgetMilliNodeHours: Math.round(run.nodeHours * 1_000), multiLabel: false }),
          },
        });
        ears.log(`${pipeline.name}: training ${run.modelType} for at most ${run.nodeHours} node hours`);
      }
      const model = await this.trained(pipelines, pipeline, run, ears);
      ears.progress(94, 'exporting for the Edge TPU');
      const { metadata: told } = await this.finished<unknown, { outputInfo?: { artifactOutputUri?: string } } | null>(await models.exportModel({ name: model, outputConfig: { exportFormatId: 'edgetpu-tflite', artifactDestination: { outputUriPrefix: run.output } } }), ears.signal);
      const [evaluations] = await models.listModelEvaluations({ parent: model });
      return { dataset: dataset.name, pipeline: pipeline.name, model, exported: told?.outputInfo?.artifactOutputUri ?? run.output, evaluation: evaluationOf(evaluations[0]?.metrics && helpers.fromValue(evaluations[0].metrics)) };
    } catch (thrown) {
      throw faultOf(thrown, run);
    } finally {
      await Promise.all([datasets, pipelines, models].map(async (client) => client.close().catch(() => {})));
    }
  }

  /** The model's name once its training has ended. Someone's cancel and our own time limit end it at Google too; a stopping worker leaves it to the next one. */
  private async trained(pipelines: PipelineClient, begun: Pipeline, run: VertexRun, { signal, progress }: VertexEars): Promise<string> {
    let pipeline = begun;
    while (!settled.has(pipeline.state)) {
      const begin = Number(pipeline.startTime?.seconds ?? 0) * 1_000;
      const hours = begin > 0 ? (Date.now() - begin) / 3_600_000 : 0;
      progress(5 + Math.min(85, (85 * hours) / (run.nodeHours + 1)), `${pipeline.state.replace('PIPELINE_STATE_', '').toLowerCase()} at Vertex AI`);
      await this.wait(signal).catch(async (thrown: unknown) => {
        if (signal.reason === 'cancel' || signal.reason === 'timeout') await pipelines.cancelTrainingPipeline({ name: pipeline.name }).catch(() => {});
        throw thrown;
      });
      [pipeline] = await pipelines.getTrainingPipeline({ name: pipeline.name });
    }
    if (pipeline.state === 'PIPELINE_STATE_CANCELLED') throw new ReefError('vertex.training_canceled', 'invalid', `The training was cancelled at Vertex AI (${pipeline.name}).`);
    if (pipeline.state === 'PIPELINE_STATE_FAILED' || !pipeline.modelToUpload?.name) throw new ReefError('vertex.training_failed', 'invalid', `Vertex AI could not train the model: ${pipeline.error?.message ?? 'it gave no reason'} (${pipeline.name})`, { detail: { pipeline: pipeline.name } });
    return pipeline.modelToUpload.name;
  }

  /** Whoever stops in the middle of one stops waiting only, and finds its traces by name the next time. */
  private async finished<T, M = unknown>([operation]: [Operation], signal: AbortSignal): Promise<{ result: T; metadata: M }> {
    for (;;) {
      const [result, metadata] = await operation.getOperation();
      if (operation.latestResponse.done) return { result: result as T, metadata: metadata as M };
      await this.wait(signal);
    }
  }

  private async wait(signal: AbortSignal): Promise<void> {
    await sleep(this.options.pollMs ?? 30_000, undefined, { signal }).catch(() => { throw new ReefError('job.canceled', 'conflict', 'The job was cancelled.', { cause: signal.reason }); });
  }

  private async clientOptions(location: string): Promise<object> {
    const { endpoint } = this.options;
    if (!endpoint) return { apiEndpoint: `${location}-aiplatform.googleapis.com` };
    const { grpc } = await import('google-gax');
    const [host, port] = endpoint.split(':');
    return { apiEndpoint: host, port: Number(port), sslCreds: grpc.credentials.createInsecure() };
  }
}

/** The confusion matrix of ClassificationEvaluationMetrics; null where there is none (above ten labels Vertex AI gives none). */
function evaluationOf(metrics: unknown): VertexEvaluation | null {
  const matrix = (metrics as { confusionMatrix?: { annotationSpecs?: { displayName: string }[]; rows?: (number[] | { dataItemCounts?: number[] })[] } } | undefined)?.confusionMatrix;
  const labels = matrix?.annotationSpecs?.map(({ displayName }) => displayName);
  const confusion = matrix?.rows?.map((row) => (Array.isArray(row) ? row : row.dataItemCounts ?? []).map(Number));
  if (!labels || !confusion || confusion.length !== labels.length) return null;
  const images = confusion.flat().reduce((sum, count) => sum + count, 0);
  return { labels, confusion, images, accuracy: images === 0 ? 0 : confusion.reduce((sum, row, index) => sum + (row[index] ?? 0), 0) / images };
}

/** gRPC's status as ours. */
function faultOf(thrown: unknown, { project }: VertexRun): unknown {
  if (thrown instanceof ReefError) return thrown;
  const { code, details, message = String(thrown) } = thrown as { code?: number; details?: string; message?: string };
  const said = details ?? message;
  if (code === 7 || code === 16 || /default credentials/i.test(message)) return new ReefError('vertex.denied', 'forbidden', `Vertex AI does not let the worker's Google account work in ${project}: ${said}. Give it roles/aiplatform.user and access to the buckets.`, { cause: thrown });
  if (code === 14 || code === 4 || code === 8 || code === 13) return new ReefError('vertex.unavailable', 'unavailable', `Vertex AI did not answer: ${said}`, { cause: thrown });
  if (code !== undefined) return new ReefError('vertex.refused', 'invalid', `Vertex AI refused the training: ${said}`, { cause: thrown });
  return thrown;
}
