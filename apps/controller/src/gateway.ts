import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TLSSocket } from 'node:tls';
import { Inject, Injectable, type BeforeApplicationShutdown, type OnApplicationBootstrap } from '@nestjs/common';
import { Learnings } from '@reefkeeper/conversion';
import { Authority, Commands, Devices, Enrolment } from '@reefkeeper/devices';
import { ReefError, type Logger, type ObjectStore } from '@reefkeeper/platform';
import { fromHttp, problemOf } from '@reefkeeper/platform/http';
import { maxLearnedBytes } from '@reefkeeper/bundle/learned';
import { captureFacts, deviceId, learnArgs } from '@reefkeeper/protocol';
import { Deltas, Registry } from '@reefkeeper/registry';
import { Captures } from '@reefkeeper/telemetry';
import fastify, { type FastifyInstance, type FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { Config } from './config.ts';
import { DevicePackages, installScript } from './device-packages.ts';
import { Downloads } from './downloads.ts';

export interface GatewayIdentity { certificate: string; key: string; signingKeys: { keyId: string; publicKeyPem: string }[] }

const enrolBody = z.object({ token: z.string().max(200), csr: z.string().max(8_192), deviceId: deviceId.optional() });
const renewBody = z.object({ csr: z.string().max(8_192) });
/** How long a device waits for a delta in the making; its own patience with silence is 30 s. */
const makingMs = 20_000;
const digest = /^[0-9a-f]{64}$/;
const maxCaptureBytes = 2 * 1024 * 1024;
const jpegStart = Buffer.from([0xff, 0xd8, 0xff]);
/** As a query has them: text. */
const sentFacts = captureFacts.extend({ score: z.coerce.number().min(0).max(1), margin: z.coerce.number().min(0).max(1) });

/**
 * The devices' own HTTPS door, apart from the API: enrolment with a one-time token, everything else with the device's certificate.
 * Bytes travel here, with ranges, never over MQTT.
 */
@Injectable()
export class Gateway implements OnApplicationBootstrap, BeforeApplicationShutdown {
  private server: FastifyInstance | undefined;
  private readonly downloads: Downloads;
  private readonly packages: DevicePackages;
  /** Digests found open to devices. They stay so: a ready version never changes. */
  private readonly open = new Set<string>();

  constructor(
    @Inject('CONFIG') private readonly config: Config,
    @Inject('GATEWAY_IDENTITY') private readonly identity: GatewayIdentity,
    @Inject('LOG') private readonly log: Logger,
    @Inject('OBJECTS') objects: ObjectStore,
    @Inject(Authority) private readonly authority: Authority,
    @Inject(Enrolment) private readonly enrolment: Enrolment,
    @Inject(Devices) private readonly devices: Devices,
    @Inject(Registry) private readonly registry: Registry,
    @Inject(Captures) private readonly captures: Captures,
    @Inject(Deltas) private readonly deltas: Deltas,
    @Inject(Commands) private readonly commands: Commands,
    @Inject(Learnings) private readonly learnings: Learnings,
  ) {
    this.downloads = new Downloads(objects);
    this.packages = new DevicePackages(config.AGENT_PACKAGES_DIR);
  }

  /** The port it listens on; for when the system chose it. */
  get port(): number {
    return (this.server!.server.address() as AddressInfo).port;
  }

  async onApplicationBootstrap(): Promise<void> {
    const { certificate, key } = this.identity;
    const server = fastify({ https: { cert: certificate, key, ca: this.authority.certificatePem, requestCert: true, rejectUnauthorized: false, minVersion: 'TLSv1.2' }, bodyLimit: 64 * 1024, forceCloseConnections: true }) as unknown as FastifyInstance;
    server.setErrorHandler((thrown, _request, reply) => {
      const error = fromHttp(thrown);
      if (error.kind === 'bug') this.log.error({ err: thrown }, 'gateway request failed');
      // What was said of the blob is not true of the problem.
      void reply.removeHeader('content-length').removeHeader('etag').removeHeader('cache-control');
      void reply.status(error.httpStatus).type('application/problem+json').send(problemOf(error));
    });

    server.setNotFoundHandler((_request, reply) => reply.status(404).type('application/problem+json').send(problemOf(new ReefError('request.not_found', 'not_found', 'The gateway has no such path. Devices use /install.sh, /packages, /ca.pem, /v1/enrol, /v1/renew, /v1/bundles, /v1/blobs and /v1/learned; people use the API on its own port.'))));
    server.get('/ca.pem', (_request, reply) => reply.type('application/x-pem-file').send(this.authority.certificatePem));
    // A device that comes in has neither certificate nor agent.
    server.get('/install.sh', async (_request, reply) => {
      if (!(await this.packages.any())) throw new ReefError('package.missing', 'not_found', 'This controller has no packages for devices. Make them (npm run package:deb) and put them into the folder that AGENT_PACKAGES_DIR names.');
      return reply.type('text/x-shellscript; charset=utf-8').send(installScript(this.config.PUBLIC_GATEWAY_URL));
    });
    server.get<{ Params: { architecture: string; file: string } }>('/packages/:architecture/:file', async (request, reply) => {
      const { bytes, file, content } = await this.packages.open(request.params.file.replace(/\.deb$/, ''), request.params.architecture);
      return reply.type('application/vnd.debian.binary-package').header('content-length', bytes).header('content-disposition', `attachment; filename="${file}"`).send(content);
    });
    server.post('/v1/enrol', async (request) => {
      const { token, csr, deviceId: id } = parsed(enrolBody, request.body);
      const issued = await this.enrolment.enrol({ token, csr, deviceId: id });
      this.log.info({ device: issued.deviceId }, 'device enrolled');
      return this.answer(issued.deviceId, issued.certificate);
    });
    server.post('/v1/renew', async (request) => {
      const device = await this.deviceOf(request);
      const issued = await this.enrolment.renew(device, parsed(renewBody, request.body).csr);
      return this.answer(device, issued.certificate);
    });
    server.get<{ Params: { digest: string } }>('/v1/bundles/:digest', async (request, reply) => {
      await this.deviceOf(request);
      const version = await this.registry.versionByBundle(checked(request.params.digest));
      if (!version?.envelopeDigest) throw new ReefError('artifact.missing', 'not_found', 'There is no such bundle.', { detail: { digest: request.params.digest } });
      return this.downloads.serve(version.envelopeDigest, 'application/json', request, reply);
    });
    server.get<{ Params: { digest: string } }>('/v1/blobs/:digest', async (request, reply) => {
      const device = await this.deviceOf(request);
      return this.downloads.serve(await this.forDevices(request.params.digest, device), 'application/octet-stream', request, reply);
    });
    server.get<{ Params: { digest: string }; Querystring: { from?: unknown } }>('/v1/blobs/:digest/delta', async (request, reply) => {
      await this.deviceOf(request);
      const to = await this.forDevices(request.params.digest);
      const from = await this.forDevices(String(request.query.from));
      const made = await Promise.race([this.deltas.between(from, to), sleep(makingMs, 'busy' as const, { ref: false })]);
      if (made === 'busy') throw new ReefError('delta.not_ready', 'unavailable', 'This delta is being made. Ask again.');
      if (!made) throw new ReefError('delta.none', 'not_found', 'There is no delta between these two that is worth sending. Fetch the whole file.', { detail: { from, to } });
      // Its entity tag is its own digest: a client resumes this delta or none.
      return this.downloads.serve(made.digest, 'application/zstd', request, reply);
    });
    server.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_request, body, done) => done(null, body));
    server.post<{ Params: { command: string } }>('/v1/learned/:command', { bodyLimit: maxLearnedBytes }, async (request, reply) => {
      const device = await this.deviceOf(request);
      const asked = await this.commands.get(device, parsed(z.uuid(), request.params.command));
      // Answered already where the device lost our answer and offers the same again.
      if (asked.kind !== 'learn' || asked.state === 'FAILED') throw new ReefError('learn.not_asked', 'conflict', 'Nobody asked this device to learn that, or no longer waits for it. Send the command again.', { detail: { command: asked.id, state: asked.state } });
      if (!Buffer.isBuffer(request.body)) throw new ReefError('request.invalid', 'invalid', 'Send what was learnt as application/octet-stream.');
      const { workload, model, hold, images } = learnArgs.parse(asked.args);
      const { version, job } = await this.learnings.offer({ device, workload, command: asked.id, askedBy: asked.createdBy, images: images.digest, model, hold, content: request.body });
      this.log.info({ device, workload, command: asked.id, version: `${version.model}@${version.version}`, job: job.id }, 'device has learnt');
      void reply.status(201);
      return { version: `${version.model}@${version.version}`, job: job.id };
    });
    server.post<{ Params: { id: string }; Querystring: unknown }>('/v1/captures/:id', { bodyLimit: maxCaptureBytes }, async (request, reply) => {
      const device = await this.deviceOf(request);
      const id = parsed(z.uuid(), request.params.id);
      const facts = parsed(sentFacts, request.query);
      const { body } = request;
      if (!Buffer.isBuffer(body) || !body.subarray(0, 3).equals(jpegStart)) throw new ReefError('request.invalid', 'invalid', 'Send the picture as a JPEG, with Content-Type: application/octet-stream.');
      await this.captures.mayStore(id, device);
      const stored = await this.registry.keep(body, { mediaType: 'image/jpeg', role: 'capture' });
      const fresh = await this.captures.record(id, device, facts, stored);
      return reply.status(fresh ? 201 : 200).send({ id, digest: stored.digest });
    });
    await server.listen({ host: this.config.GATEWAY_HOST, port: this.config.GATEWAY_PORT });
    this.server = server;
  }

  async beforeApplicationShutdown(): Promise<void> {
    await this.server?.close();
  }

  private answer(device: string, certificate: string): Record<string, unknown> {
    return { deviceId: device, certificate, ca: this.authority.certificatePem, mqttUrl: this.config.PUBLIC_MQTT_URL, gatewayUrl: this.config.PUBLIC_GATEWAY_URL, signingKeys: this.identity.signingKeys };
  }

  /** @param device who may have what it was asked to learn from, too @throws ReefError `request.invalid`, `artifact.missing` */
  private async forDevices(text: string, device?: string): Promise<string> {
    const wanted = checked(text);
    if (this.open.has(wanted)) return wanted;
    // Not remembered: it is for this device, and for as long as the command is open.
    if (device && (await this.commands.opensTo(device, wanted))) return wanted;
    if (!(await this.registry.openToDevices(wanted))) throw new ReefError('artifact.missing', 'not_found', 'There is no such blob for devices.', { detail: { digest: wanted } });
    this.open.add(wanted);
    return wanted;
  }

  /** Whose certificate this connection has shown. @throws ReefError `device.unauthenticated`, `device.retired` */
  private async deviceOf(request: FastifyRequest): Promise<string> {
    const socket = request.raw.socket as TLSSocket;
    const certificate = socket.authorized ? socket.getPeerCertificate() : undefined;
    const name = certificate?.subject?.CN;
    if (!certificate || typeof name !== 'string') throw new ReefError('device.unauthenticated', 'unauthenticated', 'This needs the certificate a device got when it enrolled.');
    if (!(await this.devices.mayConnect(name, certificate.serialNumber))) throw new ReefError('device.retired', 'forbidden', `The certificate of "${name}" is no longer valid: the device was retired or enrolled anew.`);
    return name;
  }
}

function checked(text: string): string {
  if (!digest.test(text)) throw new ReefError('request.invalid', 'invalid', 'A digest is a SHA-256 in 64 lower-case hex digits.');
  return text;
}

function parsed<S extends z.ZodType>(schema: S, body: unknown): z.output<S> {
  const result = schema.safeParse(body);
  if (!result.success) throw new ReefError('request.invalid', 'invalid', z.prettifyError(result.error));
  return result.data;
}
