import 'reflect-metadata';
import { createPrivateKey, createPublicKey, webcrypto } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as x509 from '@peculiar/x509';
import { Authority } from '../../libs/devices/src/authority.ts';

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

async function keysOf(dir: string): Promise<webcrypto.CryptoKeyPair> {
  const key = createPrivateKey(await readFile(join(dir, 'ca-key.pem')));
  const [privateKey, publicKey] = await Promise.all([
    webcrypto.subtle.importKey('pkcs8', key.export({ type: 'pkcs8', format: 'der' }), algorithm, true, ['sign']),
    webcrypto.subtle.importKey('spki', createPublicKey(key).export({ type: 'spki', format: 'der' }), algorithm, true, ['verify']),
  ]);
  return { privateKey, publicKey };
}

/** A fleet's authority that is valid from 2000 to 2100, for fleets in other times. */
export async function authorityOfAllTimes(dir: string): Promise<Authority> {
  await Authority.loadOrCreate(dir);
  const made = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: '01', name: 'CN=Reefkeeper fleet CA', notBefore: new Date('2000-01-01'), notAfter: new Date('2100-01-01'), signingAlgorithm: algorithm, keys: (await keysOf(dir)) as never,
    extensions: [new x509.BasicConstraintsExtension(true, 0, true), new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true)],
  });
  await writeFile(join(dir, 'ca.pem'), made.toString('pem'));
  return Authority.loadOrCreate(dir);
}

export interface LeafOptions { hosts: readonly string[]; usage?: string; notBefore: Date; notAfter: Date }

/** A certificate of the authority in `dir`, for the key that is given or a new one. */
export async function leaf(dir: string, { hosts, usage = x509.ExtendedKeyUsage.serverAuth, notBefore, notAfter }: LeafOptions): Promise<{ certificate: string; key: string }> {
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const issuer = new x509.X509Certificate(await readFile(join(dir, 'ca.pem'), 'utf8'));
  const made = await x509.X509CertificateGenerator.create({
    serialNumber: '02', subject: 'CN=localhost', issuer: issuer.subject, notBefore, notAfter, signingAlgorithm: algorithm, publicKey: keys.publicKey as never, signingKey: (await keysOf(dir)).privateKey as never,
    extensions: [new x509.ExtendedKeyUsageExtension([usage]), new x509.SubjectAlternativeNameExtension(hosts.map((value) => ({ type: /^[\d.]+$/.test(value) ? 'ip' as const : 'dns' as const, value })))],
  });
  const key = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey));
  return { certificate: made.toString('pem'), key: createPrivateKey({ key, format: 'der', type: 'pkcs8' }).export({ type: 'pkcs8', format: 'pem' }).toString() };
}

export function serverAt(dir: string, at: Date, hosts: readonly string[]): Promise<{ certificate: string; key: string }> {
  const month = 30 * 86_400_000;
  return leaf(dir, { hosts, notBefore: new Date(at.getTime() - month), notAfter: new Date(at.getTime() + month) });
}
