import { createRequire } from 'node:module';
import { fromJSON } from '@grpc/proto-loader';
import { Server, ServerCredentials, loadPackageDefinition, status, type ServiceDefinition, type UntypedServiceImplementation } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Readable } from 'node:stream';
import { join } from 'node:path';
import { TfliteBuilder } from '@reefkeeper/edgetpu/fixture';
import { openLogger, openQueues, systemClock, type Buckets } from '@reefkeeper/platform';
import { jobView, openExecutors, Pipeline, PythonTools, Trainings } from './index.ts';
import { openPipelineWorld } from './pipeline-world.fixture.ts';
import { VertexTraining, type VertexRun } from './vertex.ts';

// A server that speaks Vertex AI's own protocol, made from the protocol files that come with Google's client. What it answers is our reading of the documentation.
const json = createRequire(import.meta.url)('@google-cloud/aiplatform/build/protos/protos.json') as object;
const packages = loadPackageDefinition(fromJSON(json as never, { longs: String, enums: String, defaults: false, oneofs: true })) as never as {
  google: { cloud: { aiplatform: { v1: Record<'DatasetService' | 'PipelineService' | 'ModelService', { service: ServiceDefinition }> } }; longrunning: { Operations: { service: ServiceDefinition } } };
};
const { createRoot, any } = answers();

process.env['METADATA_SERVER_DETECTION'] = 'none';

type Call = { request: Record<string, never> & Record<string, unknown> };
type Answer = (error: { code: number; details: string } | null, value?: unknown) => void;

let server: Server;
let endpoint: string;
let calls: string[];
let pipelineStates: string[];
let refuse: Record<string, { code: number; details: string }>;
let pipeline: Record<string, unknown> | null;
let dataset: Record<string, unknown> | null;
let requests: Record<string, Record<string, unknown>>;
const pending = new Map<string, unknown>();

const run: VertexRun = { name: 'reef-job-1', project: 'p', location: 'europe-west4', table: 'gs://bkt/import.csv', modelType: 'MOBILE_TF_VERSATILE_1', nodeHours: 1, output: 'gs://bkt/out/' };
const at = 'projects/p/locations/europe-west4';
const heard: string[] = [];
const ears = (signal = new AbortController().signal, hear: (message: string) => void = (message) => { heard.push(message); }) => ({ signal, progress: (_percent: number | null, message: string) => { hear(message); }, log: () => {} });

beforeEach(async () => {
  [calls, pipelineStates, refuse, pipeline, dataset, requests] = [[], ['PIPELINE_STATE_QUEUED', 'PIPELINE_STATE_RUNNING', 'PIPELINE_STATE_SUCCEEDED'], {}, null, null, {}];
  pending.clear();
  server = new Server();
  const { v1 } = packages.google.cloud.aiplatform;
  const answer = (name: string, make: (request: Record<string, unknown>) => unknown) => (call: Call, done: Answer) => {
    calls.push(name);
    requests[name] = call.request;
    if (refuse[name]) done(refuse[name]);
    else done(null, make(call.request));
  };
  /** Not done at once, so that the client asks for the operation. */
  const operation = (name: string, value: { response: unknown; metadata?: unknown }) => {
    pending.set(name, value);
    return { name, done: false };
  };
  server.addService(v1.DatasetService.service, {
    listDatasets: answer('listDatasets', () => ({ datasets: dataset ? [dataset] : [] })),
    createDataset: answer('createDataset', (request) => { dataset = { ...(request['dataset'] as object), name: `${at}/datasets/7` }; return operation('createDataset', { response: any('Dataset', dataset) }); }),
    importData: answer('importData', () => operation('importData', { response: any('ImportDataResponse', {}) })),
  } as UntypedServiceImplementation);
  server.addService(v1.PipelineService.service, {
    listTrainingPipelines: answer('listTrainingPipelines', () => ({ trainingPipelines: pipeline ? [pipeline] : [] })),
    createTrainingPipeline: answer('createTrainingPipeline', (request) => (pipeline = { ...(request['trainingPipeline'] as object), name: `${at}/trainingPipelines/8`, state: 'PIPELINE_STATE_QUEUED' })),
    getTrainingPipeline: answer('getTrainingPipeline', () => {
      const state = pipelineStates.length > 1 ? pipelineStates.shift()! : pipelineStates[0]!;
      return { ...pipeline, state, ...(state === 'PIPELINE_STATE_FAILED' ? { error: { message: 'too few images of "rose"' } } : {}), modelToUpload: { name: `${at}/models/9` } };
    }),
    cancelTrainingPipeline: answer('cancelTrainingPipeline', () => ({})),
  } as UntypedServiceImplementation);
  server.addService(v1.ModelService.service, {
    exportModel: answer('exportModel', () => operation('exportModel', { response: any('ExportModelResponse', {}), metadata: any('ExportModelOperationMetadata', { outputInfo: { artifactOutputUri: 'gs://bkt/out/model-9/edgetpu-tflite/2026-11-25T10:00:00Z' } }) })),
    listModelEvaluations: answer('listModelEvaluations', () => ({ modelEvaluations: [{ name: 'e', metrics: createRoot({ confusionMatrix: { annotationSpecs: [{ id: '1', displayName: 'rose' }, { id: '2', displayName: 'tulip' }], rows: [[8, 2], [1, 9]] } }) }] })),
  } as UntypedServiceImplementation);
  server.addService(packages.google.longrunning.Operations.service, {
    getOperation: (call: Call, done: Answer) => { const name = String(call.request['name']); const value = pending.get(name) as object; done(null, { name, done: true, ...value }); },
  } as UntypedServiceImplementation);
  const port = await new Promise<number>((resolve, reject) => { server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) => (error ? reject(error) : resolve(bound))); });
  endpoint = `127.0.0.1:${port}`;
});
afterEach(() => { server.forceShutdown(); });

const vertex = () => new VertexTraining({ endpoint, pollMs: 20 });

describe('a training at Vertex AI', () => {
  it('goes from a table to an export, with its confusion matrix', async () => {
    expect(await vertex().run(run, ears())).toEqual({
      dataset: `${at}/datasets/7`, pipeline: `${at}/trainingPipelines/8`, model: `${at}/models/9`, exported: 'gs://bkt/out/model-9/edgetpu-tflite/2026-11-25T10:00:00Z',
      evaluation: { labels: ['rose', 'tulip'], confusion: [[8, 2], [1, 9]], images: 20, accuracy: 0.85 },
    });
    expect(calls).toEqual(['listDatasets', 'createDataset', 'listTrainingPipelines', 'importData', 'createTrainingPipeline', 'getTrainingPipeline', 'getTrainingPipeline', 'getTrainingPipeline', 'exportModel', 'listModelEvaluations']);
    expect(requests['importData']).toMatchObject({ name: `${at}/datasets/7`, importConfigs: [{ gcsSource: { uris: ['gs://bkt/import.csv'] }, importSchemaUri: expect.stringContaining('image_classification_single_label') }] });
    expect(requests['createTrainingPipeline']).toMatchObject({ parent: at, trainingPipeline: { displayName: 'reef-job-1', inputDataConfig: { datasetId: '7' }, trainingTaskInputs: { structValue: { fields: { modelType: { stringValue: 'MOBILE_TF_VERSATILE_1' }, budgetMilliNodeHours: { numberValue: 1_000 } } } } } });
    expect(requests['exportModel']).toMatchObject({ name: `${at}/models/9`, outputConfig: { exportFormatId: 'edgetpu-tflite', artifactDestination: { outputUriPrefix: 'gs://bkt/out/' } } });
    expect(heard).toContain('running at Vertex AI');
  });

  it('that lost its worker is found again, not begun again', async () => {
    dataset = { name: `${at}/datasets/7`, displayName: run.name };
    pipeline = { name: `${at}/trainingPipelines/8`, displayName: run.name, state: 'PIPELINE_STATE_RUNNING' };
    expect(await vertex().run(run, ears())).toMatchObject({ model: `${at}/models/9` });
    expect(calls).not.toContain('createDataset');
    expect(calls).not.toContain('importData');
    expect(calls).not.toContain('createTrainingPipeline');
    expect(requests['listTrainingPipelines']).toMatchObject({ filter: 'display_name="reef-job-1"' });
  });

  it.each(['cancel', 'stopping'])('is ended at Google by a cancel and by nothing else: %s', async (reason) => {
    pipelineStates = ['PIPELINE_STATE_RUNNING'];
    const controller = new AbortController();
    await expect(vertex().run(run, ears(controller.signal, (message) => { if (message === 'running at Vertex AI') controller.abort(reason); }))).rejects.toMatchObject({ code: 'job.canceled' });
    expect(calls.includes('cancelTrainingPipeline')).toBe(reason === 'cancel');
  });

  it('that fails says why', async () => {
    pipelineStates = ['PIPELINE_STATE_FAILED'];
    await expect(vertex().run(run, ears())).rejects.toMatchObject({ code: 'vertex.training_failed', message: expect.stringContaining('too few images of "rose"') });
  });

  it.each([[status.PERMISSION_DENIED, 'vertex.denied', 'forbidden'], [status.INVALID_ARGUMENT, 'vertex.refused', 'invalid'], [status.FAILED_PRECONDITION, 'vertex.refused', 'invalid']])('gRPC status %i is %s', async (code, ours, kind) => {
    refuse['createTrainingPipeline'] = { code, details: 'not so' };
    await expect(vertex().run(run, ears())).rejects.toMatchObject({ code: ours, kind, message: expect.stringContaining('not so') });
  });
});

describe('a job that trains at Vertex AI', () => {
  it('goes on with the export as with any model', async () => {
    const net = new TfliteBuilder();
    const model = Buffer.from(net.output(net.softmax(net.dense(net.flatten(net.conv(net.input([1, 16, 16, 3]), 4)), 2))).build());
    const folder = 'out/model-9/edgetpu-tflite/2026-11-25T10:00:00Z/';
    const files: Record<string, Buffer> = { [`${folder}edgetpu_model.tflite`]: model, [`${folder}dict.txt`]: Buffer.from('tulip\nrose\n'), 'import.csv': Buffer.from('gs://bkt/1.jpg,rose\n') };
    const about = (name: string) => ({ name, generation: '1', bytes: files[name]?.length ?? 0, updatedAt: new Date(0) });
    const buckets: Buckets = {
      list: async (_bucket, prefix) => Object.keys(files).filter((name) => name.startsWith(prefix)).map(about), stat: async (_bucket, name) => about(name), read: async (_bucket, name) => Readable.from([files[name]!]),
    };
    const world = await openPipelineWorld();
    const host = openQueues({ databaseUrl: world.database.url });
    const executors = openExecutors({ python: new PythonTools({ envDir: '/nowhere' }), keysDir: join(world.dir, 'keys'), buckets, vertex: vertex() });
    const pipeline = new Pipeline(world.database.db, systemClock, openLogger('test', 'silent'), world.objects, host, world.registry, world.jobs, { executors, workDir: join(world.dir, 'work') });
    pipeline.start(1);
    try {
      const trainings = new Trainings(world.objects, buckets, world.registry, world.jobs);
      await expect(trainings.create('flowers', { images: 'gs://bkt/folder/', vertex: { project: 'my-project', output: 'gs://bkt/out/' } })).rejects.toMatchObject({ code: 'train.table_needed' });
      const { job, version } = await trainings.create('flowers', { images: 'gs://bkt/import.csv', vertex: { project: 'my-project', location: 'europe-west4', output: 'gs://bkt/out/' } });
      const done = await world.settled(job.id);
      expect(done).toMatchObject({ state: 'SUCCEEDED', error: null });
      expect(jobView(done).training).toMatchObject({ vertex: { model: `${at}/models/9`, modelType: 'MOBILE_TF_VERSATILE_1' }, labels: ['tulip', 'rose'], heldOut: { labels: ['rose', 'tulip'], accuracy: 0.85 }, dataset: { origin: { address: 'gs://bkt/import.csv' } } });
      expect(requests['importData']).toMatchObject({ importConfigs: [{ gcsSource: { uris: ['gs://bkt/import.csv'] } }] });
      expect(requests['createTrainingPipeline']).toMatchObject({ trainingPipeline: { displayName: `reef-${job.id}` } });
      expect(await world.registry.versionById(version.id)).toMatchObject({ state: 'READY', labels: ['tulip', 'rose'], lineage: { source: { filename: 'edgetpu_model.tflite' }, training: { vertex: { exported: 'gs://bkt/out/model-9/edgetpu-tflite/2026-11-25T10:00:00Z' } } } });
    } finally {
      await pipeline.stop();
      await host.close(true);
      await world.close();
    }
  });
});

/** Messages that travel packed: Any, and Value. */
function answers() {
  const { Root } = createRequire(import.meta.url)('protobufjs') as { Root: { fromJSON(json: object): { lookupType(name: string): { create(value: object): unknown; fromObject(value: object): unknown; encode(value: unknown): { finish(): Buffer } } } } };
  const { helpers } = createRequire(import.meta.url)('@google-cloud/aiplatform') as { helpers: { toValue(value: object): unknown } };
  const root = Root.fromJSON(json);
  return {
    createRoot: (value: object) => helpers.toValue(value),
    any(type: string, value: object) {
      const found = root.lookupType(`google.cloud.aiplatform.v1.${type}`);
      return { type_url: `type.googleapis.com/google.cloud.aiplatform.v1.${type}`, value: found.encode(found.fromObject(value)).finish() };
    },
  };
}
