// How long a command takes to a device and back, beside the bare broker's echo between the same two places.
import { randomUUID } from 'node:crypto';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import mqtt from 'mqtt';
import pg from 'pg';
import { Authority, controllerName } from '../../libs/devices/dist/index.js';
import { command, commandResult, parseTopic } from '../../libs/protocol/dist/index.js';
import { watchSteal } from '../support/host.ts';
import { Plant } from '../support/swarm/plant.ts';
import { Swarm } from '../support/swarm/swarm.ts';
import { quantile } from './statistics.mjs';

const usage = `npm run bench -- cmd-latency [--devices 1000] [--commands 1000] [--window 5] [--limit 25] [--broker mosquitto|aedes] [--throwaway] [--profile DIR] [--statements]
POST /devices/{id}/commands -> row -> MQTT -> device -> MQTT -> result stored and read, one at a time, with telemetry of every device each --window seconds in the background; the p99 is at most --limit ms.
Between two commands the same device answers one that goes past the controller: what broker, device and sockets take by themselves.
--profile writes a CPU profile of the controller there; --statements asks pg_stat_statements what the database did; --throwaway turns fsync off.`;

export default async function bench(args) {
  const { values } = parseArgs({ args, options: {
    devices: { type: 'string', default: '1000' }, commands: { type: 'string', default: '1000' }, window: { type: 'string', default: '5' }, limit: { type: 'string', default: '25' }, broker: { type: 'string' }, throwaway: { type: 'boolean' }, profile: { type: 'string' }, statements: { type: 'boolean' }, help: { type: 'boolean' } } });
  if (values.help) {
    console.log(usage);
    return true;
  }
  const [count, commands, limitMs] = [Number(values.devices), Number(values.commands), Number(values.limit)];
  const plant = await Plant.open({ throwaway: values.throwaway, statements: values.statements, controllerArgs: values.profile ? ['--cpu-prof', `--cpu-prof-dir=${values.profile}`] : [], ...(values.broker ? { broker: values.broker } : {}) });
  const swarm = new Swarm({ port: plant.ports.plain, count, prefix: 'coral', windowMs: Number(values.window) * 1_000 });
  const feed = new pg.Client(plant.postgres.url);
  let echo;
  try {
    await plant.addDevices(swarm.ids);
    await plant.addVersion('m', 1);
    await swarm.connected();
    const { id } = await plant.call('POST', '/rollouts', { version: 'm@1', workload: 'classifier', waves: [{ percent: 100 }], soakS: 0, policy: { observeS: 0 } });
    for (const end = Date.now() + 120_000; (await plant.call('GET', `/rollouts/${id}`)).state !== 'SUCCEEDED';) {
      if (Date.now() > end) throw new Error('the devices do not run anything after 120 s');
      await sleep(500);
    }
    await feed.connect();
    await feed.query('LISTEN reef_changes');
    echo = await controllerClient(plant);
    const heard = new Map();
    echo.on('message', (topic) => heard.get(parseTopic(topic)?.id)?.());
    await echo.subscribeAsync(commandResult.filter, { qos: 1 });

    if (values.statements) await plant.forgetStatements();
    const load = loadavg()[0];
    const stolen = await watchSteal();
    const before = await plant.cpu();
    const windowsBefore = await windows(plant);
    const begin = performance.now();
    const [whole, bare] = [[], []];
    for (let n = 0; n < commands + 50; n += 1) {
      const device = swarm.ids[(n * 37) % count];
      const took = await roundTrip(plant, feed, device);
      const took2 = await bareTrip(echo, heard, device);
      // The first ones warm up.
      if (n >= 50) {
        whole.push(took);
        bare.push(took2);
      }
    }
    const tookS = (performance.now() - begin) / 1_000;
    const after = await plant.cpu();
    const steal = await stolen();
    const table = new Table({ head: ['', 'p50', 'p90', 'p99', 'most'], style: { head: [], border: [] } });
    table.push(['command, request to stored result', ...quantiles(whole)], ['bare broker and device', ...quantiles(bare)]);
    console.log(table.toString());
    console.log(`${commands} commands to ${count} connected devices (${plant.kind}${values.throwaway ? ', fsync off' : ''}), ${Math.round((await windows(plant) - windowsBefore) / tookS)} telemetry windows/s beside; CPU ms per command with all that: ${Object.keys(before).map((name) => `${name} ${(((after[name] - before[name]) * 1_000) / commands).toFixed(1)}`).join(', ')}; load average before ${load.toFixed(2)}, ${(100 * steal).toFixed(1)} % of the processors taken by the host meanwhile. Devices are simulated.`);
    if (values.statements) console.log(await plant.heaviestStatements());
    const p99 = quantile(whole, 0.99);
    console.log(`${p99 <= limitMs ? 'PASS' : 'FAIL'}: p99 ${p99.toFixed(1)} ms, limit ${limitMs} ms; the median is ${(quantile(whole, 0.5) / quantile(bare, 0.5)).toFixed(1)} times that of the bare broker`);
    return p99 <= limitMs;
  } finally {
    await echo?.endAsync(true);
    await feed.end().catch(() => {});
    await swarm.stop();
    await plant.close();
  }
}

/** Until the change feed names the device and its row says that it is answered. */
async function roundTrip(plant, feed, device) {
  const begin = performance.now();
  let id;
  let told = 0;
  const changed = new Promise((resolve) => {
    const listen = ({ payload }) => {
      const change = JSON.parse(payload);
      if (change.kind !== 'device' || !change.id.split(',').includes(device)) return;
      told = performance.now();
      feed.off('notification', listen);
      resolve();
    };
    feed.on('notification', listen);
  });
  ({ id } = await plant.call('POST', `/devices/${device}/commands`, { kind: 'ping' }));
  await changed;
  const { rows } = await plant.pool.query('SELECT state FROM device_commands WHERE id = $1', [id]);
  if (rows[0]?.state !== 'SUCCEEDED') throw new Error(`command ${id} is ${rows[0]?.state}`);
  return told - begin;
}

/** The name is none that the controller gives, so that its answer stops at the door: no statement of it runs into the next command. */
async function bareTrip(echo, heard, device) {
  const id = `bare-${randomUUID()}`;
  const begin = performance.now();
  await new Promise((resolve) => {
    heard.set(id, resolve);
    echo.publish(command.topicFor(device, id), command.encode({ id, kind: 'ping' }), { qos: 1 });
  });
  heard.delete(id);
  return performance.now() - begin;
}

async function controllerClient(plant) {
  const keys = join(plant.dir, 'keys');
  const authority = await Authority.loadOrCreate(keys);
  const { certificate, key } = await authority.ownFiles(keys, 'controller', { commonName: controllerName, client: true });
  const client = await mqtt.connectAsync(`mqtts://127.0.0.1:${plant.ports.tls}`, { ca: authority.certificatePem, cert: certificate, key, clientId: 'bench-echo', clean: true, protocolVersion: 4 });
  client.stream.setNoDelay(true);
  return client;
}

async function windows(plant) {
  return (await plant.pool.query('SELECT count(*)::int AS n FROM telemetry_windows')).rows[0].n;
}

function quantiles(values) {
  return [0.5, 0.9, 0.99, 1].map((q) => `${quantile(values, q).toFixed(1)} ms`);
}
