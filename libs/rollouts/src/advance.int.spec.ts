import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { listEvents, listExecutions } from './views.ts';
import { ended, openWorld, type World } from './world.fixture.ts';

let world: World;
beforeEach(async () => { world = await openWorld(); });
afterEach(async () => world.database.drop());

const strict = { installFailures: { maxPercent: 0, maxUnansweredPercent: 0 } };
const inconclusive = { state: 'PAUSED', stateReason: { code: 'inconclusive' } };

describe('advance --skip-pending: who has not answered is left out, the rest judged', () => {
  it('case 7: the one that timed out is left out, the wave passes on the other nine; when it comes back it takes the version and counts nowhere', async () => {
    const devices = await world.fleet.add(10);
    const bundle = await world.version(2);
    await devices[3]!.leave();
    const { id } = await world.create({ waves: [{ percent: 100 }], gates: strict });
    expect(await world.run(120, id, ended)).toMatchObject(inconclusive);
    expect(await world.rollouts.explain(id)).toMatchObject({ waitsFor: [], moves: [{ verb: 'resume' }, { verb: 'advance', command: `reef rollout advance ${id} --skip-pending`, does: expect.stringContaining('coral-04') as string }, { verb: 'advance' }, {}, {}] });

    expect(await world.rollouts.advance(id, 'olga', { skipPending: true })).toMatchObject({ state: 'RUNNING', stateReason: { code: 'pending_skipped', numbers: { devices: ['coral-04'] } } });
    const done = await world.run(60, id, ended);
    expect(done).toMatchObject({ state: 'SUCCEEDED', stateReason: { code: 'completed_with_skipped', numbers: { skipped: 1 } }, waves: [{ state: 'PASSED', counts: { SUCCEEDED: 9, TIMED_OUT: 1 } }] });
    expect(done.waves[0]!.verdicts.find(({ gate }) => gate === 'install_failures')).toMatchObject({ verdict: 'PASSED', basis: 'group (9 devices)' });

    await devices[3]!.comeBack();
    await world.run(5);
    expect(devices[3]!.running).toBe(bundle);
    expect((await world.view(id)).waves[0]!.counts).toMatchObject({ SUCCEEDED: 9, TIMED_OUT: 1 });
  });

  it('is not a free pass: the rest is judged, and a bad version goes back everywhere, the one left out included', async () => {
    const devices = await world.fleet.add(4);
    const good = await world.installed(1);
    const bad = await world.version(2);
    world.fleet.behaviours.set(bad, { correct: 36 });
    await world.run(10);
    await devices[2]!.leave();
    const { id } = await world.create({ waves: [{ percent: 100 }], deadlineS: 20, installTimeoutS: 3_600 });
    const waits = await world.run(20, id, ({ waves }) => waves[0]!.counts.SUCCEEDED === 3);
    // It would wait for an hour.
    expect(waits).toMatchObject({ state: 'RUNNING', waves: [{ state: 'RUNNING', counts: { SUCCEEDED: 3, QUEUED: 1 } }] });
    expect((await world.rollouts.explain(id)).waitsFor[0]!.what).toContain('coral-03');
    await world.rollouts.advance(id, 'olga', { skipPending: true });
    await devices[2]!.comeBack();
    const done = await world.run(90, id, ended);
    expect(done).toMatchObject({ state: 'ROLLED_BACK', stateReason: { code: 'accuracy_failed' }, waves: [{ counts: { SUCCEEDED: 3, CANCELED: 1 } }], rollback: { SUCCEEDED: 4 } });
    await world.run(3);
    expect([...world.fleet.devices.values()].map(({ running }) => running)).toEqual(Array(4).fill(good));
    expect((await listExecutions(world.database.db, id, { state: 'CANCELED' })).items).toMatchObject([{ device: 'coral-03', skipped: true, failure: { code: 'execution.skipped' } }]);
  });

  it('with nobody left there is nothing to say, and with nobody missing nothing to leave out', async () => {
    const devices = await world.fleet.add(2);
    await world.version(2);
    for (const device of devices) await device.leave();
    const { id } = await world.create({ waves: [{ percent: 100 }], gates: strict });
    await world.run(3);
    await world.rollouts.advance(id, 'olga', { skipPending: true });
    expect(await world.run(60, id, ended)).toMatchObject({ state: 'PAUSED', stateReason: { code: 'inconclusive' }, waves: [{ state: 'INCONCLUSIVE' }] });
    await expect(world.rollouts.advance(id, 'olga', { skipPending: true })).rejects.toMatchObject({ code: 'rollout.nothing_pending', message: expect.stringContaining('resume') as string });
  });
});

describe('late and stale reports', () => {
  it('a success after the time-out changes no count, not through resume either, and the wave is judged again on the same group', async () => {
    const devices = await world.fleet.add(5);
    await world.version(2);
    await devices[1]!.leave();
    const { id } = await world.create({ waves: [{ percent: 100 }], gates: strict });
    expect(await world.run(120, id, ended)).toMatchObject(inconclusive);
    const before = (await world.view(id)).waves[0]!.counts;
    await devices[1]!.comeBack();
    await world.run(3);
    await world.rollouts.resume(id, 'olga');
    expect(await world.run(120, id, ended)).toMatchObject({ ...inconclusive, waves: [{ state: 'INCONCLUSIVE', counts: before }] });
    expect((await listEvents(world.database.db, id)).items.filter(({ code }) => code === 'inconclusive')).not.toEqual([]);
  });

  it('what a device said of an earlier rollout of the same bundle does not count for a later one', async () => {
    const [device] = await world.fleet.add(1);
    const first = await world.installed(1);
    await world.version(2);
    const there = await world.create({});
    expect(await world.run(60, there.id, ended)).toMatchObject({ state: 'SUCCEEDED' });
    await world.rollouts.rollback(there.id, 'olga');
    expect(await world.run(60, there.id, ended)).toMatchObject({ state: 'ROLLED_BACK' });
    expect(device!.running).toBe(first);
    const again = await world.create({});
    // Its last word on the bundle is a success, of an older revision.
    await world.engine.advanceDue();
    expect((await world.view(again.id)).waves[0]!.counts).toMatchObject({ QUEUED: 1, SUCCEEDED: 0 });
    expect(await world.run(60, again.id, ended)).toMatchObject({ state: 'SUCCEEDED' });
    expect((await world.view(there.id)).waves[0]!.counts).toMatchObject({ SUCCEEDED: 1 });
  });
});
