import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Authority, controllerName } from '@reefkeeper/devices';
import { randomOf } from '@reefkeeper/platform/random';
import { Plant } from '../support/swarm/plant.ts';
import { Swarm } from '../support/swarm/swarm.ts';
import { balance, create, fleetSize, orphans, quiet, seed, settled } from './books.ts';
import { MqttProxy, type Weather } from './proxy.ts';

const storm: Weather = { duplicate: 0.2, delayMs: 60, cutMs: 20_000 };
const stormOfController: Weather = { duplicate: 0.1, delayMs: 10, cutMs: 8_000 };

let plant: Plant;
let swarm: Swarm;
let ofDevices: MqttProxy;
let ofController: MqttProxy;

beforeAll(async () => {
  // The controller's way to the broker leads through the proxy, too, which therefore has to be there first: it shows the controller's own certificate to the broker.
  let url = '';
  const draw = randomOf(seed);
  plant = await Plant.open({
    controllerMqttUrl: () => url,
    beforeController: async (started) => {
      const authority = await Authority.loadOrCreate(started.keys);
      const own = await authority.ownFiles(started.keys, 'broker', { commonName: 'reef-broker', hosts: ['localhost', '127.0.0.1'] });
      const client = await authority.ownFiles(started.keys, 'controller', { commonName: controllerName, client: true });
      const tls = { ca: await readFile(join(started.keys, 'ca.pem'), 'utf8'), server: { cert: own.certificate, key: own.key }, client: { cert: client.certificate, key: client.key } };
      ofController = await MqttProxy.open({ upstream: { host: '127.0.0.1', port: started.ports.tls }, weather: stormOfController, random: draw, tls });
      ofDevices = await MqttProxy.open({ upstream: { host: '127.0.0.1', port: started.ports.plain }, weather: storm, random: draw });
      url = `mqtts://127.0.0.1:${ofController.port}`;
    },
  });
  swarm = new Swarm({ port: ofDevices.port, count: fleetSize, prefix: 'coral', seed, windowMs: 5_000 });
  await plant.addDevices(swarm.ids);
});
afterAll(async () => {
  await swarm?.stop();
  await plant?.close();
  await ofDevices?.close();
  await ofController?.close();
});

it(`${fleetSize} devices whose messages come twice, late, in another order, on connections that break`, async () => {
  await plant.addVersion('m', 1);
  await plant.addVersion('m', 2);
  const bad = await plant.addVersion('m', 3);
  await swarm.ask({ kind: 'behave', bad: [bad] });
  // Devices come in through the storm as well; those whose birth is lost are asked.
  await expect.poll(async () => (await plant.pool.query('SELECT count(*)::int AS n FROM devices WHERE capabilities IS NOT NULL')).rows[0].n, { timeout: 120_000, interval: 500 }).toBe(fleetSize);
  const first = await settled(plant, await create(plant, { version: 'm@1', waves: [{ percent: 100 }] }));
  expect(first).toMatchObject({ state: 'SUCCEEDED' });
  // Who is offline at this moment is no canary but is updated all the same.
  const second = await settled(plant, await create(plant, { version: 'm@2', waves: [{ percent: 10 }, { percent: 50 }, { percent: 100 }] }));
  expect(second).toMatchObject({ state: 'SUCCEEDED' });
  expect(second.waves.reduce((sum, { counts }) => sum + counts.SUCCEEDED, 0)).toBe(fleetSize);
  const third = await settled(plant, await create(plant, { version: 'm@3', waves: [{ percent: 10 }, { percent: 100 }] }));
  expect(third).toMatchObject({ state: 'ROLLED_BACK', stateReason: { code: 'install_failures_failed' } });

  for (const proxy of [ofDevices, ofController]) proxy.weather = { duplicate: 0, delayMs: 0, cutMs: null };
  await quiet(plant);
  await balance(plant, swarm);
  for (const [name, { seen }] of Object.entries({ devices: ofDevices, controller: ofController })) {
    process.stdout.write(`${name}: ${seen.messages} messages, ${seen.duplicated} of them twice, ${seen.cut} connections cut\n`);
    expect(seen.duplicated).toBeGreaterThan(0);
    expect(seen.cut).toBeGreaterThan(0);
  }
});

it('leaves no process behind', async () => {
  const { dir } = plant;
  await swarm.stop();
  await plant.close();
  expect(await orphans(dir)).toEqual([]);
});
