import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { devicesSchema, Enrolment } from '@reefkeeper/devices';
import { openLogger } from '@reefkeeper/platform';
import { connectAsync, type IClientOptions, type MqttClient } from 'mqtt';
import { Agent, request } from 'undici';
import { startTestBroker, type TestBroker } from '../../../test/support/broker.ts';
import { certificateRequest } from '../../../test/support/certificate-request.ts';
import { testDatabase, type TestDatabase } from '../../../test/support/database.ts';
import { readConfig } from './config.ts';
import { Gateway } from './gateway.ts';
import { startController } from './main.ts';

export const adminToken = 'reef_test_administrator_token';

export interface TestDevice { id: string; certificate: string; key: string; agent: Agent }

/** The whole controller on real PostgreSQL, real TLS and a real broker. */
export interface Harness {
  app: NestFastifyApplication;
  database: TestDatabase;
  broker: TestBroker;
  keysDir: string;
  url: string;
  gateway: string;
  call(method: string, path: string, body?: unknown, token?: string | null): Promise<{ status: number; headers: Record<string, unknown>; body: any }>;
  enrol(id: string): Promise<TestDevice>;
  connect(device: TestDevice, options?: IClientOptions): Promise<MqttClient>;
  restartBroker(): Promise<void>;
  close(): Promise<void>;
}

export async function openHarness(env: Record<string, string> = {}): Promise<Harness> {
  const dir = await mkdtemp(join(tmpdir(), 'reef-controller-'));
  const keysDir = join(dir, 'keys');
  const database = await testDatabase([devicesSchema]);
  let broker = await startTestBroker(keysDir);
  const log = openLogger('test', process.env.LOG_LEVEL ?? 'silent');
  const app = await startController(readConfig({
    DATABASE_URL: database.url, MQTT_URL: broker.url, ARTIFACTS_URL: pathToFileURL(join(dir, 'artifacts')).href, KEYS_DIR: keysDir, PORT: '0', GATEWAY_PORT: '0',
    PUBLIC_GATEWAY_URL: 'https://localhost:8443', PUBLIC_MQTT_URL: broker.url, BOOTSTRAP_ADMIN_TOKEN: adminToken, ...env,
  }), log);
  const url = await app.getUrl();
  const gateway = `https://localhost:${app.get(Gateway).port}`;
  const ca = (await (await request(`${gateway}/ca.pem`, { dispatcher: new Agent({ connect: { rejectUnauthorized: false } }) })).body.text());
  const agents: Agent[] = [];
  const clients: MqttClient[] = [];

  return {
    app, database, keysDir, url, gateway,
    get broker() { return broker; },
    async call(method, path, body, token = adminToken) {
      const response = await app.inject({
        method: method as 'GET', url: path, ...(body === undefined ? {} : { payload: body as object }), headers: token ? { authorization: `Bearer ${token}` } : {},
      });
      return { status: response.statusCode, headers: response.headers, body: String(response.headers['content-type']).includes('json') ? response.json() : response.body };
    },
    async enrol(id) {
      const { csr, keyPem } = await certificateRequest(id);
      const { token } = await app.get(Enrolment, { strict: false }).createToken({ deviceId: id }, 'test');
      const open = new Agent({ connect: { ca } });
      agents.push(open);
      const answer = await request(`${gateway}/v1/enrol`, { method: 'POST', dispatcher: open, headers: { 'content-type': 'application/json' }, body: JSON.stringify({ token, csr, hostname: 'h' }) });
      const { certificate, deviceId } = (await answer.body.json()) as { certificate: string; deviceId: string };
      const agent = new Agent({ connect: { ca, cert: certificate, key: keyPem } });
      agents.push(agent);
      return { id: deviceId, certificate, key: keyPem, agent };
    },
    async connect(device, options = {}) {
      const client = await connectAsync(broker.url, { ca, cert: device.certificate, key: device.key, clientId: device.id, clean: false, protocolVersion: 4, reconnectPeriod: 200, ...options });
      clients.push(client);
      return client;
    },
    async restartBroker() {
      await broker.stop();
      broker = await startTestBroker(keysDir, broker.port);
    },
    async close() {
      await Promise.all(clients.map((client) => client.endAsync(true)));
      await app.close();
      await broker.stop();
      await Promise.all(agents.map((agent) => agent.destroy()));
      await database.drop();
      await rm(dir, { recursive: true, force: true });
    },
  };
}
