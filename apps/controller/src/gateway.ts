import type { TLSSocket } from 'node:tls';
import { Inject, Injectable, type BeforeApplicationShutdown, type OnApplicationBootstrap } from '@nestjs/common';
import { Authority, Devices, Enrolment } from '@reefkeeper/devices';
import { readWhole, ReefError, type Logger, type ObjectStore } from '@reefkeeper/platform';
import { fromHttp, problemOf } from '@reefkeeper/platform/http';
import { deviceId } from '@reefkeeper/protocol';
import { Registry } from '@reefkeeper/registry';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { Config } from './config.ts';

export interface GatewayIdentity { certificate: string; key: string; signingKeys: { keyId: string; publicKeyPem: string }[] }

const enrolBody = z.object({ token: z.string().max(200), csr: z.string().max(8_192), deviceId: deviceId.optional() });
const renewBody = z.object({ csr: z.string().max(8_192) });
const digest = /^[0-9a-f]{64}$/;

/** Blobs up to this size are kept in memory once asked for: a rollout sends the same few to everyone. */
const hotBlobBytes = 32 * 1024 ** 2;
const hotTotalBytes = 128 * 1024 ** 2;

/**
 * The devices' own HTTPS door, apart from the API: enrolment with a one-time token, everything else with the device's certificate.
 * Bytes travel here, with ranges, never over MQTT.
 */
@Injectable()
export class Gateway implements OnApplicationBootstrap, BeforeApplicationShutdown {
  private server: FastifyInstance | undefined;
  private readonly hot = new Map<string, Buffer>();
  private hotBytes = 0;

  constructor(
    @Inject('CONFIG') private readonly config: Config,
    @Inject('GATEWAY_IDENTITY') private readonly identity: GatewayIdentity,
    @Inject('LOG') private readonly log: Logger,
    @Inject('OBJECTS') private readonly objects: ObjectStore,
    @Inject(Authority) private readonly authority: Authority,
    @Inject(Enrolment) private readonly enrolment: Enrolment,
    @Inject(Devices) private readonly devices: Devices,
    @Inject(Registry) private readonly registry: Registry,
  ) {}

  async onApplicationBootstrap(): Promise<void> {
    const { certificate, key } = this.identity;
    const server = fastify({ https: { cert: certificate, key, ca: this.authority.certificatePem, requestCert: true, rejectUnauthorized: false, minVersion: 'TLSv1.2' }, bodyLimit: 64 * 1024, forceCloseConnections: true }) as unknown as FastifyInstance;
    server.setErrorHandler((thrown, _request, reply) => {
      const error = fromHttp(thrown);
      if (error.kind === 'bug') this.log.error({ err: thrown }, 'gateway request failed');
      void reply.status(error.httpStatus).type('application/problem+json').send(problemOf(error));
    });

    server.get('/ca.pem', (_request, reply) => reply.type('application/x-pem-file').send(this.authority.certificatePem));
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
      const version = digest.test(request.params.digest) ? await this.registry.versionByBundle(request.params.digest) : null;
      if (!version?.envelopeDigest) throw new ReefError('artifact.missing', 'not_found', 'There is no such bundle.', { detail: { digest: request.params.digest } });
      return this.serve(version.envelopeDigest, request, reply, 'application/json');
    });
    server.get<{ Params: { digest: string } }>('/v1/blobs/:digest', async (request, reply) => {
      await this.deviceOf(request);
      return this.serve(request.params.digest, request, reply, 'application/octet-stream');
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

  /** Whose certificate this connection has shown. @throws ReefError `device.unauthenticated`, `device.retired` */
  private async deviceOf(request: FastifyRequest): Promise<string> {
    const socket = request.raw.socket as TLSSocket;
    const certificate = socket.authorized ? socket.getPeerCertificate() : undefined;
    const name = certificate?.subject?.CN;
    if (!certificate || typeof name !== 'string') throw new ReefError('device.unauthenticated', 'unauthenticated', 'This needs the certificate a device got when it enrolled.');
    if (!(await this.devices.mayConnect(name, certificate.serialNumber))) throw new ReefError('device.retired', 'forbidden', `The certificate of "${name}" is no longer valid: the device was retired or enrolled anew.`);
    return name;
  }

  private async serve(name: string, request: FastifyRequest, reply: FastifyReply, type: string): Promise<FastifyReply> {
    if (!digest.test(name)) throw new ReefError('artifact.missing', 'not_found', 'There is no such blob.');
    const { bytes } = await this.objects.stat(name).catch((cause: unknown) => { throw new ReefError('artifact.missing', 'not_found', 'There is no such blob.', { detail: { digest: name }, cause }); });
    void reply.header('etag', `"${name}"`).header('accept-ranges', 'bytes').header('cache-control', 'private, max-age=31536000, immutable').type(type);
    if (request.headers['if-none-match'] === `"${name}"`) return reply.status(304).send();
    const wanted = rangeOf(request.headers.range, bytes);
    if (wanted === 'unsatisfiable') return reply.status(416).header('content-range', `bytes */${bytes}`).send();
    const { start, end } = wanted ?? { start: 0, end: bytes - 1 };
    if (wanted) void reply.status(206).header('content-range', `bytes ${start}-${end}/${bytes}`);
    void reply.header('content-length', end - start + 1);
    if (bytes <= hotBlobBytes) return reply.send((await this.whole(name, bytes)).subarray(start, end + 1));
    return reply.send(await this.objects.read(name, { start, end }));
  }

  /** From memory; the one unused for longest makes room. */
  private async whole(name: string, bytes: number): Promise<Buffer> {
    let content = this.hot.get(name);
    if (content) {
      this.hot.delete(name);
    } else {
      content = await readWhole(this.objects, name);
      this.hotBytes += bytes;
    }
    this.hot.set(name, content);
    for (const [oldest, old] of this.hot) {
      if (this.hotBytes <= hotTotalBytes) break;
      this.hot.delete(oldest);
      this.hotBytes -= old.length;
    }
    return content;
  }
}

/** One range (RFC 9110 section 14.2); anything else is answered with the whole, as the standard allows. */
export function rangeOf(header: string | undefined, bytes: number): { start: number; end: number } | 'unsatisfiable' | undefined {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? '');
  if (!match || (match[1] === '' && match[2] === '')) return undefined;
  const start = match[1] === '' ? Math.max(0, bytes - Number(match[2])) : Number(match[1]);
  const end = match[1] === '' || match[2] === '' ? bytes - 1 : Math.min(Number(match[2]), bytes - 1);
  return start > end || start >= bytes ? 'unsatisfiable' : { start, end };
}

function parsed<S extends z.ZodType>(schema: S, body: unknown): z.output<S> {
  const result = schema.safeParse(body);
  if (!result.success) throw new ReefError('request.invalid', 'invalid', z.prettifyError(result.error));
  return result.data;
}
