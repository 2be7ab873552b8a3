import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Plant } from '../support/swarm/plant.ts';
import { Swarm } from '../support/swarm/swarm.ts';
import { balance, create, fleetSize, orphans, quiet, seed, settled } from './books.ts';

const forgotten = { mayForget: false, windows: new Set<string>() };
let plant: Plant;
let swarm: Swarm;

beforeAll(async () => {
  plant = await Plant.open();
  // Steps long enough that a wave is under way when something dies.
  swarm = new Swarm({ port: plant.ports.plain, count: fleetSize, prefix: 'coral', seed, windowMs: 5_000, stepMs: [100, 400] });
  await plant.addDevices(swarm.ids);
  for (const version of [1, 2, 3]) await plant.addVersion('m', version);
  const bad = await plant.addVersion('m', 4);
  await swarm.ask({ kind: 'behave', bad: [bad] });
  await swarm.connected();
  expect(await settled(plant, await create(plant, { version: 'm@1', waves: [{ percent: 100 }] }))).toMatchObject({ state: 'SUCCEEDED' });
});
afterAll(async () => {
  await swarm?.stop();
  await plant?.close();
});

const ended = "('SUCCEEDED', 'ROLLED_BACK', 'ABORTED', 'PAUSED')";

/**
 * SIGKILL in the middle of every decision and right after it. In the middle: the log of decisions is locked, so that the engine has written all but that and waits; what it wrote must go with it. After:
 * the decision is committed and nobody has been told yet.
 * @returns how often the controller died
 */
async function killAtEveryDecision(id: string): Promise<number> {
  let kills = 0;
  const locker = new pg.Client(plant.postgres.url);
  await locker.connect();
  const decisions = async () => (await plant.pool.query<{ n: number; done: boolean }>(`SELECT (SELECT count(*)::int FROM rollout_events WHERE rollout_id = $1) AS n, state IN ${ended} AS done FROM rollouts WHERE id = $1`, [id])).rows[0]!;
  const caught = async () => (await plant.pool.query("SELECT 1 FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname = 'rollout_events' AND NOT l.granted")).rowCount! > 0;
  try {
    for (const until = Date.now() + 300_000; Date.now() < until;) {
      await locker.query('BEGIN');
      await locker.query('LOCK TABLE rollout_events IN SHARE MODE');
      const before = await decisions();
      if (before.done) return kills;
      while (!(await caught()) && Date.now() < until) await sleep(20);
      await plant.killController();
      kills += 1;
      await locker.query('COMMIT');
      // The dead one's session notices, and rolls back.
      expect((await decisions()).n).toBe(before.n);
      await plant.startController();
      while ((await decisions()).n === before.n && Date.now() < until) await sleep(5);
      await plant.killController();
      kills += 1;
      await plant.startController();
    }
    throw new Error('the rollout did not end in 300 s');
  } finally {
    await locker.query('ROLLBACK').catch(() => {});
    await locker.end();
  }
}

it('the controller is killed in and after every decision of a rollout', async () => {
  const id = await create(plant, { version: 'm@2', waves: [{ percent: 50 }, { percent: 100 }] });
  const kills = await killAtEveryDecision(id);
  expect(kills).toBeGreaterThanOrEqual(4);
  expect(await settled(plant, id)).toMatchObject({ state: 'SUCCEEDED' });
  await quiet(plant);
  await balance(plant, swarm, forgotten);
  process.stdout.write(`the controller was killed ${kills} times in one rollout\n`);
});

it('broker, database, controller and a third of the devices die in the middle of waves; the broker forgets everything', async () => {
  const id = await create(plant, { version: 'm@3', waves: [{ percent: 30 }, { percent: 60 }, { percent: 100 }] });
  const inWave = async (wave: number) => {
    for (const until = Date.now() + 120_000; Date.now() < until; await sleep(20)) {
      const { rows } = await plant.pool.query<{ n: number }>("SELECT count(*)::int AS n FROM rollout_executions WHERE rollout_id = $1 AND wave = $2 AND state = 'IN_PROGRESS'", [id, wave]);
      if (rows[0]!.n > 0) return;
    }
    throw new Error(`wave ${wave + 1} was never under way`);
  };
  await inWave(0);
  await Promise.all([plant.restartBrokerWithoutState(1_000), swarm.ask({ kind: 'reboot', share: 0.33 })]);
  await inWave(1);
  await plant.restartPostgres(1_000);
  await inWave(2);
  await Promise.all([plant.killController(), plant.restartBrokerWithoutState(), swarm.ask({ kind: 'reboot', share: 0.33 })]);
  await plant.startController();
  expect(await settled(plant, id)).toMatchObject({ state: 'SUCCEEDED' });
  await quiet(plant);
  await balance(plant, swarm, { ...forgotten, mayForget: true });
});

it('the controller is killed in and after every decision on the way back', async () => {
  const id = await create(plant, { version: 'm@4', waves: [{ percent: 20 }, { percent: 100 }] });
  const kills = await killAtEveryDecision(id);
  expect(kills).toBeGreaterThanOrEqual(4);
  expect(await settled(plant, id)).toMatchObject({ state: 'ROLLED_BACK', stateReason: { code: 'install_failures_failed' } });
  await quiet(plant);
  await balance(plant, swarm, forgotten);
});

it('leaves no process behind', async () => {
  const { dir } = plant;
  await swarm.stop();
  await plant.close();
  expect(await orphans(dir)).toEqual([]);
});
