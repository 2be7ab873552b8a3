import { randomUUID } from 'node:crypto';
import { chmod, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import type { Logger } from '@reefkeeper/platform/logger';
import { sleep } from './backoff.ts';
import { agentVersion } from './capabilities.ts';
import type { LocalAddress } from './config.ts';
import { routeOf, type Reply, type Workloads } from './local-routes.ts';

export interface LocalApiOptions {
  address: NonNullable<LocalAddress>;
  workloads: Workloads;
  /** Requests held at a time. */
  queue: number;
  maxBodyBytes: number;
  /** From the first byte of a question to its answer. */
  timeoutMs?: number;
  /** Pause between two tries to listen where the address is taken. */
  retryMs?: number;
  log: Logger;
}

/**
 * HTTP for programs on this device: Open Inference Protocol v2 and a few conveniences. Plain `node:http`, which the agent has loaded anyway.
 * Invariant: what is held in memory is bounded, by the number of requests and by the bytes of their bodies; who comes beyond is told to
 * come again, at once.
 */
export class LocalApi {
  private readonly server: Server;
  private readonly stopped = new AbortController();
  private listening: Promise<void> = Promise.resolve();
  private held = 0;
  private heldBytes = 0;
  private readonly answering = new Set<Promise<void>>();
  private numbered = 0;
  private readonly boot = randomUUID().slice(0, 8);

  constructor(private readonly options: LocalApiOptions) {
    this.server = createServer({ requestTimeout: 30_000, headersTimeout: 10_000, keepAliveTimeout: 5_000, maxHeaderSize: 8_192 }, (request, response) => {
      const answer = this.handle(request, response);
      this.answering.add(answer);
      void answer.finally(() => this.answering.delete(answer));
    });
    this.server.maxConnections = 2 * options.queue + 64;
    this.server.on('clientError', (_error, socket) => { if (socket.writable) socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n'); });
  }

  /** Listens as soon as the address is free: another program on it is no reason for the agent to stop. Resolves after the first try. */
  async start(): Promise<void> {
    const { log } = this.options;
    try {
      await this.listen();
    } catch (error) {
      log.error({ address: this.options.address, reason: (error as Error).message }, 'the local API cannot listen there yet; set REEF_LOCAL_API to another address, or off');
      this.listening = this.listenLater();
    }
  }

  /** `http://127.0.0.1:8080`, or the socket's path; undefined while it does not listen. */
  get url(): string | undefined {
    const address = this.server.address();
    if (!address) return undefined;
    if (typeof address === 'string') return `unix:${address}`;
    return `http://${address.family === 'IPv6' ? `[${address.address}]` : address.address}:${address.port}`;
  }

  /** Takes no more, answers what it has. */
  async stop(): Promise<void> {
    this.stopped.abort(new ReefError('agent.stopping', 'unavailable', 'The agent is being stopped.'));
    await this.listening;
    const closed = new Promise<void>((resolve) => { this.server.close(() => resolve()); });
    await Promise.race([Promise.allSettled(this.answering), sleep(5_000)]);
    this.server.closeAllConnections();
    await closed;
  }

  private async listen(): Promise<void> {
    const { address } = this.options;
    // A socket file that a killed agent left behind; the agent's own lock says that no other one lives here.
    if ('path' in address) await rm(address.path, { force: true });
    await new Promise<void>((resolve, reject) => {
      const failed = (error: Error) => reject(error);
      this.server.once('error', failed);
      this.server.listen('path' in address ? { path: address.path } : { host: address.host, port: address.port }, () => {
        this.server.off('error', failed);
        resolve();
      });
    });
    if ('path' in address) await chmod(address.path, 0o660);
    this.options.log.info({ url: this.url }, 'local API listens');
  }

  private async listenLater(): Promise<void> {
    const { signal } = this.stopped;
    while (!signal.aborted) {
      await sleep(this.options.retryMs ?? 10_000, signal).catch(() => {});
      if (signal.aborted || (await this.listen().then(() => true, () => false))) return;
    }
  }

  private async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const gone = new AbortController();
    response.on('close', () => gone.abort(new ReefError('request.gone', 'unavailable', 'The client went away.')));
    response.on('error', () => {});
    const { timeoutMs = 30_000 } = this.options;
    const late = new ReefError('inference.timeout', 'unavailable', `No answer within ${timeoutMs / 1_000} s. Is the model loading, or slower than what is asked of it?`);
    const timer = setTimeout(() => gone.abort(late), timeoutMs);
    let bytes = 0;
    let counted = false;
    try {
      const url = new URL(request.url ?? '/', 'http://local');
      refuseOtherSites(request);
      const route = routeOf(request.method ?? 'GET', url.pathname);
      let body: Buffer = Buffer.alloc(0);
      if (route.takes !== 'nothing') {
        counted = true;
        this.held += 1;
        if (this.held > this.options.queue) throw busy(`${this.options.queue} requests are being answered or wait`);
        body = await this.read(request, (more) => {
          bytes += more;
          this.heldBytes += more;
        });
      }
      const given = request.headers['x-request-id'];
      const id = typeof given === 'string' && given.length <= 128 ? given : `${this.boot}-${(this.numbered += 1)}`;
      const reply = await route.answer({ body, headers: request.headers, query: url.searchParams, id, signal: gone.signal, workloads: this.options.workloads, version: agentVersion });
      if (!response.destroyed) send(response, reply);
    } catch (thrown) {
      if (!request.complete) request.resume();
      if (!response.writableEnded && !response.destroyed) send(response, refusal(thrown, this.options.log));
    } finally {
      clearTimeout(timer);
      this.heldBytes -= bytes;
      if (counted) this.held -= 1;
    }
  }

  private async read(request: IncomingMessage, hold: (bytes: number) => void): Promise<Buffer> {
    const { maxBodyBytes } = this.options;
    const tooLong = () => new ReefError('request.too_large', 'invalid', `The body is longer than ${maxBodyBytes} bytes (REEF_LOCAL_API_BODY).`);
    const encoding = request.headers['content-encoding'] ?? 'identity';
    if (encoding !== 'identity') throw new ReefError('request.encoded', 'invalid', `Content-Encoding ${encoding} is not read; send the body as it is.`);
    const announced = Number(request.headers['content-length'] ?? 0);
    if (announced > maxBodyBytes) throw tooLong();
    const take = (more: number) => {
      if (this.heldBytes + more > 2 * maxBodyBytes) throw busy('the bodies of waiting requests fill the memory set aside for them');
      hold(more);
    };
    take(announced);
    const chunks: Buffer[] = [];
    let length = 0;
    for await (const chunk of request as AsyncIterable<Buffer>) {
      length += chunk.length;
      if (length > maxBodyBytes) throw tooLong();
      if (length > announced) take(chunk.length);
      chunks.push(chunk);
    }
    return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
  }
}

/** A page in a browser on this machine must not use the device behind its user's back. */
function refuseOtherSites({ headers }: IncomingMessage): void {
  if (headers.origin && headers.origin !== `http://${headers.host}`) throw new ReefError('request.other_site', 'forbidden', `Pages of ${headers.origin} may not use this device.`);
}

function busy(why: string): ReefError {
  return new ReefError('queue.full', 'unavailable', `Come again in a moment: ${why}.`);
}

function send(response: ServerResponse, { status = 200, headers = {}, body }: Reply): void {
  const bytes = Buffer.isBuffer(body) ? body : Buffer.from(JSON.stringify(body));
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': bytes.length, 'cache-control': 'no-store', 'x-content-type-options': 'nosniff', ...headers });
  response.end(bytes);
}

/** In the protocol's shape, with our own code beside it for programs. */
function refusal(thrown: unknown, log: Logger): Reply {
  const error = asReefError(thrown);
  if (error.kind === 'bug') log.error({ err: thrown }, 'the local API failed');
  return { status: error.httpStatus, headers: error.kind === 'unavailable' ? { 'retry-after': '1' } : {}, body: { error: error.message, code: error.code } };
}
