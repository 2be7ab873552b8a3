// A rollout over 10,000 devices in 10 waves, through the real controller, PostgreSQL and broker.
import { loadavg } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import { watchSteal } from '../support/host.ts';
import { Plant } from '../support/swarm/plant.ts';
import { Swarm } from '../support/swarm/swarm.ts';
import { quantile } from './statistics.mjs';

const usage = `npm run bench -- rollout-10k [--devices 10000] [--waves 10] [--broker mosquitto|aedes] [--limit 29] [--soak 0] [--throwaway] [--profile DIR] [--statements]
From POST /rollouts to SUCCEEDED in at most --limit seconds (anchor: hawkBit 1.0.4 on PostgreSQL took 145 s for 10,000 targets in 10 groups on two cores).
--profile writes CPU profiles of controller and simulator there; --statements asks pg_stat_statements what the database did; --throwaway turns fsync off.`;
const ended = new Set(['SUCCEEDED', 'PAUSED', 'ROLLED_BACK', 'ABORTED']);

export default async function bench(args) {
  const { values } = parseArgs({ args, options: {
    devices: { type: 'string', default: '10000' }, waves: { type: 'string', default: '10' }, broker: { type: 'string' }, limit: { type: 'string', default: '29' }, soak: { type: 'string', default: '0' },
    throwaway: { type: 'boolean' }, profile: { type: 'string' }, statements: { type: 'boolean' }, help: { type: 'boolean' } } });
  if (values.help) {
    console.log(usage);
    return true;
  }
  const [count, waves, limitS] = [Number(values.devices), Number(values.waves), Number(values.limit)];
  const profiled = values.profile ? ['--cpu-prof', `--cpu-prof-dir=${values.profile}`] : [];
  const plant = await Plant.open({ throwaway: values.throwaway, statements: values.statements, controllerArgs: profiled, ...(values.broker ? { broker: values.broker } : {}) });
  let swarm;
  try {
    swarm = new Swarm({ port: plant.ports.plain, count, prefix: 'coral' }, profiled);
    await plant.addDevices(swarm.ids);
    await plant.addVersion('m', 1);
    const bundle = await plant.addVersion('m', 2);
    console.log(`${count} simulated devices, one MQTT connection each, in one process (${plant.kind}, plain TCP on 127.0.0.1; the controller over TLS). Real: the controller, PostgreSQL${values.throwaway ? ' (fsync off)' : ''},
the broker and its topic rules, the messages, the agent's planner and report. Simulated: enrolment (rows), downloads, self-test and inference (waits of 10 to 50 ms a step), windows (one of 100 inferences 0.1 s after a switch).`);
    await swarm.connected();
    await until(async () => (await plant.pool.query('SELECT count(*)::int AS n FROM devices WHERE online AND capabilities IS NOT NULL')).rows[0].n === count, 'every device is online');
    // What they run before, so that the gates compare each device with itself.
    await roll(plant, { version: 'm@1', workload: 'classifier', waves: [{ percent: 100 }], soakS: 0, policy: { observeS: 0 } });
    await until(async () => (await plant.pool.query('SELECT count(DISTINCT device_id)::int AS n FROM telemetry_windows')).rows[0].n === count, 'every device has sent a window of what it runs');
    if (values.statements) await plant.forgetStatements();

    const load = loadavg()[0];
    const stolen = await watchSteal();
    const before = await plant.cpu({ simulator: swarm.pid });
    const begin = Date.now();
    const { id, createMs, view } = await roll(plant, { version: 'm@2', workload: 'classifier', waves: Array.from({ length: waves }, (_, at) => ({ percent: (100 * (at + 1)) / waves })), soakS: Number(values.soak), policy: { observeS: 0 } });
    const after = await plant.cpu({ simulator: swarm.pid });
    const steal = await stolen();

    const rows = (await plant.pool.query('SELECT device_id, revision::int, state, extract(epoch FROM assigned_at) * 1000 AS assigned, extract(epoch FROM settled_at) * 1000 AS settled FROM rollout_executions WHERE rollout_id = $1', [id])).rows;
    const devices = new Map((await swarm.dump()).map((device) => [device.id, device]));
    const told = rows.map(({ device_id: device, revision, assigned }) => devices.get(device).heardAt[revision] - assigned);
    const done = rows.filter(({ state }) => state === 'SUCCEEDED').length;
    const right = [...devices.values()].filter(({ running }) => running === bundle).length;
    const twice = [...devices.values()].filter(({ installs }) => Object.values(installs).some((n) => n !== 1)).length;
    const totalS = (Date.parse(view.endedAt) - begin) / 1_000;
    const started = Date.parse(view.startedAt);
    const table = new Table({ head: ['', 'value'], style: { head: [], border: [] } });
    const toldAfter = (q) => `${Math.round(quantile(told, q))} ms`;
    table.push(
      ['create and plan (POST /rollouts answered)', `${Math.round(createMs)} ms`], ['start to first device told', `${Math.round(Math.min(...rows.map(({ assigned }) => Number(assigned))) - started)} ms`],
      ['end to end', `${totalS.toFixed(1)} s`], ['updates per second', `${Math.round(done / totalS)}`],
      ['waves, from told to passed', view.waves.map((wave) => `${((Date.parse(wave.endedAt) - Date.parse(wave.startedAt)) / 1_000).toFixed(1)}`).join(' ') + ' s'],
      ['assignment to wanted state at device, p50 / p99', `${toldAfter(0.5)} / ${toldAfter(0.99)}`],
      ...Object.keys(after).map((name) => [`CPU ${name}`, `${(after[name] - before[name]).toFixed(1)} s, ${(((after[name] - before[name]) * 1_000) / count).toFixed(2)} ms per update`]),
      ['load average before', load.toFixed(2)], ['processors taken by the host meanwhile', `${(100 * steal).toFixed(1)} %`],
    );
    console.log(table.toString());
    if (values.statements) console.log(await plant.heaviestStatements());
    const complaints = plant.complaints.filter((line) => line.includes('"level"')).slice(0, 5);
    if (complaints.length > 0) console.log(`the controller complained:\n${complaints.join('\n')}`);
    const whole = view.state === 'SUCCEEDED' && done === count && right === count && twice === 0;
    console.log(`${whole && totalS <= limitS ? 'PASS' : 'FAIL'}: ${view.state}, ${done} of ${count} updated, ${right} run the new bundle, ${twice} installed twice; limit ${limitS} s, hawkBit took 145 s (${(145 / totalS).toFixed(1)} times as long)`);
    if (!whole) console.log(JSON.stringify(view.stateReason));
    return whole && totalS <= limitS;
  } finally {
    await swarm?.stop();
    await plant.close();
  }
}

/** One rollout from the request to its end. */
async function roll(plant, body) {
  const begin = performance.now();
  const { id } = await plant.call('POST', '/rollouts', body);
  const createMs = performance.now() - begin;
  for (const end = performance.now() + 300_000; ;) {
    const view = await plant.call('GET', `/rollouts/${id}`);
    if (ended.has(view.state)) return { id, createMs, view };
    if (performance.now() > end) throw new Error(`the rollout is still ${view.state} in wave ${view.wave + 1}: ${JSON.stringify(view.waves[view.wave])}`);
    // The end is what the controller says it was; asking often would only add to the load.
    await sleep(500);
  }
}

async function until(look, what) {
  for (const end = performance.now() + 120_000; !(await look());) {
    if (performance.now() > end) throw new Error(`it did not happen in 120 s that ${what}`);
    await sleep(200);
  }
}
