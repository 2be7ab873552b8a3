import { join } from 'node:path';
import { StandardSchemaValidationPipe } from '@nestjs/common';
import { APP_FILTER, APP_PIPE, NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { ChangeFeed, openLogger, PlatformModule } from '@reefkeeper/platform';
import { ProblemFilter } from '@reefkeeper/platform/http';
import { RolloutsModule } from '@reefkeeper/rollouts';
import { DevicesModule } from '@reefkeeper/devices';
import { ConfigRulesController, DevicesController } from '@reefkeeper/devices/http';
import { FreezesController, RolloutsController, SitesController } from '@reefkeeper/rollouts/http';
import { execa } from 'execa';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ended, openWorld, type World } from '../../../../libs/rollouts/src/world.fixture.ts';

// The command as a process of its own, from the sources, against the real API of real rollouts; only the devices are in memory.
class App {}
const main = join(import.meta.dirname, '../main.ts');

let world: World;
let app: NestFastifyApplication;
let feed: ChangeFeed;
let url: string;
beforeAll(async () => {
  world = await openWorld();
  const log = openLogger('test', 'error');
  feed = new ChangeFeed(world.database.url, log);
  await feed.start();
  app = await NestFactory.create<NestFastifyApplication>({
    module: App, imports: [PlatformModule.forRoot({ db: world.database.db, clock: world.clock, log, objects: {} as never, queues: {} as never, feed }), RolloutsModule, DevicesModule], controllers: [RolloutsController, FreezesController, SitesController, DevicesController, ConfigRulesController],
    providers: [{ provide: APP_PIPE, useClass: StandardSchemaValidationPipe }, { provide: APP_FILTER, useFactory: () => new ProblemFilter(log) }],
  }, new FastifyAdapter(), { logger: false });
  app.setGlobalPrefix('api/v1');
  await app.listen(0, '127.0.0.1');
  url = await app.getUrl();
});
afterAll(async () => {
  await app?.close();
  await feed?.stop();
  await world?.database.drop();
});

async function reef(...args: string[]): Promise<{ exitCode?: number; stdout: string; stderr: string }> {
  return execa(process.execPath, ['--conditions=@reefkeeper/source', '--experimental-transform-types', '--disable-warning=ExperimentalWarning', main, ...args], { reject: false, stdin: 'ignore', env: { NO_COLOR: '1', REEF_URL: url, REEF_TOKEN: 'any' } });
}

it('create with gates, show what is still needed, explain, leave out who does not answer, and replay it', async () => {
  const devices = await world.fleet.add(3);
  await world.installed(1);
  await world.version(2);
  await world.run(10);
  await devices[1]!.leave();
  const made = await reef('rollout', 'create', 'm@2', '--wave', '100%', '--soak', '2', '--deadline', '20', '--timeout', '3600', '--observe', '0', '--gate', 'temperature=on', 'shadowAgreement.minFrames=50', '--rollback-at-once', '2', '--json');
  expect(made.stderr).toBe('');
  const { rollout: id } = JSON.parse(made.stdout.split('\n')[0]!) as { rollout: string };
  expect((await world.view(id)).settings).toMatchObject({ gates: { temperature: { maxC: 85 }, shadowAgreement: { minFrames: 50, minPercent: 95 }, latencyP99: null }, rollback: { maxInProgress: 2 } });

  await world.run(600, id, ({ waves }) => waves[0]!.counts.SUCCEEDED === 2 && waves[0]!.verdicts.some(({ gate }) => gate === 'shadow_agreement'));
  const explained = await reef('rollout', 'explain', id);
  for (const part of ['It waits for\n  the answers of 1 device of wave 1 (coral-02)', `reef rollout advance ${id} --skip-pending\n    leaves out the 1 device`, 'wave 1: 3 devices told', '(wave_assigned, engine)', 'devices 3']) expect(explained.stdout).toContain(part);

  expect((await reef('rollout', 'advance', id, '--skip-pending')).stdout).toContain('left 1 device of wave 1 out');
  expect(await world.run(600, id, ended)).toMatchObject({ state: 'PAUSED', stateReason: { code: 'inconclusive' } });
  expect((await reef('rollout', 'show', id)).stdout).toMatch(/still needed[^]*shadow agreement +INCONCLUSIVE[^\n]*2 more devices with 50 shadow frames each/);

  const replayed = await reef('rollout', 'replay', id, '--gate', 'shadowAgreement=off', 'installFailures.maxUnansweredPercent=50', '--install-timeout', '30', '--max-in-progress', '9', '--no-freezes');
  expect(replayed.stdout).toMatch(/then +PAUSED inconclusive\nreplayed +SUCCEEDED completed_with_skipped/);
  const refused = await reef('rollout', 'replay', id, '--gate', 'nonsense=off');
  expect([refused.exitCode, refused.stderr]).toEqual([2, expect.stringContaining('there is no gate nonsense') as string]);
// Six commands, each a process that reads its TypeScript.
}, 240_000);

it('pins, freezes and paces: said in the preview, shown while they hold', async () => {
  const [pinned] = await world.fleet.add(3, { labels: { site: 'lyon', timezone: 'Europe/Pariss' } });
  await world.version(3);
  expect((await reef('device', 'pin', pinned!.id, '--reason', 'on trial')).stdout).toContain(`${pinned!.id} keeps what it runs`);
  const frozen = await reef('freeze', '--selector', 'site=lyon', '--until', new Date(Math.max(Date.now(), world.clock.now().getTime()) + 7_200_000).toISOString(), '--reason', 'inventory', '--json');
  const { id: freeze } = JSON.parse(frozen.stdout) as { id: string };
  const paces = ['-l', 'site=lyon', '--wave', '1 per hostClass', 'by site', '--window', '00:00-00:00', '--rate', '60', '--max-in-progress', '9', '--dynamic'];
  const preview = (await reef('rollout', 'preview', 'm@3', ...paces)).stdout;
  for (const part of ['2 devices in 2 waves, 1 left out', 'wave 2: 1 device, site lyon', `not ${pinned!.id} (PINNED): Pinned by`, '2 devices frozen until', '"Europe/Pariss" is no time zone', 'it can take until']) expect(preview).toContain(part);
  const made = await reef('rollout', 'create', 'm@3', ...paces, '--json');
  const { rollout: id } = JSON.parse(made.stdout.split('\n')[0]!) as { rollout: string };
  await world.run(5, id, ({ waiting }) => waiting?.code === 'waits_for_freeze');
  const shown = (await reef('rollout', 'show', id)).stdout;
  for (const part of ['1 device frozen until', 'daily 00:00-00:00 local time; 60 a minute; 9 at once', 'came late']) expect(shown).toContain(part);
  expect((await reef('freeze', 'ls')).stdout).toMatch(/site=lyon +3 +\S+Z +inventory/);
  expect((await reef('unfreeze', freeze)).stdout).toContain('no longer frozen');
  const wrong = await reef('rollout', 'create', 'm@3', '--window', 'funday 22:00-05:00');
  expect([wrong.exitCode, wrong.stderr]).toEqual([2, expect.stringContaining('--window takes days and a time') as string]);
}, 240_000);

it('limits of sites, configuration that is kept, devices that wait by their own word, and waves that are none', async () => {
  const [first, second] = await world.fleet.add(2, { labels: { site: 'nancy', link: 'lte' } });
  const set = await reef('config', 'set', 'lte', '--selector', 'link=lte', '--link', 'metered', '--data-budget', '20MB/day', '--priority', '3');
  expect([set.stderr, set.stdout]).toEqual(['', 'lte: link metered, data 20.0 MB a day, for 2 devices now (link=lte), of which 2 are told something new, and for those that come to match']);
  await reef('device', 'configure', first!.id, '--data-budget', 'own');
  expect((await world.devices.get(first!.id)).desired).toMatchObject({ own: { dataBudget: null }, config: { link: 'metered', dataBudget: null }, rules: ['lte'] });
  expect((await reef('device', 'configure', first!.id, '--hand-back', 'data-budget')).stdout).toContain('1 device configured');
  expect((await world.devices.get(first!.id)).desired).toMatchObject({ own: {}, config: { dataBudget: { bytes: 20_000_000 } } });
  expect((await reef('config', 'ls')).stdout).toMatch(/lte +3 +2 +link=lte +link metered, data 20.0 MB a day/);

  expect((await reef('site', 'limit', 'nancy', '--concurrency', '1', '--rate', '2MB')).stdout).toBe('site nancy, 2 devices: 1 at once, 2.0 MB a second, whatever rollouts tell there');
  expect((await reef('site', 'ls')).stdout).toMatch(/nancy +2 +0 +1 +2.0 MB +site/);
  await world.version(7);
  const wrong = await reef('rollout', 'preview', 'm@7', '-l', 'site=nancy', '--wave', '3x', '100%');
  expect([wrong.exitCode, wrong.stderr]).toEqual([2, expect.stringContaining('"3x" is neither a number nor a percentage. A wave is a percentage') as string]);
  const nobody = await reef('rollout', 'preview', 'm@7', '-l', 'site=nancy', '--wave', 'nanci', '100%');
  expect([nobody.exitCode, nobody.stderr]).toEqual([5, expect.stringContaining('No device has the label nanci; did you mean site=nancy?') as string]);

  second!.waitsFor = { code: 'budget_exceeded', message: 'needs 4 MB and 1 is left' };
  const made = await reef('rollout', 'create', 'm@7', '-l', 'site=nancy', '--wave', '100%', '--soak', '2', '--deadline', '600', '--observe', '0', '--json');
  const { rollout: id } = JSON.parse(made.stdout.split('\n')[0]!) as { rollout: string };
  await world.run(60, id, ({ waves }) => waves[0]!.waiting === 1 && waves[0]!.counts.SUCCEEDED === 1);
  expect((await reef('rollout', 'show', id)).stdout).toMatch(/open +waiting *\n[^]*waiting for its data budget: 1 device \(coral-\d+\), budget_exceeded/);
  expect((await reef('rollout', 'explain', id)).stdout).toMatch(/1 device waiting for its data budget \(coral-\d+\): needs 4 MB and 1 is left/);
}, 240_000);
