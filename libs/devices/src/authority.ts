import 'reflect-metadata';
import { createHash, randomBytes, webcrypto } from 'node:crypto';
import { link, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import * as x509 from '@peculiar/x509';
import { ReefError } from '@reefkeeper/platform';

x509.cryptoProvider.set(webcrypto as never);
const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const day = 86_400_000;
/** Clocks of devices lag; a certificate that begins a little in the past is still good there. */
const backdateMs = day;
const caDays = 3_650;
const serverDays = 825;
export const deviceDays = 365;

export interface Issued {
  /** PEM of the leaf certificate. */
  certificate: string;
  serial: string;
  notAfter: Date;
}

/** The built-in certificate authority: ECDSA P-256, one level. Its key is the fleet's most precious file. */
export class Authority {
  /** SHA-256 of the CA certificate's DER, hex. Devices get its first half with their enrolment token and so know the CA before trusting it. */
  readonly fingerprint: string;

  private constructor(readonly certificatePem: string, private readonly certificate: x509.X509Certificate, private readonly key: webcrypto.CryptoKey) {
    this.fingerprint = createHash('sha256').update(Buffer.from(certificate.rawData)).digest('hex');
  }

  /** From `ca.pem` and `ca-key.pem` in `dir`; made there the first time. Any number of processes may do so at once. */
  static async loadOrCreate(dir: string): Promise<Authority> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const [keyFile, certificateFile] = [join(dir, 'ca-key.pem'), join(dir, 'ca.pem')];
    // Whoever creates the key file first has made the authority; the others read it.
    const keys = await sharedKeys(keyFile);
    if (!(await readable(certificateFile))) {
      const made = await x509.X509CertificateGenerator.createSelfSigned({
        serialNumber: serialNumber(), name: 'CN=Reefkeeper fleet CA', notBefore: new Date(Date.now() - backdateMs), notAfter: new Date(Date.now() + caDays * day), signingAlgorithm: algorithm, keys: keys as never,
        extensions: [new x509.BasicConstraintsExtension(true, 0, true), new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true), await x509.SubjectKeyIdentifierExtension.create(keys.publicKey as never)],
      });
      await writeOnce(certificateFile, made.toString('pem'), 0o644);
    }
    const pem = await readFile(certificateFile, 'utf8');
    return new Authority(pem, new x509.X509Certificate(pem), keys.privateKey);
  }

  /**
   * A client certificate for a key made on the device. Of the request only the public key is taken; the name is ours to give.
   * @throws ReefError `enrolment.csr_invalid`
   */
  async signDevice(csrPem: string, deviceId: string): Promise<Issued> {
    let publicKey: x509.PublicKey;
    try {
      const request = new x509.Pkcs10CertificateRequest(csrPem);
      if (!(await request.verify())) throw new Error('its signature does not fit its key');
      publicKey = request.publicKey;
    } catch (cause) {
      throw new ReefError('enrolment.csr_invalid', 'invalid', `The certificate request is not usable: ${(cause as Error).message}. Send a PKCS #10 request in PEM.`, { cause });
    }
    return this.issue(`CN=${deviceId}`, await publicKey.export(), deviceDays, [new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth])]);
  }

  /** Certificate and key files `<name>.pem`, `<name>-key.pem` for one of our own processes; kept while valid and for the same names. */
  async ownFiles(dir: string, name: string, options: { commonName: string; hosts?: string[]; client?: boolean }): Promise<{ certificate: string; key: string; certificateFile: string; keyFile: string }> {
    const [certificateFile, keyFile] = [join(dir, `${name}.pem`), join(dir, `${name}-key.pem`)];
    const hosts = options.hosts ?? [];
    // Replicas that start together share the key that was there first, so any of their certificates fits it.
    const keys = await sharedKeys(keyFile);
    const publicKey = Buffer.from(await webcrypto.subtle.exportKey('spki', keys.publicKey));
    const current = await readFile(certificateFile, 'utf8').then((pem) => new x509.X509Certificate(pem), () => undefined);
    const named = new Set(current?.getExtension(x509.SubjectAlternativeNameExtension)?.names.items.map((item) => item.value));
    const usable = current && current.notAfter.getTime() - Date.now() > 30 * day && hosts.every((host) => named.has(host)) && (await current.verify({ publicKey: this.certificate.publicKey, signatureOnly: true })) && publicKey.equals(Buffer.from(current.publicKey.rawData));
    if (!usable) {
      const usages = options.client ? [x509.ExtendedKeyUsage.clientAuth] : [x509.ExtendedKeyUsage.serverAuth];
      const issued = await this.issue(`CN=${options.commonName}`, keys.publicKey as never, serverDays, [
        new x509.ExtendedKeyUsageExtension(usages),
        ...(hosts.length > 0 ? [new x509.SubjectAlternativeNameExtension(hosts.map((value) => ({ type: isIP(value) ? 'ip' as const : 'dns' as const, value })))] : []),
      ]);
      await replace(certificateFile, issued.certificate, 0o644);
    }
    return { certificate: await readFile(certificateFile, 'utf8'), key: await readFile(keyFile, 'utf8'), certificateFile, keyFile };
  }

  /** PEM, for brokers that read one (Mosquitto's `crlfile`). A new one is due at every revocation. */
  async revocationList(revoked: readonly { serial: string; revokedAt: Date }[]): Promise<string> {
    const made = await x509.X509CrlGenerator.create({
      issuer: this.certificate.subject, thisUpdate: new Date(Date.now() - backdateMs), nextUpdate: new Date(Date.now() + caDays * day), signingAlgorithm: algorithm, signingKey: this.key,
      entries: revoked.map(({ serial, revokedAt }) => ({ serialNumber: serial, revocationDate: revokedAt })),
      extensions: [await x509.AuthorityKeyIdentifierExtension.create(this.certificate)],
    });
    // The label OpenSSL looks for (RFC 7468 section 6); the library writes another.
    return pemOf('X509 CRL', made.rawData);
  }

  private async issue(subject: string, publicKey: webcrypto.CryptoKey, days: number, extensions: x509.Extension[]): Promise<Issued> {
    const serial = serialNumber();
    const notAfter = new Date(Date.now() + days * day);
    const made = await x509.X509CertificateGenerator.create({
      serialNumber: serial, subject, issuer: this.certificate.subject, notBefore: new Date(Date.now() - backdateMs), notAfter, signingAlgorithm: algorithm, publicKey, signingKey: this.key,
      extensions: [new x509.BasicConstraintsExtension(false), new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true), await x509.AuthorityKeyIdentifierExtension.create(this.certificate), ...extensions],
    });
    return { certificate: made.toString('pem'), serial, notAfter };
  }
}

/** Serial numbers on a revocation list of this authority, for a broker to refuse. @throws ReefError `revocation_list.forged` */
export async function revokedSerials(listPem: string, caPem: string): Promise<Set<string>> {
  const list = new x509.X509Crl(derOf(listPem));
  if (!(await list.verify({ publicKey: new x509.X509Certificate(caPem) }))) throw new ReefError('revocation_list.forged', 'invalid', 'The revocation list was not signed by this authority. Remove it; the controller writes a new one.');
  return new Set(list.entries.map(({ serialNumber }) => serialNumber.toLowerCase()));
}

/** The key in this file; made by whoever comes first. */
async function sharedKeys(file: string): Promise<webcrypto.CryptoKeyPair> {
  if (!(await readable(file))) await writeOnce(file, await privatePem((await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])).privateKey), 0o600);
  return keyPairOf(await readFile(file, 'utf8'));
}

async function keyPairOf(pem: string): Promise<webcrypto.CryptoKeyPair> {
  const privateKey = await webcrypto.subtle.importKey('pkcs8', derOf(pem), algorithm, true, ['sign']);
  const { d: _secret, key_ops: _ops, ...open } = await webcrypto.subtle.exportKey('jwk', privateKey);
  return { privateKey, publicKey: await webcrypto.subtle.importKey('jwk', open, algorithm, true, ['verify']) };
}

async function privatePem(key: webcrypto.CryptoKey): Promise<string> {
  return pemOf('PRIVATE KEY', await webcrypto.subtle.exportKey('pkcs8', key));
}

function pemOf(label: string, der: ArrayBuffer): string {
  return `-----BEGIN ${label}-----\n${Buffer.from(der).toString('base64').match(/.{1,64}/g)!.join('\n')}\n-----END ${label}-----\n`;
}

function derOf(pem: string): Buffer<ArrayBuffer> {
  return Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ''), 'base64');
}

/** 16 random bytes, positive and without a leading zero (RFC 5280 section 4.1.2.2), hex. */
function serialNumber(): string {
  const bytes = randomBytes(16);
  bytes[0] = (bytes[0]! & 0x7f) | 0x40;
  return bytes.toString('hex');
}

async function readable(file: string): Promise<boolean> {
  return readFile(file).then(() => true, () => false);
}

/** The first to link its file into place wins; nobody ever sees half a file. */
async function writeOnce(file: string, content: string, mode: number): Promise<void> {
  const fresh = `${file}.${randomBytes(6).toString('hex')}`;
  await writeFile(fresh, content, { flag: 'wx', mode, flush: true });
  await link(fresh, file).catch((error: NodeJS.ErrnoException) => { if (error.code !== 'EEXIST') throw error; });
  await rm(fresh);
}

async function replace(file: string, content: string, mode: number): Promise<void> {
  const fresh = `${file}.${randomBytes(6).toString('hex')}`;
  await writeFile(fresh, content, { flag: 'wx', mode, flush: true });
  await rename(fresh, file);
}
