import { Agent, request, type AgentOptions, type RequestOptions } from 'node:https';
import type { Duplex } from 'node:stream';
import type { IncomingMessage } from 'node:http';
import { ReefError } from '@reefkeeper/platform/errors';
import type { DeviceClock } from './clock.ts';
import { connectAt, isTimeError } from './trust.ts';

export interface GatewayOptions {
  /** Origin, `https://host:port`. */
  url: string;
  /** The only authority that is trusted. */
  ca: string;
  /** The device's own certificate; absent before enrolment. */
  cert?: string;
  key?: string;
  /** Learns the time from answers, and is asked when the device's own is not to be trusted. */
  clock?: DeviceClock;
  /** Silence on the line that counts as a failure. */
  idleMs?: number;
}

/** Goes by the fleet's time where the device's clock is wrong; OpenSSL only knows the latter. */
class ClockedAgent extends Agent {
  constructor(private readonly clock: DeviceClock | undefined, private readonly pinned: AgentOptions & { ca: string; cert?: string; key?: string }) {
    super(pinned);
  }

  override createConnection(options: RequestOptions & { host?: string; port?: number }, done?: (error: Error | null, socket: Duplex) => void): Duplex | null | undefined {
    if (!this.clock?.wrong) return super.createConnection(options, done);
    const { ca, cert, key } = this.pinned;
    connectAt({ host: options.host!, port: Number(options.port), ca, cert, key }, this.clock.now().getTime()).then(({ socket }) => done!(null, socket), (error: Error) => done!(error, undefined as never));
    return undefined;
  }
}

const maxAnswerBytes = 16 * 1024 * 1024;

/**
 * The device gateway. Node's own https rather than undici: TLS is loaded for MQTT anyway, undici would cost another 25 MB of memory.
 */
export class Gateway {
  private readonly agent: Agent;
  private readonly origin: URL;

  constructor(private readonly options: GatewayOptions) {
    this.origin = new URL(options.url);
    this.agent = new ClockedAgent(options.clock, { keepAlive: true, maxSockets: 2, ca: options.ca, ...(options.cert ? { cert: options.cert } : {}), ...(options.key ? { key: options.key } : {}), minVersion: 'TLSv1.2' });
  }

  /** @throws ReefError with the gateway's own code for 4xx, `gateway.unreachable`, `gateway.failed` */
  async json(method: 'GET' | 'POST', path: string, body?: unknown, signal?: AbortSignal): Promise<unknown> {
    return answerOf(await this.open(method, path, { body, ...(signal ? { signal } : {}) }), path);
  }

  /**
   * The bytes of `path` from `start` on, or all of them where what it names is not `tag` any more. The caller looks at the status (200, 206, 416, ...)
   * and drains the stream.
   */
  bytes(path: string, start: number, signal?: AbortSignal, tag?: string): Promise<IncomingMessage> {
    const headers = start > 0 ? { range: `bytes=${start}-`, ...(tag ? { 'if-range': tag } : {}) } : {};
    return this.open('GET', path, { headers, ...(signal ? { signal } : {}) });
  }

  /** Sends bytes and reads the JSON that answers them. @throws as `json` */
  async upload(path: string, content: Buffer, signal?: AbortSignal): Promise<unknown> {
    return answerOf(await this.open('POST', path, { content, ...(signal ? { signal } : {}) }), path);
  }

  close(): void {
    this.agent.destroy();
  }

  private async open(...call: Parameters<Gateway['send']>): Promise<IncomingMessage> {
    const { clock, url, ca } = this.options;
    let response: IncomingMessage;
    if (clock?.wrong && !clock.told) await clock.consult(url, ca);
    try {
      response = await this.send(...call);
    } catch (error) {
      if (!clock || clock.wrong || !isTimeError(error)) throw error;
      await clock.consult(url, ca);
      if (!clock.wrong) throw error;
      response = await this.send(...call);
    }
    clock?.seen(Date.parse(response.headers.date ?? ''));
    return response;
  }

  private send(method: string, path: string, options: { body?: unknown; content?: Buffer; headers?: Record<string, string>; signal?: AbortSignal }): Promise<IncomingMessage> {
    const payload = options.content ?? (options.body === undefined ? undefined : Buffer.from(JSON.stringify(options.body)));
    const target: RequestOptions = {
      agent: this.agent, method, host: this.origin.hostname, port: this.origin.port || 443, path,
      headers: { ...options.headers, ...(payload ? { 'content-type': options.content ? 'application/octet-stream' : 'application/json', 'content-length': payload.length } : {}) },
      ...(options.signal ? { signal: options.signal } : {}),
    };
    return new Promise((resolve, reject) => {
      const sent = request(target, resolve);
      sent.setTimeout(this.options.idleMs ?? 30_000, () => sent.destroy(new Error('no answer in time')));
      sent.on('error', (cause) => reject(options.signal?.aborted ? options.signal.reason as Error : unreachable(this.options.url, cause)));
      sent.end(payload);
    });
  }
}

async function answerOf(response: IncomingMessage, path: string): Promise<unknown> {
  const text = await textOf(response);
  if (response.statusCode !== 200 && response.statusCode !== 201) throw refusal(response.statusCode ?? 0, text, path);
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new ReefError('gateway.failed', 'unavailable', `The gateway answered ${path} with something other than JSON.`, { cause });
  }
}

export function unreachable(url: string, cause: Error): ReefError {
  const advice = isTimeError(cause) ? `This device's clock says ${new Date().toISOString()}; is that right?` : 'Check the address and the network.';
  return new ReefError('gateway.unreachable', 'unavailable', `The gateway at ${url} cannot be reached: ${cause.message}. ${advice}`, { cause });
}

/** An answer that is not what was asked for, in the gateway's words where it has any (RFC 9457). */
export function refusal(status: number, text: string, path: string): ReefError {
  let problem: { code?: string; detail?: string } = {};
  try {
    problem = JSON.parse(text) as typeof problem;
  } catch {
    // A proxy in between answers in HTML.
  }
  const kind = status === 404 ? 'not_found' : status === 409 ? 'conflict' : status === 401 || status === 403 ? 'forbidden' : status >= 500 || status === 429 || status === 408 ? 'unavailable' : 'invalid';
  return new ReefError(problem.code ?? (kind === 'unavailable' ? 'gateway.failed' : 'gateway.refused'), kind, problem.detail ?? `The gateway answered ${path} with status ${status}.`, { detail: { status } });
}

export async function textOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of response) {
      bytes += (chunk as Buffer).length;
      if (bytes > maxAnswerBytes) throw new ReefError('gateway.failed', 'unavailable', 'The gateway answered with more than was asked for.');
      chunks.push(chunk as Buffer);
    }
  } catch (cause) {
    if (cause instanceof ReefError) throw cause;
    throw unreachable('', cause as Error);
  }
  return Buffer.concat(chunks).toString('utf8');
}
