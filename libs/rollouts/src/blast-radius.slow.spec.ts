import fc from 'fast-check';
import { ReefError, openLogger } from '@reefkeeper/platform';
import { Desired } from '@reefkeeper/devices';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { DeviceFleet } from './device-fleet.ts';
import { RolloutEngine } from './engine.ts';
import { FakeFleet } from './fake-fleet.fixture.ts';
import { endedStates, isSettled, moves, type RolloutExecutionState, type RolloutState } from './rollout.ts';
import { openWorld, workload, type World } from './world.fixture.ts';

// The promises of docs/rollouts.md against the real engine on real rows: two replicas, devices that do as they like, people who press every button at
// any time, a clock that jumps. No schedule of events may break one of them.

const devices = 6;
const runs = 40;
const events = 40;
/** On a busy machine fewer runs rather than a longer suite. */
const limitMs = 30_000;

let world: World;
/** Another process: it shares the rows and nothing else. */
let replica: RolloutEngine;
beforeAll(async () => {
  world = await openWorld();
  replica = new RolloutEngine(world.database.db, world.clock, openLogger('test', 'error'), new DeviceFleet(new Desired(world.database.db, world.clock)), world.telemetry);
});
afterAll(async () => world.database.drop());

interface Row { rollout: string; rolloutState: RolloutState; bundle: string; stated: number; device: string; wave: number; waveState: string; state: RolloutExecutionState; revision: string | null; assigned: string | null; back: string | null }
/** What one event may have done: engine alone, or a person to this rollout. */
interface Run { fleet: FakeFleet; rollouts: string[]; before: Map<string, Row>; told: Map<string, number>; story: string[]; /** Pinned, and for how long frozen, before the event. */ pinned: Set<string>; frozenUntil: Date | null }

type Event = (run: Run) => Promise<string>;
const device = fc.nat({ max: devices - 1 });
const rollout = fc.nat({ max: 3 });
const one = (run: Run, at: number) => [...run.fleet.devices.values()][at % run.fleet.devices.size]!;

const person = (name: string, act: (id: string) => Promise<unknown>): fc.Arbitrary<Event> => rollout.map((at) => async (run) => {
  const id = run.rollouts[at % Math.max(1, run.rollouts.length)];
  if (!id) return `${name}: there is none`;
  // A button that is not to be pressed now says so; that is an answer, not a fault.
  const answer = await act(id).then(() => 'done', (error: unknown) => { if (error instanceof ReefError && error.kind !== 'bug') return error.code; throw error; });
  return `${name} rollout ${at % run.rollouts.length}: ${answer}`;
});

const create = (version: number, more: object) => async (run: Run): Promise<string> => {
  const made = await world.create({ version: `m@${version}`, soakS: 2, deadlineS: 15, installTimeoutS: 12, rollbackTimeoutS: 12, rollback: { maxInProgress: 2 }, ...more }).then(({ id }) => { run.rollouts.push(id); return 'created'; }, (error: unknown) => { if (error instanceof ReefError && error.kind !== 'bug') return error.code; throw error; });
  return `version ${version} ${JSON.stringify(more)}: ${made}`;
};

const event: fc.Arbitrary<Event> = fc.oneof(
  { weight: 12, arbitrary: fc.constantFrom(1, 1, 1, 2, 5).map((seconds): Event => async (run) => {
    await run.fleet.tick();
    world.clock.advance(seconds * 1_000);
    await Promise.all([world.engine.advanceDue(), replica.advanceDue([...run.fleet.devices.keys()])]);
    return `${seconds} s, both replicas`;
  }) },
  { weight: 2, arbitrary: fc.constantFrom(-3, 15, 600).map((seconds): Event => async () => { world.clock.advance(seconds * 1_000); await replica.advanceDue(); return `clock ${seconds} s, one replica`; }) },
  { weight: 2, arbitrary: device.map((at): Event => async (run) => { const found = one(run, at); await (found.reachable ? found.leave() : found.comeBack()); return `${found.id} ${found.reachable ? 'is back' : 'is gone'}`; }) },
  { weight: 1, arbitrary: device.map((at): Event => async (run) => { const found = one(run, at); found.silent = !found.silent; return `${found.id} ${found.silent ? 'sends nothing' : 'sends again'}`; }) },
  { weight: 1, arbitrary: device.map((at): Event => async (run) => { const found = one(run, at); found.refuses = found.refuses ? null : { code: 'golden.mismatch', message: 'no' }; return `${found.id} ${found.refuses ? 'refuses' : 'takes'} versions`; }) },
  { weight: 1, arbitrary: device.map((at): Event => async (run) => { await one(run, at).report(); return `${one(run, at).id} reports again`; }) },
  { weight: 1, arbitrary: fc.tuple(fc.constantFrom(2, 3), fc.constantFrom({}, { correct: 10 }, { errors: 60 }, { p50Us: 40_000 })).map(([version, does]): Event => async (run) => { run.fleet.behaviours.set(bundleOf(version), does); return `version ${version} does ${JSON.stringify(does)}`; }) },
  { weight: 2, arbitrary: fc.tuple(fc.constantFrom(2, 3), fc.constantFrom({}, { waves: [{ count: 2 }, { percent: 100 }] }, { waves: [{ percent: 100 }] }), fc.constantFrom({}, { supersede: true }, { onFailure: 'pause' })).map(([version, waves, more]): Event => create(version, { ...waves, ...more })) },
  { weight: 2, arbitrary: fc.tuple(fc.constantFrom(2, 3), fc.constantFrom({ dynamic: true }, { dynamic: true, waves: [{ count: 1 }, { percent: 100 }] }, { rate: { perMinute: 10 } }, { maxInProgress: 1 }, { siteBytesPerSecond: 1 }), fc.constantFrom({}, { supersede: true })).map(([version, pace, more]): Event => create(version, { ...pace, ...more })) },
  { weight: 1, arbitrary: fc.nat({ max: 1 }).map((n): Event => async (run) => { if (run.fleet.devices.size >= devices + 4) return 'nobody new'; await run.fleet.add(1, n ? { capabilities: { edgetpuRuntime: 13 } } : {}); return 'a device is enrolled'; }) },
  { weight: 1, arbitrary: fc.constantFrom(5, 40).map((seconds): Event => async () => { await world.freezes.create({ selector: '', until: new Date(world.clock.now().getTime() + seconds * 1_000), reason: 'fair' }, 'olga'); return `everything is frozen for ${seconds} s`; }) },
  { weight: 1, arbitrary: fc.constant<Event>(async () => { const [freeze] = await world.freezes.list(); if (freeze) await world.freezes.lift(freeze.id, 'olga'); return freeze ? 'a freeze is lifted' : 'nothing is frozen'; }) },
  { weight: 1, arbitrary: device.map((at): Event => async (run) => {
    const { id } = one(run, at);
    await (run.pinned.has(id) ? world.devices.unpin(id, undefined, 'olga') : world.devices.pin(id, { reason: 'trial' }, 'olga'));
    return `${id} is ${run.pinned.has(id) ? 'unpinned' : 'pinned'}`;
  }) },
  { weight: 2, arbitrary: person('pause', (id) => world.rollouts.pause(id, 'olga')) },
  { weight: 3, arbitrary: person('resume', (id) => world.rollouts.resume(id, 'olga')) },
  { weight: 1, arbitrary: person('advance', (id) => world.rollouts.advance(id, 'olga')) },
  { weight: 1, arbitrary: person('skip pending', (id) => world.rollouts.advance(id, 'olga', { skipPending: true })) },
  { weight: 1, arbitrary: person('abort', (id) => world.rollouts.abort(id, 'stop-new', 'olga')) },
  { weight: 1, arbitrary: person('recall', (id) => world.rollouts.abort(id, 'recall', 'olga')) },
  { weight: 1, arbitrary: person('roll back', (id) => world.rollouts.rollback(id, 'olga')) },
);

const bundleOf = (version: number): string => version.toString(16).padStart(64, '0');

async function rowsOf(): Promise<Row[]> {
  return world.database.db.query<Row[]>(`
    SELECT r.id AS rollout, r.state AS "rolloutState", r.bundle, (r.plan -> 'blastRadius' ->> 'unprovenDevices')::int AS stated, e.device_id AS device, e.wave, coalesce(w.state, 'LATE') AS "waveState", e.state, e.revision, e.assigned_at::text AS assigned, e.rollback_state AS back
    FROM rollouts r JOIN rollout_executions e ON e.rollout_id = r.id LEFT JOIN rollout_waves w ON w.rollout_id = r.id AND w.index = e.wave ORDER BY r.created_at, r.id, e.device_id`);
}

const holding = new Set<RolloutState>(['AWAITING_APPROVAL', 'SCHEDULED', 'RUNNING', 'PAUSED', 'ROLLING_BACK']);
const onTheWay = new Set(['PENDING', 'QUEUED', 'IN_PROGRESS']);

/** Every promise, after every event. */
async function check(run: Run, said: string): Promise<void> {
  const rows = await rowsOf();
  const fault = (what: string, row?: Row): Error => new Error(`${what}${row ? ` (${JSON.stringify(row)})` : ''}\nafter: ${[...run.story, said].join('\n       ')}`);
  const holders = new Map<string, string>();
  for (const row of rows) {
    const before = run.before.get(`${row.rollout} ${row.device}`);
    if (before) {
      if (isSettled(before.state) && row.state !== before.state) throw fault(`a settled execution moved from ${before.state}`, row);
      if (before.back && !onTheWay.has(before.back) && row.back !== before.back) throw fault(`a settled way back moved from ${before.back}`, row);
      if (before.assigned && (row.assigned !== before.assigned || row.revision !== before.revision)) throw fault('a device was assigned twice', row);
      if (endedStates.has(before.rolloutState) && row.rolloutState !== before.rolloutState && !(moves[before.rolloutState].includes('ROLLING_BACK') && ['ROLLING_BACK', 'ROLLED_BACK'].includes(row.rolloutState) && /^(roll back|recall)/.test(said))) throw fault(`an ended rollout moved from ${before.rolloutState} by itself`, row);
      if (['PASSED', 'SKIPPED'].includes(before.waveState) && row.waveState !== before.waveState) throw fault(`a closed wave moved from ${before.waveState}`, row);
    }
    if (row.rolloutState === 'ROLLING_BACK' ? onTheWay.has(row.back ?? '') : holding.has(row.rolloutState) && !['CANCELED', 'REMOVED'].includes(row.state)) {
      const other = holders.get(row.device);
      if (other && other !== row.rollout) throw fault('two rollouts hold one device', row);
      holders.set(row.device, row.rollout);
    }
  }
  const pinned = new Set((await world.database.db.query<{ id: string }[]>('SELECT device_id AS id FROM device_pins')).map(({ id }) => id));
  const frozenUntil = (await world.freezes.list()).at(-1)?.until ?? null;
  for (const row of rows) {
    if (!row.assigned || run.before.get(`${row.rollout} ${row.device}`)?.assigned) continue;
    if (run.pinned.has(row.device) && pinned.has(row.device)) throw fault('a pinned device was told', row);
    if (run.frozenUntil && frozenUntil && new Date(row.assigned) < run.frozenUntil) throw fault('a frozen device was told', row);
    if (row.rolloutState === 'SUCCEEDED' && holders.has(row.device)) throw fault('a late device was told that another rollout holds', row);
  }
  Object.assign(run, { pinned, frozenUntil });
  for (const own of Map.groupBy(rows, ({ rollout: id }) => id).values()) {
    // Unproven: told in a wave that nobody, neither the gates nor a person, has accepted.
    const unproven = own.filter((row) => row.assigned && ['RUNNING', 'ANALYSING', 'INCONCLUSIVE', 'FAILED'].includes(row.waveState) && (run.fleet.devices.get(row.device)!.running === row.bundle || (row.back === null && row.state !== 'CANCELED')));
    if (unproven.length > own[0]!.stated) throw fault(`${unproven.length} devices are on a version without a verdict, ${own[0]!.stated} were stated`, own[0]);
    const told = own.filter(({ assigned }) => assigned).length;
    if (told < (run.told.get(own[0]!.rollout) ?? 0)) throw fault('a count went down', own[0]);
    run.told.set(own[0]!.rollout, told);
  }
  for (const { id, installs } of run.fleet.devices.values()) if (new Set(installs.map(({ revision }) => revision)).size !== installs.length) throw fault(`${id} installed one revision twice`);
  run.before = new Map(rows.map((row) => [`${row.rollout} ${row.device}`, row]));
}

async function begin(): Promise<Run> {
  const { db } = world.database;
  await db.query('TRUNCATE rollouts, rollout_freezes, devices, telemetry_windows, versions CASCADE');
  const fleet = new FakeFleet(world.fleet.world, workload);
  await fleet.add(devices);
  for (const version of [1, 2, 3]) await world.version(version);
  const run: Run = { fleet, rollouts: [], before: new Map(), told: new Map(), story: [], pinned: new Set(), frozenUntil: null };
  await create(1, { waves: [{ percent: 100 }], gates: { installFailures: { maxUnansweredPercent: 100 } } })(run);
  for (let second = 0; second < 8; second += 1) {
    await fleet.tick();
    world.clock.advance(1_000);
    await world.engine.advanceDue();
  }
  await check(run, 'the first version is out');
  return run;
}

/** People stop acting: everything comes to an end or waits for a person, and stays there. */
async function settle(run: Run): Promise<void> {
  const open = async () => (await world.database.db.query<{ state: RolloutState }[]>("SELECT state FROM rollouts WHERE state IN ('SCHEDULED', 'RUNNING', 'ROLLING_BACK')")).length;
  for (let step = 0; await open() > 0; step += 1) {
    if (step > 200) throw new Error(`it does not settle\nafter: ${run.story.join('\n       ')}`);
    await run.fleet.tick();
    world.clock.advance(2_000);
    await world.engine.advanceDue();
    await check(run, 'people have stopped acting');
  }
  const ended = new Map((await rowsOf()).map((row) => [row.rollout, row.rolloutState]));
  const closed = new Map((await rowsOf()).map((row) => [`${row.rollout} ${row.wave}`, row.waveState]));
  for (const found of run.fleet.devices.values()) { found.refuses = null; if (!found.reachable) await found.comeBack(); }
  for (let step = 0; step < 3; step += 1) {
    await run.fleet.tick();
    world.clock.advance(30_000);
    await world.engine.advanceDue([...run.fleet.devices.keys()]);
    await check(run, 'all has settled, and everybody has come back');
  }
  for (const row of await rowsOf()) {
    expect(row.rolloutState).toBe(ended.get(row.rollout));
    expect(row.waveState).toBe(closed.get(`${row.rollout} ${row.wave}`) ?? 'LATE');
  }
}

it(`no schedule of events breaks a promise (${runs} runs of up to ${events} events)`, async () => {
  let done = 0;
  const stopAt = Date.now() + limitMs;
  const property = fc.asyncProperty(fc.array(event, { minLength: 10, maxLength: events, size: 'max' }), async (schedule) => {
    if (Date.now() > stopAt) return;
    const run = await begin();
    for (const act of schedule) {
      const said = await act(run);
      await check(run, said);
      run.story.push(said);
    }
    await settle(run);
    done += 1;
  });
  const { REEF_SEED: seed } = process.env;
  const result = await fc.check(property, { numRuns: runs, ...(seed ? { seed: Number(seed) } : {}) });
  if (result.failed) throw new Error(`REEF_SEED=${result.seed} runs this again (path ${result.counterexamplePath}): ${(result.errorInstance as Error | null)?.message}`, { cause: result.errorInstance });
  expect(done).toBeGreaterThan(0);
}, 4 * limitMs);
