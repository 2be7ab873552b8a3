import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Desired } from '@reefkeeper/devices';
import { openLogger } from '@reefkeeper/platform';
import { DeviceFleet } from './device-fleet.ts';
import { RolloutEngine } from './engine.ts';
import { createRollout } from './rollout.ts';
import { listEvents, listExecutions } from './views.ts';
import { ended, openWorld, workload, type World } from './world.fixture.ts';

// When devices are told: freezes, pins that come later, windows, pace, stop time. Real rows, the clock is ours.

let world: World;
beforeEach(async () => { world = await openWorld(); });
afterEach(async () => { await world.database.drop(); });
const db = () => world.database.db;
const codes = async (id: string): Promise<string[]> => (await listEvents(db(), id)).items.map(({ code }) => code);
const later = (seconds: number): Date => new Date(world.clock.now().getTime() + seconds * 1_000);
const toldAt = async (id: string): Promise<number[]> => (await listExecutions(db(), id, { limit: 1_000 })).items.flatMap(({ assignedAt }) => (assignedAt ? [assignedAt.getTime()] : [])).sort((a, b) => a - b);
const all = { waves: [{ percent: 100 }], soakS: 2 };

describe('a freeze', () => {
  it('holds its devices alone, the rollout says so, and goes on when it ends; the way back is not frozen', async () => {
    const lyon = await world.fleet.add(2, { labels: { site: 'lyon' } });
    const bonn = await world.fleet.add(2, { labels: { site: 'bonn' } });
    await world.installed(1);
    await world.version(2);
    const freeze = await world.freezes.create({ selector: 'site=lyon', until: later(3_600), reason: 'inventory' }, 'olga');
    expect(freeze).toMatchObject({ active: true, devices: 2, createdBy: 'olga' });
    const body = createRollout.parse({ version: 'm@2', workload, ...all });
    const preview = await world.rollouts.preview(body);
    expect(preview.notes).toEqual([expect.stringMatching(/2 devices frozen until .*: inventory/)]);
    expect(preview.timing.endsBy!.getTime()).toBeGreaterThan(later(3_600).getTime());
    const { id } = await world.create(all);
    const held = await world.run(20, id);
    expect(held).toMatchObject({ state: 'RUNNING', waiting: { code: 'waits_for_freeze', message: expect.stringContaining('2 devices frozen until') as string }, waves: [{ state: 'RUNNING', counts: { PENDING: 2, SUCCEEDED: 2 } }] });
    expect((await codes(id)).filter((code) => code === 'waits_for_freeze')).toHaveLength(1);
    expect(lyon.map(({ installs }) => installs.length)).toEqual([1, 1]);
    await world.freezes.lift(freeze.id, 'pavel');
    expect(await world.freezes.list()).toEqual([]);
    expect(await world.freezes.list(true)).toMatchObject([{ id: freeze.id, active: false, liftedBy: 'pavel' }]);
    const done = await world.run(60, id, ended);
    expect(done).toMatchObject({ state: 'SUCCEEDED', waiting: null });
    await world.freezes.create({ selector: '', until: later(3_600), reason: 'all of it' }, 'olga');
    await world.rollouts.rollback(id, 'olga');
    expect(await world.run(60, id, ended)).toMatchObject({ state: 'ROLLED_BACK', rollback: { SUCCEEDED: 4 } });
    expect(bonn[0]!.installs.length).toBeGreaterThan(2);
  });

  it('ends by itself; what cannot be is said', async () => {
    await world.fleet.add(1);
    await world.version(2);
    const { id: freeze } = await world.freezes.create({ selector: '', until: later(60), reason: 'x' }, 'olga');
    const { id } = await world.create(all);
    await world.run(50, id);
    expect(await toldAt(id)).toEqual([]);
    expect(await world.run(60, id, ended)).toMatchObject({ state: 'SUCCEEDED' });
    await expect(world.freezes.lift(freeze, 'olga')).rejects.toMatchObject({ code: 'freeze.over', kind: 'conflict' });
    await expect(world.freezes.create({ selector: '', until: later(-1), reason: 'x' }, 'olga')).rejects.toMatchObject({ code: 'freeze.over', kind: 'invalid' });
    await expect(world.freezes.create({ selector: 'a b', until: later(9), reason: 'x' }, 'olga')).rejects.toMatchObject({ code: 'selector.invalid' });
    await expect(world.freezes.lift('00000000-0000-0000-0000-000000000000', 'olga')).rejects.toMatchObject({ code: 'freeze.missing' });
  });
});

it('a device that is pinned while it waits is left out, and no threshold counts it', async () => {
  const [first, second] = await world.fleet.add(2);
  await world.version(2);
  await world.freezes.create({ selector: '', until: later(10), reason: 'x' }, 'olga');
  const { id } = await world.create({ ...all, gates: { installFailures: { maxPercent: 0, maxUnansweredPercent: 0 } } });
  await world.run(5, id);
  await world.devices.pin(second!.id, { reason: 'on trial' }, 'olga');
  const done = await world.run(60, id, ended);
  expect(done).toMatchObject({ state: 'SUCCEEDED', stateReason: { code: 'completed_with_skipped' }, waves: [{ counts: { SUCCEEDED: 1, CANCELED: 1 } }] });
  expect(await codes(id)).toContain('devices_pinned');
  expect([first!.installs.length, second!.installs.length]).toEqual([1, 0]);
});

it('maintenance windows: each device in its own time; the install timeout of the others does not run', async () => {
  // It is 08:00 UTC: 09:00 in Paris, 17:00 in Tokyo, 03:00 in New York.
  const paris = await world.fleet.add(1, { prefix: 'paris', labels: { timezone: 'Europe/Paris' } });
  const tokyo = await world.fleet.add(1, { prefix: 'tokyo', capabilities: { timeZone: 'Asia/Tokyo' } });
  const lost = await world.fleet.add(1, { prefix: 'lost', labels: { timezone: 'Europe/Pariss' } });
  await world.version(2);
  const windows = [{ from: '09:00', to: '17:00' }];
  const preview = await world.rollouts.preview(createRollout.parse({ version: 'm@2', workload, ...all, windows }));
  expect(preview.notes).toEqual([expect.stringContaining('"Europe/Pariss" is no time zone; UTC counts for 1 device (lost-03)')]);
  const { id } = await world.create({ ...all, windows, installTimeoutS: 60 });
  const early = await world.run(10, id);
  expect(early).toMatchObject({ waiting: { code: 'waits_for_window', message: expect.stringContaining('2 devices outside the maintenance window, the next one from 2026-11-25T09:00:00.000Z (UTC)') as string }, waves: [{ counts: { PENDING: 2, SUCCEEDED: 1 } }] });
  expect(paris[0]!.installs).toHaveLength(1);
  world.clock.advance(3_600_000);
  await world.run(5, id);
  expect(lost[0]!.installs).toHaveLength(1);
  expect(tokyo[0]!.installs).toHaveLength(0);
  // 09:00 the next day in Tokyo.
  world.clock.advance(15 * 3_600_000);
  const done = await world.run(60, id, ended);
  expect(done).toMatchObject({ state: 'SUCCEEDED', waves: [{ counts: { SUCCEEDED: 3, TIMED_OUT: 0 } }] });
});

it('the pace: a rate, so many at once, and the link of a site; all are told in the end', async () => {
  await world.fleet.add(4, { labels: { site: 'a' } });
  await world.fleet.add(4, { labels: { site: 'b' } });
  for (const number of [2, 3, 4]) await world.version(number);
  await db().query('UPDATE variants SET bytes = 3000');
  const rated = await world.create({ ...all, rate: { perMinute: 20 } });
  expect(await world.run(120, rated.id, ended)).toMatchObject({ state: 'SUCCEEDED' });
  const told = await toldAt(rated.id);
  for (const at of told) expect(told.filter((other) => other <= at && at - other < 6_000).length).toBeLessThanOrEqual(2);
  expect(told.at(-1)! - told[0]!).toBeGreaterThanOrEqual(18_000);
  expect((await codes(rated.id)).filter((code) => code.startsWith('wave_assign'))).toEqual(['wave_assigning', 'wave_assigned']);

  const narrow = await world.create({ ...all, version: 'm@3', maxInProgress: 3, maxInProgressPerSite: 2 });
  let most = 0;
  await world.run(200, narrow.id, ({ state, waves }) => { most = Math.max(most, waves[0]!.counts.QUEUED + waves[0]!.counts.IN_PROGRESS); return state === 'SUCCEEDED'; });
  expect(await world.view(narrow.id)).toMatchObject({ state: 'SUCCEEDED' });
  expect(most).toBe(3);

  const linked = await world.create({ ...all, version: 'm@4', siteBytesPerSecond: 1_000 });
  expect(linked.settings.pace).toMatchObject({ siteBytesPerSecond: 1_000 });
  expect(await world.run(120, linked.id, ended)).toMatchObject({ state: 'SUCCEEDED' });
  const moments = new Set(await toldAt(linked.id));
  // Both sites at once, three seconds apart.
  expect([...moments].map((at) => (at - [...moments][0]!) / 1_000)).toEqual([0, 3, 6, 9]);
});

it('the stop time: nobody new is told after it; a person who resumes goes on without it', async () => {
  await world.fleet.add(4);
  await world.version(2);
  await expect(world.create({ stopAt: later(-1).toISOString() })).rejects.toMatchObject({ code: 'rollout.stop_time_past' });
  const { id } = await world.create({ waves: [{ count: 1 }, { percent: 100 }], soakS: 20, stopAt: later(10).toISOString() });
  const paused = await world.run(60, id, ended);
  expect(paused).toMatchObject({ state: 'PAUSED', stateReason: { code: 'stop_time_reached' }, waves: [{ state: 'PASSED' }, { state: 'PENDING', counts: { PENDING: 3 } }] });
  expect(await world.rollouts.resume(id, 'olga')).toMatchObject({ state: 'RUNNING', stopAt: null });
  expect(await world.run(120, id, ended)).toMatchObject({ state: 'SUCCEEDED' });
});

describe('the link of a site is one for all rollouts', () => {
  it('two that run at once keep to the tighter of what both state, and to what the site itself bears, also when replicas decide at the same moment; both come to an end', async () => {
    const group = (name: string) => world.fleet.add(6, { labels: { site: 'lyon', group: name } });
    for (const device of [...await group('x'), ...await group('y')]) device.slow = true;
    await world.fleet.add(1, { labels: { site: 'bonn' } });
    for (const number of [2, 3]) await world.version(number);
    const replica = new RolloutEngine(db(), world.clock, openLogger('test', 'error'), new DeviceFleet(new Desired(db(), world.clock)), world.telemetry);
    const x = await world.create({ ...all, selector: 'group=x', maxInProgressPerSite: 3 });
    const y = await world.create({ ...all, version: 'm@3', selector: 'group=y' });
    await world.limits.set('lyon', { maxInProgress: 2, bytesPerSecond: null }, 'olga');
    const open: number[] = [];
    const turns = new Set<string>();
    for (let second = 0; second < 120; second++) {
      await world.fleet.tick();
      world.clock.advance(1_000);
      await Promise.all([world.engine.advanceDue(), replica.advanceDue()]);
      const views = await Promise.all([x, y].map(({ id }) => world.view(id)));
      open.push(views.reduce((sum, { waves }) => sum + waves[0]!.counts.QUEUED + waves[0]!.counts.IN_PROGRESS, 0));
      for (const { waiting } of views) if (waiting?.message.includes('site lyon is shared')) turns.add(waiting.message);
      if (second === 5) expect((await world.limits.list()).find(({ site }) => site === 'lyon')).toMatchObject({ maxInProgress: 2, of: 'site', devices: 12, inProgress: open.at(-1)! });
      if (views.every(({ state }) => state === 'SUCCEEDED')) break;
    }
    expect(await world.view(x.id)).toMatchObject({ state: 'SUCCEEDED', waves: [{ counts: { SUCCEEDED: 6 } }] });
    expect(await world.view(y.id)).toMatchObject({ state: 'SUCCEEDED', waves: [{ counts: { SUCCEEDED: 6 } }] });
    expect(Math.max(...open)).toBe(2);
    expect(turns.size).toBeGreaterThan(0);
    // Neither waits until the other is done.
    const [firstOfY, lastOfX] = [(await toldAt(y.id))[0]!, (await toldAt(x.id)).at(-1)!];
    expect(firstOfY).toBeLessThan(lastOfX);
  });

  it('limits are set, listed with whose they are, counted in a preview, and taken away', async () => {
    await world.fleet.add(4, { labels: { site: 'lyon' } });
    await world.version(2);
    const body = createRollout.parse({ version: 'm@2', workload, ...all });
    const before = (await world.rollouts.preview(body)).timing.endsBy!;
    expect(await world.limits.set('*', { maxInProgress: 1, bytesPerSecond: null }, 'olga')).toMatchObject({ site: '*', of: 'every site' });
    expect((await world.limits.list()).find(({ site }) => site === 'lyon')).toMatchObject({ maxInProgress: 1, of: 'every site', devices: 4 });
    expect((await world.rollouts.preview(body)).timing.endsBy!.getTime()).toBeGreaterThan(before.getTime());
    await world.limits.remove('*', 'olga');
    expect((await world.limits.list()).find(({ site }) => site === 'lyon')).toMatchObject({ maxInProgress: null, of: null });
    await expect(world.limits.remove('lyon', 'olga')).rejects.toMatchObject({ code: 'site.no_limit', message: expect.stringContaining('lyon') as string });
  });
});
