import { afterEach, beforeEach, expect, it } from 'vitest';
import { listEvents, listExecutions } from './views.ts';
import { ended, openWorld, type World } from './world.fixture.ts';

// Devices that wait by their own word, and devices that leave a version after they had succeeded with it.

let world: World;
beforeEach(async () => { world = await openWorld(); });
afterEach(async () => world.database.drop());

const budget = { code: 'budget_exceeded', message: 'needs 4 MB and 1 is left' };
const executionOf = async (rollout: string, device: string) => (await listExecutions(world.database.db, rollout)).items.find((one) => one.device === device)!;

it('case 10: too many wait: QUEUED beyond the installation timeout, PAUSED at the deadline, passed by --skip-pending; the late success counts nowhere', async () => {
  const [first, late] = await world.fleet.add(2);
  late!.waitsFor = budget;
  const bundle = await world.version(1);
  const { id } = await world.create({ version: 'm@1', waves: [{ percent: 100 }], soakS: 2, installTimeoutS: 10, deadlineS: 30 });
  expect(await world.run(25, id)).toMatchObject({ state: 'RUNNING', waves: [{ state: 'ANALYSING', waiting: 1, counts: { QUEUED: 1 } }] });
  expect((await world.rollouts.explain(id)).waitsFor).toContainEqual({ what: `1 device waiting for its data budget (${late!.id}): ${budget.message}`, until: expect.any(Date) as Date });
  expect(await world.run(30, id)).toMatchObject({ state: 'PAUSED', stateReason: { code: 'inconclusive', numbers: { gate: 'install_failures' } }, waves: [{ state: 'INCONCLUSIVE', waiting: 1, counts: { QUEUED: 1, TIMED_OUT: 0 } }] });
  await world.rollouts.advance(id, 'olga', { skipPending: true });
  expect(await world.run(30, id, ended)).toMatchObject({ state: 'SUCCEEDED', waves: [{ state: 'PASSED', waiting: 0, counts: { SUCCEEDED: 1, CANCELED: 1 } }] });
  late!.waitsFor = null;
  await world.run(5, id);
  expect([first!.running, late!.running]).toEqual([bundle, bundle]);
  expect(await world.view(id)).toMatchObject({ state: 'SUCCEEDED', waves: [{ counts: { SUCCEEDED: 1, CANCELED: 1 } }] });
});

it('few wait: the wave passes on the stated group without them, and what they do later counts nowhere', async () => {
  const devices = await world.fleet.add(11);
  devices[4]!.waitsFor = { code: 'no_accelerator', message: 'none answers' };
  const bundle = await world.version(1);
  const { id } = await world.create({ version: 'm@1', waves: [{ percent: 100 }], soakS: 2, installTimeoutS: 10, deadlineS: 60 });
  const done = await world.run(50, id, ended);
  expect(done).toMatchObject({ state: 'SUCCEEDED', stateReason: { code: 'completed_with_skipped', numbers: { skipped: 1 } }, waves: [{ counts: { SUCCEEDED: 10, TIMED_OUT: 1 } }] });
  expect(done.waves[0]!.verdicts.find(({ gate }) => gate === 'install_failures')).toMatchObject({ verdict: 'PASSED', basis: 'group (11 devices)' });
  expect(await executionOf(id, devices[4]!.id)).toMatchObject({ state: 'TIMED_OUT', failure: { code: 'no_accelerator', message: expect.stringContaining('none answers') as string } });
  devices[4]!.waitsFor = null;
  await world.run(5, id);
  expect(devices[4]!.running).toBe(bundle);
  expect(await world.view(id)).toMatchObject({ waves: [{ counts: { SUCCEEDED: 10, TIMED_OUT: 1 } }] });
});

it('one that goes on after a long wait has its whole time again, keeps no place of the pace, and begins the soak anew', async () => {
  const [late] = await world.fleet.add(1);
  await world.fleet.add(2);
  late!.waitsFor = budget;
  await world.version(1);
  const { id } = await world.create({ version: 'm@1', waves: [{ percent: 100 }], soakS: 5, installTimeoutS: 10, deadlineS: 600, maxInProgress: 1 });
  expect(await world.run(40, id)).toMatchObject({ waves: [{ state: 'ANALYSING', waiting: 1, counts: { SUCCEEDED: 2 } }] });
  late!.waitsFor = null;
  const seen = await world.run(30, id, ({ waves }) => waves[0]!.counts.SUCCEEDED === 3);
  expect(seen.waves[0]).toMatchObject({ state: 'ANALYSING' });
  const at = world.clock.now().getTime();
  const done = await world.run(60, id, ended);
  expect(done).toMatchObject({ state: 'SUCCEEDED' });
  expect(done.endedAt!.getTime() - at).toBeGreaterThanOrEqual(4_000);
});

it('a version that a device leaves after its success fails the wave, also one that had passed', async () => {
  const devices = await world.fleet.add(4);
  const good = await world.installed(1);
  await world.version(2);
  await world.run(5);
  const { id } = await world.create({ waves: [{ count: 1 }, { percent: 100 }], soakS: 20, deadlineS: 60 });
  const second = await world.run(60, id, ({ wave, waves }) => wave === 1 && waves[1]!.counts.SUCCEEDED === 3);
  expect(second.waves[0]).toMatchObject({ state: 'PASSED', counts: { SUCCEEDED: 1 } });
  const canary = (await listExecutions(world.database.db, id, { wave: 0 })).items[0]!.device;
  await devices.find((one) => one.id === canary)!.leaveVersion({ code: 'probation.crashed', message: 'It died 3 times while it was on probation.' });
  const done = await world.run(120, id, ended);
  expect(done).toMatchObject({ state: 'ROLLED_BACK', stateReason: { code: 'install_failures_failed', message: expect.stringContaining('In the waves before: 1 of 1 device') as string }, waves: [{ faults: 1, counts: { SUCCEEDED: 1 } }, { state: 'FAILED' }] });
  expect(devices.map(({ running }) => running)).toEqual(Array(4).fill(good));
  expect(await executionOf(id, canary)).toMatchObject({ state: 'SUCCEEDED', fault: { code: 'probation.crashed' }, rollbackState: 'SUCCEEDED' });
  expect((await listEvents(world.database.db, id)).items.filter(({ code }) => code === 'probation_crashed')).toHaveLength(1);
});

it('one that runs nothing again, as an agent that is back on the release of its package, and gives no reason, has left it, too', async () => {
  const [device] = await world.fleet.add(2);
  await world.version(1);
  const { id } = await world.create({ version: 'm@1', waves: [{ percent: 100 }], soakS: 30, deadlineS: 60, onFailure: 'pause' });
  await world.run(20, id, ({ waves }) => waves[0]!.counts.SUCCEEDED === 2);
  await device!.leaveVersion(null);
  expect(await world.run(60, id, ended)).toMatchObject({ state: 'PAUSED', stateReason: { code: 'install_failures_failed' }, waves: [{ faults: 1, counts: { SUCCEEDED: 2 } }] });
  expect(await executionOf(id, device!.id)).toMatchObject({ state: 'SUCCEEDED', fault: { code: 'execution.left' } });
});
