import { randomUUID } from 'node:crypto';
import { Commands, Desired, Devices } from '@reefkeeper/devices';
import { command, commandResult, desired, parseTopic, presence, reported, Sketch, telemetry, type Desired as DesiredMessage, type Reported, type Telemetry as Window } from '@reefkeeper/protocol';
import { Telemetry } from '@reefkeeper/telemetry';
import type { MqttClient } from 'mqtt';
import { register } from 'prom-client';
import { DataSource } from 'typeorm';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { openHarness, type Harness, type TestDevice } from './harness.fixture.ts';

let world: Harness;
let devices: Devices;
let device: TestDevice;
let client: MqttClient;
const told: DesiredMessage[] = [];
const bundle = 'ab'.repeat(32);
const patience = { timeout: 20_000 };

beforeAll(async () => {
  world = await openHarness();
  devices = world.app.get(Devices, { strict: false });
  device = await world.enrol('cam-1');
  client = await born(device, 1);
});
afterAll(() => world?.close());

/** A device as the protocol wants it: will, subscriptions, birth, then its report. */
async function born(who: TestDevice, session: number): Promise<MqttClient> {
  const made = await world.connect(who, { will: { topic: presence.topicFor(who.id), payload: presence.encode({ online: false, session }), qos: 1, retain: true } });
  made.on('message', (topic, payload) => {
    const decoded = topic === desired.topicFor(who.id) ? desired.decode(payload) : undefined;
    if (decoded?.ok) told.push(decoded.body);
  });
  await made.subscribeAsync([desired.topicFor(who.id), command.topicFor(who.id)], { qos: 1 });
  await made.publishAsync(presence.topicFor(who.id), presence.encode({ online: true, session }), { qos: 1, retain: true });
  return made;
}

const report = (more: Partial<Reported> = {}): Buffer => reported.encode({ bootId: 'b', seq: 1, session: 1, observedRevision: null, health: 'HEALTHY', conditions: [], workloads: {}, ...more });
const say = (topic: string, payload: Buffer | string, from = client) => from.publishAsync(topic, payload, { qos: 1 });
const want = (id: string, digest: string) => world.app.get(DataSource).transaction((tx) => world.app.get(Desired, { strict: false }).assign(tx, { deviceIds: [id], workload: 'classifier', target: { bundle: digest, versionId: null, variantOf: () => 'cpu-int8', policy: { cpuFallback: true, observeS: 1, timeoutS: 60 } } }));
const metric = async (name: string, labels: Record<string, string>) => {
  const { values } = (await register.getSingleMetric(name)!.get()) as { values: { value: number; labels: Record<string, unknown> }[] };
  return values.find((one) => Object.entries(labels).every(([key, value]) => one.labels[key] === value))?.value ?? 0;
};
const window = (seq: number): Window => ({
  bootId: 'b', seq, workload: 'classifier', bundle, variant: 'cpu-int8', backend: 'cpu', startedAt: '2026-11-25T08:00:00.000Z', durationMs: 1_000, inferences: 10, errors: {},
  latency: { total: Sketch.of([5_000]).toBase64() }, labelled: 0, correct: 0, temperatureC: null,
});

it('birth, reports and will become the device\'s state', async () => {
  await expect.poll(() => devices.get('cam-1'), patience).toMatchObject({ online: true, session: 1 });
  await say(reported.topicFor('cam-1'), report({ seq: 2, observedRevision: 0 }));
  await say(reported.topicFor('cam-1'), report({ seq: 1, health: 'DEGRADED' }));
  await expect.poll(() => devices.get('cam-1'), patience).toMatchObject({ reported: { seq: 2, health: 'HEALTHY' } });
  const other = await world.enrol('cam-2');
  const second = await born(other, 7);
  await expect.poll(() => devices.get('cam-2'), patience).toMatchObject({ online: true, session: 7 });
  second.options.reconnectPeriod = 0;
  second.stream.destroy();
  await expect.poll(() => devices.get('cam-2'), patience).toMatchObject({ online: false, session: 7 });
});

it('wanted state goes out at the hint, is retained for whoever comes later, and again to a device born without it', async () => {
  await want('cam-1', bundle);
  await expect.poll(() => told.at(-1), patience).toMatchObject({ revision: 1, workloads: { classifier: { bundle, manifestUrl: `/v1/bundles/${bundle}` } } });
  await expect.poll(() => devices.get('cam-1'), patience).toMatchObject({ desired: { revision: 1, publishedRevision: 1 } });
  const before = told.length;
  await say(reported.topicFor('cam-1'), report({ seq: 3, capabilities: { agentVersion: '1', tfliteVersion: null, edgetpuRuntime: null, edgetpus: [], hostClass: 'x86-64', arch: 'x64', memoryBytes: 1 } }));
  await expect.poll(() => told.length, patience).toBeGreaterThan(before);

  await want('cam-2', bundle);
  await expect.poll(() => devices.get('cam-2'), patience).toMatchObject({ desired: { publishedRevision: 1 } });
  const late = await world.connect({ ...(await world.enrol('cam-2')), id: 'cam-2' }, { clean: true });
  const first = new Promise<{ payload: Buffer; retain: boolean }>((resolve) => { late.on('message', (_topic, payload, { retain }) => resolve({ payload, retain })); });
  await late.subscribeAsync(desired.topicFor('cam-2'), { qos: 1 });
  expect((await first).retain).toBe(true);
  expect(desired.decode((await first).payload)).toMatchObject({ ok: true, body: { revision: 1 } });
});

it('telemetry is stored once, however often it is delivered', async () => {
  await Promise.all(Array.from({ length: 60 }, (_, n) => say(telemetry.topicFor('cam-1'), telemetry.encode(window(n % 40)))));
  const stored = world.app.get(Telemetry, { strict: false });
  await expect.poll(async () => (await stored.latest('cam-1', 100)).length, patience).toBe(40);
  expect((await stored.healthOf(['cam-1'], { workload: 'classifier' })).get('cam-1')).toMatchObject({ inferences: 400 });
});

it('nonsense is counted and dropped; the good among it arrives', async () => {
  for (const payload of ['', '{', '[]', '{"bootId":7}', Buffer.from([0xff, 0xfe]), JSON.stringify({ online: 'yes' }), JSON.stringify({ ...window(900), variant: 'nul\u0000' }), 'x'.repeat(300_000)]) {
    for (const message of [reported, telemetry]) await say(message.topicFor('cam-1'), payload);
    await say(commandResult.topicFor('cam-1', 'nope'), payload);
  }
  await say(telemetry.topicFor('cam-1'), telemetry.encode(window(901)));
  await say(reported.topicFor('cam-1'), report({ seq: 50 }));
  await expect.poll(async () => (await world.app.get(Telemetry, { strict: false }).latest('cam-1', 100)).some(({ seq }) => seq === 901), patience).toBe(true);
  await expect.poll(() => devices.get('cam-1'), patience).toMatchObject({ reported: { seq: 50 } });
  await expect.poll(() => metric('reef_mqtt_received_total', { message: 'reported', outcome: 'malformed' }), patience).toBe(8);
  await expect.poll(() => metric('reef_mqtt_received_total', { message: 'telemetry', outcome: 'refused' }), patience).toBe(1);
  await expect.poll(() => metric('reef_mqtt_in_flight', { session: 'telemetry' }), patience).toBe(0);
});

it('a device speaks for itself only', async () => {
  const liar = await world.enrol('cam-3');
  const theirs = await world.connect(liar, { reconnectPeriod: 0 });
  const closed = new Promise((resolve) => { theirs.once('close', () => resolve(true)); });
  theirs.publish(presence.topicFor('cam-1'), presence.encode({ online: false, session: 99 }), { qos: 1, retain: true });
  expect(await closed).toBe(true);
  const spy = await world.connect(liar);
  expect((await spy.subscribeAsync([desired.topicFor('cam-1')], { qos: 1 }).catch((error: Error) => error.message))).toContain('Unspecified error');
  expect(await devices.get('cam-1')).toMatchObject({ online: true });
});

it('commands go out, are answered, and the answer is kept', async () => {
  client.on('message', (topic, payload) => {
    const address = parseTopic(topic);
    const decoded = address?.path === 'cmd/{id}' ? command.decode(payload) : undefined;
    if (decoded?.ok) void say(commandResult.topicFor('cam-1', decoded.body.id), commandResult.encode({ id: decoded.body.id, ok: true, result: { kind: decoded.body.kind, runs: decoded.body.args.runs } }));
  });
  const { body, status } = await world.call('POST', '/api/v1/devices/cam-1/commands', { kind: 'bench', args: { runs: 3 } });
  expect(status).toBe(202);
  await expect.poll(async () => (await world.call('GET', `/api/v1/devices/cam-1/commands/${body.id}`)).body, patience).toMatchObject({ state: 'SUCCEEDED', answer: { ok: true, result: { kind: 'bench', runs: 3 } }, createdBy: 'first admin' });
});

it('a command that was left behind by whoever made it goes out with a sweep', async () => {
  // As another replica leaves it that died between its commit and its broker.
  const id = randomUUID();
  await world.database.db.query("INSERT INTO device_commands (id, device_id, kind, args, state, created_by, created_at, expires_at) VALUES ($1, 'cam-1', 'ping', '{}', 'QUEUED', 'ana', now() - interval '3 s', now() + interval '1 min')", [id]);
  await expect.poll(async () => (await world.call('GET', `/api/v1/devices/cam-1/commands/${id}`)).body, patience).toMatchObject({ state: 'SUCCEEDED', answer: { ok: true } });
});

it('a command to a device that is away is sent once, and waits for it at the broker', async () => {
  const { id: away } = await world.enrol('cam-5');
  const { body } = await world.call('POST', `/api/v1/devices/${away}/commands`, { kind: 'ping' });
  expect(body).toMatchObject({ state: 'QUEUED', deviceId: away });
  await expect.poll(async () => (await world.call('GET', `/api/v1/devices/${away}/commands/${body.id}`)).body, patience).toMatchObject({ state: 'SENT' });
});

it('a message is acknowledged after its effect is stored, also when the database drops the connection meanwhile', async () => {
  const { db } = world.database;
  const lock = db.createQueryRunner();
  await lock.startTransaction();
  await lock.query('LOCK TABLE telemetry_windows');
  await say(telemetry.topicFor('cam-1'), telemetry.encode(window(1_000)));
  const blocked = () => db.query<{ pid: number }[]>("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'");
  await expect.poll(blocked, patience).toHaveLength(1);
  expect(await metric('reef_mqtt_in_flight', { session: 'telemetry' })).toBe(1);
  const [{ pid }] = (await blocked()) as [{ pid: number }];
  await db.query('SELECT pg_terminate_backend($1)', [pid]);
  await expect.poll(async () => (await blocked())[0]?.pid ?? pid, patience).not.toBe(pid);
  await lock.commitTransaction();
  await lock.release();
  await expect.poll(async () => (await world.app.get(Telemetry, { strict: false }).latest('cam-1', 200)).some(({ seq }) => seq === 1_000), patience).toBe(true);
  await expect.poll(() => metric('reef_mqtt_in_flight', { session: 'telemetry' }), patience).toBe(0);
});

it('survives a broker that is restarted and has forgotten everything', async () => {
  await world.restartBroker();
  await want('cam-1', 'cd'.repeat(32));
  await expect.poll(() => devices.get('cam-1'), patience).toMatchObject({ desired: { revision: 2, publishedRevision: 2 } });
  await expect.poll(() => client.connected, patience).toBe(true);
  // The same device in its next session; two connections of one id would throw each other out for ever.
  await client.endAsync(true);
  client = await born({ ...device }, 2);
  await expect.poll(() => told.at(-1), patience).toMatchObject({ revision: 2 });
  await say(reported.topicFor('cam-1'), report({ seq: 60 }));
  await expect.poll(() => devices.get('cam-1'), patience).toMatchObject({ online: true, session: 2, reported: { seq: 60 } });
  expect((await world.call('GET', '/readyz')).body).toMatchObject({ broker: 'connected' });
});

it('a retired device is told to run nothing and thrown out', async () => {
  const leaving = await world.enrol('cam-4');
  const last: DesiredMessage[] = [];
  const theirs = await world.connect(leaving, { reconnectPeriod: 0 });
  theirs.on('message', (_topic, payload) => { const decoded = desired.decode(payload); if (decoded.ok) last.push(decoded.body); });
  await theirs.subscribeAsync(desired.topicFor('cam-4'), { qos: 1 });
  await want('cam-4', bundle);
  await expect.poll(() => last.at(-1), patience).toMatchObject({ revision: 1 });
  const closed = new Promise((resolve) => { theirs.once('close', () => resolve(true)); });
  await world.call('DELETE', '/api/v1/devices/cam-4');
  expect(await closed).toBe(true);
  expect(last.at(-1)).toMatchObject({ revision: 2, workloads: {} });
  expect(world.broker.names()).not.toContain('cam-4');
  expect(await world.app.get(Commands, { strict: false }).queued(10, new Date())).toEqual([]);
});
