import { afterEach, beforeEach, expect, it } from 'vitest';
import { listEvents, listExecutions } from './views.ts';
import { ended, openWorld, type World } from './world.fixture.ts';

let world: World;
beforeEach(async () => { world = await openWorld(); });
afterEach(async () => world.database.drop());

/** Version 2 on ten devices in two waves of five, after version 1 on all. */
async function released(rollback: object): Promise<{ id: string; good: string; bad: string }> {
  await world.fleet.add(10);
  const good = await world.installed(1);
  const bad = await world.version(2);
  await world.run(5);
  const { id } = await world.create({ waves: [{ count: 5 }, { percent: 100 }], soakS: 2, rollback });
  expect(await world.run(60, id, ended)).toMatchObject({ state: 'SUCCEEDED' });
  return { id, good, bad };
}
const running = () => [...world.fleet.devices.values()].map((device) => device.running);

it('a way back in waves: no more at once than may be, the newest first, counted as it goes, everybody back at the end', async () => {
  const { id, good, bad } = await released({ maxInProgress: 3, waves: [{ count: 1 }, { percent: 50 }] });
  const waveOf = new Map((await listExecutions(world.database.db, id)).items.map(({ device, wave }) => [device, wave]));
  const begun = await world.rollouts.rollback(id, 'olga');
  expect(begun).toMatchObject({ state: 'ROLLING_BACK', rollback: { PENDING: 10, QUEUED: 0 } });
  const order: string[] = [];
  let most = 0;
  const done = await world.run(60, id, ({ state, rollback }) => {
    most = Math.max(most, rollback!.QUEUED + rollback!.IN_PROGRESS);
    for (const device of world.fleet.devices.values()) if (device.running === good && !order.includes(device.id)) order.push(device.id);
    return state === 'ROLLED_BACK';
  });
  expect(done).toMatchObject({ state: 'ROLLED_BACK', stateReason: { numbers: { rollback: { done: 10, failed: 0, unanswered: 0 } } }, rollback: { SUCCEEDED: 10, PENDING: 0 } });
  expect(most).toBeLessThanOrEqual(3);
  expect(order.slice(0, 5).map((device) => waveOf.get(device))).toEqual(Array(5).fill(1));
  expect(running()).toEqual(Array(10).fill(good));
  const told = (await listEvents(world.database.db, id)).items.filter(({ code }) => code === 'rollback_wave');
  expect(told.map(({ numbers }) => numbers.devices)).toEqual([1, 3, 1, 3, 2]);
  expect([...world.fleet.devices.values()].every(({ installs }) => installs.filter(({ bundle }) => bundle === bad).length === 1)).toBe(true);
});

it('who cannot go back, or never answers, is named at the end and in the log, and holds up nobody', async () => {
  const { id, good } = await released({ maxInProgress: 4 });
  const devices = [...world.fleet.devices.values()];
  await devices[2]!.leave();
  devices[6]!.refuses = { code: 'artifact.missing', message: 'The bundle from before is gone.' };
  await world.rollouts.rollback(id, 'olga');
  const done = await world.run(120, id, ended);
  expect(done).toMatchObject({ state: 'ROLLED_BACK', stateReason: { numbers: { rollback: { done: 8, failed: 1, unanswered: 1, lost: ['coral-03', 'coral-07'] } } }, rollback: { SUCCEEDED: 8, FAILED: 1, TIMED_OUT: 1 } });
  const log = (await listEvents(world.database.db, id)).items;
  expect(log.filter(({ code, kind }) => code.startsWith('rollback_') && kind === 'device').map(({ code, numbers }) => [code, numbers.device])).toEqual([['rollback_artifact_missing', 'coral-07'], ['rollback_execution_timed_out', 'coral-03']]);
  expect(log.at(-1)!.message).toContain('coral-03, coral-07');
  await devices[2]!.comeBack();
  await world.run(3);
  expect(devices[2]!.running).toBe(good);
});

it('a device still on its way to the version is told at once, whatever the waves say: it must not arrive', async () => {
  const devices = await world.fleet.add(6);
  const good = await world.installed(1);
  const bad = await world.version(2);
  for (const device of devices.slice(3)) await device.leave();
  const { id } = await world.create({ waves: [{ percent: 100 }], soakS: 20, rollback: { maxInProgress: 1, waves: [{ count: 1 }] } });
  await world.run(4);
  await world.rollouts.rollback(id, 'olga');
  expect(await world.view(id)).toMatchObject({ rollback: { PENDING: 3, QUEUED: 3 } });
  for (const device of devices.slice(3)) await device.comeBack();
  expect(await world.run(60, id, ended)).toMatchObject({ state: 'ROLLED_BACK', rollback: { SUCCEEDED: 6 } });
  expect(running()).toEqual(Array(6).fill(good));
  for (const device of devices.slice(3)) expect(device.installs.map(({ bundle }) => bundle)).not.toContain(bad);
});

it('a device on its way back is nobody else\'s, also one that had never answered', async () => {
  const devices = await world.fleet.add(3);
  await world.installed(1);
  await world.version(2);
  await world.version(3);
  await devices[1]!.leave();
  const { id } = await world.create({ waves: [{ percent: 100 }], soakS: 20, rollback: { maxInProgress: 1 } });
  await world.run(4);
  await world.rollouts.rollback(id, 'olga');
  await world.run(2);
  await devices[1]!.comeBack();
  await expect(world.create({ version: 'm@3', waves: [{ percent: 100 }], exclude: { devices: [devices[0]!.id, devices[2]!.id] } })).rejects.toMatchObject({ code: 'rollout.overlaps' });
  await world.run(60, id, ended);
  expect((await world.create({ version: 'm@3', supersede: true })).state).toBe('RUNNING');
});

it('an ended rollout is not taken back under the hands of a newer one; afterwards it moves what is still its own', async () => {
  await world.fleet.add(4);
  await world.version(1);
  const older = await world.create({ version: 'm@1', waves: [{ percent: 100 }], soakS: 2 });
  expect(await world.run(30, older.id, ended)).toMatchObject({ state: 'SUCCEEDED' });
  await world.version(2);
  const newer = await world.create({ waves: [{ count: 1 }, { percent: 100 }], soakS: 20 });
  await world.run(3);
  await expect(world.rollouts.rollback(older.id, 'olga')).rejects.toMatchObject({ code: 'rollout.overlaps', message: expect.stringContaining('m@2') as string });
  await world.rollouts.abort(newer.id, 'stop-new', 'olga');
  await world.rollouts.rollback(older.id, 'olga');
  expect(await world.run(30, older.id, ended)).toMatchObject({ state: 'ROLLED_BACK', rollback: { SUCCEEDED: 3 } });
  expect(running().filter(Boolean)).toHaveLength(1);
});

it('who kept its version while an Edge TPU was away is brought back to the variant that was wanted of it, not to what stood in', async () => {
  const [device] = await world.fleet.add(1, { capabilities: { pipelines: true, edgetpus: [{ type: 'usb', path: '/dev/bus/usb/1' }, { type: 'usb', path: '/dev/bus/usb/2' }] } });
  const wanted = async () => (await world.fleet.world.desiredOf([device!.id])).get(device!.id)!.workloads[world.fleet.workload]!;
  const rolled = async (version: number) => {
    const { id } = await world.create({ version: `m@${version}`, supersede: true, waves: [{ percent: 100 }], soakS: 2, gates: { installFailures: { maxPercent: 100, maxUnansweredPercent: 100 } } });
    await world.run(60, id, ended);
    return id;
  };
  const cut = await world.version(1, ['cpu-int8', 'edgetpu-14', 'edgetpu-14-x2']);
  await rolled(1);
  expect(await wanted()).toMatchObject({ bundle: cut, variant: 'edgetpu-14-x2' });
  device!.standIn = 'edgetpu-14';
  const bad = await world.version(2);
  world.fleet.behaviours.set(bad, { failsWith: { code: 'golden.failed', message: 'answered wrong' } });
  await rolled(2);
  expect([(await wanted()).bundle, device!.running]).toEqual([bad, cut]);
  device!.standIn = null;
  await world.version(3);
  await world.rollouts.rollback(await rolled(3), 'olga');
  await world.run(20);
  expect(await wanted()).toMatchObject({ bundle: cut, variant: 'edgetpu-14-x2' });
});
