import { createHmac, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { AuditEntry, Desired, Devices, devicesSchema, Reports } from '@reefkeeper/devices';
import { ChangeFeed, ManualClock, openLogger } from '@reefkeeper/platform';
import { Sketch, telemetry as message, type Reported, type Telemetry as Window } from '@reefkeeper/protocol';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { testDatabase, type TestDatabase } from '../../../test/support/database.ts';
import { Alerts, AlertWatch, AlertWebhook, deviceAlerts, Silences, Telemetry, telemetrySchema } from './index.ts';

const [good, bad] = ['a'.repeat(64), 'b'.repeat(64)];
const log = openLogger('test', 'silent');

let database: TestDatabase;
let clock: ManualClock;
let devices: Devices;
let reports: Reports;
let telemetry: Telemetry;
let alerts: Alerts;
let silences: Silences;
let watch: AlertWatch;
beforeAll(async () => {
  database = await testDatabase([devicesSchema, telemetrySchema]);
  clock = new ManualClock(new Date('2026-11-28T08:00:00Z'));
  const { db } = database;
  devices = new Devices(db, clock);
  reports = new Reports(db, clock, new Desired(db, clock));
  telemetry = new Telemetry(db, clock);
  alerts = new Alerts(db, clock);
  silences = new Silences(db, clock);
  watch = new AlertWatch(db, clock, deviceAlerts);
});
beforeEach(async () => {
  await database.db.query('TRUNCATE devices, alerts, alert_silences, telemetry_windows CASCADE');
  for (const [id, site] of [['cam-1', 'lyon'], ['cam-2', 'lyon'], ['cam-3', 'paris']]) {
    await database.db.query('INSERT INTO devices (id, labels, enrolled_at, online, session) VALUES ($1, $2, $3, true, 1)', [id, { site }, clock.now()]);
  }
});
afterAll(() => database?.drop());

let seq = 0;
const report = (more: Partial<Reported> = {}): Reported => ({ bootId: 'boot', seq: ++seq, session: 1, observedRevision: null, health: more.conditions?.length ? 'DEGRADED' : 'HEALTHY', conditions: [], workloads: {}, ...more });
const says = (device: string, ...conditions: string[]) => reports.ingest([{ device, report: report({ conditions }) }]);
const runs = (bundle: string | null): Reported['workloads'] => ({ classifier: { running: bundle, variant: 'cpu-int8', backend: 'cpu', previous: null, execution: null } });
/** Sweeps as a worker does, for so long. */
async function pass(s: number, everyS: 2 | 60 | 300 = 2): Promise<void> {
  for (let gone = 0; gone < s; gone += everyS) {
    clock.advance(everyS * 1_000);
    await watch.sweep(everyS);
  }
}
const live = async () => (await alerts.list({ limit: 100 })).items;
const every = async () => (await alerts.list({ limit: 100, states: ['OPEN', 'ACKNOWLEDGED', 'CLOSED'] })).items;

// Case 9 of the field: an agent without an Edge TPU says so, and gets well when one comes. That agents do is tested in apps/agent/src/edgetpu.slow.spec.ts.
describe('no Edge TPU at start', () => {
  it('the alert opens within ten seconds of the report and closes by itself; late and repeated reports change nothing', async () => {
    const ill = report({ conditions: ['NO_ACCELERATOR'] });
    await reports.ingest([{ device: 'cam-1', report: ill }]);
    const reportedAt = clock.now();
    await pass(8);
    const [alert] = await live();
    expect(alert).toMatchObject({ kind: 'device.no_accelerator', subject: 'cam-1', device: 'cam-1', severity: 'warning', state: 'OPEN', times: 1, numbers: { conditions: ['NO_ACCELERATOR'] }, summary: expect.stringContaining('no Edge TPU') as string, advice: expect.stringContaining('reef device ping cam-1') as string });
    expect(alert!.openedAt.getTime() - reportedAt.getTime()).toBeLessThan(10_000);
    await pass(60);
    expect(await live()).toEqual([{ ...alert, lastSeenAt: expect.any(Date) as Date }]);

    const well = report();
    await reports.ingest([{ device: 'cam-1', report: well }]);
    await pass(8);
    expect(await live()).toMatchObject([{ id: alert!.id, goneSince: expect.any(Date) as Date }]);
    await pass(4);
    expect(await live()).toEqual([]);
    // The broker delivers what came before once more.
    expect(await reports.ingest([{ device: 'cam-1', report: ill }, { device: 'cam-1', report: well }])).toEqual([]);
    await pass(30);
    expect(await every()).toMatchObject([{ id: alert!.id, state: 'CLOSED', closedAt: expect.any(Date) as Date }]);
  });

  it('what holds for a moment is nobody\'s business, and a new time soon after counts', async () => {
    await says('cam-1', 'NO_ACCELERATOR');
    await pass(4);
    await says('cam-1');
    await pass(4);
    expect(await every()).toEqual([]);
    expect(await database.db.query('SELECT * FROM alerts')).toEqual([]);
    for (const times of [1, 2]) {
      await says('cam-1', 'NO_ACCELERATOR');
      await pass(10);
      expect(await live()).toMatchObject([{ times }]);
      await says('cam-1');
      await pass(30);
      expect(await live()).toEqual([]);
    }
  });
});

describe('sweeps', () => {
  it('of several workers at once make one alert of each; the database refuses a second', async () => {
    await says('cam-1', 'NO_ACCELERATOR', 'CAMERA_LOST');
    await says('cam-2', 'SOMETHING_NEWER');
    const others = [1, 2, 3].map(() => new AlertWatch(database.db, clock, deviceAlerts));
    for (let round = 0; round < 40; round += 1) {
      clock.advance(2_000);
      await Promise.all(others.map((one) => one.sweep(2)));
    }
    expect((await live()).map(({ kind, subject }) => `${kind} ${subject}`).sort()).toEqual(['device.camera cam-1', 'device.degraded cam-2', 'device.no_accelerator cam-1']);
    await expect(database.db.query(`INSERT INTO alerts (kind, subject, severity, state, since, last_seen_at, summary, advice) VALUES ('device.camera', 'cam-1', 'info', 'OPEN', now(), now(), '', '')`)).rejects.toMatchObject({ driverError: { constraint: 'alerts_live' } });
  });

  it('a device that goes away is offline after two minutes, keeps what it said last, and leaves nothing open when it is retired', async () => {
    await says('cam-1', 'DISK_FULL');
    await devices.presence([{ device: 'cam-1', presence: { online: false, session: 1 } }]);
    await database.db.query("INSERT INTO devices (id, enrolled_at) VALUES ('never-came', now())");
    await pass(118);
    expect((await live()).map(({ kind }) => kind)).toEqual(['device.disk']);
    await pass(4);
    expect((await live()).map(({ kind, severity }) => [kind, severity]).sort()).toEqual([['device.disk', 'critical'], ['device.offline', 'warning']]);
    await devices.retire('cam-1', 'broken', 'ana');
    await pass(64);
    expect(await live()).toEqual([]);
  });

  it('what left a version says which workload and why', async () => {
    const fault = { bundle: bad, failure: { code: 'probation.crashed', message: 'three times' } };
    await reports.ingest([{ device: 'cam-1', report: report({ conditions: ['PROBATION_FAILED', 'CAMERA_LOST'], workloads: { classifier: { ...runs(good).classifier!, fault }, detector: { ...runs(good).classifier!, fault: null } } }) }]);
    await pass(40);
    expect((await live()).map(({ kind, summary, numbers }) => [kind, summary, numbers.faults]).sort()).toEqual([
      ['device.camera', 'cam-1 gets no frames from its camera.', undefined],
      ['device.went_back', 'cam-1 has left a new version in its probation and gone back to the one before (classifier: probation.crashed).', { classifier: 'probation.crashed' }],
    ]);
  });

  it('say when they are late: revisions that a connected device does not take in, certificates that end soon', async () => {
    await database.db.query("INSERT INTO desired (device_id, revision) VALUES ('cam-1', 3)");
    await database.db.query("INSERT INTO certificates (serial, device_id, not_after, issued_at) VALUES ('01', 'cam-2', $1, $2), ('02', 'cam-3', $1, $2), ('03', 'cam-3', $3, $2)", [new Date(clock.now().getTime() + 86_400_000), clock.now(), new Date(clock.now().getTime() + 200 * 86_400_000)]);
    await pass(660, 60);
    expect((await live()).map(({ kind, subject, numbers }) => [kind, subject, numbers.wanted])).toEqual([['device.certificate', 'cam-2', undefined], ['device.behind', 'cam-1', 3]]);
    await reports.ingest([{ device: 'cam-1', report: report({ observedRevision: 3 }) }]);
    await pass(120, 60);
    expect((await live()).map(({ kind }) => kind)).toEqual(['device.certificate']);
  });
});

describe('devices that go away together', () => {
  const names = (site: string, count: number) => Array.from({ length: count }, (_, at) => `${site}-${at}`);
  const present = (ids: string[], online: boolean) => devices.presence(ids.map((device) => ({ device, presence: { online, session: 1 } })));
  const open = async () => (await live()).map(({ kind, subject }) => `${kind} ${subject}`).sort();
  beforeEach(async () => {
    for (const site of ['nantes', 'lille']) await database.db.query("INSERT INTO devices (id, labels, enrolled_at, online, session) SELECT unnest($1::text[]), $2, now(), true, 1", [names(site, 20), { site }]);
  });

  it('are one alert of their site; what was away before keeps its own, and so does what does not come back', async () => {
    const [first, late, ...others] = names('nantes', 20);
    await present([first!], false);
    await pass(124);
    expect(await open()).toEqual([`device.offline ${first}`]);

    // Not all at the same moment: the last of them is away when alerts of the others would be near.
    await present([late!, ...others.slice(0, 8)], false);
    await pass(60);
    await present(others.slice(8), false);
    await pass(40);
    expect(await open()).toEqual([`device.offline ${first}`]);
    await pass(24);
    expect(await open()).toEqual([`device.offline ${first}`, 'site.unreachable site=nantes']);
    await pass(300);
    const [site] = (await live()).filter(({ kind }) => kind === 'site.unreachable');
    expect(await open()).toHaveLength(2);
    expect(site).toMatchObject({ severity: 'critical', device: null, state: 'OPEN', times: 1, numbers: { offline: 19, devices: 19 }, summary: '19 of 19 devices of site=nantes are not connected.' });
    expect(await database.db.query("SELECT count(*)::int AS n FROM alerts WHERE kind = 'device.offline'")).toEqual([{ n: 1 }]);

    // Found by the label, told with it, and silenced with the site.
    expect((await alerts.list({ selector: 'site=nantes', limit: 10 })).items.map(({ kind }) => kind).sort()).toEqual(['device.offline', 'site.unreachable']);
    expect((await alerts.list({ selector: 'site=lille', limit: 10 })).items).toEqual([]);
    const silence = await silences.create({ selector: 'site=nantes', kinds: [], until: new Date(clock.now().getTime() + 3_600_000), reason: 'power cut' }, 'ana');
    expect(silence).toMatchObject({ alerts: 2 });
    expect((await alerts.get(site!.id)).silenced).toBe(true);

    await present(others, true);
    await pass(64);
    expect(await open()).toEqual([`device.offline ${first}`]);
    await pass(70);
    expect(await open()).toEqual([`device.offline ${first}`, `device.offline ${late}`]);
    expect(await alerts.get(site!.id)).toMatchObject({ state: 'CLOSED' });
  });

  it('are one alert of the fleet when it is all of it, not one of each site', async () => {
    const all = (await devices.list({ limit: 100 })).items.map(({ id }) => id);
    await present(all, false);
    await pass(300);
    expect(await open()).toEqual(['fleet.unreachable fleet']);
    expect((await live())[0]).toMatchObject({ summary: '43 of 43 devices are not connected.', numbers: { offline: 43, devices: 43 } });
    const paris = await silences.create({ selector: 'site!=paris', kinds: [], until: new Date(clock.now().getTime() + 3_600_000), reason: 'x' }, 'ana');
    expect(paris).toMatchObject({ alerts: 0 });
    expect(await silences.create({ selector: '', kinds: [], until: new Date(clock.now().getTime() + 3_600_000), reason: 'x' }, 'ana')).toMatchObject({ alerts: 1 });

    // All but one site come back: the cause is another one now.
    await present(all.filter((id) => !id.startsWith('nantes')), true);
    await pass(70);
    expect(await open()).toEqual(['site.unreachable site=nantes']);
    await present(names('nantes', 20), true);
    await pass(70);
    expect(await open()).toEqual([]);
    expect((await every()).map(({ kind }) => kind).sort()).toEqual(['fleet.unreachable', 'site.unreachable']);
  });

  it('are as many alerts as devices where they are few of many', async () => {
    await present(names('nantes', 12), false);
    await pass(124);
    expect(await open()).toEqual(names('nantes', 12).map((id) => `device.offline ${id}`).sort());
  });
});

describe('telemetry', () => {
  const window = (some: Partial<Window>): Window => message.schema.parse({ bootId: 'boot', seq: ++seq, workload: 'classifier', bundle: bad, variant: 'cpu-int8', backend: 'cpu', startedAt: '2026-11-28T08:00:00Z', durationMs: 60_000, inferences: 100, latency: { total: Sketch.of([10_000]).toBase64() }, ...some });
  const sends = (some: Partial<Window>, device = 'cam-1') => telemetry.ingest([{ device, window: window(some) }]);
  const minutes = async (count: number, some: Partial<Window> | null): Promise<void> => {
    for (let n = 0; n < count; n += 1) {
      if (some) await sends(some);
      await pass(60, 60);
    }
  };
  beforeEach(() => reports.ingest([{ device: 'cam-1', report: report({ workloads: runs(bad) }) }, { device: 'cam-2', report: report({ workloads: runs(good) }) }]));

  it('errors of what runs now open an alert with their codes; another version ends it, silence does not', async () => {
    await minutes(2, { errors: { 'inference.failed': 9, 'frame.broken': 1 } });
    await sends({ bundle: good, inferences: 1_000 }, 'cam-2');
    await minutes(1, { errors: { 'inference.failed': 10 } });
    expect(await live()).toMatchObject([{ kind: 'workload.errors', subject: 'cam-1/classifier', device: 'cam-1', workload: 'classifier', severity: 'critical', numbers: { percent: expect.closeTo(10) as number, codes: { 'frame.broken': 2 } }, summary: 'classifier on cam-1 fails on 10.0 % of its frames.' }]);
    await minutes(30, null);
    expect((await live()).map(({ state, goneSince }) => [state, goneSince])).toEqual([['OPEN', null]]);
    await minutes(3, { errors: { 'inference.failed': 10 } });
    await reports.ingest([{ device: 'cam-1', report: report({ workloads: runs(good) }) }]);
    await minutes(7, { bundle: good });
    expect(await live()).toEqual([]);
  });

  it('the same version that takes twice as long on the same device as after its rollout; another variant or a busy tail is not that', async () => {
    const takes = (usTail: number, us: number, more: Partial<Window> = {}) => sends({ inferences: 200, latency: { total: Sketch.of([...Array<number>(180).fill(us), ...Array<number>(20).fill(usTail)]).toBase64() }, ...more });
    const looks = async (count: number, usTail: number, us: number, more: Partial<Window> = {}) => {
      for (let n = 0; n < count; n += 1) {
        await takes(usTail, us, more);
        await pass(300, 300);
      }
    };
    await looks(4, 12_000, 10_000);
    await looks(4, 60_000, 10_000);
    expect(await live()).toEqual([]);
    await looks(4, 60_000, 50_000, { variant: 'edgetpu-14' });
    expect(await live()).toEqual([]);
    await looks(4, 30_000, 25_000);
    expect(await live()).toMatchObject([{ kind: 'workload.latency', subject: 'cam-1/classifier', numbers: { p95Ms: expect.closeTo(30, 0) as number, p95BeforeMs: expect.closeTo(12, 0) as number }, summary: expect.stringMatching(/^classifier on cam-1 takes [23]\d\.\d ms for a frame \(p95\), and took 1[12]\.\d ms after its rollout\.$/) as string }]);
    await looks(5, 12_000, 10_000);
    expect(await live()).toEqual([]);
  });

  it('heat and drift come and go; a workload that is gone takes its alerts along', async () => {
    const ill = { temperatureC: 91, drift: { psi: 0.9, reference: 500, current: 100 } };
    await minutes(8, ill);
    expect((await live()).map(({ kind, subject }) => [kind, subject]).sort()).toEqual([['device.hot', 'cam-1'], ['workload.drift', 'cam-1/classifier']]);
    await minutes(16, { temperatureC: 60, drift: { psi: 0.9, reference: 500, current: 100 } });
    expect((await live()).map(({ kind, numbers }) => [kind, (numbers.psi as number).toFixed(1)])).toEqual([['workload.drift', '0.8']]);
    await reports.ingest([{ device: 'cam-1', report: report() }]);
    await minutes(17, null);
    expect(await live()).toEqual([]);
  });
});

describe('people', () => {
  beforeEach(async () => {
    for (const device of ['cam-1', 'cam-2', 'cam-3']) {
      await says(device, 'NO_ACCELERATOR');
      await pass(2);
    }
    await pass(8);
  });

  it('list by state, kind, device and labels, newest first, in pages', async () => {
    expect((await live()).map(({ device }) => device)).toEqual(['cam-3', 'cam-2', 'cam-1']);
    const of = async (question: Partial<Parameters<Alerts['list']>[0]>) => (await alerts.list({ limit: 10, ...question })).items.map(({ device }) => device);
    expect(await of({ selector: 'site=lyon' })).toEqual(['cam-2', 'cam-1']);
    expect(await of({ device: 'cam-3' })).toEqual(['cam-3']);
    expect(await of({ kind: 'device.offline' })).toEqual([]);
    expect(await of({ states: ['CLOSED'] })).toEqual([]);
    const first = await alerts.list({ limit: 2 });
    expect((await alerts.list({ limit: 2, cursor: first.nextCursor! }))).toMatchObject({ items: [{ device: 'cam-1' }], nextCursor: null });
    await expect(alerts.list({ limit: 2, cursor: 'x' })).rejects.toMatchObject({ code: 'cursor.invalid' });
    expect(await alerts.counts()).toEqual({ open: 3, acknowledged: 0, kinds: [{ kind: 'device.no_accelerator', severity: 'warning', open: 3, acknowledged: 0 }] });
  });

  it('acknowledge all that match at once: by label, by kind, through what they have seen; what others took up stays theirs', async () => {
    for (const device of ['cam-1', 'cam-2', 'cam-3']) await says(device, 'NO_ACCELERATOR', 'CLOCK_WRONG');
    await pass(70);
    const seen = await live();
    expect(seen).toHaveLength(6);
    const mine = seen.find(({ kind, device }) => kind === 'device.clock' && device === 'cam-1')!;
    await alerts.acknowledge(mine.id, 'mine', 'ben');

    const heard: string[] = [];
    const feed = new ChangeFeed(database.url, log);
    feed.onChange(({ kind, id }) => { if (kind === 'alert') heard.push(...id.split(',')); });
    await feed.start();
    try {
      expect(await alerts.acknowledgeAll({ selector: 'site=lyon', kind: 'device.clock' }, 'NTP is down', 'ana')).toBe(1);
      expect((await live()).filter(({ state }) => state === 'ACKNOWLEDGED').map(({ device, kind, acknowledgedBy, note }) => [device, kind, acknowledgedBy, note]).sort()).toEqual([['cam-1', 'device.clock', 'ben', 'mine'], ['cam-2', 'device.clock', 'ana', 'NTP is down']]);
      // Through the second oldest that is open still.
      const open = (await live()).filter(({ state }) => state === 'OPEN').map(({ seq }) => seq).sort((a, b) => a - b);
      expect(await alerts.acknowledgeAll({ throughSeq: open[1]! }, '', 'ana')).toBe(2);
      expect(await alerts.acknowledgeAll({}, '', 'ana')).toBe(2);
      expect(await alerts.acknowledgeAll({}, '', 'ana')).toBe(0);
      expect(await alerts.counts()).toMatchObject({ open: 0, acknowledged: 6 });
      await expect.poll(() => new Set(heard).size).toBe(5);
    } finally {
      await feed.stop();
    }
    expect(await database.db.getRepository(AuditEntry).findBy({ action: 'alert.acknowledge_all' })).toMatchObject([
      { actor: 'ana', subject: 'site=lyon', detail: { kind: 'device.clock', alerts: 1, note: 'NTP is down' } }, { subject: 'all', detail: { alerts: 2, throughSeq: expect.any(Number) as number } }, { subject: 'all', detail: { alerts: 2 } },
    ]);
    await expect(alerts.acknowledgeAll({ selector: 'a b' }, '', 'ana')).rejects.toMatchObject({ code: 'selector.invalid' });
  });

  it('acknowledge with a note, and hear of every change; it closes by itself all the same', async () => {
    const feed = new ChangeFeed(database.url, log);
    await feed.start();
    const heard: string[] = [];
    feed.onChange(({ kind, id }) => { if (kind === 'alert') heard.push(...id.split(',')); });
    const [, , alert] = await live();
    expect(await alerts.acknowledge(alert!.id, 'cable ordered', 'ana')).toMatchObject({ state: 'ACKNOWLEDGED', acknowledgedBy: 'ana', note: 'cable ordered' });
    expect(await database.db.getRepository(AuditEntry).findBy({ subject: alert!.id })).toMatchObject([{ actor: 'ana', action: 'alert.acknowledge', detail: { note: 'cable ordered' } }]);
    await pass(62);
    expect(await alerts.get(alert!.id)).toMatchObject({ state: 'ACKNOWLEDGED', note: 'cable ordered' });
    await says('cam-1');
    await pass(14);
    expect(await alerts.get(alert!.id)).toMatchObject({ state: 'CLOSED', note: 'cable ordered' });
    await expect(alerts.acknowledge(alert!.id, '', 'ana')).rejects.toMatchObject({ code: 'alert.closed', kind: 'conflict' });
    await expect(alerts.acknowledge('00000000-0000-4000-8000-000000000000', '', 'ana')).rejects.toMatchObject({ code: 'alert.missing' });
    await expect.poll(() => heard).toEqual([alert!.id, alert!.id]);
    await feed.stop();
    expect(await alerts.sweep(86_400)).toBe(0);
    clock.advance(2 * 86_400_000);
    expect(await alerts.sweep(86_400)).toBe(1);
    expect((await every()).length).toBe(2);
  });

  it('silence devices that match until a time', async () => {
    const until = new Date(clock.now().getTime() + 60_000);
    const made = await silences.create({ selector: 'site=lyon', kinds: [], until, reason: 'new switch' }, 'ana');
    expect(made).toMatchObject({ active: true, alerts: 2, createdBy: 'ana' });
    expect((await live()).map(({ device, silenced }) => [device, silenced])).toEqual([['cam-3', false], ['cam-2', true], ['cam-1', true]]);
    await silences.create({ selector: '', kinds: ['device.offline'], until, reason: 'other kind' }, 'ana');
    expect((await live()).map(({ silenced }) => silenced)).toEqual([false, true, true]);
    expect(await silences.lift(made.id, 'bob')).toMatchObject({ active: false, liftedBy: 'bob' });
    expect((await live()).some(({ silenced }) => silenced)).toBe(false);
    await expect(silences.lift(made.id, 'bob')).rejects.toMatchObject({ code: 'silence.over' });
    await expect(silences.create({ selector: '', kinds: [], until: new Date(0), reason: 'x' }, 'ana')).rejects.toMatchObject({ code: 'silence.over' });
    await expect(silences.create({ selector: 'a b', kinds: [], until, reason: 'x' }, 'ana')).rejects.toMatchObject({ code: 'selector.invalid' });
    expect((await silences.list()).map(({ reason }) => reason)).toEqual(['other kind']);
    expect((await silences.list(true)).length).toBe(2);
    expect((await database.db.getRepository(AuditEntry).findBy({ subject: made.id })).map(({ action }) => action)).toEqual(['silence.create', 'silence.lift']);
  });
});

describe('the webhook', () => {
  const key = randomBytes(24);
  let server: Server;
  let answers: number[];
  const taken: { headers: IncomingHttpHeaders; text: string; body: any }[] = [];
  let url: string;
  beforeAll(async () => {
    server = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk)).on('end', () => {
        const text = Buffer.concat(chunks).toString();
        taken.push({ headers: request.headers, text, body: JSON.parse(text) });
        response.writeHead(answers.shift() ?? 200).end();
      });
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/alerts?team=edge`;
  });
  beforeEach(() => { answers = []; });
  afterEach(() => { taken.length = 0; });
  afterAll(() => { server.closeAllConnections(); server.close(); });
  const webhook = (more: object = {}) => new AlertWebhook(database.db, clock, log, { url, secret: `whsec_${key.toString('base64')}`, consoleUrl: 'https://reef.example', ...more });
  const told = () => taken.map(({ body }) => [body.status, body.alerts.map(({ labels }: { labels: { device: string } }) => labels.device).sort().join(',')]);

  it('is told of opening and closing, again and again until it takes it, signed, and then never again', async () => {
    const hook = webhook();
    answers = [500, 503];
    await says('cam-1', 'NO_ACCELERATOR');
    await says('cam-2', 'NO_ACCELERATOR');
    await pass(8);
    expect(await hook.deliver()).toBe(0);
    expect(await hook.deliver()).toBe(0);
    expect(taken.length).toBe(1);
    clock.advance(2_000);
    expect(await hook.deliver()).toBe(0);
    clock.advance(2_000);
    expect(await hook.deliver()).toBe(0);
    clock.advance(2_000);
    expect(await hook.deliver()).toBe(2);
    expect(await hook.deliver()).toBe(0);
    expect(told()).toEqual([['firing', 'cam-1,cam-2'], ['firing', 'cam-1,cam-2'], ['firing', 'cam-1,cam-2']]);
    expect(new Set(taken.map(({ headers }) => headers['webhook-id'])).size).toBe(1);
    const { headers, text, body } = taken[2]!;
    expect(headers['webhook-signature']).toBe(`v1,${createHmac('sha256', key).update(`${String(headers['webhook-id'])}.${String(headers['webhook-timestamp'])}.${text}`).digest('base64')}`);
    const [alert] = (await live()).toReversed();
    expect(body).toMatchObject({ version: '4', commonLabels: { alertname: 'device.no_accelerator', severity: 'warning', label_site: 'lyon' } });
    expect(body.alerts.find(({ labels }: { labels: { device: string } }) => labels.device === 'cam-1')).toMatchObject({ startsAt: alert!.openedAt.toISOString(), endsAt: '0001-01-01T00:00:00Z', generatorURL: `https://reef.example/alerts/${alert!.id}`, annotations: { summary: alert!.summary } });

    await says('cam-1');
    await pass(14);
    expect(await hook.deliver()).toBe(1);
    expect(taken[3]!.body).toMatchObject({ status: 'resolved', alerts: [{ labels: { device: 'cam-1' }, startsAt: alert!.openedAt.toISOString(), endsAt: (await every()).find(({ state }) => state === 'CLOSED')!.closedAt!.toISOString() }] });
    await pass(60);
    expect(await hook.deliver()).toBe(0);
  });

  it('several workers tell it once; one that dies in between leaves it to the others', async () => {
    await says('cam-1', 'NO_ACCELERATOR');
    await pass(8);
    expect((await Promise.all([webhook().deliver(), webhook().deliver(), webhook().deliver()])).reduce((sum, n) => sum + n, 0)).toBe(1);
    await says('cam-2', 'NO_ACCELERATOR');
    await pass(8);
    // Claimed, and never heard of again.
    await database.db.query("UPDATE alerts SET tell_tries = 1, tell_after = $1 WHERE subject = 'cam-2'", [new Date(clock.now().getTime() + 40_000)]);
    expect(await webhook().deliver()).toBe(0);
    clock.advance(41_000);
    expect(await webhook().deliver()).toBe(1);
    expect(told()).toEqual([['firing', 'cam-1'], ['firing', 'cam-2']]);
  });

  it('what ended while it could not be told is told as ended; nobody there is like a refusal', async () => {
    await says('cam-1', 'NO_ACCELERATOR');
    await pass(8);
    expect(await webhook({ url: 'http://127.0.0.1:9/' }).deliver()).toBe(0);
    await says('cam-1');
    await pass(14);
    expect(await webhook().deliver()).toBe(1);
    expect(told()).toEqual([['resolved', 'cam-1']]);
  });

  it('a silence holds back what opens, not what ends; what is still open afterwards is told then', async () => {
    await says('cam-1', 'NO_ACCELERATOR');
    await pass(8);
    await webhook().deliver();
    await silences.create({ selector: 'site=lyon', kinds: [], until: new Date(clock.now().getTime() + 120_000), reason: 'new switch' }, 'ana');
    await says('cam-1');
    await says('cam-2', 'NO_ACCELERATOR');
    await pass(14);
    expect(await webhook().deliver()).toBe(1);
    expect(told()).toEqual([['firing', 'cam-1'], ['resolved', 'cam-1']]);
    clock.advance(120_000);
    expect(await webhook().deliver()).toBe(1);
    expect(told().at(-1)).toEqual(['firing', 'cam-2']);
  });

  it('a receiver that is down is asked once a round, however much there is to tell; one that refuses a kind hears of the others', async () => {
    const many = (kind: string, count: number) => database.db.query("INSERT INTO alerts (kind, subject, severity, state, since, opened_at, last_seen_at, summary, advice) SELECT $1, 'x' || g, 'warning', 'OPEN', $3, $3, $3, 's', 'a' FROM generate_series(1, $2::int) g", [kind, count, clock.now()]);
    await many('device.offline', 250);
    await many('device.hot', 1);
    answers = [503];
    expect(await webhook().deliver()).toBe(0);
    expect(taken.length).toBe(1);
    clock.advance(60_000);
    answers = [400];
    expect(await webhook().deliver()).toBeGreaterThan(100);
    expect(taken.slice(1).map(({ body }) => `${body.commonLabels.alertname} ${body.alerts.length}`).sort()).toEqual(['device.hot 1', 'device.offline 100', 'device.offline 100', 'device.offline 50']);
    clock.advance(60_000);
    await webhook().deliver();
    expect(await database.db.query("SELECT told, count(*)::int AS n FROM alerts GROUP BY told")).toEqual([{ told: 'firing', n: 251 }]);
    // What was closed long ago, before there was a webhook, is nobody's concern.
    await database.db.query("UPDATE alerts SET state = 'CLOSED', closed_at = $1, told = 'nothing'", [clock.now()]);
    expect(await webhook().deliver()).toBe(0);
  });

  it('a receiver that does not answer is given up for the time being', async () => {
    const deaf = createServer(() => {}).listen(0, '127.0.0.1');
    await once(deaf, 'listening');
    await says('cam-1', 'NO_ACCELERATOR');
    await pass(8);
    expect(await webhook({ url: `http://127.0.0.1:${(deaf.address() as AddressInfo).port}/`, timeoutMs: 100 }).deliver()).toBe(0);
    deaf.closeAllConnections();
    deaf.close();
  });
});
