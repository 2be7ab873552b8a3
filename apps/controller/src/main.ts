import 'reflect-metadata';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { loadOrCreateSigningKey } from '@reefkeeper/bundle';
import { conversionSchema } from '@reefkeeper/conversion';
import { ApiTokens, Authority, controllerName, devicesSchema } from '@reefkeeper/devices';
import { asReefError, ChangeFeed, openBuckets, openDatabase, openLogger, openObjects, openQueues, ReefError, systemClock, type Logger } from '@reefkeeper/platform';
import { ProblemFilter } from '@reefkeeper/platform/http';
import { registrySchema } from '@reefkeeper/registry';
import { rolloutsSchema } from '@reefkeeper/rollouts';
import { telemetrySchema } from '@reefkeeper/telemetry';
import { collectDefaultMetrics } from 'prom-client';
import { AppModule } from './app.module.ts';
import { readConfig, type Config } from './config.ts';
import { serveDocs } from './docs.ts';
import { NestLog } from './nest-log.ts';
import { guardAnswers, serveConsole } from './pages.ts';

export async function startController(config: Config, log: Logger): Promise<NestFastifyApplication> {
  const authority = await Authority.loadOrCreate(config.KEYS_DIR);
  const signingKey = await loadOrCreateSigningKey(config.KEYS_DIR);
  const hosts = [...new Set(['localhost', '127.0.0.1', new URL(config.PUBLIC_GATEWAY_URL).hostname, new URL(config.PUBLIC_MQTT_URL).hostname, ...config.TLS_HOSTS.split(',').filter(Boolean)])];
  const server = await authority.ownFiles(config.KEYS_DIR, 'gateway', { commonName: 'reef-gateway', hosts });
  const client = await authority.ownFiles(config.KEYS_DIR, 'controller', { commonName: controllerName, client: true });
  const slices = [devicesSchema, registrySchema, conversionSchema, telemetrySchema, rolloutsSchema];
  const db = await openDatabase({ url: config.DATABASE_URL, slices, applicationName: 'reef-controller', poolSize: 20 });
  const feed = new ChangeFeed(config.DATABASE_URL, log);
  await feed.start();
  const platform = {
    db, clock: systemClock, log, feed,
    objects: await openObjects(config.ARTIFACTS_URL, config.GCS_ENDPOINT ? { gcsEndpoint: config.GCS_ENDPOINT } : {}),
    buckets: openBuckets({ endpoint: config.GCS_ENDPOINT }),
    queues: openQueues({ databaseUrl: config.DATABASE_URL, ...(config.REDIS_URL ? { redisUrl: config.REDIS_URL } : {}) }),
  };
  const adapter = new FastifyAdapter({ bodyLimit: 1024 ** 2, forceCloseConnections: true, routerOptions: { maxParamLength: 256 } });
  // Uploads are streams: no handler ever holds a model in memory.
  adapter.getInstance().addContentTypeParser('application/octet-stream', { bodyLimit: config.UPLOAD_LIMIT_BYTES }, (_request, payload, done) => done(null, payload));
  const app = await NestFactory.create<NestFastifyApplication>(
    AppModule.with({ config, platform, authority, broker: { ca: authority.certificatePem, certificate: client.certificate, key: client.key }, gateway: { certificate: server.certificate, key: server.key, signingKeys: [{ keyId: signingKey.keyId, publicKeyPem: signingKey.publicKeyPem }] }, signingKey }),
    adapter, { logger: new NestLog(log) },
  );
  app.useGlobalFilters(new ProblemFilter(log));
  app.setGlobalPrefix('api/v1', { exclude: ['healthz', 'readyz', 'metrics'] });
  guardAnswers(adapter.getInstance() as never);
  serveDocs(app);
  await serveConsole(app, config.CONSOLE_DIR);
  if (config.BOOTSTRAP_ADMIN_TOKEN) await app.get(ApiTokens).bootstrap(config.BOOTSTRAP_ADMIN_TOKEN);
  // `init` runs the bootstrap hooks, which connect and listen; the API opens last.
  await app.listen({ host: config.HOST, port: config.PORT });
  const close = app.close.bind(app);
  app.close = async () => {
    await close();
    await feed.stop();
    await platform.queues.close();
    if (db.isInitialized) await db.destroy();
  };
  return app;
}

async function main(): Promise<void> {
  const log = openLogger('controller', process.env.LOG_LEVEL);
  try {
    const config = readConfig(process.env);
    collectDefaultMetrics();
    const app = await startController(config, log);
    log.info({ url: await app.getUrl(), gateway: config.PUBLIC_GATEWAY_URL }, 'ready');
    process.stdout.write(`${JSON.stringify({ ready: true, url: await app.getUrl() })}\n`);
    let stopping = false;
    const stop = (signal: string) => {
      if (stopping) return;
      stopping = true;
      log.info({ signal }, 'stopping');
      setTimeout(() => process.exit(1), 10_000).unref();
      app.close().then(() => process.exit(0), (err: unknown) => { log.error({ err }, 'stop failed'); process.exit(1); });
    };
    process.on('SIGTERM', stop);
    process.on('SIGINT', stop);
    // Started by a supervisor, we end with it, however it ends.
    process.on('disconnect', () => stop('disconnect'));
  } catch (thrown) {
    const taken = (thrown as NodeJS.ErrnoException).code === 'EADDRINUSE';
    const error = taken ? new ReefError('config.port_taken', 'conflict', `${(thrown as Error).message}. Another process listens there already: stop it, or set PORT and GATEWAY_PORT to free ones.`, { cause: thrown }) : asReefError(thrown);
    log.fatal({ err: thrown }, error.message);
    process.stderr.write(`error: ${error.message}\ncode: ${error.code}\n`);
    process.exitCode = error.exitCode;
    setTimeout(() => process.exit(), 100);
  }
}

if (import.meta.main) await main();
