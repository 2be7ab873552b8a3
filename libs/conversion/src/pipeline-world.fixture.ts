import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { TfliteBuilder } from '@reefkeeper/edgetpu/fixture';
import { ChangeFeed, openLogger, openObjects, openQueues, readWhole, systemClock, type ObjectStore, type QueueHost } from '@reefkeeper/platform';
import { Registry, registrySchema } from '@reefkeeper/registry';
import { testDatabase, type TestDatabase } from '../../../test/support/database.ts';
import { conversionSchema, isSettled, Jobs, openExecutors, Pipeline, PythonTools, type BuildRequestInput, type JobWithSteps } from './index.ts';

// Sources that are TensorFlow Lite already need no Python; whoever calls it here fails for want of one.
const python = new PythonTools({ envDir: '/nowhere/env', python: '/nowhere/python3' });

/** Everything a pipeline needs, real: PostgreSQL, queue, objects. Only the compiler is a stand-in. */
export interface PipelineWorld {
  dir: string;
  database: TestDatabase;
  objects: ObjectStore;
  registry: Registry;
  jobs: Jobs;
  /** Another worker beside those that run. */
  start(compiler?: string, concurrency?: number): Pipeline;
  /** Stops all workers. */
  stop(): Promise<void>;
  /** A version's job, not waited for. */
  push(model: string, content: Buffer | Uint8Array, more?: Partial<BuildRequestInput>): Promise<string>;
  settled(id: string): Promise<JobWithSteps>;
  text(digest: string): Promise<string>;
  close(): Promise<void>;
}

export async function openPipelineWorld(): Promise<PipelineWorld> {
  const database = await testDatabase([registrySchema, conversionSchema]);
  const dir = await mkdtemp(join(tmpdir(), 'reef-pipeline-world-'));
  const objects = await openObjects(pathToFileURL(join(dir, 'objects')).href);
  const log = openLogger('test', 'silent');
  const feed = new ChangeFeed(database.url, log);
  await feed.start();
  const registry = new Registry(database.db, systemClock, objects);
  const queues: QueueHost = openQueues({ databaseUrl: database.url });
  const jobs = new Jobs(database.db, systemClock, queues, feed, registry);
  let workers: { pipeline: Pipeline; host: QueueHost }[] = [];

  const stop = async () => {
    await Promise.all(workers.map(async ({ pipeline, host }) => { await pipeline.stop(); await host.close(true); }));
    workers = [];
  };
  return {
    dir, database, objects, registry, jobs, stop,
    start(compiler, concurrency = 1) {
      const host = openQueues({ databaseUrl: database.url });
      const pipeline = new Pipeline(database.db, systemClock, log, objects, host, registry, jobs, { executors: openExecutors({ python, keysDir: join(dir, 'keys'), compiler }), workDir: join(dir, 'work') });
      pipeline.start(concurrency);
      workers.push({ pipeline, host });
      return pipeline;
    },
    async push(model, content, more = {}) {
      const source = await objects.put(Buffer.from(content));
      return (await jobs.create(model, { ...more, source: { digest: source.digest, filename: 'model.tflite' } })).job.id;
    },
    async settled(id) {
      for (let tries = 0; tries < 1_000; tries += 1) {
        const job = await jobs.find(id);
        if (isSettled(job.state)) return job;
        await sleep(30);
      }
      throw new Error(`the job never ended: ${JSON.stringify(await jobs.find(id))}`);
    },
    text: async (digest) => (await readWhole(objects, digest)).toString('utf8'),
    async close() {
      await stop();
      await queues.close(true);
      await feed.stop();
      await database.drop();
      await rm(dir, { recursive: true });
    },
  };
}

/** A quantised model that the Edge TPU can run whole. `classes` tells one from another. */
export function smallNet(classes = 4): Uint8Array {
  const net = new TfliteBuilder();
  const picture = net.input([1, 8, 8, 3], { zeroPoint: -1 });
  net.output(net.softmax(net.dense(net.flatten(net.conv(picture, 4)), classes)));
  return net.build();
}
