import { createHash, webcrypto } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { request } from 'node:https';
import { join } from 'node:path';
import { X509Certificate } from 'node:crypto';
import { ReefError } from '@reefkeeper/platform/errors';
import { deviceId } from '@reefkeeper/protocol';
import writeFileAtomic from 'write-file-atomic';
import { z } from 'zod';
import { DeviceClock } from './clock.ts';
import type { Disk } from './disk.ts';
import { Gateway, refusal, textOf, unreachable } from './gateway.ts';

const trustedKeys = z.array(z.object({ keyId: z.string(), publicKeyPem: z.string() })).min(1);
const pem = z.string().includes('-----BEGIN ');

const answer = z.object({ deviceId, certificate: pem, ca: pem, mqttUrl: z.url(), gatewayUrl: z.url(), signingKeys: trustedKeys });
const renewal = z.object({ certificate: pem, ca: pem.optional(), signingKeys: trustedKeys.optional() });

const identitySchema = answer.extend({ schema: z.literal(1), key: pem });
/** Who this device is and whom it trusts. One file, so that a renewal is one rename: key and certificate never part. */
export type Identity = z.infer<typeof identitySchema>;

export function identityPath(dir: string): string {
  return join(dir, 'identity', 'identity.json');
}

/** @throws ReefError `identity.missing`, `identity.damaged` */
export async function loadIdentity(dir: string): Promise<Identity> {
  const text = await readFile(identityPath(dir), 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (text === undefined) throw new ReefError('identity.missing', 'not_found', `This device is not enrolled. Run: reef-agent enrol --gateway URL --token TOKEN --dir ${dir}`);
  try {
    return identitySchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new ReefError('identity.damaged', 'invalid', `${identityPath(dir)} cannot be read. Remove it and enrol again with a new token.`, { cause });
  }
}

/**
 * Brings the device into the fleet. The private key is made here and never leaves. A second run finds the identity and changes
 * nothing; one whose answer got lost asks again with the same key.
 * @throws ReefError `enrolment.token_invalid`, `enrolment.wrong_authority`, or the gateway's refusal
 */
export async function enrol(dir: string, options: { gateway: string; token: string; id?: string | undefined; hostname: string }): Promise<{ identity: Identity; fresh: boolean }> {
  const existing = await loadIdentity(dir).catch((error: ReefError) => { if (error.code !== 'identity.missing') throw error; });
  if (existing) return { identity: existing, fresh: false };

  const fingerprint = /^reef1\.[A-Za-z0-9_-]+\.([0-9a-f]{32})$/.exec(options.token)?.[1];
  if (!fingerprint) throw new ReefError('enrolment.token_invalid', 'invalid', 'The token must look like reef1.SECRET.FINGERPRINT; copy it whole.');
  const ca = await pinnedAuthority(options.gateway, fingerprint);

  await mkdir(join(dir, 'identity'), { recursive: true, mode: 0o700 });
  const keyFile = join(dir, 'identity', 'pending-key.pem');
  let key = await readFile(keyFile, 'utf8').catch(() => undefined);
  if (!key) {
    key = await newKey();
    await writeFileAtomic(keyFile, key, { mode: 0o600 });
  }
  const gateway = new Gateway({ url: options.gateway, ca, clock: DeviceClock.transient() });
  try {
    const csr = await certificateRequest(key, options.id ?? options.hostname);
    const parsed = answer.safeParse(await gateway.json('POST', '/v1/enrol', { token: options.token, csr, hostname: options.hostname, ...(options.id ? { deviceId: options.id } : {}) }));
    if (!parsed.success) throw new ReefError('gateway.failed', 'unavailable', `The gateway answered the enrolment with something else: ${z.prettifyError(parsed.error)}`);
    // Whatever `ca` the answer names, the one that the token vouches for stays.
    const identity: Identity = { ...parsed.data, ca, schema: 1, key };
    await store(dir, identity);
    await writeFileAtomic(keyFile, '', { mode: 0o600 });
    return { identity, fresh: true };
  } finally {
    gateway.close();
  }
}

/**
 * A new key and certificate, when less than a third of the current one's time is left.
 * @returns the new identity; undefined when it is not time yet (or the clock cannot tell)
 */
export async function renewIfDue(dir: string, identity: Identity, clock: DeviceClock, disk: Disk): Promise<Identity | undefined> {
  if (!renewalDue(identity.certificate, clock.now())) return undefined;
  const key = await newKey();
  const gateway = new Gateway({ url: identity.gatewayUrl, ca: identity.ca, cert: identity.certificate, key: identity.key, clock });
  try {
    const parsed = renewal.parse(await gateway.json('POST', '/v1/renew', { csr: await certificateRequest(key, identity.deviceId) }));
    const renewed: Identity = { ...identity, key, certificate: parsed.certificate, ...(parsed.signingKeys ? { signingKeys: parsed.signingKeys } : {}) };
    // On a disk that cannot be written it lasts until the next start, and is then asked for again with the old one.
    await disk.write(() => store(dir, renewed));
    return renewed;
  } finally {
    gateway.close();
  }
}

/** A clock before the certificate's own beginning (1970 after a flat battery) says nothing about its end. */
export function renewalDue(certificatePem: string, now: Date): boolean {
  const certificate = new X509Certificate(certificatePem);
  const [from, to] = [certificate.validFromDate.getTime(), certificate.validToDate.getTime()];
  return now.getTime() >= from && to - now.getTime() < (to - from) / 3;
}

async function store(dir: string, identity: Identity): Promise<void> {
  await writeFileAtomic(identityPath(dir), `${JSON.stringify(identity, null, 1)}\n`, { mode: 0o600 });
}

/** Fetched without trust, then held against the fingerprint in the token: only the authority that made the token passes. */
async function pinnedAuthority(gateway: string, fingerprint: string): Promise<string> {
  const url = new URL('/ca.pem', gateway);
  if (url.protocol !== 'https:') throw new ReefError('enrolment.gateway_invalid', 'invalid', `The gateway must be an https:// address, not ${gateway}.`);
  const text = await new Promise<string>((resolve, reject) => {
    const sent = request(url, { rejectUnauthorized: false, agent: false }, (response) => {
      textOf(response).then((body) => { if (response.statusCode === 200) resolve(body); else reject(refusal(response.statusCode ?? 0, body, '/ca.pem')); }, reject);
    });
    sent.setTimeout(30_000, () => sent.destroy(new Error('no answer in time')));
    sent.on('error', (cause) => reject(unreachable(gateway, cause)));
    sent.end();
  });
  let found = '';
  let only = '';
  try {
    const certificate = new X509Certificate(text);
    found = createHash('sha256').update(certificate.raw).digest('hex');
    // Written out anew: a second certificate behind the pinned one must not become trusted with it.
    only = certificate.toString();
  } catch {
    // Not a certificate: its fingerprint fits nothing.
  }
  if (!found.startsWith(fingerprint)) {
    throw new ReefError('enrolment.wrong_authority', 'forbidden', `The gateway at ${gateway} does not belong to the authority that made this token (fingerprint ${found.slice(0, 32) || 'unreadable'}, wanted ${fingerprint}). Check the address; someone may be in between.`);
  }
  return only;
}

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

async function newKey(): Promise<string> {
  const { generateKeyPairSync } = await import('node:crypto');
  return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
}

/** PKCS #10. Loaded only here: the library is needed for minutes in a year. */
async function certificateRequest(keyPem: string, name: string): Promise<string> {
  await import('reflect-metadata');
  const x509 = await import('@peculiar/x509');
  const { createPrivateKey, createPublicKey } = await import('node:crypto');
  const key = createPrivateKey(keyPem);
  const [privateKey, publicKey] = await Promise.all([
    webcrypto.subtle.importKey('pkcs8', key.export({ type: 'pkcs8', format: 'der' }), algorithm, false, ['sign']),
    webcrypto.subtle.importKey('spki', createPublicKey(key).export({ type: 'spki', format: 'der' }), algorithm, true, ['verify']),
  ]);
  x509.cryptoProvider.set(webcrypto as never);
  const csr = await x509.Pkcs10CertificateRequestGenerator.create({ name: `CN=${name.replace(/[^A-Za-z0-9_-]/g, '-').slice(0, 64)}`, keys: { privateKey, publicKey } as never, signingAlgorithm: algorithm });
  return csr.toString('pem');
}
