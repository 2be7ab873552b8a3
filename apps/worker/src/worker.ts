import { rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { NestFactory } from '@nestjs/core';
import { BucketWatch, conversionSchema, jobRoots, Jobs, openExecutors, Pipeline, PipelineModule, PythonTools, watchBucket } from '@reefkeeper/conversion';
import { bundlesOnDevices, devicesSchema } from '@reefkeeper/devices';
import { ChangeFeed, openBuckets, openDatabase, openObjects, openQueues, PlatformModule, systemClock, type Logger } from '@reefkeeper/platform';
import { registrySchema, Retention, RetentionModule } from '@reefkeeper/registry';
import { bundlesInRollouts, rolloutAlerts, rolloutsSchema } from '@reefkeeper/rollouts';
import { AlertWatch, AlertWebhook, captureRoots, deviceAlerts, openPubSubSink, telemetrySchema, WindowExport } from '@reefkeeper/telemetry';
import type { Config } from './config.ts';
import { startSweeps } from './sweeps.ts';
import { openWorkDir } from './work-dir.ts';

export interface Worker {
  /** Port of the health server; null where none was asked for. */
  healthPort: number | null;
  /** Hands running steps back and lets go of everything. */
  stop(): Promise<void>;
}

const sweepMs = 2_000;
const collectMs = 6 * 3_600_000;

/** Everything is in rows and objects: a worker may be killed at any moment, and another one goes on. */
export async function startWorker(config: Config, log: Logger): Promise<Worker> {
  const db = await openDatabase({ url: config.DATABASE_URL, slices: [devicesSchema, registrySchema, conversionSchema, telemetrySchema, rolloutsSchema], applicationName: 'reef-worker', poolSize: 4 + 2 * config.WORKER_CONCURRENCY });
  const feed = new ChangeFeed(config.DATABASE_URL, log);
  await feed.start();
  const queues = openQueues({ databaseUrl: config.DATABASE_URL, ...(config.REDIS_URL ? { redisUrl: config.REDIS_URL } : {}) });
  const objects = await openObjects(config.ARTIFACTS_URL, config.GCS_ENDPOINT ? { gcsEndpoint: config.GCS_ENDPOINT } : {});
  const workDir = await openWorkDir(config.WORK_DIR);
  const python = new PythonTools({ envDir: config.PYTHON_ENV_DIR, python: config.PYTHON });
  const buckets = openBuckets({ endpoint: config.GCS_ENDPOINT });
  const executors = openExecutors({ python, keysDir: config.KEYS_DIR, compiler: config.REEF_EDGETPU_COMPILER, buckets });
  const context = await NestFactory.createApplicationContext({
    module: class WorkerModule {},
    imports: [
      PlatformModule.forRoot({ db, clock: systemClock, log, objects, queues, feed, buckets }),
      PipelineModule.forRoot({ executors, workDir }), RetentionModule.forRoot({ objects: [...jobRoots, ...captureRoots], bundles: [...bundlesOnDevices, ...bundlesInRollouts] }),
    ],
  }, { logger: ['error', 'warn'] });

  const pipeline = context.get(Pipeline, { strict: false });
  const jobs = context.get(Jobs, { strict: false });
  pipeline.start(config.WORKER_CONCURRENCY);
  const exportsWatch = context.get(BucketWatch, { strict: false });
  const exported = { quietMs: config.REEF_BUCKET_QUIET_S * 1_000, models: config.REEF_BUCKET_MODELS };
  const stopWatch = config.REEF_BUCKET_WATCH ? await watchBucket(exportsWatch, { subscription: config.REEF_BUCKET_WATCH, quietMs: exported.quietMs }, log) : undefined;
  const retention = context.get(Retention, { strict: false });
  const alerts = new AlertWatch(db, systemClock, [...deviceAlerts, ...rolloutAlerts]);
  const webhook = config.ALERT_WEBHOOK_URL === undefined ? undefined : new AlertWebhook(db, systemClock, log, { url: config.ALERT_WEBHOOK_URL, secret: config.ALERT_WEBHOOK_SECRET, consoleUrl: config.CONSOLE_URL });
  const sink = config.REEF_TELEMETRY_TOPIC === undefined ? undefined : await openPubSubSink(config.REEF_TELEMETRY_TOPIC);
  const windows = sink && new WindowExport(db, sink, systemClock);
  const stopSweeps = startSweeps([
    { name: 'jobs', everyMs: sweepMs, run: async () => jobs.sweep() },
    // Rows that another worker's messages made are anybody's work.
    { name: 'bucket exports', everyMs: sweepMs, run: async () => exportsWatch.sweep(exported) },
    ...alerts.paces.map((everyS) => ({ name: `alerts, every ${everyS} s`, everyMs: everyS * 1_000, run: () => alerts.sweep(everyS) })),
    ...(webhook ? [{ name: 'alert webhook', everyMs: sweepMs, run: () => webhook.deliver() }] : []),
    ...(windows ? [{ name: 'telemetry export', everyMs: sweepMs, run: () => windows.run() }] : []),
    ...(config.RETENTION_DAYS === 0 ? [] : [{ name: 'artifacts', everyMs: collectMs, run: async () => (await retention.collect({ olderThanMs: config.RETENTION_DAYS * 24 * 3_600_000 })).objects }]),
  ], log);
  const health = config.HEALTH_PORT === undefined ? null : await openHealth(config.HEALTH_PORT, async () => { await db.query('SELECT 1'); });
  return {
    healthPort: health && (health.address() as { port: number }).port,
    async stop() {
      // First what takes new work, then the work, then what it needs.
      await stopWatch?.();
      await stopSweeps();
      await sink?.close();
      await pipeline.stop();
      await queues.close();
      health?.close();
      await context.close();
      await feed.stop();
      await db.destroy();
      await rm(workDir, { recursive: true, force: true });
    },
  };
}

async function openHealth(port: number, check: () => Promise<void>): Promise<Server> {
  const server = createServer((request, response) => {
    const answer = (status: number, body: object) => response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    if (request.url === '/healthz') answer(200, { ok: true });
    else if (request.url === '/readyz') check().then(() => answer(200, { ok: true }), () => answer(503, { ok: false, reason: 'the database does not answer' }));
    else answer(404, {});
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, resolve);
  });
  return server;
}
