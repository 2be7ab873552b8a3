import { once } from 'node:events';
import { open } from 'node:fs/promises';
import { createServer, type Server } from 'node:https';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { networkInterfaces } from 'node:os';
import type { Logger } from '@reefkeeper/platform/logger';
import { sleep } from './backoff.ts';
import type { Identity } from './identity.ts';
import type { Store } from './store.ts';

export interface PeerServerOptions {
  store: Store;
  identity: () => Identity;
  /** `host:port`; port 0 = any. */
  listen: string;
  /** Where others reach it, where that is not the address it listens on. */
  advertise?: string | undefined;
  bytesPerS: number;
  log: Logger;
}

const mostAtOnce = 4;
const chunkBytes = 64 * 1024;

/**
 * Hands files of this device to others of the fleet, and nothing else: by digest, to whoever shows a certificate of the fleet's authority. What
 * they are worth is for the other side to check. All answers together stay within `bytesPerS`.
 */
export class PeerServer {
  private readonly pace: Pace;
  private answering = 0;
  servedBytes = 0;

  private constructor(private readonly server: Server, private readonly options: PeerServerOptions) {
    this.pace = new Pace(options.bytesPerS);
    server.on('request', (request, response) => void this.answer(request, response).catch(() => response.destroy()));
  }

  /** @throws what the system says of the address */
  static async start(options: PeerServerOptions): Promise<PeerServer> {
    const server = createServer({ ...contextOf(options.identity()), requestCert: true, rejectUnauthorized: true, minVersion: 'TLSv1.2' });
    server.maxConnections = 32;
    server.setTimeout(30_000);
    server.on('tlsClientError', (cause) => options.log.debug({ reason: cause.message }, 'somebody without a certificate of the fleet'));
    const peers = new PeerServer(server, options);
    const [, host, port] = /^(.*):(\d+)$/.exec(options.listen)!;
    server.listen(Number(port), host);
    await once(server, 'listening');
    return peers;
  }

  /** What others are told. */
  get address(): { host: string; port: number } {
    const { address, port } = this.server.address() as AddressInfo;
    const [, host, other] = /^(.*?)(?::(\d+))?$/.exec(this.options.advertise ?? (address === '0.0.0.0' || address === '::' ? ownAddress() : address))!;
    return { host: host!, port: Number(other ?? port) };
  }

  renewed(): void {
    this.server.setSecureContext(contextOf(this.options.identity()));
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise<void>((resolve) => { this.server.close(() => resolve()); });
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const digest = request.method === 'GET' ? /^\/v1\/blobs\/([0-9a-f]{64})$/.exec(request.url ?? '')?.[1] : undefined;
    const file = digest && (await open(this.options.store.blobPath(digest)).catch(() => undefined));
    if (!file) return void response.writeHead(404).end();
    try {
      if (this.answering >= mostAtOnce) return void response.writeHead(503).end();
      this.answering += 1;
      try {
        await this.send(response, file.createReadStream({ highWaterMark: chunkBytes, autoClose: false }), (await file.stat()).size);
      } finally {
        this.answering -= 1;
      }
    } finally {
      await file.close();
    }
  }

  private async send(response: ServerResponse, content: AsyncIterable<Buffer>, bytes: number): Promise<void> {
    response.writeHead(200, { 'content-length': bytes, 'content-type': 'application/octet-stream' });
    for await (const chunk of content) {
      await this.pace.take(chunk.length);
      if (response.destroyed) return;
      this.servedBytes += chunk.length;
      // Whoever reads slowly is waited for by its connection's timeout, not by memory.
      if (!response.write(chunk)) await Promise.race([once(response, 'drain'), once(response, 'close')]);
    }
    response.end();
  }
}

/** Lets through so many bytes per second, whoever asks, in the order of asking. */
export class Pace {
  private freeAtMs = 0;

  constructor(private readonly bytesPerS: number, private readonly nowMs: () => number = () => performance.now(), private readonly wait: (ms: number) => Promise<void> = sleep) {}

  async take(bytes: number): Promise<void> {
    const now = this.nowMs();
    const startMs = Math.max(now, this.freeAtMs);
    this.freeAtMs = startMs + (1_000 * bytes) / this.bytesPerS;
    if (startMs > now) await this.wait(startMs - now);
  }
}

function contextOf({ certificate, key, ca }: Identity): { cert: string; key: string; ca: string } {
  return { cert: certificate, key, ca };
}

function ownAddress(): string {
  return Object.values(networkInterfaces()).flat().find((one) => one && !one.internal && one.family === 'IPv4')?.address ?? '127.0.0.1';
}
