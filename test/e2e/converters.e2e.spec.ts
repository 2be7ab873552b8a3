import { createReadStream } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { execa } from 'execa';
import { create as createTar } from 'tar';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { conversionSchema, ensurePythonEnv, environments, hasPythonEnv, isSettled, Jobs, openExecutors, Pipeline, PythonTools, type BuildRequestInput } from '@reefkeeper/conversion';
import { ChangeFeed, openLogger, openObjects, openQueues, systemClock, type ObjectStore, type QueueHost } from '@reefkeeper/platform';
import { Registry, registrySchema } from '@reefkeeper/registry';
import { testDatabase, type TestDatabase } from '../support/database.ts';

// The optional converters, each with its real packages; skipped where they are not installed (`npm run test:python -- --all` installs them).
const envDir = join(import.meta.dirname, '../../.reef/python');
const withOnnx = it.skipIf(!(await hasPythonEnv({ root: envDir, requirements: environments.onnx })));
const with215 = it.skipIf(!(await hasPythonEnv({ root: envDir, requirements: environments['tf2.15'] })));

let database: TestDatabase;
let dir: string;
let objects: ObjectStore;
let queues: QueueHost;
let feed: ChangeFeed;
let jobs: Jobs;
let registry: Registry;
let pipeline: Pipeline;

beforeAll(async () => {
  database = await testDatabase([registrySchema, conversionSchema]);
  dir = await mkdtemp(join(tmpdir(), 'reef-converters-'));
  await mkdir(join(dir, 'made'));
  const logger = openLogger('test', 'silent');
  objects = await openObjects(pathToFileURL(join(dir, 'objects')).href);
  queues = openQueues({ databaseUrl: database.url });
  feed = new ChangeFeed(database.url, logger);
  await feed.start();
  registry = new Registry(database.db, systemClock, objects);
  jobs = new Jobs(database.db, systemClock, queues, feed, registry);
  const executors = openExecutors({ python: new PythonTools({ envDir }), keysDir: join(dir, 'keys') });
  pipeline = new Pipeline(database.db, systemClock, logger, objects, queues, registry, jobs, { executors, workDir: join(dir, 'work') });
  pipeline.start(1);
}, 900_000);
afterAll(async () => {
  await pipeline.stop();
  await queues.close(true);
  await feed.stop();
  await database.drop();
  await rm(dir, { recursive: true });
});

async function python(environment: keyof typeof environments, script: string): Promise<void> {
  const made = await ensurePythonEnv({ root: envDir, requirements: environments[environment] });
  await execa(made.python, ['-c', script], { cwd: join(dir, 'made'), env: { TF_CPP_MIN_LOG_LEVEL: '3', CUDA_VISIBLE_DEVICES: '-1' } });
}

async function uploaded(name: string) {
  const { digest } = await objects.put(createReadStream(join(dir, 'made', name)));
  return { digest, filename: name };
}

async function build(model: string, source: string, more: Partial<BuildRequestInput>) {
  const { job, version } = await jobs.create(model, { source: await uploaded(source), calibration: await uploaded('s.npz'), ...more });
  while (!isSettled((await jobs.find(job.id)).state)) await sleep(100);
  const said = (await jobs.logAfter(job.id)).map(({ text }) => text).join('\n');
  return { job: await jobs.find(job.id), version: await registry.versionById(version.id), said };
}

/** Channels first, an open batch and explicit padding, as PyTorch exports them. */
const onnxModel = `
import onnx, numpy as np
from onnx import helper as h, numpy_helper as nh, TensorProto as T
rng = np.random.default_rng(1)
weights = {"w": rng.normal(0, .4, (8, 3, 3, 3)), "dw": rng.normal(0, .5, (8, 1, 3, 3)), "pw": rng.normal(0, .5, (16, 8, 1, 1)), "fc": rng.normal(0, .8, (4, 16)), "b": rng.normal(0, .1, 4)}
nodes = [h.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]), h.make_node("Relu", ["c"], ["r"]), h.make_node("Conv", ["r", "dw"], ["d"], pads=[1, 1, 1, 1], group=8),
  h.make_node("Relu", ["d"], ["dr"]), h.make_node("Conv", ["dr", "pw"], ["p"]), h.make_node("GlobalAveragePool", ["p"], ["g"]), h.make_node("Flatten", ["g"], ["f"]),
  h.make_node("Gemm", ["f", "fc", "b"], ["l"], transB=1), h.make_node("Softmax", ["l"], ["y"], axis=1)]
graph = h.make_graph(nodes, "net", [h.make_tensor_value_info("x", T.FLOAT, ["batch", 3, 24, 32])], [h.make_tensor_value_info("y", T.FLOAT, ["batch", 4])], [nh.from_array(v.astype(np.float32), k) for k, v in weights.items()])
onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), "net.onnx")
np.savez("s.npz", x=(rng.uniform(-1, 1, (80, 24, 32, 3)) + rng.normal(0, 1, (80, 1, 1, 3))).astype(np.float32))
`;
/** Nearest upsampling becomes TILE, which no Edge TPU has. */
const upsampling = `
import tensorflow as tf, numpy as np
L = tf.keras.layers
rng = np.random.default_rng(1)
model = tf.keras.Sequential([tf.keras.Input((8, 8, 3)), L.Conv2D(8, 3, activation="relu"), L.UpSampling2D(), L.GlobalAveragePooling2D(), L.Dense(3, activation="softmax")])
model.set_weights([rng.normal(0, .7, one.shape) for one in model.get_weights()])
model.export("up")
np.savez("s.npz", x=rng.uniform(-1, 1, (60, 8, 8, 3)).astype(np.float32))
`;

describe('an ONNX model', () => {
  withOnnx('is turned to channels last, quantised, and agrees with the original on the devices\' runtime', async () => {
    await python('onnx', onnxModel);
    const { job, version, said } = await build('onnx', 'net.onnx', {});
    expect(job).toMatchObject({ state: 'SUCCEEDED', error: null });
    expect(job.steps[0]!.output).toMatchObject({ kind: 'tflite_float', description: 'An ONNX model', inputs: [{ shape: [1, 24, 32, 3] }], model: { filename: 'net.tflite' } });
    expect(job.steps[1]!.output).toMatchObject({ inputs: [{ shape: [1, 24, 32, 3], dtype: 'int8', preprocessing: { kind: 'image', width: 32, height: 24 } }] });
    expect(said).toContain("answers differ from ONNX Runtime's by at most");
    expect(version.lineage).toMatchObject({ source: { filename: 'net.onnx' }, tools: { onnx2tf: '2.6.9', converter: 'tf2.21' } });
    expect(version.parity!.agreement).toBeGreaterThanOrEqual(0.95);
    expect(version.analysis).toMatchObject({ cpuOps: 0 });
  });

  withOnnx('that is damaged says so', async () => {
    await writeFile(join(dir, 'made/bad.onnx'), Buffer.from('\u0008\u0008\u0012\u0007pytorch and then nothing of use'));
    expect((await build('bad', 'bad.onnx', {})).job.error).toMatchObject({ code: 'source.not_a_model', step: 'import' });
  });
});

describe('TensorFlow 2.15', () => {
  with215('converts when it is asked for, and by itself where the result of 2.21 stays on the CPU in part', async () => {
    await python('tf2.21', upsampling);
    await createTar({ gzip: true, file: join(dir, 'made/up.tar.gz'), cwd: join(dir, 'made') }, ['up']);
    const asked = await build('up', 'up.tar.gz', { converter: 'tf2.15' });
    expect(asked.job).toMatchObject({ state: 'SUCCEEDED', error: null });
    expect(asked.version.lineage!.tools).toMatchObject({ converter: 'tf2.15', tensorflow: '2.15.1' });
    expect(asked.version.parity!.agreement).toBeGreaterThanOrEqual(0.9);

    const chosen = await build('up', 'up.tar.gz', {});
    expect(chosen.said).toMatch(/tf2\.21: \d operator\(s\) stay on the CPU; trying tf2\.15/);
    expect(chosen.said).toMatch(/tf2\.15: \d operator\(s\) stay on the CPU\n/);
    expect(chosen.said).toContain(`kept the result of ${chosen.version.lineage!.tools.converter}`);
  });
});
