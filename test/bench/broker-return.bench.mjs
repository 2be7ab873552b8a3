// How long a fleet takes to be online again when its broker is back, beside plain mqtt.js clients that lost the same broker.
import { once } from 'node:events';
import { loadavg } from 'node:os';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import mqtt from 'mqtt';
import { agentComeback, Comeback } from '../../apps/agent/dist/comeback.js';
import { DeviceClock } from '../../apps/agent/dist/clock.js';
import { Link } from '../../apps/agent/dist/link.js';
import { Authority } from '../../libs/devices/dist/index.js';
import { openLogger } from '../../libs/platform/dist/logger.js';
import { watchSteal } from '../support/host.ts';
import { ended, Plant } from '../support/swarm/plant.ts';
import { Swarm } from '../support/swarm/swarm.ts';
import { quantile } from './statistics.mjs';

const usage = `npm run bench -- broker-return [--devices 1000] [--links 10] [--away 5,60] [--broker mosquitto|aedes] [--throwaway]
The broker is stopped for each of --away seconds; from the moment it listens again to the moment the controller has a device online again. Devices are simulated and wait as agents do (apps/agent/src/comeback.ts);
--links of them are the agent's own link over TLS. The last one may take as long as the policy lets it wait (the outage, at least 1 s, at most ${agentComeback.maxMs / 1_000} s), or the controller if that is longer (1.25 s), and 3 s more.
Beside them 100 mqtt.js clients with its default reconnectPeriod of 1 s.`;

const controllerMs = 1_250;
const graceMs = 3_000;

export default async function bench(args) {
  const { values } = parseArgs({ args, options: { devices: { type: 'string', default: '1000' }, links: { type: 'string', default: '10' }, away: { type: 'string', default: '5,60' }, broker: { type: 'string' }, throwaway: { type: 'boolean' }, help: { type: 'boolean' } } });
  if (values.help) {
    console.log(usage);
    return true;
  }
  const [count, outages] = [Number(values.devices), values.away.split(',').map((text) => Number(text) * 1_000)];
  const plant = await Plant.open({ throwaway: values.throwaway, ...(values.broker ? { broker: values.broker } : {}) });
  const swarm = new Swarm({ port: plant.ports.plain, count, prefix: 'coral', comeback: agentComeback });
  const links = Array.from({ length: Number(values.links) }, (_, at) => `link-${at}`);
  const peers = [];
  const opened = [];
  try {
    const load = loadavg()[0];
    const stolen = await watchSteal();
    const all = [...swarm.ids, ...links];
    await plant.addDevices(all);
    await swarm.connected();
    for (const id of links) opened.push(await openLink(plant, id));
    for (let at = 0; at < 100; at += 1) peers.push(await mqtt.connectAsync(`mqtt://127.0.0.1:${plant.ports.plain}`, { clientId: `peer-${at}`, username: `peer-${at}`, protocolVersion: 4 }));
    for (const peer of peers) peer.on('error', () => {});
    await until(async () => (await online(plant)).size === all.length);

    const table = new Table({ head: ['broker away', '', 'p50', 'p99', 'last', 'fullest second'], style: { head: [], border: [] } });
    let held = true;
    for (const awayMs of outages) {
      // So long that what was before is over for the devices.
      await sleep(agentComeback.stableMs + 1_000);
      const before = await online(plant);
      await ended(plant.broker, 'SIGTERM');
      await sleep(awayMs);
      const back = { devices: new Map(), peers: new Map() };
      const listening = listens(plant.ports.plain);
      const starting = plant.startBroker();
      const atMs = await listening;
      for (const [at, peer] of peers.entries()) peer.once('connect', () => back.peers.set(at, performance.now() - atMs));
      const limitMs = Math.max(controllerMs, Math.min(agentComeback.maxMs, Math.max(agentComeback.firstMs, awayMs))) + graceMs;
      while (back.devices.size < all.length && performance.now() - atMs < limitMs + 60_000) {
        for (const [id, session] of await online(plant)) if (session > before.get(id) && !back.devices.has(id)) back.devices.set(id, performance.now() - atMs);
        await sleep(50);
      }
      await starting;
      if (back.devices.size < all.length) throw new Error(`${all.length - back.devices.size} of ${all.length} devices are not online again after ${limitMs + 60_000} ms`);
      const of = (ids) => ids.map((id) => back.devices.get(id));
      const away = `${awayMs / 1_000} s`;
      table.push([away, `${count} simulated devices`, ...told(of(swarm.ids))], [away, `${links.length} links of the agent over TLS`, ...told(of(links))], [away, 'the policy by itself, computed', ...told(computed(awayMs, count))], [away, '100 mqtt.js clients, at the broker', ...told([...back.peers.values()])]);
      const last = Math.max(...back.devices.values());
      held &&= last <= limitMs;
      console.log(`away ${away}: the last device after ${(last / 1_000).toFixed(1)} s, at most ${(limitMs / 1_000).toFixed(1)} s: ${last <= limitMs ? 'held' : 'NOT HELD'}`);
    }
    console.log(`${table.toString()}\n${plant.kind}${values.throwaway ? ', fsync off' : ''}; load average before ${load.toFixed(2)}, ${(100 * await stolen()).toFixed(1)} % of the processors taken by the host meanwhile\n${held ? 'PASS' : 'FAIL'}`);
    return held;
  } finally {
    for (const peer of peers) peer.end(true);
    await Promise.all(opened.map((link) => link.stop()));
    await swarm.stop();
    await plant.close();
  }
}

async function openLink(plant, id) {
  const authority = await Authority.loadOrCreate(plant.keys);
  const { certificate, key } = await authority.ownFiles(join(plant.dir, 'keys'), id, { commonName: id, client: true });
  let session = 0;
  const identity = { deviceId: id, ca: authority.certificatePem, certificate, key, mqttUrl: `mqtts://127.0.0.1:${plant.ports.tls}`, gatewayUrl: plant.gatewayUrl, signingKeys: [] };
  const link = new Link({ identity: () => identity, clock: DeviceClock.transient(), nextSession: async () => (session += 1), log: openLogger('bench', 'silent') });
  link.start();
  await once(link, 'up');
  return link;
}

/** Devices that the controller has online, each with the session it knows. */
async function online(plant) {
  const { rows } = await plant.pool.query('SELECT id, session::int AS session FROM devices WHERE online');
  return new Map(rows.map(({ id, session }) => [id, session]));
}

/** @returns when the port took its first connection, milliseconds */
async function listens(port) {
  for (;;) {
    const open = await new Promise((resolve) => {
      const socket = connect(port, '127.0.0.1').once('connect', () => { socket.destroy(); resolve(true); }).once('error', () => resolve(false));
    });
    if (open) return performance.now();
    await sleep(5);
  }
}

/** From the end of an outage to the next try, for devices that do nothing else. */
function computed(awayMs, count) {
  return Array.from({ length: count }, () => {
    const comeback = new Comeback(agentComeback, -agentComeback.stableMs);
    let at = comeback.waitMs(agentComeback.stableMs, 0);
    while (at < awayMs) at += comeback.waitMs(0, at);
    return at - awayMs;
  });
}

async function until(look, timeoutMs = 120_000) {
  for (const end = performance.now() + timeoutMs; !(await look());) {
    if (performance.now() > end) throw new Error(`did not happen within ${timeoutMs} ms`);
    await sleep(100);
  }
}

function told(values) {
  const seconds = (q) => `${(quantile(values, q) / 1_000).toFixed(1)} s`;
  const perSecond = new Map();
  for (const ms of values) perSecond.set(Math.floor(ms / 1_000), (perSecond.get(Math.floor(ms / 1_000)) ?? 0) + 1);
  return [seconds(0.5), seconds(0.99), seconds(1), `${Math.max(...perSecond.values())} of ${values.length}`];
}
