import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, randomUUID, type KeyObject } from 'node:crypto';
import { link, mkdir, open, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ReefError } from '@reefkeeper/platform/errors';

export interface SigningKey {
  /** First 16 hex digits of the SHA-256 of the public key's SPKI DER. */
  keyId: string;
  privateKey: KeyObject;
  publicKeyPem: string;
}

/**
 * The Ed25519 key that signs bundles, from `dir/signing-key.pem`; made on first use. Any number of processes may ask at once:
 * all get the one that was stored first.
 * @throws ReefError `signing_key.unusable`
 */
export async function loadOrCreateSigningKey(dir: string): Promise<SigningKey> {
  const path = join(dir, 'signing-key.pem');
  const held = await read(path);
  if (held) return held;
  await mkdir(dir, { recursive: true, mode: 0o700 });
  // A file linked into place is never seen half written, and `link` fails when another process was first.
  const fresh = join(dir, `.signing-key-${randomUUID()}`);
  const file = await open(fresh, 'wx', 0o600);
  try {
    await file.writeFile(generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }));
    await file.sync();
    await link(fresh, path).catch((error: NodeJS.ErrnoException) => { if (error.code !== 'EEXIST') throw error; });
  } finally {
    await file.close();
    await rm(fresh, { force: true });
  }
  return (await read(path))!;
}

/** The identifier under which a public key is pinned. */
export function keyIdOf(publicKey: KeyObject): string {
  return createHash('sha256').update(publicKey.export({ type: 'spki', format: 'der' })).digest('hex').slice(0, 16);
}

async function read(path: string): Promise<SigningKey | undefined> {
  const pem = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (pem === undefined) return undefined;
  let privateKey: KeyObject;
  try {
    privateKey = createPrivateKey(pem);
  } catch (cause) {
    throw unusable(path, 'is not a PEM private key', cause);
  }
  if (privateKey.asymmetricKeyType !== 'ed25519') throw unusable(path, `holds a key of type ${privateKey.asymmetricKeyType}, not ed25519`);
  const publicKey = createPublicKey(privateKey);
  return { keyId: keyIdOf(publicKey), privateKey, publicKeyPem: publicKey.export({ type: 'spki', format: 'pem' }).toString() };
}

function unusable(path: string, why: string, cause?: unknown): ReefError {
  return new ReefError('signing_key.unusable', 'invalid', `${path} ${why}. Restore it from a backup; a new key would have to be trusted by every device again.`, { detail: { path }, cause });
}
