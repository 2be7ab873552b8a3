import { ManualClock, openLogger, ChangeFeed } from '@reefkeeper/platform';
import type { Reported } from '@reefkeeper/protocol';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { testDatabase, type TestDatabase } from '../../../test/support/database.ts';
import { ApiTokens, AuditEntry, Commands, Desired, Devices, devicesSchema, Reports } from './index.ts';

const [good, better] = ['a'.repeat(64), 'b'.repeat(64)];
const policy = { cpuFallback: true, observeS: 10, timeoutS: 600 };

let database: TestDatabase;
let clock: ManualClock;
let devices: Devices;
let desired: Desired;
let reports: Reports;
let commands: Commands;

beforeAll(async () => {
  database = await testDatabase([devicesSchema]);
  clock = new ManualClock(new Date('2026-11-25T08:00:00Z'));
  const { db } = database;
  devices = new Devices(db, clock);
  desired = new Desired(db, clock);
  reports = new Reports(db, clock, desired);
  commands = new Commands(db, clock);
});
afterAll(() => database?.drop());
beforeEach(async () => {
  await database.db.query('TRUNCATE devices CASCADE');
  for (const [id, labels] of Object.entries({ 'lyon-1': { site: 'lyon', line: 'a' }, 'lyon-2': { site: 'lyon', line: 'b' }, 'paris-1': { site: 'paris' } })) {
    await database.db.query('INSERT INTO devices (id, labels, enrolled_at) VALUES ($1, $2, $3)', [id, labels, clock.now()]);
  }
});

const assign = (ids: string[], bundle: string, rollback = false) =>
  database.db.transaction((tx) => desired.assign(tx, { deviceIds: ids, workload: 'classifier', target: { bundle, versionId: null, variantOf: (id) => `cpu-${id}`, policy, rollback } }));
const report = (more: Partial<Reported> = {}): Reported => ({ bootId: 'boot-1', seq: 1, session: 1, observedRevision: null, health: 'HEALTHY', conditions: [], workloads: {}, ...more });
const news = async (one: Reported, device = 'lyon-1'): Promise<boolean> => (await reports.ingest([{ device, report: one }])).includes(device);

describe('devices', () => {
  it('are selected by labels in the database as in memory', async () => {
    expect(await devices.select('')).toEqual(['lyon-1', 'lyon-2', 'paris-1']);
    expect(await devices.select('site=lyon,line notin (b)')).toEqual(['lyon-1']);
    expect(await devices.select('!line')).toEqual(['paris-1']);
    expect(await devices.select('line!=a')).toEqual(['lyon-2', 'paris-1']);
    await expect(devices.select('site in')).rejects.toMatchObject({ code: 'selector.invalid' });
  });

  it('come in pages', async () => {
    const first = await devices.list({ limit: 2 });
    expect(first).toMatchObject({ items: [{ id: 'lyon-1' }, { id: 'lyon-2' }], nextCursor: 'lyon-2' });
    expect(await devices.list({ limit: 2, cursor: first.nextCursor! })).toMatchObject({ items: [{ id: 'paris-1', desired: { revision: 0 }, reported: null }], nextCursor: null });
  });

  it('keep only labels that a selector can name, and remember who set them', async () => {
    await devices.label('paris-1', { site: 'lyon' }, 'ana');
    expect(await devices.select('site=lyon')).toContain('paris-1');
    await expect(devices.label('paris-1', { 'no spaces': 'x' }, 'ana')).rejects.toMatchObject({ code: 'labels.invalid' });
    await expect(devices.label('nobody', {}, 'ana')).rejects.toMatchObject({ code: 'device.unknown' });
    expect(await database.db.getRepository(AuditEntry).find({ where: { subject: 'paris-1' } })).toMatchObject([{ actor: 'ana', action: 'device.label', detail: { labels: { site: 'lyon' } } }]);
  });

  it('a will that arrives after the next birth changes nothing', async () => {
    await devices.presence([{ device: 'lyon-1', presence: { online: true, session: 4 } }]);
    await devices.presence([{ device: 'lyon-1', presence: { online: true, session: 5 } }]);
    await devices.presence([{ device: 'lyon-1', presence: { online: false, session: 4 } }]);
    expect(await devices.get('lyon-1')).toMatchObject({ online: true, session: 5 });
    await devices.presence([{ device: 'lyon-1', presence: { online: false, session: 5 } }]);
    expect(await devices.list({ limit: 10, online: true })).toMatchObject({ items: [] });
  });

  it('of which the broker knows nothing are taken for offline', async () => {
    for (const id of ['lyon-1', 'lyon-2']) await devices.presence([{ device: id, presence: { online: true, session: 1 } }]);
    expect(await devices.absent(['lyon-2'])).toEqual(['lyon-1']);
    expect(await devices.list({ limit: 10, online: true })).toMatchObject({ items: [{ id: 'lyon-2' }] });
  });

  it('retire for good: nothing wanted, nothing selected, nothing heard', async () => {
    await assign(['lyon-1'], good);
    await database.db.query("INSERT INTO certificates (serial, device_id, not_after, issued_at) VALUES ('4a', 'lyon-1', now(), now())");
    expect(await devices.mayConnect('lyon-1', '4A')).toBe(true);
    expect(await devices.mayConnect('lyon-2', '4A')).toBe(false);
    await devices.retire('lyon-1', 'broken', 'ana');
    expect(await devices.mayConnect('lyon-1', '4A')).toBe(false);
    expect(await devices.select('')).toEqual(['lyon-2', 'paris-1']);
    expect((await desired.messages(['lyon-1']))[0]!.message).toMatchObject({ revision: 2, workloads: {} });
    expect(await news(report())).toBe(false);
    expect(await devices.revoked()).toMatchObject([{ serial: '4a' }]);
    await expect(devices.retire('lyon-1', 'again', 'ana')).rejects.toMatchObject({ code: 'device.unknown' });
  });
});

describe('wanted state', () => {
  it('has a strictly rising revision per device and remembers what was wanted before', async () => {
    expect(await assign(['lyon-1', 'lyon-2', 'nobody'], good)).toEqual(new Map([['lyon-1', 1], ['lyon-2', 1]]));
    expect(await assign(['lyon-1'], better)).toEqual(new Map([['lyon-1', 2]]));
    const [told] = await desired.messages(['lyon-1']);
    expect(told!.message).toMatchObject({ revision: 2, workloads: { classifier: { bundle: better, manifestUrl: `/v1/bundles/${better}`, variant: 'cpu-lyon-1', rollbackTo: good, rollback: false } } });
  });

  it('asked for again still goes back to the version before, and a rollback never to what it left', async () => {
    await assign(['lyon-1'], good);
    await assign(['lyon-1'], better);
    await assign(['lyon-1'], better);
    expect((await desired.messages(['lyon-1']))[0]!.message.workloads.classifier).toMatchObject({ bundle: better, rollbackTo: good });
    await assign(['lyon-1'], good, true);
    expect((await desired.messages(['lyon-1']))[0]!.message.workloads.classifier).toMatchObject({ bundle: good, rollbackTo: null, rollback: true });
  });

  it('changes with the caller\'s transaction or not at all', async () => {
    await expect(database.db.transaction(async (tx) => {
      await desired.assign(tx, { deviceIds: ['lyon-1'], workload: 'classifier', target: { bundle: good, versionId: null, variantOf: () => 'cpu-int8', policy } });
      throw new Error('changed my mind');
    })).rejects.toThrow('changed my mind');
    expect(await desired.unpublished(10)).toEqual([]);
  });

  it('waits to be published until the newest revision went out, whatever order replicas answer in', async () => {
    await assign(['lyon-1'], good);
    await assign(['lyon-1'], better);
    expect(await desired.unpublished(10)).toMatchObject([{ device: 'lyon-1', message: { revision: 2 } }]);
    await desired.markPublished([{ device: 'lyon-1', revision: 1 }]);
    expect(await desired.unpublished(10)).toHaveLength(1);
    await desired.markPublished([{ device: 'lyon-1', revision: 2 }]);
    await desired.markPublished([{ device: 'lyon-1', revision: 1 }]);
    expect(await desired.unpublished(10)).toEqual([]);
  });

  it('is published again when a device is born without it', async () => {
    await assign(['lyon-1'], good);
    await desired.markPublished([{ device: 'lyon-1', revision: 1 }]);
    await desired.publishAgain(database.db.manager, [{ device: 'lyon-1', observedRevision: 1 }]);
    expect(await desired.unpublished(10)).toEqual([]);
    await desired.publishAgain(database.db.manager, [{ device: 'lyon-1', observedRevision: null }]);
    expect(await desired.unpublished(10)).toHaveLength(1);
  });

  it('is published by one at a time, so that an older revision is never retained over a newer', async () => {
    await assign(['lyon-1'], good);
    const inside = Promise.withResolvers<void>();
    const release = Promise.withResolvers<void>();
    const first = desired.publishing(async () => { inside.resolve(); await release.promise; });
    await inside.promise;
    expect(await desired.publishing(async () => {})).toBe(false);
    release.resolve();
    expect(await first).toBe(true);
    expect(await desired.publishing(async () => {})).toBe(true);
  });

  it('two rollouts over the same devices take turns', async () => {
    const both = await Promise.all([assign(['lyon-1', 'lyon-2'], good), assign(['lyon-2', 'lyon-1'], better), assign(['lyon-1', 'lyon-2'], good)]);
    expect(both.map((revisions) => revisions.get('lyon-1')).sort()).toEqual([1, 2, 3]);
  });

  it('ends with unassign, and holds the agent\'s settings', async () => {
    await assign(['lyon-1'], good);
    await desired.configure(['lyon-1'], { telemetryWindowS: 5 }, 'test');
    const revisions = await database.db.transaction((tx) => desired.unassign(tx, { deviceIds: ['lyon-1', 'paris-1'], workload: 'classifier' }));
    expect(revisions).toEqual(new Map([['lyon-1', 3]]));
    expect((await desired.messages(['lyon-1']))[0]!.message).toEqual({ revision: 3, workloads: {}, config: { telemetryWindowS: 5, maxFps: null, link: null, dataBudget: null, peers: [] } });
  });

  it('names peers: the devices of the same site that hand out files and are online, to those that take part', async () => {
    const seen = (ids: string[], change: string) => database.db.query(`UPDATE devices SET ${change} WHERE id = ANY($1)`, [ids]);
    const peer = (port: number) => `capabilities = coalesce(capabilities, '{}') || '{"peer":{"host":"10.0.0.1","port":${port}}}'`;
    await assign(['lyon-1', 'lyon-2', 'paris-1'], good);
    await seen(['lyon-1', 'lyon-2', 'paris-1'], "labels = labels || '{\"site\":\"lyon\"}'");
    await seen(['lyon-1'], peer(1));
    await seen(['lyon-2'], peer(2));
    const peersOf = async (id: string) => (await desired.messages([id]))[0]!.message.config.peers;
    expect(await peersOf('lyon-1')).toEqual([]);
    await seen(['lyon-1', 'lyon-2', 'paris-1'], 'online = true');
    expect(await peersOf('lyon-1')).toEqual([{ id: 'lyon-2', host: '10.0.0.1', port: 2 }]);
    expect(await peersOf('paris-1')).toEqual([]);
    await seen(['paris-1'], peer(3));
    expect((await peersOf('lyon-2')).map(({ id }) => id)).toEqual(['paris-1', 'lyon-1']);
    await seen(['paris-1'], "labels = '{}'");
    expect(await peersOf('paris-1')).toEqual([]);
    expect((await peersOf('lyon-2')).map(({ id }) => id)).toEqual(['lyon-1']);
  });

  it('many are configured at once: what is named changes, what is not stays, each is told and each is in the log', async () => {
    await desired.configure(['lyon-1'], { telemetryWindowS: 5 }, 'olga');
    expect(await desired.configure(['lyon-1', 'lyon-2', 'nobody'], { link: 'metered', dataBudget: { bytes: 5_000, per: 'day' } }, 'olga')).toBe(2);
    const told = await desired.messages(['lyon-1', 'lyon-2']);
    expect(told.map(({ message }) => [message.revision, message.config.telemetryWindowS, message.config.link, message.config.dataBudget?.bytes])).toEqual([[2, 5, 'metered', 5_000], [1, 60, 'metered', 5_000]]);
    const log = await database.db.query("SELECT subject, actor FROM audit WHERE action = 'device.configure' AND detail #>> '{config,link}' = 'metered' AND actor = 'olga' ORDER BY id DESC LIMIT 2");
    expect(log.map(({ subject }: { subject: string }) => subject).sort()).toEqual(['lyon-1', 'lyon-2']);
    await expect(desired.configure(['nobody'], {}, 'olga')).rejects.toMatchObject({ code: 'device.unknown' });
  });
});

describe('reports', () => {
  const taken = async (...sent: Partial<Reported>[]) => {
    const answers = [];
    for (const one of sent) answers.push(await news(report(one)));
    return answers;
  };

  it('count once and in order, however the broker delivers them', async () => {
    expect(await taken({ seq: 1 }, { seq: 3 }, { seq: 2 }, { seq: 3 }, { seq: 4 })).toEqual([true, true, false, false, true]);
    expect(await devices.get('lyon-1')).toMatchObject({ reported: { seq: 4 } });
  });

  it('of a new boot start over; those of the old one that come late are dropped', async () => {
    expect(await taken({ bootId: 'one', session: 1, seq: 90 }, { bootId: 'two', session: 2, seq: 0 }, { bootId: 'one', session: 1, seq: 91 }, { bootId: 'two', session: 2, seq: 1 })).toEqual([true, true, false, true]);
  });

  it('carry capabilities at birth, which stay', async () => {
    const capabilities = { agentVersion: '1', tfliteVersion: '2.9.0', edgetpuRuntime: 14, edgetpus: [{ type: 'usb' as const, path: '/x' }], hostClass: 'dev-board', arch: 'arm64', memoryBytes: 1e9 };
    await taken({ seq: 1, capabilities }, { seq: 2, health: 'DEGRADED', conditions: ['NO_ACCELERATOR'] });
    expect(await devices.get('lyon-1')).toMatchObject({ capabilities, reported: { health: 'DEGRADED', conditions: ['NO_ACCELERATOR'] }, lastSeenAt: clock.now() });
    expect((await devices.list({ limit: 10, health: 'DEGRADED' })).items.map(({ id }) => id)).toEqual(['lyon-1']);
    expect((await devices.list({ limit: 10, health: 'HEALTHY' })).items).toEqual([]);
    expect((await devices.list({ limit: 10, id: 'on-', selector: 'site=lyon' })).items.map(({ id }) => id)).toEqual(['lyon-1', 'lyon-2']);
    expect((await devices.list({ limit: 10, id: '%' })).items).toEqual([]);
    expect(await devices.list({ limit: 1, id: 'on-', selector: 'site=lyon', total: true })).toMatchObject({ items: [{ id: 'lyon-1' }], nextCursor: 'lyon-1', total: 2 });
    expect(await devices.list({ limit: 1, cursor: 'lyon-1', selector: 'site=lyon', total: true })).toMatchObject({ items: [{ id: 'lyon-2' }], nextCursor: null, total: 2 });
    expect(await devices.list({ limit: 1 })).not.toHaveProperty('total');
  });

  it('of strangers are not taken', async () => {
    expect(await news(report(), 'stranger')).toBe(false);
  });

  it('are asked for where a device is there and has said nothing since it came', async () => {
    await assign(['lyon-1'], 'ab'.repeat(32));
    await desired.markPublished([{ device: 'lyon-1', revision: 1 }]);
    await devices.presence(['lyon-1', 'lyon-2', 'paris-1'].map((device) => ({ device, presence: { online: device !== 'paris-1', session: 4 } })));
    expect(await desired.askSilent(5, 100)).toBe(0);
    clock.advance(6_000);
    expect(await desired.askSilent(5, 100)).toBe(2);
    // Its wanted state once more, and nothing for one of whom nothing was ever wanted; once per publication.
    expect((await desired.unpublished(10)).map(({ device, message }) => [device, message.revision, Object.keys(message.workloads)])).toEqual([['lyon-1', 1, ['classifier']], ['lyon-2', 1, []]]);
    expect(await desired.askSilent(5, 100)).toBe(0);
    const capabilities = { agentVersion: '1', tfliteVersion: null, edgetpuRuntime: null, edgetpus: [], hostClass: 'x86-64', arch: 'x64', memoryBytes: 1 };
    await reports.ingest(['lyon-1', 'lyon-2'].map((device) => ({ device, report: report({ session: 4, observedRevision: 1, capabilities }) })));
    await desired.markPublished(['lyon-1', 'lyon-2'].map((device) => ({ device, revision: 1 })));
    expect(await desired.askSilent(5, 100)).toBe(0);
  });

  it('of several of one device the newest is kept, in whatever order and company they come', async () => {
    const stored = await reports.ingest([
      { device: 'lyon-1', report: report({ seq: 3, health: 'DEGRADED' }) }, { device: 'stranger', report: report() }, { device: 'lyon-2', report: report({ seq: 9 }) }, { device: 'lyon-1', report: report({ seq: 2 }) },
      { device: 'lyon-2', report: report({ bootId: 'boot-2', seq: 0, session: 2 }) }, { device: 'lyon-2', report: report({ seq: 10 }) },
    ]);
    expect(stored.sort()).toEqual(['lyon-1', 'lyon-2']);
    expect(await devices.get('lyon-1')).toMatchObject({ reported: { seq: 3, health: 'DEGRADED' } });
    expect(await devices.get('lyon-2')).toMatchObject({ reported: { bootId: 'boot-2', seq: 0 } });
    expect(await reports.ingest([{ device: 'lyon-1', report: report({ seq: 3 }) }])).toEqual([]);
  });

  it('tell whoever listens, after the commit', async () => {
    const feed = new ChangeFeed(database.url, openLogger('test', 'silent'));
    await feed.start();
    const heard: string[] = [];
    feed.onChange(({ kind, id }) => heard.push(`${kind} ${id}`));
    await taken({ seq: 1 });
    await assign(['lyon-1'], good);
    await expect.poll(() => heard).toEqual(['device lyon-1', 'desired lyon-1']);
    await feed.stop();
  });
});

describe('commands', () => {
  it('go out once, are answered once, and expire', async () => {
    const sent = await commands.send('lyon-1', { kind: 'ping', args: {}, ttlS: 60 }, 'ana');
    const heard: string[] = [];
    commands.publishWith(({ id }) => heard.push(id));
    const late = await commands.send('lyon-1', { kind: 'bench', args: { runs: 5 }, ttlS: 30 }, 'ana');
    expect(heard).toEqual([late.id]);
    expect(await database.db.query("SELECT actor, detail FROM audit WHERE subject = 'lyon-1' AND action = 'device.command.bench'")).toEqual([{ actor: 'ana', detail: { id: late.id } }]);
    const later = new Date(sent.createdAt.getTime() + 1);
    expect(await commands.queued(10, sent.createdAt)).toEqual([]);
    expect((await commands.queued(10, later)).map(({ id }) => id).sort()).toEqual([sent.id, late.id].sort());
    await commands.markSent([sent.id, late.id]);
    expect(await commands.queued(10, later)).toEqual([]);
    await commands.answered([{ device: 'lyon-2', answer: { id: sent.id, ok: true, result: {}, failure: null } }]);
    expect(await commands.get('lyon-1', sent.id)).toMatchObject({ state: 'SENT' });
    await commands.answered([{ device: 'lyon-1', answer: { id: sent.id, ok: true, result: { ms: 3 }, failure: null } }]);
    await commands.answered([{ device: 'lyon-1', answer: { id: sent.id, ok: false, result: {}, failure: { code: 'x', message: 'x' } } }]);
    expect(await commands.get('lyon-1', sent.id)).toMatchObject({ state: 'SUCCEEDED', answer: { result: { ms: 3 } } });
    await commands.answered([{ device: 'lyon-1', answer: { id: 'not-a-uuid', ok: true, result: {}, failure: null } }]);
    clock.advance(31_000);
    await commands.expire();
    expect(await commands.get('lyon-1', late.id)).toMatchObject({ state: 'FAILED', answer: { ok: false, failure: { code: 'command.expired' } } });
    await expect(commands.send('nobody', { kind: 'ping', args: {}, ttlS: 1 }, 'ana')).rejects.toMatchObject({ code: 'device.unknown' });
  });
});

describe('access', () => {
  it('keeps API tokens as hashes; a revoked one is worth nothing', async () => {
    const tokens = new ApiTokens(database.db, clock);
    const made = await tokens.create('ci', 'operator', 'ana');
    expect(await tokens.find(made.token)).toEqual({ name: 'ci', role: 'operator' });
    expect(await tokens.find(`${made.token}x`)).toBeUndefined();
    expect(JSON.stringify(await tokens.list())).not.toContain('hash');
    expect(await database.db.query('SELECT 1 FROM api_tokens WHERE hash = $1 OR name = $1', [made.token])).toEqual([]);
    const elsewhere = new ApiTokens(database.db, clock);
    expect(await elsewhere.find(made.token)).toMatchObject({ name: 'ci' });
    const feed = new ChangeFeed(database.url, openLogger('test', 'silent'));
    feed.onChange(({ kind }) => { if (kind === 'token') elsewhere.forget(); });
    await feed.start();
    const onItsWay = tokens.find(made.token);
    await tokens.revoke(made.id, 'ana');
    await onItsWay;
    expect(await tokens.find(made.token)).toBeUndefined();
    await vi.waitFor(async () => expect(await elsewhere.find(made.token)).toBeUndefined(), { timeout: 900, interval: 5 });
    await feed.stop();
    await expect(tokens.revoke(made.id, 'ana')).rejects.toMatchObject({ code: 'token.unknown' });
    await tokens.bootstrap('reef_first_administrator');
    await tokens.bootstrap('reef_first_administrator');
    expect(await tokens.find('reef_first_administrator')).toEqual({ name: 'first admin', role: 'admin' });
  });

  it('lets nobody rewrite the audit log', async () => {
    await expect(database.db.query("UPDATE audit SET actor = 'someone else'")).rejects.toThrow('append-only');
    await expect(database.db.query('DELETE FROM audit')).rejects.toThrow('append-only');
    await expect(database.db.query('TRUNCATE audit')).rejects.toThrow('append-only');
  });
});
