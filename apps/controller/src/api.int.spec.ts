import { mkdtemp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AlertWatch, deviceAlerts } from '@reefkeeper/telemetry';
import { ManualClock } from '@reefkeeper/platform';
import supertest from 'supertest';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readConfig } from './config.ts';
import { adminToken, openHarness, type Harness } from './harness.fixture.ts';

let world: Harness;
let pages: string;

beforeAll(async () => {
  pages = await mkdtemp(join(tmpdir(), 'reef-console-'));
  await mkdir(join(pages, 'assets'));
  await writeFile(join(pages, 'index.html'), '<!doctype html><title>Reefkeeper</title>');
  await writeFile(join(pages, 'assets', 'app-1a2b.js'), 'export {}');
  world = await openHarness({ CONSOLE_DIR: pages });
});
afterAll(async () => {
  await world?.close();
  await rm(pages, { recursive: true, force: true });
});

const tokenOf = async (role: string) => (await world.call('POST', '/api/v1/tokens', { name: role, role })).body as { id: string; token: string };

describe('access', () => {
  it('needs a token, a good one, in the right place', async () => {
    for (const header of [undefined, 'Bearer', 'Bearer wrong', `Basic ${adminToken}`, `Bearer ${adminToken}x`, `Bearer ${adminToken} x`]) {
      const response = await supertest(world.url).get('/api/v1/devices').set(header ? { authorization: header } : {});
      expect(response.status).toBe(401);
      expect(response.type).toBe('application/problem+json');
      expect(response.body).toMatchObject({ type: 'https://reefkeeper.dev/problems/token.invalid', title: 'unauthenticated', status: 401, code: 'token.invalid', detail: expect.stringContaining('Authorization: Bearer') });
    }
    expect((await supertest(world.url).get('/api/v1/devices').set('authorization', `bearer ${adminToken}`)).status).toBe(200);
  });

  it('gives each role what it may do and no more', async () => {
    const [viewer, operator] = [(await tokenOf('viewer')).token, (await tokenOf('operator')).token];
    expect((await world.call('GET', '/api/v1/devices', undefined, viewer)).status).toBe(200);
    expect((await world.call('GET', '/api/v1/me', undefined, viewer)).body).toEqual({ name: 'viewer', role: 'viewer' });
    expect(await world.call('POST', '/api/v1/enrolment-tokens', {}, viewer)).toMatchObject({ status: 403, body: { code: 'role.missing', context: { needed: 'operator', role: 'viewer' } } });
    expect((await world.call('POST', '/api/v1/enrolment-tokens', {}, operator)).status).toBe(201);
    expect((await world.call('POST', '/api/v1/tokens', { name: 'x', role: 'admin' }, operator)).status).toBe(403);
    expect((await world.call('GET', '/api/v1/audit', undefined, operator)).status).toBe(403);
    expect((await world.call('POST', '/api/v1/gc', {}, operator)).status).toBe(403);
    expect(await world.call('POST', '/api/v1/gc')).toMatchObject({ status: 200, body: { dryRun: true, objects: 0, roles: [] } });
    expect((await world.call('GET', '/api/v1/tokens')).body.items.map(({ name }: { name: string }) => name)).toEqual(expect.arrayContaining(['first admin', 'viewer', 'operator']));
  });

  it('ends with revocation, and all of it is in the audit log', async () => {
    const { id, token } = await tokenOf('approver');
    expect((await world.call('GET', '/api/v1/devices', undefined, token)).status).toBe(200);
    expect((await world.call('DELETE', `/api/v1/tokens/${id}`)).status).toBe(204);
    expect((await world.call('GET', '/api/v1/devices', undefined, token)).status).toBe(401);
    expect((await world.call('DELETE', `/api/v1/tokens/${id}`)).status).toBe(404);
    const log = await world.call('GET', `/api/v1/audit?subject=${id}`);
    expect(log.body.items).toMatchObject([{ action: 'token.revoke', actor: 'first admin' }, { action: 'token.create', detail: { role: 'approver' } }]);
    expect(JSON.stringify(log.body)).not.toContain(token);
  });
});

describe('requests', () => {
  it.each([
    ['GET', '/api/v1/devices?limit=0', undefined, 400], ['GET', '/api/v1/devices?selector=a%20b', undefined, 400], ['GET', '/api/v1/devices?online=maybe', undefined, 400],
    ['GET', '/api/v1/devices/not%20an%20id', undefined, 400], ['GET', '/api/v1/devices/nobody', undefined, 404], ['DELETE', '/api/v1/devices/nobody', undefined, 404],
    ['PATCH', '/api/v1/devices/nobody', { labels: { site: 'x' } }, 404], ['PATCH', '/api/v1/devices/nobody', { labels: { site: 7 } }, 400], ['PATCH', '/api/v1/devices/nobody', { labels: { 'a b': 'x' } }, 400],
    ['POST', '/api/v1/devices/nobody/commands', { kind: 'format-disk' }, 400], ['POST', '/api/v1/devices/nobody/commands', { kind: 'ping' }, 404], ['GET', '/api/v1/devices/nobody/commands/1', undefined, 400],
    ['POST', '/api/v1/enrolment-tokens', { uses: 0 }, 400], ['POST', '/api/v1/enrolment-tokens', { deviceId: 'a/b' }, 400], ['POST', '/api/v1/tokens', { name: 'x', role: 'king' }, 400],
    ['POST', '/api/v1/tokens', undefined, 400], ['GET', '/api/v1/nothing', undefined, 404], ['GET', '/api/v1/jobs/00000000-0000-4000-8000-000000000000', undefined, 404], ['GET', '/api/v1/models/none', undefined, 404],
    ['POST', '/api/v1/models', { name: 'NUL\u0000' }, 400], ['GET', '/api/v1/audit?subject=%00', undefined, 400],
  ] as const)('%s %s %j: %i, as a problem', async (method, path, body, status) => {
    const answer = await world.call(method, path, body);
    expect(answer.body).toMatchObject({ status, code: expect.stringMatching(/^[a-z_]+\.[a-z_]+$/), detail: expect.any(String) });
    expect(answer.status).toBe(status);
    expect(answer.headers['content-type']).toContain('application/problem+json');
  });

  it('that are not JSON, or too much of it, are refused', async () => {
    const post = () => supertest(world.url).post('/api/v1/tokens').set('authorization', `Bearer ${adminToken}`);
    expect((await post().set('content-type', 'application/json').send('{"name":')).body).toMatchObject({ status: 400, code: 'request.invalid' });
    expect(await post().set('content-type', 'text/xml').send('<x/>')).toMatchObject({ status: 415, body: { status: 415, code: 'request.media_type', detail: expect.stringContaining('application/json') } });
    expect(await post().send({ name: 'x'.repeat(2_000_000), role: 'admin' })).toMatchObject({ status: 413, body: { status: 413, code: 'request.too_large', detail: expect.stringContaining('too large') } });
  });

  it('validation names every fault', async () => {
    expect((await world.call('POST', '/api/v1/tokens', { name: '', role: 'king' })).body.context.faults).toEqual([expect.stringContaining('name: '), expect.stringContaining('role: ')]);
  });

  it('a device through its life', async () => {
    await world.enrol('cam-1');
    expect((await world.call('PATCH', '/api/v1/devices/cam-1', { labels: { site: 'lyon' }, config: { telemetryWindowS: 5 } })).body).toMatchObject({ id: 'cam-1', labels: { site: 'lyon' }, online: false, desired: { revision: 1, config: { telemetryWindowS: 5 } }, reported: null });
    expect((await world.call('GET', '/api/v1/devices?selector=site=lyon&online=false')).body).toMatchObject({ items: [{ id: 'cam-1' }], nextCursor: null });
    expect((await world.call('GET', '/api/v1/devices?selector=site!=lyon')).body.items).toEqual([]);
    expect((await world.call('DELETE', '/api/v1/devices/cam-1?reason=sold')).status).toBe(204);
    expect((await world.call('GET', '/api/v1/devices')).body.items).toEqual([]);
    expect((await world.call('GET', '/api/v1/devices/cam-1')).body).toMatchObject({ retiredReason: 'sold', retiredAt: expect.stringMatching(/Z$/) });
    expect((await world.call('GET', '/api/v1/audit?subject=cam-1')).body.items.map(({ action }: { action: string }) => action)).toEqual(['device.retire', 'device.configure', 'device.label', 'device.enrol', 'enrolment.token_create']);
  });
});

describe('who is told and when', () => {
  it('pins and freezes: by operators, seen by everybody, in the audit log', async () => {
    const viewer = (await tokenOf('viewer')).token;
    await world.enrol('cam-p');
    expect((await world.call('PUT', '/api/v1/devices/cam-p/pin', { reason: 'on trial' }, viewer)).status).toBe(403);
    expect(await world.call('PUT', '/api/v1/devices/cam-p/pin', { workload: 'classifier', reason: ' ' })).toMatchObject({ status: 400 });
    expect(await world.call('PUT', '/api/v1/devices/cam-p/pin', { workload: 'classifier', reason: 'on trial' })).toMatchObject({ status: 200, body: { pins: [{ workload: 'classifier', reason: 'on trial', pinnedBy: 'first admin' }] } });
    expect(await world.call('DELETE', '/api/v1/devices/cam-p/pin')).toMatchObject({ status: 404, body: { code: 'device.not_pinned' } });
    expect(await world.call('DELETE', '/api/v1/devices/cam-p/pin?workload=classifier')).toMatchObject({ status: 200, body: { pins: [] } });
    expect((await world.call('GET', '/api/v1/audit?subject=cam-p')).body.items.map(({ action }: { action: string }) => action)).toEqual(expect.arrayContaining(['device.pin', 'device.unpin']));

    const until = new Date(Date.now() + 3_600_000).toISOString();
    expect((await world.call('POST', '/api/v1/freezes', { selector: 'site=lyon', until, reason: 'fair' }, viewer)).status).toBe(403);
    expect(await world.call('POST', '/api/v1/freezes', { selector: 'site=lyon', until: 'tomorrow', reason: 'fair' })).toMatchObject({ status: 400, body: { code: 'request.invalid' } });
    const { body: made } = await world.call('POST', '/api/v1/freezes', { selector: 'site=lyon', until, reason: 'fair' });
    expect((await world.call('GET', '/api/v1/freezes', undefined, viewer)).body.items).toMatchObject([{ id: made.id, active: true, until, reason: 'fair', devices: 0 }]);
    const { body: lifted } = await world.call('POST', '/graphql', { query: `mutation { liftFreeze(id: "${made.id}") { active liftedBy } }` });
    expect(lifted).toEqual({ data: { liftFreeze: { active: false, liftedBy: 'first admin' } } });
    expect(await world.call('DELETE', `/api/v1/freezes/${made.id}`)).toMatchObject({ status: 409, body: { code: 'freeze.over' } });
    expect((await world.call('POST', '/graphql', { query: '{ freezes(all: true) { id liftedAt } }' })).body.data.freezes).toHaveLength(1);
  });

  it('configuration that is kept: by operators, seen by everybody, in the audit log, and on the device', async () => {
    const viewer = (await tokenOf('viewer')).token;
    await world.enrol('cam-k');
    const body = { selector: 'kept=yes', config: { maxFps: 4, link: 'metered' }, priority: 2 };
    expect((await world.call('PUT', '/api/v1/config-rules/kept', body, viewer)).status).toBe(403);
    expect(await world.call('PUT', '/api/v1/config-rules/kept', { selector: '', config: {} })).toMatchObject({ status: 400, body: { code: 'request.invalid' } });
    expect(await world.call('PUT', '/api/v1/config-rules/kept', body)).toMatchObject({ status: 200, body: { name: 'kept', devices: 0, changed: 0, priority: 2 } });
    expect((await world.call('PATCH', '/api/v1/devices/cam-k', { labels: { kept: 'yes' } })).body.desired).toMatchObject({ config: { maxFps: 4, link: 'metered' }, own: {}, rules: ['kept'] });
    expect((await world.call('PATCH', '/api/v1/devices/cam-k', { config: { link: null } })).body.desired).toMatchObject({ config: { maxFps: 4, link: null }, own: { link: null } });
    expect((await world.call('PATCH', '/api/v1/devices/cam-k', { handBack: ['link'] })).body.desired).toMatchObject({ config: { link: 'metered' }, own: {} });
    expect((await world.call('GET', '/api/v1/config-rules', undefined, viewer)).body.items).toMatchObject([{ name: 'kept', devices: 1 }]);
    expect((await world.call('POST', '/graphql', { query: '{ configRules { name devices } }' })).body.data.configRules).toEqual([{ name: 'kept', devices: 1 }]);
    expect(await world.call('DELETE', '/api/v1/config-rules/kept')).toMatchObject({ status: 200, body: { changed: 1 } });
    expect(await world.call('DELETE', '/api/v1/config-rules/kept')).toMatchObject({ status: 404, body: { code: 'config.no_rule' } });
    expect((await world.call('GET', '/api/v1/audit?subject=kept')).body.items.map(({ action }: { action: string }) => action)).toEqual(expect.arrayContaining(['config.rule_set', 'config.rule_remove']));
  });

  it('limits of sites: by operators, seen by everybody, in the audit log', async () => {
    const viewer = (await tokenOf('viewer')).token;
    expect((await world.call('PUT', '/api/v1/sites/lyon/limit', { maxInProgress: 5 }, viewer)).status).toBe(403);
    expect(await world.call('PUT', '/api/v1/sites/lyon/limit', {})).toMatchObject({ status: 400, body: { code: 'request.invalid' } });
    expect(await world.call('PUT', '/api/v1/sites/lyon/limit', { maxInProgress: 5, bytesPerSecond: 2_000_000 })).toMatchObject({ status: 200, body: { site: 'lyon', maxInProgress: 5, bytesPerSecond: 2_000_000, of: 'site' } });
    expect((await world.call('POST', '/graphql', { query: 'mutation { limitSite(site: "*", maxInProgress: 9) { site of } }' })).body.data.limitSite).toEqual({ site: '*', of: 'every site' });
    expect((await world.call('GET', '/api/v1/sites', undefined, viewer)).body.items).toMatchObject([{ site: '*', maxInProgress: 9 }, { site: 'lyon', maxInProgress: 5 }]);
    expect((await world.call('DELETE', '/api/v1/sites/*/limit')).status).toBe(204);
    expect((await world.call('DELETE', '/api/v1/sites/lyon/limit')).status).toBe(204);
    expect(await world.call('DELETE', '/api/v1/sites/lyon/limit')).toMatchObject({ status: 404, body: { code: 'site.no_limit' } });
    expect((await world.call('GET', '/api/v1/audit?subject=lyon')).body.items.map(({ action }: { action: string }) => action)).toEqual(expect.arrayContaining(['site.limit', 'site.unlimit']));
  });
});

describe('rules and limits through GraphQL', () => {
  const ask = async (query: string, token?: string) => (await world.call('POST', '/graphql', { query }, token)).body as { data: Record<string, unknown> | null; errors?: { message: string; extensions: { code: string; context?: { faults?: string[] } } }[] };
  const codeOf = async (query: string, token?: string) => (await ask(query, token)).errors?.map(({ extensions }) => extensions.code);

  it('rules are set and removed, with the roles and the checks that REST has', async () => {
    const viewer = (await tokenOf('viewer')).token;
    await world.enrol('cam-g');
    await world.call('PATCH', '/api/v1/devices/cam-g', { labels: { graph: 'yes' } });
    const set = 'mutation { setConfigRule(name: "graph", selector: "graph=yes", config: { link: null, maxFps: 4, capture: {} }, priority: 3) { name selector config priority setBy devices changed } }';
    expect(await codeOf(set, viewer)).toEqual(['role.missing']);
    expect(await ask(set)).toEqual({ data: { setConfigRule: { name: 'graph', selector: 'graph=yes', config: { link: null, maxFps: 4, capture: { perHour: 20, uncertainBelow: 0.2, masks: [] } }, priority: 3, setBy: 'first admin', devices: 1, changed: 1 } } });
    expect((await world.call('GET', '/api/v1/config-rules', undefined, viewer)).body.items).toMatchObject([{ name: 'graph', priority: 3 }]);
    expect((await ask('mutation { setConfigRule(name: "graph", selector: "graph=yes", config: { maxFps: 4 }) { priority changed } }')).data).toEqual({ setConfigRule: { priority: 0, changed: 1 } });
    for (const [given, fault] of [['name: "not a name", selector: "", config: { maxFps: 4 }', /^name: a name of 1 to 63/], ['name: "a", selector: "", config: {}', /^config: a rule configures something/], ['name: "a", selector: "", config: { maxFps: -1 }', /^config.maxFps: /], ['name: "a", selector: "", config: { maxFps: 1 }, priority: 1001', /^priority: /]] as const) {
      const { errors } = await ask(`mutation { setConfigRule(${given}) { name } }`);
      expect(errors, given).toMatchObject([{ extensions: { code: 'request.invalid', context: { faults: [expect.stringMatching(fault)] } } }]);
    }
    expect(await codeOf('mutation { setConfigRule(name: "a", selector: "=", config: { maxFps: 1 }) { name } }')).toEqual(['selector.invalid']);
    const withVariable = await world.call('POST', '/graphql', { query: 'mutation ($fps: JSON) { setConfigRule(name: "graph", selector: "graph=yes", config: { maxFps: $fps, link: metered }) { config } }', variables: { fps: 7 } });
    expect(withVariable.body).toEqual({ data: { setConfigRule: { config: { maxFps: 7, link: 'metered' } } } });
    expect(await codeOf('mutation { removeConfigRule(name: "graph") }', viewer)).toEqual(['role.missing']);
    expect(await ask('mutation { removeConfigRule(name: "graph") }')).toEqual({ data: { removeConfigRule: 1 } });
    expect(await codeOf('mutation { removeConfigRule(name: "graph") }')).toEqual(['config.no_rule']);
    expect((await world.call('GET', '/api/v1/audit?subject=graph')).body.items.map(({ action }: { action: string }) => action)).toEqual(['config.rule_remove', 'config.rule_set', 'config.rule_set', 'config.rule_set']);
  });

  it('limits of sites are set and removed, with the roles and the checks that REST has', async () => {
    const viewer = (await tokenOf('viewer')).token;
    await world.enrol('cam-s');
    await world.call('PATCH', '/api/v1/devices/cam-s', { labels: { site: 'oslo' } });
    expect(await codeOf('mutation { limitSite(site: "oslo", maxInProgress: 5) { site } }', viewer)).toEqual(['role.missing']);
    expect(await ask('mutation { limitSite(site: "oslo", maxInProgress: 5, bytesPerSecond: 2e6) { site maxInProgress bytesPerSecond of devices } }')).toEqual({ data: { limitSite: { site: 'oslo', maxInProgress: 5, bytesPerSecond: 2_000_000, of: 'site', devices: 1 } } });
    for (const [given, fault] of [['site: "oslo"', /^say at least one/], ['site: "oslo", maxInProgress: 0', /^maxInProgress: /], ['site: "oslo", bytesPerSecond: 1.5', /^bytesPerSecond: /], ['site: "", maxInProgress: 1', /^site: /], [`site: "${'a'.repeat(64)}", maxInProgress: 1`, /^site: /]] as const) {
      const { errors } = await ask(`mutation { limitSite(${given}) { site } }`);
      expect(errors, given).toMatchObject([{ extensions: { code: 'request.invalid', context: { faults: [expect.stringMatching(fault)] } } }]);
    }
    expect(await codeOf('mutation { unlimitSite(site: "oslo") { site } }', viewer)).toEqual(['role.missing']);
    expect(await ask('mutation { unlimitSite(site: "oslo") { site of maxInProgress } }')).toEqual({ data: { unlimitSite: { site: 'oslo', of: null, maxInProgress: null } } });
    expect(await codeOf('mutation { unlimitSite(site: "oslo") { site } }')).toEqual(['site.no_limit']);
    await ask('mutation { limitSite(site: "nowhere", maxInProgress: 5) { site } }');
    expect(await ask('mutation { unlimitSite(site: "nowhere") { site } }')).toEqual({ data: { unlimitSite: null } });
    expect((await ask('{ sites { site devices } }', viewer)).data!.sites).toEqual(expect.arrayContaining([{ site: 'oslo', devices: 1 }]));
  });
});

describe('alerts', () => {
  it('open ones are listed, counted and told of as they change; operators acknowledge and silence them', async () => {
    const viewer = (await tokenOf('viewer')).token;
    await world.enrol('cam-a');
    await world.call('PATCH', '/api/v1/devices/cam-a', { labels: { site: 'lyon' } });
    const { db } = world.database;
    await db.query("INSERT INTO reported (device_id, boot_id, seq, session, health, conditions, received_at) VALUES ('cam-a', 'b', 1, 1, 'DEGRADED', '[\"NO_ACCELERATOR\"]', now())");
    // Workers sweep; here it is done for them, five seconds apart.
    const clock = new ManualClock(new Date());
    const watch = new AlertWatch(db, clock, deviceAlerts);
    await watch.sweep(2);
    clock.advance(5_000);
    expect(await watch.sweep(2)).toBe(1);

    const { body: page } = await world.call('GET', '/api/v1/alerts?state=OPEN,ACKNOWLEDGED&kind=device.no_accelerator&device=cam-a&selector=site%3Dlyon&limit=5', undefined, viewer);
    expect(page).toMatchObject({ items: [{ kind: 'device.no_accelerator', subject: 'cam-a', device: 'cam-a', workload: null, rollout: null, state: 'OPEN', severity: 'warning', silenced: false, note: null }], nextCursor: null });
    expect(Object.keys(page.items[0])).not.toContain('told');
    const [{ id }] = page.items;
    for (const query of ['state=GONE', 'kind=A', 'cursor=x', 'limit=0', 'selector=a%20b']) expect((await world.call('GET', `/api/v1/alerts?${query}`)).status, query).toBe(400);
    expect((await world.call('GET', '/api/v1/alerts/counts', undefined, viewer)).body).toEqual({ open: 1, acknowledged: 0, kinds: [{ kind: 'device.no_accelerator', severity: 'warning', open: 1, acknowledged: 0 }] });
    expect((await world.call('GET', '/metrics', undefined, null)).body).toContain('reef_alerts_open{kind="device.no_accelerator",severity="warning",acknowledged="false"} 1');

    expect((await world.call('POST', `/api/v1/alerts/${id}/acknowledge`, { note: 'x' }, viewer)).status).toBe(403);
    expect(await world.call('POST', `/api/v1/alerts/${id}/acknowledge`, { note: 'cable ordered' })).toMatchObject({ status: 200, body: { id, state: 'ACKNOWLEDGED', acknowledgedBy: 'first admin', note: 'cable ordered' } });
    expect(await world.call('POST', `/api/v1/alerts/${id}/acknowledge`)).toMatchObject({ status: 200, body: { note: '' } });
    expect(await world.call('GET', '/api/v1/alerts/00000000-0000-4000-8000-000000000000')).toMatchObject({ status: 404, body: { code: 'alert.missing' } });
    expect((await world.call('GET', `/api/v1/audit?subject=${id}`)).body.items).toMatchObject([{ action: 'alert.acknowledge' }, { action: 'alert.acknowledge', detail: { note: 'cable ordered' } }]);

    const until = new Date(Date.now() + 3_600_000).toISOString();
    expect((await world.call('POST', '/api/v1/silences', { selector: 'site=lyon', until, reason: 'new switch' }, viewer)).status).toBe(403);
    const { body: made } = await world.call('POST', '/api/v1/silences', { selector: 'site=lyon', until, reason: 'new switch' });
    expect((await world.call('GET', '/api/v1/silences', undefined, viewer)).body.items).toMatchObject([{ id: made.id, active: true, alerts: 1, kinds: [], until }]);
    expect((await world.call('POST', '/graphql', { query: '{ alerts(states: [ACKNOWLEDGED], device: "cam-a") { items { id state severity silenced numbers } nextCursor } silences { id } }' }, viewer)).body).toEqual({ data: { alerts: { items: [{ id, state: 'ACKNOWLEDGED', severity: 'warning', silenced: true, numbers: { conditions: ['NO_ACCELERATOR'] } }], nextCursor: null }, silences: [{ id: made.id }] } });
    expect((await world.call('POST', '/graphql', { query: `mutation { acknowledgeAlert(id: "${id}", note: "done") { note } }` }, viewer)).body.errors).toMatchObject([{ extensions: { code: 'role.missing' } }]);
    expect((await world.call('POST', '/graphql', { query: `mutation { acknowledgeAlert(id: "${id}", note: "done") { note } }` })).body).toEqual({ data: { acknowledgeAlert: { note: 'done' } } });
    expect(await world.call('DELETE', `/api/v1/silences/${made.id}`)).toMatchObject({ status: 200, body: { active: false, liftedBy: 'first admin' } });

    // All that match at once; nobody acknowledges all by leaving the conditions out.
    await db.query("UPDATE alerts SET state = 'OPEN'");
    const all = (body: object, token?: string) => world.call('POST', '/api/v1/alerts/acknowledge', body, token);
    expect((await all({ all: true }, viewer)).status).toBe(403);
    for (const body of [{}, { selector: '' }, { all: false }, { kind: 'A' }, { selector: 'a b' }]) expect((await all(body)).status, JSON.stringify(body)).toBe(400);
    expect(await all({ selector: 'site=paris' })).toMatchObject({ status: 200, body: { acknowledged: 0 } });
    expect(await all({ kind: 'device.no_accelerator', selector: 'site=lyon', note: 'power cut' })).toMatchObject({ status: 200, body: { acknowledged: 1 } });
    expect((await world.call('GET', '/api/v1/audit?subject=site%3Dlyon')).body.items).toMatchObject([{ action: 'alert.acknowledge_all', detail: { kind: 'device.no_accelerator', note: 'power cut', alerts: 1 } }]);
    const mutation = { query: 'mutation { acknowledgeAlerts(device: "cam-a", note: "done") }' };
    expect((await world.call('POST', '/graphql', mutation, viewer)).body.errors).toMatchObject([{ extensions: { code: 'role.missing' } }]);
    expect((await world.call('POST', '/graphql', mutation)).body).toEqual({ data: { acknowledgeAlerts: 0 } });
  });
});

describe('beside the API', () => {
  it('health and metrics are open', async () => {
    expect(await world.call('GET', '/healthz', undefined, null)).toMatchObject({ status: 200, body: { ok: true } });
    await expect.poll(() => world.call('GET', '/readyz', undefined, null)).toMatchObject({ status: 200, body: { ok: true, broker: 'connected' } });
    const metrics = await world.call('GET', '/metrics', undefined, null);
    expect(metrics.headers['content-type']).toContain('text/plain');
    expect(metrics.body).toContain('reef_http_seconds_bucket{le="0.02",method="GET",route="/api/v1/devices/:id",status="404"}');
  });

  it('the OpenAPI document describes every route, with schemas, refusals and the token', async () => {
    const { body: document } = await world.call('GET', '/openapi.json', undefined, null);
    expect(document.openapi).toMatch(/^3\./);
    expect(document.components.securitySchemes.bearer).toMatchObject({ type: 'http', scheme: 'bearer' });
    expect(document.security).toEqual([{ bearer: [] }]);
    expect(Object.keys(document.components.schemas)).toEqual(expect.arrayContaining(['Problem', 'ChangeDevice', 'SendCommand', 'CreateEnrolmentToken', 'CreateApiToken']));
    expect(Object.keys(document.paths)).toEqual(expect.arrayContaining(['/api/v1/devices', '/api/v1/devices/{id}', '/api/v1/devices/{id}/commands', '/api/v1/enrolment-tokens', '/api/v1/tokens', '/api/v1/audit', '/api/v1/models', '/api/v1/jobs', '/api/v1/rollouts', '/api/v1/uploads', '/api/v1/telemetry/series']));
    const ids = Object.values(document.paths as Record<string, Record<string, { operationId: string; requestBody?: object; responses: Record<string, any> }>>).flatMap((path) => Object.values(path)).map(({ operationId, requestBody, responses }) => {
      const [success] = Object.entries(responses).filter(([status]) => status.startsWith('2'));
      if (success![0] !== '204' && !['Artifacts.download', 'Captures.image'].includes(operationId)) expect(success![1].content, operationId).toHaveProperty(['application/json', 'schema']);
      expect(responses['401']?.content['application/problem+json'].schema.$ref).toBe('#/components/schemas/Problem');
      expect([Boolean(responses['413']), Boolean(responses['415'])], operationId).toEqual([Boolean(requestBody), Boolean(requestBody)]);
      return operationId;
    });
    expect(new Set(ids).size).toBe(ids.length);
    const refs = new Set([...JSON.stringify(document).matchAll(/"#\/components\/schemas\/([^"]+)"/g)].map(([, name]) => name!));
    for (const name of refs) expect(document.components.schemas).toHaveProperty([name]);
    expect((await supertest(world.url).get('/docs')).text).toContain('swagger-ui');
    await world.enrol('cam-9');
    expect(Object.keys((await world.call('GET', '/api/v1/devices/cam-9')).body)).toEqual(expect.arrayContaining(Object.keys(document.components.schemas.Device.properties)));
  });

  it('serves the console: files, its own pages, nothing outside, with a policy', async () => {
    const root = await supertest(world.url).get('/');
    expect(root.text).toContain('Reefkeeper');
    expect(root.headers).toMatchObject({ 'content-security-policy': expect.stringContaining("default-src 'self'"), 'cache-control': 'no-cache', 'x-content-type-options': 'nosniff' });
    // Every page that the console knows can be opened by its address.
    const pages = [...(await readFile(join(import.meta.dirname, '../../console/src/app.tsx'), 'utf8')).matchAll(/<Route path="([^"]+)"/g)].map(([, path]) => path!.replaceAll(/:\w+/g, '17'));
    expect(pages.length).toBeGreaterThan(5);
    for (const page of pages) expect((await supertest(world.url).get(page)).text, page).toContain('Reefkeeper');
    // A page that is read again keeps the policy it had.
    const again = await supertest(world.url).get('/').set('if-none-match', root.headers.etag!);
    expect([again.status, again.headers['content-security-policy']]).toEqual([304, undefined]);
    // Captured pictures are fetched with the token and shown from memory.
    expect(root.headers['content-security-policy']).toMatch(/img-src [^;]*blob:/);
    expect((await supertest(world.url).get('/assets/app-1a2b.js')).headers['cache-control']).toContain('immutable');
    expect((await supertest(world.url).get('/assets/..%2f..%2fetc/passwd')).status).toBe(404);
    expect((await supertest(world.url).get('/api/v1/devices').set('authorization', `Bearer ${adminToken}`)).headers).toMatchObject({ 'cache-control': 'no-store', 'content-security-policy': "default-src 'none'; frame-ancestors 'none'" });
  });

  it('a bad environment lists every fault at once', () => {
    expect(() => readConfig({ DATABASE_URL: 'mysql://x', PORT: 'http', BOOTSTRAP_ADMIN_TOKEN: 'short' })).toThrow(expect.objectContaining({ code: 'config.invalid', message: expect.stringMatching(/DATABASE_URL[^]*MQTT_URL[^]*ARTIFACTS_URL[^]*KEYS_DIR[^]*PORT[^]*BOOTSTRAP_ADMIN_TOKEN/) }));
  });
});
