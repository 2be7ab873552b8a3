import { ApolloDriver, type ApolloDriverConfig } from '@nestjs/apollo';
import { StandardSchemaValidationPipe } from '@nestjs/common';
import { APP_FILTER, APP_PIPE, NestFactory } from '@nestjs/core';
import { GraphQLModule } from '@nestjs/graphql';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { ChangeFeed, openLogger, PlatformModule } from '@reefkeeper/platform';
import { ProblemFilter } from '@reefkeeper/platform/http';
import { telemetry } from '@reefkeeper/protocol';
import { TelemetryController, TelemetryResolver } from '@reefkeeper/telemetry/http';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { DeviceExecutionsController, OverviewController, RolloutsController, RolloutsResolver, RolloutVerbsResolver, SeriesController } from './http.ts';
import { RolloutsModule } from './index.ts';
import { ended, openWorld, workload, type World } from './world.fixture.ts';

class App {}

let world: World;
let app: NestFastifyApplication;
let feed: ChangeFeed;

beforeAll(async () => {
  world = await openWorld();
  const log = openLogger('test', 'error');
  feed = new ChangeFeed(world.database.url, log);
  await feed.start();
  const module = {
    module: App,
    imports: [
      PlatformModule.forRoot({ db: world.database.db, clock: world.clock, log, objects: {} as never, queues: {} as never, feed }), RolloutsModule,
      GraphQLModule.forRoot<ApolloDriverConfig>({ driver: ApolloDriver, autoSchemaFile: true, subscriptions: { 'graphql-ws': true } }),
    ],
    controllers: [DeviceExecutionsController, OverviewController, RolloutsController, SeriesController, TelemetryController],
    providers: [RolloutsResolver, RolloutVerbsResolver, TelemetryResolver, { provide: APP_PIPE, useClass: StandardSchemaValidationPipe }, { provide: APP_FILTER, useFactory: () => new ProblemFilter(log) }],
  };
  app = await NestFactory.create<NestFastifyApplication>(module, new FastifyAdapter(), { logger: false });
  app.setGlobalPrefix('api/v1');
  await app.init();
  await app.getHttpAdapter().getInstance().ready();
  await world.fleet.add(3);
  await world.version(2);
});
afterAll(async () => {
  await app?.close();
  await feed?.stop();
  await world?.database.drop();
});

const call = async (method: 'GET' | 'POST', url: string, payload?: object) => {
  const response = await app.inject({ method, url: `/api/v1${url}`, ...(payload ? { payload } : {}) });
  return { status: response.statusCode, body: response.json() };
};
const graphql = async (query: string) => (await app.inject({ method: 'POST', url: '/graphql', payload: { query } })).json();

it('the whole way through the API, moved by the loop of the module', async () => {
  const refused = await call('POST', '/rollouts', { version: 'm@2', workload: 'Not A Name', waves: [{ percent: 10, count: 3 }] });
  expect(refused.status).toBe(400);
  expect(refused.body).toMatchObject({ code: 'request.invalid', detail: expect.stringContaining('exactly one of') });

  const misspelt = await call('POST', '/rollouts/preview', { version: 'm', workload, gates: { accuracy: { maxDropPoint: 2 }, latency: {} } });
  expect(misspelt).toMatchObject({ status: 400, body: { code: 'request.invalid', detail: expect.stringMatching(/gates: there is no latency; there are installFailures.*|maxDropPoint; there are maxDropPoints/) } });
  expect(JSON.stringify(misspelt.body.context)).toMatch(/there is no maxDropPoint; there are maxDropPoints/);
  const preview = await call('POST', '/rollouts/preview', { version: 'm', workload });
  expect(preview).toMatchObject({ status: 200, body: { eligible: 3, version: 'm@2', blastRadius: { unprovenDevices: 1 } } });

  const created = await call('POST', '/rollouts', { version: 'm@2', workload, soakS: 3, gates: { latencyP95: null } });
  expect(created).toMatchObject({ status: 201, body: { state: 'RUNNING', wave: 0, createdAt: '2026-11-25T08:00:00.000Z', settings: { gates: { latencyP95: null, errorRate: { maxIncreasePoints: 1 } } } } });
  const { id } = created.body as { id: string };
  expect(await call('POST', '/rollouts', { version: 'm@2', workload })).toMatchObject({ status: 409, body: { code: 'rollout.overlaps', context: { rollouts: [{ id }] } } });

  const done = await world.run(120, id, ended);
  expect(done.state).toBe('SUCCEEDED');
  expect((await call('GET', '/rollouts?limit=1')).body).toMatchObject({ items: [{ id, waves: [{ counts: { SUCCEEDED: 1 }, verdicts: [{ gate: 'install_failures', method: 'threshold' }, { gate: 'error_rate' }, { gate: 'accuracy' }] }, {}, {}] }], nextCursor: null });
  expect((await call('GET', `/rollouts/${id}/executions?wave=0`)).body).toMatchObject({ items: [{ device: expect.any(String), state: 'SUCCEEDED', revision: 1, percent: 100 }], nextCursor: null });
  expect((await call('GET', `/rollouts/${id}/events?limit=2`)).body).toMatchObject({ items: [{ code: 'created', actor: 'unknown' }, { code: 'started' }], nextCursor: expect.any(String) });
  expect((await call('GET', `/rollouts/${id}/events?limit=2&order=newest`)).body).toMatchObject({ items: [{ code: 'completed' }, { code: 'wave_passed' }] });
  expect((await call('GET', '/overview')).body).toMatchObject({ devices: { all: 3, online: 3, degraded: 0, behind: 0, updating: 0, pinned: 0 }, running: [{ workload, bundle: done.bundle, version: 'm@2', devices: 3 }], rollouts: [], held: [] });
  expect((await call('GET', '/devices/coral-01/executions')).body).toMatchObject({ items: [{ rollout: id, version: 'm@2', workload, state: 'SUCCEEDED' }], nextCursor: null });
  const series = (await call('GET', `/telemetry/series?rollout=${id}&stepS=5&to=2026-11-25T09:00:00Z`)).body;
  expect(series.points.length).toBeGreaterThan(2);
  expect(series.points.at(-1)).toMatchObject({ bundle: done.bundle, group: done.bundle, accuracy: 0.9 });
  expect((await call('GET', '/devices/coral-01/telemetry?limit=1')).body).toMatchObject({ items: [{ deviceId: 'coral-01', latency: { total: { count: 100 } } }] });
  expect(await call('POST', `/rollouts/${id}/pause`)).toMatchObject({ status: 409, body: { code: 'rollout.state_wrong' } });
  expect(await call('POST', `/rollouts/${id}/rollback`)).toMatchObject({ status: 200, body: { state: 'ROLLING_BACK' } });
  expect((await world.run(20, id, ended)).state).toBe('ROLLED_BACK');
  expect(await call('GET', `/rollouts/${id}/freezes`)).toEqual({ status: 200, body: { items: [], nextCursor: null } });
  expect(await call('GET', '/rollouts/00000000-0000-4000-8000-000000000000/freezes')).toMatchObject({ status: 404, body: { code: 'rollout.missing' } });
  expect(await call('GET', '/rollouts/nonsense')).toMatchObject({ status: 400, body: { detail: expect.stringContaining('ids have 36 characters') } });
  expect(await call('GET', '/rollouts/00000000-0000-4000-8000-000000000000')).toMatchObject({ status: 404, body: { code: 'rollout.missing' } });

  expect(await graphql(`{ rollouts(limit: 5) { items { id state stateReason { code } waves { index counts verdicts { gate verdict value limit interval } } } nextCursor } rollout(id: "${id}") { version createdAt settings }
    rolloutExecutions(id: "${id}") { items { device state rollbackState } } rolloutEvents(id: "${id}") { items { code numbers } } telemetryOf(device: "coral-01", limit: 1) { inferences latency } }`))
    .toMatchObject({ data: { rollouts: { items: [{ id, state: 'ROLLED_BACK' }] }, rollout: { version: 'm@2' }, rolloutExecutions: { items: [{ state: 'SUCCEEDED', rollbackState: 'SUCCEEDED' }, {}, {}] }, telemetryOf: [{ inferences: 100 }] } });
});

it('verbs through GraphQL, advance past those that have not answered, and why it waits', async () => {
  const [gone] = await world.fleet.add(1, { labels: { site: 'far' } });
  await gone!.leave();
  const { id } = (await call('POST', '/rollouts', { version: 'm@2', workload, selector: 'site=far', waves: [{ percent: 100 }], soakS: 1 })).body as { id: string };
  // The loop of the module works on it, too: whoever has its lock moves it on.
  await world.run(600, id, ({ waves }) => waves[0]!.counts.QUEUED === 1);
  expect((await call('GET', `/rollouts/${id}/explanation`)).body).toMatchObject({ state: 'RUNNING', waitsFor: [{ what: expect.stringContaining(gone!.id) as string, until: expect.any(String) as string }], moves: expect.arrayContaining([expect.objectContaining({ verb: 'pause' })]) as unknown });
  const mutation = (text: string) => graphql(`mutation { ${text} { state stateReason { code } } }`);
  expect(await mutation(`pauseRollout(id: "${id}")`)).toMatchObject({ data: { pauseRollout: { state: 'PAUSED', stateReason: { code: 'paused_by_person' } } } });
  expect(await mutation(`advanceRollout(id: "${id}", skipPending: true)`)).toMatchObject({ data: { advanceRollout: { state: 'RUNNING', stateReason: { code: 'pending_skipped' } } } });
  expect(await call('POST', `/rollouts/${id}/advance`, { skipPending: true })).toMatchObject({ status: 409, body: { code: 'rollout.nothing_pending' } });
  expect(await graphql(`{ rolloutExplanation(id: "${id}") }`)).toMatchObject({ data: { rolloutExplanation: { rollout: id } } });
  expect(await mutation(`abortRollout(id: "${id}", mode: "nonsense")`)).toMatchObject({ errors: [{ message: expect.stringContaining('stop-new or recall') as string }] });
  expect(await mutation(`abortRollout(id: "${id}", mode: "stop-new")`)).toMatchObject({ data: { abortRollout: { state: 'ABORTED' } } });
});

it('subscribers hear of a change and read the row', async () => {
  const { id } = await world.create({ start: false });
  const stream = app.get(RolloutsResolver).rolloutChanged(id);
  expect((await stream.next()).value.rolloutChanged).toMatchObject({ id, state: 'DRAFT' });
  const next = stream.next();
  await world.rollouts.start(id, 'olga');
  expect((await next).value.rolloutChanged.id).toBe(id);
  await stream.return!();
  await world.rollouts.abort(id, 'stop-new', 'olga');

  const windows = app.get(TelemetryResolver).telemetryReceived('coral-01');
  const window = windows.next();
  await world.telemetry.ingest([{ device: 'coral-01', window: telemetry.schema.parse({ bootId: 'b', seq: 1, workload, bundle: 'c'.repeat(64), variant: 'cpu-int8', backend: 'cpu', startedAt: '2026-11-25T08:00:00Z', durationMs: 1, inferences: 0, latency: {} }) }]);
  expect((await window).value.telemetryReceived).toMatchObject({ deviceId: 'coral-01' });
  await windows.return!();
});
