import { afterEach, beforeEach, expect, it } from 'vitest';
import { listFreezesOf } from './recorded-freezes.ts';
import { listWindows } from './recorded-windows.ts';
import { replay, type RolloutRecord } from './simulate.ts';
import { listEvents, listExecutions } from './views.ts';
import { ended, openWorld, type World } from './world.fixture.ts';

let world: World;
beforeEach(async () => { world = await openWorld(); });
afterEach(async () => world.database.drop());

/** As a client gets it: through JSON. */
async function recordOf(id: string): Promise<RolloutRecord> {
  const { db } = world.database;
  const pages = [];
  for (let cursor: string | null | undefined; cursor !== null;) {
    const page = await listWindows(db, world.telemetry, world.clock, id, { limit: 2, cursor });
    pages.push(...page.items);
    cursor = page.nextCursor;
  }
  return JSON.parse(JSON.stringify({ rollout: await world.view(id), executions: (await listExecutions(db, id, { limit: 1_000 })).items, events: (await listEvents(db, id, { limit: 1_000 })).items, windows: pages, freezes: await listFreezesOf(db, world.clock, id) })) as RolloutRecord;
}

it('a good rollout: replayed as it was it makes the same moves; the same input gives the same transcript', async () => {
  await world.fleet.add(5);
  await world.installed(1);
  await world.version(2);
  await world.run(10);
  const { id } = await world.create({});
  expect((await world.run(120, id, ended)).state).toBe('SUCCEEDED');
  const record = await recordOf(id);
  const again = replay(record);
  expect(again).toMatchObject({ ended: { was: { state: 'SUCCEEDED', code: 'completed' }, would: { state: 'SUCCEEDED', code: 'completed' } }, differsAt: null, people: [], notes: [], exposed: 5 });
  expect(again.moves.map(({ was, would }) => [was?.code, would?.code])).toEqual([...[0, 1, 2].flatMap(() => ['wave_opened', 'wave_assigned', 'wave_answered', 'wave_passed'].map((code) => [code, code])), ['completed', 'completed']]);
  expect(replay(record).digest).toBe(again.digest);

  // Half of the wave's frames were right where 90 % had to be: nobody would have seen the second wave.
  const strict = replay(record, { gates: { accuracy: { minPercent: 95 } } });
  expect(strict).toMatchObject({ ended: { would: { state: 'ROLLED_BACK', code: 'accuracy_failed' } }, exposed: 1, waves: [{ state: 'FAILED' }, { state: 'SKIPPED' }, { state: 'SKIPPED' }] });
  expect(strict.moves[strict.differsAt!]).toMatchObject({ was: { code: 'wave_passed' }, would: { code: 'accuracy_failed' } });
  expect(replay(record, { waves: [{ percent: 100 }], soakS: 0 })).toMatchObject({ ended: { would: { state: 'SUCCEEDED' } }, waves: [{ size: 5, state: 'PASSED' }] });
});

it('a bad one goes back at the same moment; with the gate off it would have gone on to devices that nobody has observed, and says so', async () => {
  const devices = await world.fleet.add(4);
  await world.installed(1);
  world.fleet.behaviours.set(await world.version(2), { correct: 12, besides: { temperatureC: 61 } });
  await world.run(10);
  await devices[3]!.leave();
  const { id } = await world.create({});
  expect((await world.run(120, id, ended)).state).toBe('ROLLED_BACK');
  const record = await recordOf(id);
  const again = replay(record);
  expect(again).toMatchObject({ ended: { was: { state: 'ROLLED_BACK', code: 'accuracy_failed' }, would: { state: 'ROLLED_BACK', code: 'accuracy_failed' } }, differsAt: null });
  const without = replay(record, { gates: { accuracy: null } });
  expect(without).toMatchObject({ ended: { would: { state: 'UNKNOWN', code: 'not_observed' } }, notes: [expect.stringContaining('never told') as string] });
  expect(without.transcript.join('\n')).not.toContain('wave_answered: Every device of wave 2');
  // A gate that was off then, on what was sent then.
  expect(replay(record, { gates: { accuracy: null, temperature: { maxC: 62, maxIncreaseC: null } } })).toMatchObject({ ended: { would: { state: 'UNKNOWN' } } });
  expect(replay(record, { gates: { accuracy: null, temperature: { maxC: 59, maxIncreaseC: null } } })).toMatchObject({ ended: { would: { state: 'ROLLED_BACK', code: 'temperature_failed' } } });
  expect(() => replay(record, { gates: { acuracy: null } })).toThrow('there is no gate acuracy');
});

it('what people did is listed, not repeated; devices that never answered do not in the replay either', async () => {
  const devices = await world.fleet.add(4);
  await world.version(2);
  await devices[2]!.leave();
  const { id } = await world.create({ waves: [{ percent: 100 }] });
  await world.run(3);
  await world.rollouts.pause(id, 'olga');
  await world.run(3);
  await world.rollouts.resume(id, 'olga');
  expect((await world.run(120, id, ended)).state).toBe('PAUSED');
  await world.rollouts.advance(id, 'olga', { skipPending: true });
  expect((await world.run(60, id, ended)).state).toBe('SUCCEEDED');
  const again = replay(await recordOf(id));
  expect(again.people.map(({ code }) => code)).toEqual(['paused_by_person', 'resumed', 'pending_skipped']);
  expect(again).toMatchObject({ ended: { was: { state: 'SUCCEEDED' }, would: { state: 'PAUSED', code: 'inconclusive' } }, notes: [expect.stringContaining('1 of the devices never gave an answer') as string, expect.stringContaining('People acted') as string] });
  expect(replay(await recordOf(id), { gates: { installFailures: { maxUnansweredPercent: 30 } } })).toMatchObject({ ended: { would: { state: 'SUCCEEDED', code: 'completed_with_skipped' } } });
});

it('windows, rates and links of sites are part of it: the same moves at the same times, and sooner with another pace', async () => {
  await world.fleet.add(4, { labels: { site: 'a', timezone: 'Europe/Paris' } });
  await world.fleet.add(4, { labels: { site: 'b' } });
  await world.installed(1);
  await world.version(2);
  await world.database.db.query('UPDATE variants SET bytes = 3000');
  await world.run(5);
  // It is 09:00 in Paris and 08:00 UTC: site b comes an hour later.
  const { id } = await world.create({ waves: [{ percent: 100 }], windows: [{ from: '09:00', to: '12:00' }], rate: { perMinute: 30 }, siteBytesPerSecond: 1_000, soakS: 30, deadlineS: 120 });
  await world.run(60, id);
  world.clock.advance(Date.parse('2026-11-25T09:00:00Z') - world.clock.now().getTime());
  const done = await world.run(200, id, ended);
  expect(done).toMatchObject({ state: 'SUCCEEDED' });
  const record = await recordOf(id);
  expect(record.executions[0]).toMatchObject({ site: 'a', timeZone: 'Europe/Paris', bytes: 3_000 });
  const again = replay(record);
  expect(again).toMatchObject({ differsAt: null, ended: { would: { state: 'SUCCEEDED' } }, notes: [expect.stringContaining('Sites and time zones') as string] });
  const took = (done.endedAt!.getTime() - done.startedAt!.getTime()) / 1_000;
  expect(Math.abs(again.ended.would.afterS - took)).toBeLessThan(10);
  const open = replay(record, { pace: { windows: [] } });
  expect(open.ended.would).toMatchObject({ state: 'SUCCEEDED' });
  expect(open.ended.would.afterS).toBeLessThan(120);
  expect(open.differsAt).not.toBeNull();
  expect(replay(record, { pace: null }).ended.would.afterS).toBeLessThan(open.ended.would.afterS);
});

it('freezes hold back whom they held back, from when they began until they ended', async () => {
  const a = await world.fleet.add(4, { labels: { site: 'a' } });
  const b = await world.fleet.add(4, { labels: { site: 'b' } });
  await world.installed(1);
  await world.version(2);
  const inS = (s: number): Date => new Date(world.clock.now().getTime() + s * 1_000);
  await world.freezes.create({ selector: '', until: inS(2), reason: 'over before' }, 'olga');
  await world.run(5);
  const inventory = await world.freezes.create({ selector: 'site=b', until: inS(3_600), reason: 'inventory' }, 'olga');
  const { id } = await world.create({ waves: [{ count: 6 }, { percent: 100 }], soakS: 10, deadlineS: 120 });
  await world.run(60, id);
  // Ended by a person, long before it was to end. The next begins while the first wave soaks, and ends by itself.
  await world.freezes.lift(inventory.id, 'pavel');
  await world.run(5, id);
  const { until } = await world.freezes.create({ selector: 'site in (a,b)', until: inS(90), reason: 'fair' }, 'olga');
  const done = await world.run(300, id, ended);
  expect(done).toMatchObject({ state: 'SUCCEEDED' });
  await world.freezes.create({ selector: '', until: inS(90), reason: 'after it' }, 'olga');
  const record = await recordOf(id);
  expect(record.freezes).toMatchObject([{ reason: 'inventory', devices: b.map((one) => one.id).sort() }, { reason: 'fair', until: until.toISOString(), endedAt: until.toISOString(), devices: [...a, ...b].map((one) => one.id).sort() }]);
  expect(Date.parse(record.freezes[0]!.endedAt!)).toBeLessThan(Date.parse(record.freezes[1]!.from));
  expect(record.events.filter(({ code }) => code === 'waits_for_freeze').length).toBeGreaterThan(0);

  const again = replay(record);
  expect(again).toMatchObject({ differsAt: null, ended: { would: { state: 'SUCCEEDED' } }, notes: [expect.stringContaining('frozen') as string] });
  const took = (done.endedAt!.getTime() - done.startedAt!.getTime()) / 1_000;
  expect(took).toBeGreaterThan(140);
  expect(Math.abs(again.ended.would.afterS - took)).toBeLessThan(10);
  const free = replay(record, { freezes: false });
  expect(free).toMatchObject({ notes: [], ended: { would: { state: 'SUCCEEDED' } } });
  expect(free.ended.would.afterS).toBeLessThan(60);
  expect(free.differsAt).not.toBeNull();
  // Told in one wave, it is over before the second freeze begins to matter.
  const sooner = replay(record, { waves: [{ percent: 100 }] });
  expect(sooner.ended.would.afterS).toBeGreaterThan(60);
  expect(sooner.ended.would.afterS).toBeLessThan(100);
});

it('devices that waited by their own word wait in the replay, too, and those that left the version leave it', async () => {
  const devices = await world.fleet.add(12);
  const good = await world.installed(1);
  await world.version(2);
  await world.run(5);
  devices[2]!.waitsFor = { code: 'budget_exceeded', message: 'needs 4 MB' };
  devices[3]!.waitsFor = { code: 'budget_exceeded', message: 'needs 4 MB' };
  const { id } = await world.create({ waves: [{ percent: 100 }], soakS: 10, installTimeoutS: 10, deadlineS: 300 });
  await world.run(60, id);
  // Two of twelve are more than a tenth; one is not.
  devices[2]!.waitsFor = null;
  expect(await world.run(60, id, ended)).toMatchObject({ state: 'SUCCEEDED', waves: [{ counts: { SUCCEEDED: 11, TIMED_OUT: 1 } }] });
  const again = replay(await recordOf(id));
  expect(again).toMatchObject({ differsAt: null, ended: { would: { state: 'SUCCEEDED', code: 'completed_with_skipped' } } });
  expect(again.waves[0]).toMatchObject({ updated: 11, unanswered: 1 });

  await world.version(3);
  const left = await world.create({ version: 'm@3', waves: [{ percent: 100 }], soakS: 60, deadlineS: 300, devices: devices.slice(4).map((one) => one.id) });
  await world.run(30, left.id);
  await devices[5]!.leaveVersion({ code: 'probation.crashed', message: 'It died.' });
  expect((await world.run(60, left.id, ended)).stateReason).toMatchObject({ code: 'install_failures_failed' });
  expect(good).not.toBe(devices[5]!.running);
  expect(replay(await recordOf(left.id))).toMatchObject({ differsAt: null, ended: { would: { state: 'ROLLED_BACK', code: 'install_failures_failed' } } });
});
