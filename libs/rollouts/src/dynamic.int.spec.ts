import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { listEvents, listExecutions } from './views.ts';
import { ended, openWorld, workload, type World } from './world.fixture.ts';

// Devices that come to match a rollout after it was planned. Real rows, the clock is ours.

let world: World;
beforeEach(async () => { world = await openWorld(); });
afterEach(async () => { await world.database.drop(); });
const db = () => world.database.db;
const codes = async (id: string): Promise<string[]> => (await listEvents(db(), id)).items.map(({ code }) => code);
/** The next look at who has come is at most half a minute away. */
const later = async () => { world.clock.advance(31_000); await world.run(4); };
const site = { labels: { site: 'lyon' } };
const dynamic = { dynamic: true, selector: 'site=lyon', soakS: 2 };

describe('a dynamic rollout', () => {
  it('takes in who comes before its last wave opens; that wave and what is at stake grow', async () => {
    await world.fleet.add(2, site);
    const bundle = await world.version(2);
    const created = await world.create({ ...dynamic, soakS: 40, deadlineS: 100, waves: [{ count: 1 }, { percent: 100 }] });
    await world.run(5);
    const [enrolled, second] = await world.fleet.add(2, site);
    const silent = (await world.fleet.add(1, { ...site, capabilities: null }))[0]!;
    const [pinned] = await world.fleet.add(1, site);
    await world.devices.pin(pinned!.id, { reason: 'trial' }, 'olga');
    await world.fleet.add(1, { labels: { site: 'bonn' } });
    world.clock.advance(26_000);
    const joined = await world.run(5, created.id, ({ waves }) => waves[1]!.size === 3);
    expect(joined).toMatchObject({ wave: 0, waves: [{ size: 1 }, { size: 3, state: 'PENDING', counts: { PENDING: 3 } }], plan: { eligible: 4, blastRadius: { unprovenDevices: 3 } } });
    const done = await world.run(200, created.id, ended);
    expect(done).toMatchObject({ state: 'SUCCEEDED', late: { stopped: null }, waves: [{}, { counts: { SUCCEEDED: 3 } }] });
    expect([enrolled!.running, second!.running, silent.running, pinned!.running]).toEqual([bundle, bundle, null, null]);
    expect((await codes(created.id)).filter((code) => code === 'devices_joined')).toHaveLength(1);
  });

  it('and, after its success, who is enrolled, relabelled, or says what it can run: apart from its waves, once each', async () => {
    await world.fleet.add(1, site);
    const bundle = await world.version(2);
    const other = (await world.fleet.add(1, { labels: { site: 'bonn' } }))[0]!;
    const { id } = await world.create(dynamic);
    expect(await world.run(100, id, ended)).toMatchObject({ state: 'SUCCEEDED', waiting: { code: 'takes_in_newcomers' }, late: { counts: { SUCCEEDED: 0 } } });
    const [enrolled] = await world.fleet.add(1, site);
    const mute = (await world.fleet.add(1, { ...site, capabilities: null }))[0]!;
    await world.devices.label(other.id, { site: 'lyon' }, 'olga');
    await later();
    expect(mute.running).toBeNull();
    await db().query('UPDATE devices SET capabilities = (SELECT capabilities FROM devices WHERE id = $1) WHERE id = $2', [other.id, mute.id]);
    await later();
    const late = await world.run(10, id, ({ late: seen }) => seen!.counts.SUCCEEDED === 3);
    expect(late).toMatchObject({ state: 'SUCCEEDED', waves: [{ counts: { SUCCEEDED: 1 } }], late: { counts: { SUCCEEDED: 3 }, stopped: null } });
    expect([enrolled!.running, other.running, mute.running]).toEqual([bundle, bundle, bundle]);
    // Two loops, many looks: nobody twice.
    for (let i = 0; i < 8; i++) { world.clock.advance(10_000); await Promise.all([world.engine.advanceDue(), world.engine.advanceDue()]); }
    expect((await listExecutions(db(), id)).items.map(({ device }) => device).sort()).toEqual([...world.fleet.devices.keys()].sort());
    expect([enrolled!.installs, other.installs].map(({ length }) => length)).toEqual([1, 1]);
    // They go back with all the others.
    await world.rollouts.rollback(id, 'olga');
    expect(await world.run(60, id, ended)).toMatchObject({ state: 'ROLLED_BACK', rollback: { SUCCEEDED: 4 } });
    await world.fleet.add(1, site);
    await later();
    expect((await listExecutions(db(), id)).items).toHaveLength(4);
  });

  it('takes in no more when those fail; the success stays one', async () => {
    await world.fleet.add(1, site);
    const bundle = await world.version(2);
    const { id } = await world.create(dynamic);
    await world.run(100, id, ended);
    world.fleet.behaviours.set(bundle, { failsWith: { code: 'golden.mismatch', message: 'answered wrong' } });
    await world.fleet.add(1, site);
    await later();
    const stopped = await world.run(10, id, ({ late }) => late!.stopped !== null);
    expect(stopped).toMatchObject({ state: 'SUCCEEDED', late: { counts: { FAILED: 1 }, stopped: { code: 'late_installs_failed' } } });
    const [unlucky] = await world.fleet.add(1, site);
    await later();
    expect(unlucky!.installs).toEqual([]);
    expect(await codes(id)).toContain('late_installs_failed');
  });

  it('leaves devices to what is newer: one under way, one that matches them, one that covers everything', async () => {
    await world.fleet.add(1, site);
    const older = await world.version(2);
    const newer = await world.version(3);
    const { id } = await world.create(dynamic);
    await world.run(100, id, ended);
    const [first] = await world.fleet.add(1, { labels: { site: 'lyon', line: 'a' } });
    const narrow = await world.create({ version: 'm@3', selector: 'line=a', soakS: 2 });
    await world.run(100, narrow.id, ended);
    const [second] = await world.fleet.add(1, { labels: { site: 'lyon', line: 'a' } });
    const [third] = await world.fleet.add(1, site);
    await later();
    expect([first!.running, second!.running, third!.running]).toEqual([newer, null, older]);
    expect(await world.view(id)).toMatchObject({ late: { counts: { SUCCEEDED: 1 }, stopped: null } });
    await world.run(100, (await world.create({ version: 'm@3', selector: '', workload, soakS: 2 })).id, ended);
    await later();
    expect(await world.view(id)).toMatchObject({ state: 'SUCCEEDED', late: { stopped: { code: 'late_superseded' } }, waiting: null });
  });
});

it('one that waits to be told is left to a rollout that takes it meanwhile', async () => {
  await world.fleet.add(1, site);
  await world.version(2);
  const newer = await world.version(3);
  const { id } = await world.create(dynamic);
  await world.run(100, id, ended);
  await world.freezes.create({ selector: 'line=a', until: new Date(world.clock.now().getTime() + 120_000), reason: 'fair' }, 'olga');
  const [late] = await world.fleet.add(1, { labels: { site: 'lyon', line: 'a' } });
  await later();
  expect(await world.view(id)).toMatchObject({ state: 'SUCCEEDED', late: { counts: { PENDING: 1 } } });
  const second = await world.create({ version: 'm@3', selector: 'line=a', soakS: 2 });
  await world.run(60, second.id, ended);
  for (let i = 0; i < 4; i++) await later();
  expect(late!.running).toBe(newer);
  expect(late!.installs).toHaveLength(1);
  expect(await world.view(id)).toMatchObject({ late: { counts: { PENDING: 0, CANCELED: 1 } } });
});

it('a rollout that is not dynamic takes in nobody', async () => {
  await world.fleet.add(1, site);
  await world.version(2);
  const { id, late } = await world.create({ ...dynamic, dynamic: false });
  expect(late).toBeNull();
  await world.run(60, id, ended);
  await world.fleet.add(1, site);
  await later();
  expect((await listExecutions(db(), id)).items).toHaveLength(1);
});
