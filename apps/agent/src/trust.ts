import { X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import { connect, type TLSSocket } from 'node:tls';

/** Extended key usage serverAuth (RFC 5280 section 4.2.1.12): a device's certificate must not pass for a server's. */
const serverAuth = '1.3.6.1.5.5.7.3.1';

/**
 * What OpenSSL checks of a server's certificate, for a time that it is told: why `peer` is not to be trusted, or undefined. Only for a device
 * whose own clock is known to be wrong; OpenSSL goes by that clock alone. The fleet's authority has one level, so there is no chain to build.
 * @param atMs null = whatever the time
 */
export function distrust(peer: X509Certificate, authorityPem: string, host: string, atMs: number | null): string | undefined {
  const authority = new X509Certificate(authorityPem);
  if (!authority.ca || !peer.checkIssued(authority) || !peer.verify(authority.publicKey)) return 'its certificate is not of the fleet\'s authority';
  if (peer.ca || !peer.keyUsage?.includes(serverAuth)) return 'its certificate is not a server\'s';
  if (!(isIP(host) ? peer.checkIP(host) : peer.checkHost(host))) return `its certificate is not for ${host}`;
  if (atMs === null) return undefined;
  for (const [what, one] of [['certificate', peer], ['authority', authority]] as const) {
    if (atMs < one.validFromDate.getTime() || atMs > one.validToDate.getTime()) return `its ${what} is not valid at ${new Date(atMs).toISOString()}`;
  }
  return undefined;
}

export interface TrustedEnd { host: string; port: number; ca: string; cert?: string | undefined; key?: string | undefined; signal?: AbortSignal }

/** A TLS connection whose other end has passed `distrust` before a byte is sent to it. */
export function connectAt(end: TrustedEnd, atMs: number | null): Promise<{ socket: TLSSocket; peer: X509Certificate }> {
  const { host, port, ca, cert, key } = end;
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, ca, cert, key, rejectUnauthorized: false, minVersion: 'TLSv1.2', ...(isIP(host) ? {} : { servername: host }) });
    socket.setTimeout(15_000, () => socket.destroy(new Error('no answer in time')));
    socket.once('error', reject);
    socket.once('secureConnect', () => {
      const peer = socket.getPeerX509Certificate();
      const why = peer ? distrust(peer, ca, host, atMs) : 'it shows no certificate';
      if (!peer || why !== undefined) return socket.destroy(new Error(`${host}:${port} is not trusted: ${why}`));
      socket.setTimeout(0);
      socket.off('error', reject);
      resolve({ socket, peer });
    });
  });
}

const timeCodes = new Set(['CERT_NOT_YET_VALID', 'CERT_HAS_EXPIRED']);

/** A server's certificate was refused for the time alone, as far as OpenSSL got: its clock may be wrong, or ours. */
export function isTimeError(thrown: unknown): boolean {
  for (let one = thrown; one instanceof Error; one = one.cause) if (timeCodes.has((one as NodeJS.ErrnoException).code ?? '')) return true;
  return false;
}
