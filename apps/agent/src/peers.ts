import { X509Certificate } from 'node:crypto';
import { rm } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { request } from 'node:https';
import type { TLSSocket } from 'node:tls';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import type { Logger } from '@reefkeeper/platform/logger';
import type { Peer } from '@reefkeeper/protocol';
import { receive, type DownloadOptions } from './download.ts';
import type { Identity } from './identity.ts';
import type { BlobName, Store } from './store.ts';

export interface PeersOptions {
  identity: () => Identity;
  /** Whom the fleet names; nobody where this is off. */
  known: () => readonly Peer[];
  log: Logger;
  /** What time it is; the device's own clock may be years off. */
  now: () => Date;
  /** Silence on the line that ends an attempt. */
  idleMs?: number;
}

const mostTried = 3;
/** A peer is near: below this it is of no use, and the gateway is asked. */
const leastBytesPerS = 256 * 1024;

/**
 * Files from other devices at the same site. A peer is believed nothing: what it sends lies apart from what the gateway sent, is compared with the
 * digest, and a peer that sent something else is not asked again before the next start.
 */
export class Peers {
  private readonly distrusted = new Set<string>();

  constructor(private readonly options: PeersOptions) {}

  /** @returns whether the file is in the store now; whatever goes wrong, the gateway is left */
  async bring(store: Store, blob: BlobName, options: Pick<DownloadOptions, 'signal' | 'onBytes' | 'onShare'>): Promise<boolean> {
    const asked = this.options.known().filter(({ id }) => !this.distrusted.has(id) && id !== this.options.identity().deviceId).sort(() => Math.random() - 0.5).slice(0, mostTried);
    for (const peer of asked) {
      const path = store.peerPath(blob.digest);
      try {
        await this.fetch(peer, blob, path, options);
        await store.adopt(blob, path);
        return true;
      } catch (thrown) {
        options.signal?.throwIfAborted();
        await rm(path, { force: true });
        const { code, message } = asReefError(thrown);
        if (code === 'artifact.checksum_mismatch' || code === 'peer.stranger') this.distrusted.add(peer.id);
        this.options.log.info({ peer: peer.id, code, reason: message }, 'a peer could not help');
      }
    }
    return false;
  }

  private async fetch(peer: Peer, blob: BlobName, path: string, options: Pick<DownloadOptions, 'signal' | 'onBytes' | 'onShare'>): Promise<void> {
    const limit = AbortSignal.timeout(10_000 + Math.ceil((1_000 * blob.bytes) / leastBytesPerS));
    const response = await this.open(peer, `/v1/blobs/${blob.digest}`, options.signal ? AbortSignal.any([options.signal, limit]) : limit);
    if (response.statusCode !== 200) {
      response.destroy();
      throw new ReefError('peer.missing', 'not_found', `${peer.id} does not have it, or is busy (${response.statusCode ?? 0}).`);
    }
    await receive(response, path, { start: 0, bytes: blob.bytes, what: `${blob.digest} from ${peer.id}`, way: 'peer' }, options);
  }

  private open(peer: Peer, path: string, signal: AbortSignal): Promise<IncomingMessage> {
    const { ca, certificate, key } = this.options.identity();
    return new Promise((resolve, reject) => {
      // A device's certificate is good for clients only, so that none can pose as the gateway; hence the check below instead of TLS's own.
      const sent = request({ host: peer.host, port: peer.port, path, cert: certificate, key, rejectUnauthorized: false, minVersion: 'TLSv1.2', agent: false, signal }, (response) => {
        if (isDevice((response.socket as TLSSocket).getPeerX509Certificate(), peer.id, ca, this.options.now())) return resolve(response);
        response.destroy();
        reject(new ReefError('peer.stranger', 'forbidden', `What answers at ${peer.host}:${peer.port} is not ${peer.id}.`));
      });
      sent.setTimeout(this.options.idleMs ?? 5_000, () => sent.destroy(new Error('no answer in time')));
      sent.on('error', (cause) => reject(new ReefError('peer.unreachable', 'unavailable', `${peer.id} at ${peer.host}:${peer.port} cannot be reached: ${cause.message}`, { cause })));
      sent.end();
    });
  }
}

/** Whether the authority of the fleet says that this is that device. TLS has proved that the other side holds the key. */
export function isDevice(certificate: X509Certificate | undefined, id: string, ca: string, now: Date): boolean {
  if (!certificate) return false;
  return certificate.subject === `CN=${id}` && certificate.verify(new X509Certificate(ca).publicKey) && certificate.validFromDate <= now && now <= certificate.validToDate;
}
