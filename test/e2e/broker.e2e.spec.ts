import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import getPort from 'get-port';
import mqtt, { type IClientOptions, type MqttClient } from 'mqtt';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Authority, controllerName } from '@reefkeeper/devices';
import { commandResult, desired, presence, reported, telemetry } from '@reefkeeper/protocol';
import { eventually } from '../support/fleet.ts';

// The embedded broker as `reef up` runs it. Each test starts where the one before has left it.
let dir: string;
let authority: Authority;
let port: number;
let broker: ChildProcess;
const clients: MqttClient[] = [];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'reef-broker-'));
  authority = await Authority.loadOrCreate(dir);
  port = await getPort();
  await start();
});
afterAll(async () => {
  for (const client of clients) client.end(true);
  broker.kill('SIGKILL');
  await rm(dir, { recursive: true });
});

async function start(): Promise<void> {
  const files = await authority.ownFiles(dir, 'broker', { commonName: 'reef-broker', hosts: ['127.0.0.1'] });
  broker = spawn(process.execPath, [join(import.meta.dirname, '../../apps/cli/dist/up/broker-main.js')], {
    stdio: ['ignore', 'pipe', 'ignore'], env: { ...process.env, BROKER_PORT: `${port}`, BROKER_CA: join(dir, 'ca.pem'), BROKER_CERT: files.certificateFile, BROKER_KEY: files.keyFile, BROKER_CRL: join(dir, 'crl.pem') },
  });
  await once(broker.stdout!, 'data');
}

async function identity(name: string): Promise<IClientOptions & { certificate: string }> {
  const { certificate, key } = await authority.ownFiles(dir, name, { commonName: name, client: true });
  return { ca: authority.certificatePem, cert: certificate, key, certificate };
}

async function connect(name: string, more: IClientOptions = {}): Promise<MqttClient> {
  const client = mqtt.connect(`mqtts://127.0.0.1:${port}`, { ...(await identity(name)), clientId: name, clean: false, protocolVersion: 4, reconnectPeriod: 0, connectTimeout: 15_000, ...more });
  clients.push(client);
  client.on('error', () => {});
  await new Promise<void>((resolve, reject) => {
    client.once('connect', () => resolve());
    client.once('error', reject);
    client.once('close', () => reject(new Error('closed')));
  });
  return client;
}

const filters = [reported, presence, telemetry, commandResult].map(({ filter }) => filter);
const heard: string[] = [];

async function controller(): Promise<MqttClient> {
  const client = await connect(controllerName, { clientId: 'reef-controller-one' });
  client.on('message', (topic) => heard.push(topic));
  await client.subscribeAsync(filters, { qos: 1 });
  return client;
}

it('lets a device in when the controller listens, so that nothing a device says first is lost', async () => {
  let inside = false;
  const device = connect('coral-1').then((client) => { inside = true; return client; });
  await new Promise((resolve) => { setTimeout(resolve, 500); });
  expect(inside).toBe(false);
  await controller();
  await (await device).publishAsync(reported.topicFor('coral-1'), '{}', { qos: 1 });
  await eventually(() => heard.includes(reported.topicFor('coral-1')));
});

it('keeps what devices say while the controller is away', async () => {
  const first = clients.find(({ options }) => options.clientId === 'reef-controller-one')!;
  await first.endAsync(true);
  const device = clients.find(({ options, connected }) => options.clientId === 'coral-1' && connected)!;
  await device.publishAsync(telemetry.topicFor('coral-1'), '{}', { qos: 1 });
  await controller();
  await eventually(() => heard.includes(telemetry.topicFor('coral-1')));
});

it.each([
  ['another client id than its own name', async () => connect('coral-2', { clientId: 'coral-1' })],
  ['a will in the name of another', async () => connect('coral-2', { will: { topic: presence.topicFor('coral-1'), payload: Buffer.from('{}'), qos: 1, retain: true } })],
  ['no certificate', async () => connect('coral-2', { cert: undefined as never, key: undefined as never })],
])('refuses %s', async (_what, attempt) => {
  await expect(attempt()).rejects.toThrow();
});

it('a device hears its own wanted state and nobody else\'s, and speaks for itself only', async () => {
  const device = await connect('coral-3');
  const granted = await device.subscribeAsync([desired.topicFor('coral-3'), desired.topicFor('coral-1'), '#'], { qos: 1 }).catch((error: unknown) => error);
  expect(JSON.stringify(granted)).toMatch(/128|refused|error/i);
  const closed = new Promise<void>((resolve) => { device.once('close', () => resolve()); });
  device.publish(reported.topicFor('coral-1'), '{}', { qos: 1 });
  await closed;
});

it('says that a device died when its connection breaks', async () => {
  const device = await connect('coral-4', { will: { topic: presence.topicFor('coral-4'), payload: Buffer.from('{}'), qos: 1, retain: true } });
  device.stream.destroy();
  await eventually(() => heard.includes(presence.topicFor('coral-4')));
});

it('refuses a revoked certificate from the moment the list is written', async () => {
  const { X509Certificate } = await import('node:crypto');
  const { certificate } = await identity('coral-5');
  await (await connect('coral-5')).endAsync();
  await writeFile(join(dir, 'crl.pem'), await authority.revocationList([{ serial: new X509Certificate(certificate).serialNumber.toLowerCase(), revokedAt: new Date() }]));
  await expect(connect('coral-5')).rejects.toThrow();
  await (await connect('coral-6')).endAsync();
});
