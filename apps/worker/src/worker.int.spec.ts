import 'reflect-metadata';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { conversionSchema, Jobs } from '@reefkeeper/conversion';
import { TfliteBuilder } from '@reefkeeper/edgetpu/fixture';
import { ChangeFeed, openLogger, openObjects, openQueues, systemClock } from '@reefkeeper/platform';
import { Registry, registrySchema } from '@reefkeeper/registry';
import { testDatabase, type TestDatabase } from '../../../test/support/database.ts';
import { readConfig } from './config.ts';
import { startSweeps } from './sweeps.ts';
import { startWorker } from './worker.ts';

let database: TestDatabase;
let dir: string;
const log = openLogger('test', 'silent');

beforeAll(async () => {
  database = await testDatabase([registrySchema, conversionSchema]);
  dir = await mkdtemp(join(tmpdir(), 'reef-worker-'));
});
afterAll(async () => {
  await database.drop();
  await rm(dir, { recursive: true });
});

const env = () => ({ DATABASE_URL: database.url, ARTIFACTS_URL: pathToFileURL(join(dir, 'objects')).href, KEYS_DIR: join(dir, 'keys'), WORK_DIR: join(dir, 'work'), HEALTH_PORT: '0' });

describe('a worker', () => {
  it('takes up jobs that were waiting, says how it is, and leaves nothing behind', async () => {
    const queues = openQueues({ databaseUrl: database.url });
    const objects = await openObjects(env().ARTIFACTS_URL);
    const registry = new Registry(database.db, systemClock, objects);
    const jobs = new Jobs(database.db, systemClock, queues, new ChangeFeed(database.url, log), registry);
    const net = new TfliteBuilder();
    const source = await objects.put(Buffer.from(net.output(net.softmax(net.dense(net.flatten(net.input([1, 8, 8, 3])), 3))).build()));
    const { job } = await jobs.create('waiting', { source: { digest: source.digest, filename: 'net.tflite' } });
    await mkdir(join(dir, 'work', `${hostname()}-999999999`), { recursive: true });
    await mkdir(join(dir, 'work', 'another-machine-1'), { recursive: true });

    const worker = await startWorker(readConfig(env()), log);
    expect((await readdir(join(dir, 'work'))).sort()).toEqual([`${hostname()}-${process.pid}`, 'another-machine-1'].sort());
    for (let tries = 0; (await jobs.find(job.id)).state !== 'SUCCEEDED' && tries < 600; tries += 1) await sleep(30);
    expect((await registry.versionByRef('waiting')).variants).toMatchObject([{ name: 'cpu-int8' }]);
    for (const path of ['healthz', 'readyz']) expect((await fetch(`http://127.0.0.1:${worker.healthPort}/${path}`)).status).toBe(200);
    await worker.stop();
    expect(await readdir(join(dir, 'work'))).toEqual(['another-machine-1']);
    await queues.close(true);
  });
});

describe('the environment', () => {
  it('is refused with every fault at once', () => {
    expect(() => readConfig({ WORKER_CONCURRENCY: '0', DATABASE_URL: 'mysql://x' })).toThrow(/DATABASE_URL[^]*ARTIFACTS_URL[^]*KEYS_DIR[^]*WORKER_CONCURRENCY/);
  });
});

describe('sweeps', () => {
  it('go on after a failure and never overlap', async () => {
    let [rounds, inside, overlaps] = [0, 0, 0];
    const stop = startSweeps([{ name: 'odd', everyMs: 1, run: async () => {
      inside += 1;
      overlaps += inside > 1 ? 1 : 0;
      rounds += 1;
      await sleep(5);
      inside -= 1;
      if (rounds % 2) throw new Error('odd');
      return 0;
    } }], log);
    while (rounds < 4) await sleep(10);
    await stop();
    const after = rounds;
    await sleep(150);
    expect([rounds, overlaps]).toEqual([after, 0]);
  });
});
