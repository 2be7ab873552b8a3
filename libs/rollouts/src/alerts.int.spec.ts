import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Alerts, AlertWatch } from '@reefkeeper/telemetry';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { rolloutAlerts } from './alerts.ts';
import { ended, openWorld, type World } from './world.fixture.ts';

let world: World;
let sweep: () => Promise<number>;
beforeEach(async () => {
  world = await openWorld();
  const watch = new AlertWatch(world.database.db, world.clock, rolloutAlerts);
  sweep = () => watch.sweep(2);
});
afterEach(() => world.database.drop());
const open = async () => (await new Alerts(world.database.db, world.clock).list({ limit: 10 })).items;

it('a rollout that the engine paused needs a decision until it is taken; one that a person paused does not', async () => {
  const devices = await world.fleet.add(2);
  await world.version(2);
  for (const device of devices) device.silent = true;
  const { id } = await world.create({ waves: [{ percent: 100 }] });
  await world.run(3);
  await world.rollouts.pause(id, 'olga');
  await sweep();
  expect(await open()).toEqual([]);
  await world.rollouts.resume(id, 'olga');
  expect(await world.run(120, id, ended)).toMatchObject({ state: 'PAUSED' });
  await sweep();
  expect(await open()).toMatchObject([{ kind: 'rollout.needs_decision', subject: id, rollout: id, device: null, state: 'OPEN', numbers: { version: 'm@2', workload: 'classifier', code: 'inconclusive', wave: 1 }, advice: expect.stringContaining(`reef rollout explain ${id}`) as string }]);
  await world.rollouts.abort(id, 'stop-new', 'olga');
  await sweep();
  expect(await open()).toEqual([]);
});

it('a rollout that went back is news until another one of the workload starts; what a person took back is none', async () => {
  await world.fleet.add(5);
  await world.installed(1);
  await world.run(20);
  const bad = await world.version(2);
  world.fleet.behaviours.set(bad, { correct: 12 });
  const { id } = await world.create({});
  await world.run(120, id, ended);
  await sweep();
  expect(await open()).toMatchObject([{ kind: 'rollout.went_back', subject: id, severity: 'critical', numbers: { code: 'accuracy_failed', state: 'ROLLED_BACK' }, summary: expect.stringContaining('m@2 for classifier goes back: ') as string }]);
  await world.version(3);
  const next = await world.create({ version: 'm@3' });
  await world.run(2);
  await sweep();
  expect(await open()).toEqual([]);
  await world.rollouts.rollback(next.id, 'olga');
  await sweep();
  expect(await open()).toEqual([]);
});

it('a rollout that waits for an approver for a minute says so', async () => {
  await world.fleet.add(1);
  await world.version(2);
  const { id } = await world.create({ requireApproval: true });
  await sweep();
  world.clock.advance(61_000);
  await sweep();
  expect(await open()).toMatchObject([{ kind: 'rollout.awaits_approval', subject: id, severity: 'info' }]);
  await world.rollouts.approve(id, 'paul');
  await sweep();
  expect(await open()).toEqual([]);
});

it('docs/alerts.md has every kind with its severity and times', async () => {
  const text = await readFile(join(import.meta.dirname, '../../../docs/alerts.md'), 'utf8');
  for (const { kinds } of rolloutAlerts) for (const [name, { severity, openAfterS, closeAfterS }] of Object.entries(kinds)) {
    expect(text).toContain(`| \`${name}\` | ${severity} | ${openAfterS} s | ${closeAfterS} s |`);
  }
});
