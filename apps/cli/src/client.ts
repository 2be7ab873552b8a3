import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ReadableStream as WebReadable } from 'node:stream/web';
import { setTimeout as sleep } from 'node:timers/promises';
import { ReefError, type ErrorKind } from '@reefkeeper/platform/errors';
import { createClient } from 'graphql-ws';
import { WebSocket } from 'ws';

const kinds: Record<number, ErrorKind> = { 400: 'invalid', 401: 'unauthenticated', 403: 'forbidden', 404: 'not_found', 409: 'conflict', 413: 'invalid', 415: 'invalid', 503: 'unavailable' };

interface Raw { body: unknown; type: string; bytes: number }

type Query = Record<string, string | number | boolean | null | undefined>;

/** A watch outlives a controller that starts again, but not one that is gone. */
const patienceMs = 60_000;

/** The controller's API. Every problem it answers comes back as the ReefError it was on the other side. */
export class Client {
  constructor(readonly url: string, private readonly token: string) {}

  async get<T>(path: string, query: Record<string, string | number | boolean | undefined> = {}): Promise<T> {
    const text = new URLSearchParams(Object.entries(query).flatMap(([key, value]) => (value === undefined ? [] : [[key, String(value)] as [string, string]]))).toString();
    return this.request<T>('GET', text ? `${path}?${text}` : path);
  }

  /** Every item of a list, page after page; from `query.cursor` on where there is one. */
  async all<T>(path: string, query: Query = {}): Promise<T[]> {
    const items: T[] = [];
    for (let { cursor } = query as { cursor?: string | null }; cursor !== null;) {
      const page: { items: T[]; nextCursor: string | null } = await this.get(path, { limit: 500, ...query, cursor });
      items.push(...page.items);
      cursor = page.nextCursor;
    }
    return items;
  }

  async post<T>(path: string, body?: unknown): Promise<T> {
    return this.request<T>('POST', path, body ?? {});
  }

  async patch<T>(path: string, body: unknown): Promise<T> {
    return this.request<T>('PATCH', path, body);
  }

  async put<T>(path: string, body: unknown): Promise<T> {
    return this.request<T>('PUT', path, body);
  }

  async delete<T = void>(path: string): Promise<T> {
    return this.request<T>('DELETE', path);
  }

  /** Whether the store has these bytes already. */
  async knows(digest: string): Promise<boolean> {
    const response = await fetch(`${this.url}/api/v1/artifacts/${digest}`, { method: 'HEAD', headers: { authorization: `Bearer ${this.token}` } }).catch(() => undefined);
    return response?.ok ?? false;
  }

  /** Streams a file into the artifact store. `onBytes` hears how many have gone. */
  async upload(file: string, onBytes: (sent: number, total: number) => void = () => {}): Promise<{ digest: string; bytes: number }> {
    const { size } = await stat(file);
    let sent = 0;
    const counted = createReadStream(file).pipe(new Transform({ transform(chunk: Buffer, _encoding, done) { sent += chunk.length; onBytes(sent, size); done(null, chunk); } }));
    return this.request('POST', '/uploads', undefined, { body: Readable.toWeb(counted), type: 'application/octet-stream', bytes: size });
  }

  /** Streams a stored object into a file. @throws ReefError `artifact.checksum_mismatch` */
  async download(path: string, file: string, digest: string): Promise<void> {
    const hash = createHash('sha256');
    const response = await this.send('GET', path);
    await pipeline(Readable.fromWeb(response.body as WebReadable), new Transform({ transform(chunk: Buffer, _encoding, done) { hash.update(chunk); done(null, chunk); } }), createWriteStream(file));
    if (hash.digest('hex') !== digest) throw new ReefError('artifact.checksum_mismatch', 'unavailable', `${file} did not arrive as it is stored; try again.`);
  }

  async bytes(path: string): Promise<Buffer> {
    return Buffer.from(await (await this.send('GET', path)).arrayBuffer());
  }

  /** What is no JSON: a stored text. */
  async text(path: string): Promise<string> {
    return (await this.send('GET', path)).text();
  }

  private async request<T>(method: string, path: string, json?: unknown, raw?: Raw): Promise<T> {
    const response = await this.send(method, path, json, raw);
    return response.status === 204 ? (undefined as T) : ((await response.json().catch(() => ({}))) as T);
  }

  /** @throws ReefError as the controller answered it */
  private async send(method: string, path: string, json?: unknown, raw?: Raw): Promise<Response> {
    const response = await fetch(`${this.url}/api/v1${path}`, {
      method,
      headers: { authorization: `Bearer ${this.token}`, ...(raw ? { 'content-type': raw.type, 'content-length': String(raw.bytes) } : json === undefined ? {} : { 'content-type': 'application/json' }) },
      ...(raw ? { body: raw.body, duplex: 'half' } : json === undefined ? {} : { body: JSON.stringify(json) }),
    } as RequestInit).catch((cause: Error) => {
      throw new ReefError('controller.unreachable', 'unavailable', `The controller at ${this.url} does not answer. Start one with \`reef up\`, or name another with --url or REEF_URL.`, { cause });
    });
    if (response.ok) return response;
    const body = (await response.json().catch(() => ({}))) as { code?: string; detail?: string; context?: Record<string, unknown> };
    throw new ReefError(body.code ?? 'controller.failed', kinds[response.status] ?? 'bug', body.detail ?? `The controller answered ${response.status}.`, body.context ? { detail: body.context } : {});
  }

  /**
   * Calls `look` at once, at every event of the subscription and at least every two seconds, until it returns something. Events are
   * hints: what `look` reads is the truth, so a lost one only costs time.
   */
  async follow<T>(subscription: string, look: () => Promise<T | undefined>): Promise<T> {
    let wake = () => {};
    let heard = Date.now();
    const patient = async () => {
      try {
        const found = await look();
        heard = Date.now();
        return found;
      } catch (error) {
        if (error instanceof ReefError && error.kind === 'unavailable' && Date.now() - heard < patienceMs) return undefined;
        throw error;
      }
    };
    const events = createClient({ url: `${this.url.replace(/^http/, 'ws')}/graphql`, webSocketImpl: WebSocket, connectionParams: { authorization: `Bearer ${this.token}` }, retryAttempts: 100, shouldRetry: () => true, lazy: true });
    const stop = events.subscribe({ query: subscription }, { next: () => wake(), error: () => {}, complete: () => {} });
    try {
      for (;;) {
        const hinted = new Promise<void>((resolve) => { wake = resolve; });
        const found = await patient();
        if (found !== undefined) return found;
        await Promise.race([hinted, sleep(2_000)]);
      }
    } finally {
      stop();
      await events.dispose();
    }
  }
}
