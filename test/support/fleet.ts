import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer as createHttps, type Server as HttpsServer } from 'node:https';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createServer as createTls, type Server as TlsServer, type TLSSocket } from 'node:tls';
import { setTimeout as delay } from 'node:timers/promises';
import { Aedes, type Client } from 'aedes';
import mqtt, { type MqttClient } from 'mqtt';
import sharp from 'sharp';
import { sha256 } from '@reefkeeper/platform';
import { bundleDigest, encodeGolden, makeDelta, loadOrCreateSigningKey, signBundle, type Envelope, type Manifest, type SigningKey } from '@reefkeeper/bundle';
import { Interpreter, quantisePixels } from '@reefkeeper/inference';
import { command, commandResult, desired, parseTopic, presence, reported, telemetry, type Command, type CommandResult, type Desired, type Presence, type Reported, type Telemetry } from '@reefkeeper/protocol';
import type { z } from 'zod';
import { Authority } from '../../libs/devices/src/authority.ts';
import { controllerName, mayUse } from '../../libs/devices/src/broker-acl.ts';
import { authorityOfAllTimes, serverAt } from './certificates.ts';
import { colourLabels, coloursModel, type ColoursOptions } from './colours.ts';

type Fault = (request: IncomingMessage, response: ServerResponse, content: Buffer) => boolean | void | Promise<boolean | void>;

/**
 * A fleet's outside as an agent sees it, all real: an authority, a gateway on HTTPS with client certificates, a broker on TLS with
 * the fleet's topic rules, bundles that are signed and models that run. Only the controller behind it is played by the test.
 */
export class Fleet {
  readonly blobs = new Map<string, Buffer>();
  readonly envelopes = new Map<string, unknown>();
  /** Answers a request for this blob or bundle itself (cut, 404, other bytes); return true to let the usual answer follow. */
  readonly faults = new Map<string, Fault>();
  /** How the broker takes a message of this topic: once this resolves, and with `false` it passes it on but its acknowledgement is lost. */
  taking: ((topic: string) => Promise<boolean>) | undefined;
  /** Every request, `GET /v1/blobs/... bytes=10-`. */
  readonly requests: string[] = [];
  /** Pictures that agents sent. */
  readonly captures: { device: string; id: string; facts: Record<string, string>; jpeg: Buffer }[] = [];
  bytesServed = 0;
  readonly reports: Reported[] = [];
  readonly windows: Telemetry[] = [];
  readonly presences: Presence[] = [];
  readonly results: CommandResult[] = [];
  /** What devices have learnt and offered. */
  readonly learned: { command: string; content: Buffer }[] = [];
  readonly token: string;
  private broker!: Aedes;
  private brokerServer!: TlsServer;
  private brokerPort = 0;
  private gateway!: HttpsServer;
  private controller!: MqttClient;
  private readonly sockets = new Set<TLSSocket>();
  private at: Date | undefined;

  private constructor(readonly dir: string, readonly authority: Authority, readonly key: SigningKey, private readonly server: { certificate: string; key: string }) {
    this.token = `reef1.${'s'.repeat(32)}.${authority.fingerprint.slice(0, 32)}`;
  }

  /** @param options.at the fleet lives then: its servers' certificates are only valid around that time, and its gateway tells it */
  static async open(options: { at?: Date } = {}): Promise<Fleet> {
    const dir = await mkdtemp(join(tmpdir(), 'reef-fleet-'));
    const authority = options.at ? await authorityOfAllTimes(dir) : await Authority.loadOrCreate(dir);
    const names = { commonName: 'localhost', hosts: ['localhost', '127.0.0.1'] };
    const server = options.at ? await serverAt(dir, options.at, names.hosts) : await authority.ownFiles(dir, 'server', names);
    const fleet = new Fleet(dir, authority, await loadOrCreateSigningKey(dir), server);
    fleet.at = options.at;
    fleet.gateway = createHttps({ cert: fleet.server.certificate, key: fleet.server.key, ca: authority.certificatePem, requestCert: true, rejectUnauthorized: false }, (request, response) => {
      void fleet.answer(request, response).catch(() => response.destroy());
    }).listen(0, '127.0.0.1');
    await once(fleet.gateway, 'listening');
    await fleet.startBroker();
    return fleet;
  }

  get gatewayUrl(): string {
    return `https://localhost:${(this.gateway.address() as { port: number }).port}`;
  }

  get mqttUrl(): string {
    return `mqtts://localhost:${this.brokerPort}`;
  }

  /** Also after `stopBroker`, on the same port. Retained messages are gone then, as with any broker that lost its disk. */
  async startBroker(): Promise<void> {
    const broker = await Aedes.createBroker();
    this.broker = broker;
    // As at the product's own broker: a device waits at the door until the controller listens, or what it says first would be lost.
    let open = () => {};
    const door = new Promise<void>((resolve) => { open = resolve; });
    broker.authorizePublish = (client, packet, done) => {
      if (!nameOf(client) || !mayUse(nameOf(client)!, packet.topic, 'publish')) return done(new Error('not yours'));
      if (!this.taking) return done(null);
      void this.taking(packet.topic).then((acknowledged) => {
        if (acknowledged) done(null);
        else broker.publish(packet, () => {});
      });
    };
    broker.authorizeSubscribe = (client, subscription, done) => done(null, nameOf(client) && mayUse(nameOf(client)!, subscription.topic, 'subscribe') ? subscription : null);
    broker.authenticate = (client, _user, _password, done) => {
      if (nameOf(client) === controllerName) done(null, true);
      else void door.then(() => done(null, nameOf(client) === client?.id));
    };
    this.brokerServer = createTls({ cert: this.server.certificate, key: this.server.key, ca: this.authority.certificatePem, requestCert: true, rejectUnauthorized: true }, (socket) => {
      this.sockets.add(socket);
      socket.on('close', () => this.sockets.delete(socket)).on('error', () => {});
      broker.handle(socket);
    });
    this.brokerServer.listen(this.brokerPort, '127.0.0.1');
    await once(this.brokerServer, 'listening');
    this.brokerPort = (this.brokerServer.address() as { port: number }).port;
    const own = await this.authority.ownFiles(this.dir, 'controller', { commonName: controllerName, client: true });
    this.controller = await mqtt.connectAsync(this.mqttUrl, { clientId: controllerName, ca: this.authority.certificatePem, cert: own.certificate, key: own.key, protocolVersion: 4, reconnectPeriod: 0, rejectUnauthorized: !this.at });
    this.controller.on('error', () => {});
    this.controller.on('message', (topic, payload) => this.hear(topic, payload));
    await this.controller.subscribeAsync([reported.filter, presence.filter, telemetry.filter, commandResult.filter], { qos: 1 });
    open();
  }

  async stopBroker(): Promise<void> {
    await this.controller.endAsync(true);
    for (const socket of this.sockets) socket.destroy();
    await new Promise<void>((resolve) => { this.broker.close(() => resolve()); });
    await new Promise<void>((resolve) => { this.brokerServer.close(() => resolve()); });
  }

  async close(): Promise<void> {
    await this.stopBroker();
    this.gateway.closeAllConnections();
    await new Promise<void>((resolve) => { this.gateway.close(() => resolve()); });
    await rm(this.dir, { recursive: true, force: true });
  }

  /** A real, signed bundle of the colours model: in the gateway, self-test included. */
  publish(version: number, options: ColoursOptions & { alter?: (manifest: Manifest) => Manifest; sign?: (manifest: Manifest) => unknown; goldenOf?: ColoursOptions; model?: Buffer } = {}): { bundle: string; manifest: Manifest; model: Buffer } {
    const { alter, sign, goldenOf, model: other, ...colours } = options;
    const model = other ?? coloursModel({ mark: `v${version}`, ...colours });
    const golden = goldenPack(goldenOf ? coloursModel({ mark: `v${version}`, ...goldenOf }) : model);
    const interpreter = Interpreter.load(model);
    const spec = ({ name, shape, scale, zeroPoint }: Interpreter['inputs'][number]) => ({ name, shape, dtype: 'int8' as const, scale, zeroPoint });
    const plain: Manifest = {
      schema: 1, model: 'colours', version, task: 'classification', labels: [...colourLabels],
      inputs: interpreter.inputs.map((input) => ({ ...spec(input), preprocessing })), outputs: interpreter.outputs.map(spec),
      variants: [{ name: 'cpu-int8', kind: 'cpu-int8', minRuntime: null, file: this.put(model) }],
      golden: { ...this.put(golden), cases: 4 }, lineage: { source: { digest: sha256(model), filename: 'colours.tflite' }, calibration: null, evaluation: null, job: null, parent: null, tools: {} },
      parity: null, createdAt: '2026-01-01T00:00:00.000Z',
    };
    interpreter.close();
    const manifest = alter?.(plain) ?? plain;
    const bundle = bundleDigest(manifest);
    this.envelopes.set(bundle, sign?.(manifest) ?? (signBundle(manifest, this.key) satisfies Envelope));
    return { bundle, manifest, model };
  }

  put(content: Buffer): { digest: string; bytes: number } {
    const digest = sha256(content);
    this.blobs.set(digest, content);
    return { digest, bytes: content.length };
  }

  /** What one device should run from now on; retained, as the controller sends it. */
  async want(device: string, revision: number, workloads: Record<string, { bundle: string; variant?: string; rollback?: boolean; rollbackTo?: string; policy?: Partial<Desired['workloads'][string]['policy']> }>, config?: Partial<Desired['config']>): Promise<void> {
    const body: z.input<typeof desired.schema> = {
      revision, config: config ?? {},
      workloads: Object.fromEntries(Object.entries(workloads).map(([name, one]) => [name, { variant: 'cpu-int8', ...one, manifestUrl: `/v1/bundles/${one.bundle}` }])),
    };
    await this.controller.publishAsync(desired.topicFor(device), desired.encode(body), desired);
  }

  async command(device: string, body: Pick<Command, 'id' | 'kind'> & Partial<Command>): Promise<void> {
    await this.controller.publishAsync(command.topicFor(device, body.id), command.encode(body), command);
  }

  /** The latest report, once it satisfies `wanted`. */
  async reportWhere(wanted: (report: Reported) => boolean, timeoutMs = 30_000): Promise<Reported> {
    return eventually(() => this.reports.findLast(wanted), timeoutMs, () => `last report: ${JSON.stringify(this.reports.at(-1))}`);
  }

  private hear(topic: string, payload: Buffer): void {
    const path = parseTopic(topic)?.path;
    const keep = <T>(list: T[], decoded: { ok: true; body: T } | { ok: false; reason: string }) => {
      if (!decoded.ok) throw new Error(`the agent sent something unreadable on ${topic}: ${decoded.reason}`);
      list.push(decoded.body);
    };
    if (path === 'reported') keep(this.reports, reported.decode(payload));
    if (path === 'telemetry') keep(this.windows, telemetry.decode(payload));
    if (path === 'presence') keep(this.presences, presence.decode(payload));
    if (path === 'cmd/{id}/result') keep(this.results, commandResult.decode(payload));
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url ?? '';
    if (this.at) response.setHeader('date', this.at.toUTCString());
    this.requests.push(`${request.method} ${path} ${request.headers.range ?? ''}`.trim());
    if (path === '/ca.pem') return void response.end(this.authority.certificatePem);
    const json = (status: number, body: unknown) => void response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    if (path === '/v1/enrol') {
      const { token, csr, deviceId } = JSON.parse(await textOf(request)) as { token: string; csr: string; deviceId?: string };
      if (token !== this.token) return json(403, { code: 'enrolment.token_invalid', detail: 'This enrolment token is not valid.' });
      const { certificate } = await this.authority.signDevice(csr, deviceId ?? 'device-1');
      return json(201, { deviceId: deviceId ?? 'device-1', certificate, ca: this.authority.certificatePem, mqttUrl: this.mqttUrl, gatewayUrl: this.gatewayUrl, signingKeys: [{ keyId: this.key.keyId, publicKeyPem: this.key.publicKeyPem }] });
    }
    const socket = request.socket as TLSSocket;
    if (!socket.authorized) return json(401, { code: 'device.certificate_required', detail: 'Send the device certificate.' });
    if (path === '/v1/renew') {
      const { csr } = JSON.parse(await textOf(request)) as { csr: string };
      return json(200, { certificate: (await this.authority.signDevice(csr, socket.getPeerCertificate().subject.CN as string)).certificate });
    }
    const delta = /^\/v1\/blobs\/([0-9a-f]{64})\/delta\?from=([0-9a-f]{64})$/.exec(path);
    if (delta) return this.answerDelta(request, response, delta[2]!, delta[1]!);
    const [, learning] = /^\/v1\/learned\/([\w-]+)$/.exec(path) ?? [];
    if (learning) {
      this.learned.push({ command: learning, content: await bytesOf(request) });
      return json(201, { version: 'colours@9', job: 'job-1' });
    }
    const capture = /^\/v1\/captures\/([0-9a-f-]{36})\?(.*)$/.exec(path);
    if (capture && request.method === 'POST') {
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk as Buffer);
      this.captures.push({ device: socket.getPeerCertificate().subject.CN as string, id: capture[1]!, facts: Object.fromEntries(new URLSearchParams(capture[2])), jpeg: Buffer.concat(chunks) });
      return json(201, { id: capture[1] });
    }
    const [, kind, digest] = /^\/v1\/(bundles|blobs)\/([0-9a-f]{64})$/.exec(path) ?? [];
    const content = kind === 'bundles' && this.envelopes.has(digest!) ? Buffer.from(JSON.stringify(this.envelopes.get(digest!))) : this.blobs.get(digest ?? '');
    const fault = this.faults.get(digest ?? '');
    if (fault && !(await fault(request, response, content ?? Buffer.alloc(0)))) return;
    if (!content) return json(404, { code: 'object.missing', detail: 'No such object.' });
    this.send(request, response, content);
  }

  /** As the gateway does; a fault for it is under `delta DIGEST`, of the new file. */
  private async answerDelta(request: IncomingMessage, response: ServerResponse, from: string, to: string): Promise<void> {
    const [old, next] = [this.blobs.get(from), this.blobs.get(to)];
    const made = old && next && (await makeDelta(old, next));
    const fault = this.faults.get(`delta ${to}`);
    if (fault && !(await fault(request, response, made ?? Buffer.alloc(0)))) return;
    if (!made) return void response.writeHead(404, { 'content-type': 'application/json' }).end(JSON.stringify({ code: 'delta.none', detail: 'No delta.' }));
    const etag = `"${sha256(made)}"`;
    if (request.headers['if-range'] !== undefined && request.headers['if-range'] !== etag) delete request.headers.range;
    response.setHeader('etag', etag);
    this.send(request, response, made);
  }

  private send(request: IncomingMessage, response: ServerResponse, content: Buffer): void {
    const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
    const body = content.subarray(start);
    this.bytesServed += body.length;
    response.writeHead(start > 0 ? 206 : 200, { 'content-length': body.length, ...(start > 0 ? { 'content-range': `bytes ${start}-${content.length - 1}/${content.length}` } : {}) });
    response.end(body);
  }
}

const preprocessing = { kind: 'image' as const, width: 32, height: 32, channels: 3 as const, resize: 'stretch' as const, mean: [0], std: [255] };
const pureColours: Record<string, [number, number, number]> = { red: [220, 20, 20], green: [20, 200, 30], blue: [20, 30, 220], yellow: [230, 220, 20] };

/** The four colours with what the model itself answers. */
function goldenPack(model: Buffer): Buffer {
  const interpreter = Interpreter.load(model);
  const cases = colourLabels.map((colour) => {
    const pixels = Buffer.alloc(32 * 32 * 3);
    for (let at = 0; at < pixels.length; at += 1) pixels[at] = pureColours[colour]![at % 3]!;
    const input = quantisePixels(pixels, preprocessing, interpreter.inputs[0]!);
    const { outputs } = interpreter.run([input]);
    const scores = new Int8Array(outputs[0]!.buffer, outputs[0]!.byteOffset, outputs[0]!.length);
    return { input: [input], expect: { top1: scores.indexOf(Math.max(...scores)), outputs, dtypes: ['int8' as const], tolerance: { maxStepDiff: 16 } } };
  });
  interpreter.close();
  return encodeGolden({ cases });
}

/** A folder with one PNG per colour and labels.csv. */
export async function colourFrames(dir: string): Promise<void> {
  const { mkdir, writeFile } = await import('node:fs/promises');
  await mkdir(dir, { recursive: true });
  for (const colour of colourLabels) {
    const [r, g, b] = pureColours[colour]!;
    await sharp({ create: { width: 64, height: 48, channels: 3, background: { r, g, b } } }).png().toFile(join(dir, `${colour}.png`));
  }
  await writeFile(join(dir, 'labels.csv'), `file,label\n${colourLabels.map((colour) => `${colour}.png,${colour}`).join('\n')}\n`);
}

export async function eventually<T>(look: () => T | undefined | false | Promise<T | undefined | false>, timeoutMs = 30_000, otherwise: () => string = () => ''): Promise<T> {
  const until = performance.now() + timeoutMs;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (performance.now() > until) throw new Error(`did not happen within ${timeoutMs} ms; ${otherwise()}`);
    await delay(25);
  }
}

function nameOf(client: Client | null): string | undefined {
  return (client?.conn as TLSSocket | undefined)?.getPeerCertificate?.()?.subject?.CN as string | undefined;
}

async function textOf(request: IncomingMessage): Promise<string> {
  return (await bytesOf(request)).toString('utf8');
}

async function bytesOf(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}
