import { Devices } from '@reefkeeper/devices';
import { createClient, type Client } from 'graphql-ws';
import supertest from 'supertest';
import { WebSocket } from 'ws';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { adminToken, openHarness, type Harness } from './harness.fixture.ts';

let world: Harness;
const clients: Client[] = [];

beforeAll(async () => {
  world = await openHarness();
  await world.enrol('cam-1');
});
afterAll(async () => {
  for (const client of clients) await client.dispose();
  await world?.close();
});

const ask = async (query: string, token: string | null = adminToken, variables: object = {}) => (await world.call('POST', '/graphql', { query, variables }, token)) as { status: number; body: { data?: any; errors?: { message: string; extensions: any }[] } };

function open(token: string | undefined): { client: Client; closed: Promise<{ code: number }> } {
  let close: (event: { code: number }) => void;
  const closed = new Promise<{ code: number }>((resolve) => { close = resolve; });
  const client = createClient({
    url: `${world.url.replace('http', 'ws')}/graphql`, webSocketImpl: WebSocket, retryAttempts: 0, lazy: true,
    connectionParams: token === undefined ? {} : { authorization: `Bearer ${token}` }, on: { closed: (event) => close(event as { code: number }) },
  });
  clients.push(client);
  return { client, closed };
}

describe('queries', () => {
  it('answer as REST does', async () => {
    expect((await ask('{ devices { items { id labels online desired { revision } reported { health } } nextCursor } }')).body).toEqual({ data: { devices: { items: [{ id: 'cam-1', labels: {}, online: false, desired: { revision: 0 }, reported: null }], nextCursor: null } } });
    expect((await ask('{ __schema { subscriptionType { fields { name } } } }')).body.data.__schema.subscriptionType.fields.map(({ name }: { name: string }) => name)).toEqual(expect.arrayContaining(['deviceChanged', 'jobChanged', 'rolloutChanged']));
    expect((await ask('{ models { items { name } } jobs { items { id } } rollouts { items { id } } }')).body).toEqual({ data: { models: { items: [] }, jobs: { items: [] }, rollouts: { items: [] } } });
  });

  it('need a token, for the schema too', async () => {
    for (const query of ['{ devices { nextCursor } }', '{ __schema { types { name } } }']) {
      const answer = await ask(query, null);
      expect(answer).toMatchObject({ status: 401, body: { errors: [{ message: expect.stringContaining('Authorization: Bearer'), extensions: { code: 'token.invalid', kind: 'unauthenticated' } }] } });
      expect(answer.body.data).toBeUndefined();
    }
  });

  it('fail with the code and kind of the error, and nothing of its inside', async () => {
    expect((await ask('{ device(id: "nobody") { id } }')).body.errors).toMatchObject([{ message: expect.stringContaining('nobody'), path: ['device'], extensions: { code: 'device.unknown', kind: 'not_found', context: { id: 'nobody' } } }]);
    expect((await ask('{ devices(selector: "a b") { nextCursor } }')).body.errors).toMatchObject([{ extensions: { code: 'selector.invalid', kind: 'invalid' } }]);
    const nul = await ask('query($id: ID!) { device(id: $id) { id } }', adminToken, { id: '\u0000' });
    expect(nul.body.errors).toMatchObject([{ extensions: { code: 'request.invalid' } }]);
    expect(JSON.stringify(nul.body)).not.toMatch(/stacktrace|node_modules/);
    expect((await ask('{ nonsense }')).body.errors).toMatchObject([{ extensions: { code: 'GRAPHQL_VALIDATION_FAILED' } }]);
  });

  it('may be neither too deep nor too wide', async () => {
    const deep = `{ __schema { types { ${'fields { type { '.repeat(9)} name ${'} }'.repeat(9)} } } }`;
    const wide = `{ ${Array.from({ length: 1_001 }, (_, n) => `a${n}: __typename`).join(' ')} }`;
    const folded = `query { ...A } fragment A on Query { ${Array.from({ length: 40 }, (_, n) => `a${n}: __schema { ...B }`).join(' ')} } fragment B on __Schema { ${Array.from({ length: 40 }, (_, n) => `b${n}: __typename`).join(' ')} }`;
    const cycle = 'query { ...A } fragment A on Query { ...A }';
    for (const query of [deep, wide, folded]) expect((await ask(query)).body.errors?.some(({ message }) => message.includes('too large'))).toBe(true);
    expect((await ask(cycle)).body.errors?.[0]?.message).toContain('itself');
    expect((await ask(`{ ${'__typename '.repeat(6_000)} }`)).body.errors?.[0]?.message).toContain('token');
  });

  it('arrive as JSON posts only; a page elsewhere cannot send them', async () => {
    expect((await supertest(world.url).get('/graphql?query={__typename}').set('authorization', `Bearer ${adminToken}`)).status).toBe(400);
  });
});

describe('subscriptions', () => {
  it('tell of a device whenever it changes', async () => {
    const { client } = open(adminToken);
    const changes = client.iterate<{ deviceChanged: { id: string; online: boolean; labels: object } }>({ query: 'subscription { deviceChanged(id: "cam-1") { id online labels } }' });
    const first = changes.next();
    // Subscribing takes a moment of which nothing tells; the second of two equal changes is heard for sure.
    const devices = world.app.get(Devices, { strict: false });
    let session = 0;
    const heard = { done: false };
    void first.then(() => { heard.done = true; });
    await expect.poll(async () => {
      await devices.presence([{ device: 'cam-1', presence: { online: true, session: ++session } }]);
      return heard.done;
    }, { interval: 100 }).toBe(true);
    expect((await first).value).toEqual({ data: { deviceChanged: { id: 'cam-1', online: true, labels: {} } } });
    await world.call('PATCH', '/api/v1/devices/cam-1', { labels: { site: 'lyon' } });
    for (let seen: object = {}; !('site' in seen);) seen = ((await changes.next()).value as { data: { deviceChanged: { labels: object } } }).data.deviceChanged.labels;
    await changes.return?.();
  });

  it('tell of an alert whenever it changes', async () => {
    const { client } = open(adminToken);
    await world.enrol('cam-2');
    const { db } = world.database;
    const [{ id }] = await db.query<[{ id: string }]>("INSERT INTO alerts (kind, subject, device_id, severity, state, since, opened_at, last_seen_at, summary, advice) VALUES ('device.offline', 'cam-2', 'cam-2', 'warning', 'OPEN', now(), now(), now(), 'away', 'look') RETURNING id");
    const changes = client.iterate<{ alertChanged: { state: string; note: string } }>({ query: 'subscription { alertChanged(device: "cam-2") { state note } }' });
    const heard = { done: false };
    const first = changes.next();
    void first.then(() => { heard.done = true; });
    await expect.poll(async () => {
      await world.call('POST', `/api/v1/alerts/${id}/acknowledge`, { note: 'on my way' });
      return heard.done;
    }, { interval: 100 }).toBe(true);
    expect((await first).value).toEqual({ data: { alertChanged: { state: 'ACKNOWLEDGED', note: 'on my way' } } });
    await changes.return?.();
  });

  it.each([undefined, 'reef_wrong'])('with the token %s are refused when they connect', async (token) => {
    const { client, closed } = open(token);
    await expect(client.iterate({ query: 'subscription { deviceChanged { id } }' }).next()).rejects.toMatchObject({ code: 4403 });
    expect((await closed).code).toBe(4403);
  });

  it('end with their token: no new ones on a connection that was let in before', async () => {
    const { body: { id, token } } = await world.call('POST', '/api/v1/tokens', { name: 'short', role: 'viewer' });
    const { client } = open(token);
    expect((await client.iterate({ query: '{ devices { nextCursor } }' }).next()).value).toEqual({ data: { devices: { nextCursor: null } } });
    await world.call('DELETE', `/api/v1/tokens/${id}`);
    const late = await client.iterate({ query: '{ devices { nextCursor } }' }).next().then((answer) => answer.value, (error: unknown) => error);
    expect(JSON.stringify(late)).not.toContain('nextCursor":null');
  });

  it('have the same limits and error codes', async () => {
    const { client } = open(adminToken);
    const wide = `{ ${Array.from({ length: 1_001 }, (_, n) => `a${n}: __typename`).join(' ')} }`;
    await expect(client.iterate({ query: wide }).next()).rejects.toMatchObject([{ message: expect.stringContaining('too large') }]);
    expect((await client.iterate({ query: '{ device(id: "nobody") { id } }' }).next()).value).toMatchObject({ errors: [{ extensions: { code: 'device.unknown' } }] });
  });
});
