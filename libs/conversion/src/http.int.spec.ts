import 'reflect-metadata';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { ApolloDriver, type ApolloDriverConfig } from '@nestjs/apollo';
import { StandardSchemaValidationPipe, type DynamicModule } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { GraphQLModule } from '@nestjs/graphql';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ChangeFeed, openLogger, openObjects, openQueues, PlatformModule, sha256, systemClock, type QueueHost } from '@reefkeeper/platform';
import { ProblemFilter } from '@reefkeeper/platform/http';
import { registrySchema, RegistryModule } from '@reefkeeper/registry';
import { ArtifactsController, ModelsController, ModelsResolver, UploadsController } from '@reefkeeper/registry/http';
import { testDatabase, type TestDatabase } from '../../../test/support/database.ts';
import { BucketsController, BucketsResolver, BuildsController, JobsController, JobsResolver } from './http.ts';
import { ConversionModule, conversionSchema } from './index.ts';

let app: NestFastifyApplication;
let database: TestDatabase;
let dir: string;
let queues: QueueHost;
let feed: ChangeFeed;
const logger = openLogger('test', 'silent');

beforeAll(async () => {
  database = await testDatabase([registrySchema, conversionSchema]);
  dir = await mkdtemp(join(tmpdir(), 'reef-http-'));
  queues = openQueues({ databaseUrl: database.url });
  feed = new ChangeFeed(database.url, logger);
  await feed.start();

  const root: DynamicModule = {
    module: class TestModule {},
    imports: [
      PlatformModule.forRoot({ db: database.db, clock: systemClock, log: logger, objects: await openObjects(pathToFileURL(dir).href), queues, feed }),
      RegistryModule, ConversionModule,
      GraphQLModule.forRoot<ApolloDriverConfig>({ driver: ApolloDriver, autoSchemaFile: true }),
    ],
    controllers: [ModelsController, ArtifactsController, UploadsController, BucketsController, BuildsController, JobsController],
    providers: [ModelsResolver, BucketsResolver, JobsResolver, { provide: 'UPLOAD_LIMIT_BYTES', useValue: 4 * 1024 * 1024 }],
  };

  app = await NestFactory.create<NestFastifyApplication>(root, new FastifyAdapter(), { logger: false });
  app.setGlobalPrefix('api/v1');
  app.useGlobalPipes(new StandardSchemaValidationPipe());
  app.useGlobalFilters(new ProblemFilter(logger));
  await app.init();
  await app.getHttpAdapter().getInstance().ready();
});
afterAll(async () => {
  await app.close();
  await queues.close(true);
  await feed.stop();
  await database.drop();
  await rm(dir, { recursive: true });
});

interface Answer { status: number; body: Record<string, never> & Record<string, unknown> }

async function call(method: 'GET' | 'POST', path: string, body?: object | Buffer): Promise<Answer> {
  const answer = await app.inject({ method, url: `/api/v1${path}`, ...(body === undefined ? {} : { payload: body, headers: { 'content-type': Buffer.isBuffer(body) ? 'application/octet-stream' : 'application/json' } }) });
  return { status: answer.statusCode, body: answer.json() };
}

async function graphql(query: string): Promise<unknown> {
  return (await app.inject({ method: 'POST', url: '/graphql', payload: { query }, headers: { 'content-type': 'application/json' } })).json();
}

describe('uploads', () => {
  it('are stored under their digest, beyond what a JSON body may have, and come back', async () => {
    const content = randomBytes(3 * 1024 * 1024);
    const { status, body } = await call('POST', '/uploads', content);
    expect([status, body]).toEqual([201, { digest: sha256(content), bytes: content.length }]);
    const back = await app.inject({ url: `/api/v1/artifacts/${sha256(content)}` });
    expect(sha256(back.rawPayload)).toBe(sha256(content));
  });

  it.each<[string, object | Buffer, number, string]>([
    ['too large', Buffer.alloc(5 * 1024 * 1024), 413, 'upload.too_large'],
    ['empty', Buffer.alloc(0), 400, 'upload.empty'],
    ['of another type', { not: 'bytes' }, 400, 'upload.type_wrong'],
  ])('are refused when %s', async (_what, content, status, code) => {
    expect(await call('POST', '/uploads', content)).toMatchObject({ status, body: { code } });
  });
});

describe('models, versions and jobs', () => {
  it('go from an upload to a job that can be watched, canceled and tried again', async () => {
    const { body: source } = await call('POST', '/uploads', Buffer.from('a SavedModel')) as unknown as { body: { digest: string } };
    const built = await call('POST', '/models/lite0/versions', { source: { digest: source.digest, filename: 'm.tar.gz' }, labels: ['cat', 'dog'], notes: 'first' });
    expect(built).toMatchObject({ status: 202, body: { version: { ref: 'lite0@1', state: 'BUILDING', labels: ['cat', 'dog'], variants: [] }, job: { version: 'lite0@1', state: 'QUEUED', error: null } } });
    const { id } = (built.body as unknown as { job: { id: string } }).job;
    expect(await call('GET', `/jobs/${id}`)).toMatchObject({ status: 200, body: { id, steps: [{ name: 'import', state: 'PENDING', percent: null, etaS: null }, {}, {}, {}, {}, {}, { name: 'bundle' }] } });
    expect(await call('GET', '/jobs?model=lite0&state=QUEUED&limit=5')).toMatchObject({ body: { items: [{ id }], nextCursor: null } });
    expect(await call('GET', `/jobs/${id}/log?after=3`)).toEqual({ status: 200, body: { lines: [] } });
    expect(await call('POST', `/jobs/${id}/cancel`)).toMatchObject({ status: 200, body: { state: 'CANCELED' } });
    expect(await call('GET', '/models/lite0/versions/1')).toMatchObject({ status: 200, body: { state: 'CANCELED', notes: 'first' } });
    expect(await call('POST', `/jobs/${id}/retry`)).toMatchObject({ status: 200, body: { state: 'QUEUED' } });
    await call('POST', `/jobs/${id}/cancel`);
    expect(await call('POST', `/jobs/${id}/retry`, { force: true })).toMatchObject({ status: 200, body: { state: 'QUEUED', request: { compile: { force: true, timeoutS: 600 } } } });
    expect(await call('GET', `/jobs/${id}/attempts`)).toEqual({ status: 200, body: { items: [], nextCursor: null } });
    expect(await call('GET', '/models/lite0')).toMatchObject({ body: { name: 'lite0', latestVersion: 1, versions: 1 } });
    expect(await call('GET', '/models/lite0/versions')).toMatchObject({ body: { items: [{ version: 1 }] } });
  });

  it.each<[string, 'GET' | 'POST', string, object | undefined, number, string]>([
    ['an unknown model', 'GET', '/models/nope', undefined, 404, 'model.missing'],
    ['an unknown version', 'GET', '/models/lite0/versions/77', undefined, 404, 'version.missing'],
    ['a bad name', 'POST', '/models', { name: 'Bad Name' }, 400, 'request.invalid'],
    ['a version from nothing', 'POST', '/models/x/versions', {}, 400, 'request.invalid'],
    ['a source never uploaded', 'POST', '/models/x/versions', { source: { digest: '0'.repeat(64), filename: 'm' } }, 404, 'source.missing'],
    ['a file name with a path', 'POST', '/models/x/versions', { source: { digest: '0'.repeat(64), filename: '../m' } }, 400, 'request.invalid'],
    ['segments at tensors of our own', 'POST', '/models/x/versions', { source: { digest: '0'.repeat(64), filename: 'm' }, compile: { numSegments: 2, intermediateTensors: ['a'] } }, 400, 'request.invalid'],
    ['confirming what nothing holds up', 'POST', '/models/lite0/versions/1/confirm', undefined, 409, 'version.not_held'],
    ['an import from elsewhere', 'POST', '/models/x/imports', { address: 's3://bucket/x/' }, 400, 'request.invalid'],
    ['an import from no address', 'POST', '/models/x/imports', { address: 'gs://B!/x/' }, 400, 'bucket.address_invalid'],
    ['training on images never uploaded', 'POST', '/models/x/trainings', { images: { digest: '0'.repeat(64), filename: 'm.zip' } }, 404, 'source.missing'],
    ['training that holds out everything', 'POST', '/models/x/trainings', { images: 'gs://bucket/x/', holdout: 1 }, 400, 'request.invalid'],
    ['an unknown job', 'GET', '/jobs/00000000-0000-4000-8000-000000000000', undefined, 404, 'job.missing'],
    ['an unknown artifact', 'GET', `/artifacts/${'0'.repeat(64)}`, undefined, 404, 'artifact.missing'],
  ])('refuse %s', async (_what, method, path, body, status, code) => {
    expect(await call(method, path, body)).toMatchObject({ status, body: { code } });
  });

  it('are there in GraphQL too', async () => {
    await call('POST', '/models', { name: 'by-graphql', description: 'empty' });
    expect(await graphql('{ models(limit: 10) { items { name latestVersion versionCount versions { items { ref state } } } } model(name: "by-graphql") { description } jobs { items { version state steps { name } } } }')).toMatchObject({
      data: { models: { items: [{ name: 'by-graphql', versionCount: 0 }, { name: 'lite0', versions: { items: [{ ref: 'lite0@1', state: 'BUILDING' }] } }] }, model: { description: 'empty' }, jobs: { items: [{ version: 'lite0@1' }] } },
    });
    expect(await graphql('{ jobs { items { attempts { result logDigest } } } version(ref: "lite0@1") { hold { code variants } confirmedAt } }')).toMatchObject({ data: { jobs: { items: [{ attempts: [] }] }, version: { hold: null } } });
    await database.db.query("INSERT INTO bucket_exports (bucket, folder, state, reason, seen_at, look_at) VALUES ('b', 'm/', 'WAITING', '{\"code\": \"export.incomplete\"}', now(), now())");
    expect(await graphql('{ bucketExports { bucket folder state reason jobId } }')).toEqual({ data: { bucketExports: [{ bucket: 'b', folder: 'm/', state: 'WAITING', reason: { code: 'export.incomplete' }, jobId: null }] } });
    expect(await call('GET', '/bucket-exports')).toMatchObject({ status: 200, body: { items: [{ bucket: 'b', folder: 'm/', state: 'WAITING' }] } });
    expect(await graphql('{ version(ref: "lite0@1") { ref labels createdAt } }')).toMatchObject({ data: { version: { ref: 'lite0@1', labels: ['cat', 'dog'] } } });
  });
});
