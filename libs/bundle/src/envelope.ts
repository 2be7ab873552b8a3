import { createPublicKey, sign, verify, type KeyObject } from 'node:crypto';
import { z } from 'zod';
import { ReefError } from '@reefkeeper/platform/errors';
import { bundleDigest, canonicalBytes, parseManifest, partsOf, type Manifest } from './manifest.ts';

/** Dead Simple Signing Envelope, github.com/secure-systems-lab/dsse, envelope.md. */
export const envelope = z.object({
  payloadType: z.string().max(256),
  payload: z.base64().max(8 * 1024 * 1024),
  signatures: z.array(z.object({ keyid: z.string().max(128), sig: z.base64().max(1_024) })).max(16),
});
export type Envelope = z.infer<typeof envelope>;

export interface TrustedKey {
  keyId: string;
  publicKeyPem: string;
}

const payloadType = 'application/vnd.in-toto+json';
const statementType = 'https://in-toto.io/Statement/v1';
const predicateType = 'https://reefkeeper.dev/bundle/v1';

const statement = z.looseObject({
  _type: z.literal(statementType),
  subject: z.array(z.looseObject({ name: z.string(), digest: z.record(z.string(), z.string()) })).min(1),
  predicateType: z.literal(predicateType),
  predicate: z.unknown(),
});

/** @throws ReefError `bundle.malformed` */
export function signBundle(manifest: Manifest, key: { keyId: string; privateKey: KeyObject }): Envelope {
  const payload = canonicalBytes({
    _type: statementType,
    subject: [
      { name: `${manifest.model}@${manifest.version}`, digest: { sha256: bundleDigest(manifest) } },
      ...manifest.variants.flatMap(partsOf).map(({ part, digest }) => ({ name: part, digest: { sha256: digest } })),
    ],
    predicateType,
    predicate: manifest,
  });
  const sig = sign(null, preAuthentication(payloadType, payload), key.privateKey);
  return { payloadType, payload: payload.toString('base64'), signatures: [{ keyid: key.keyId, sig: sig.toString('base64') }] };
}

/**
 * The manifest, only if one of `trustedKeys` signed exactly these bytes. Nothing of the payload is parsed before that.
 * @throws ReefError `bundle.malformed`, `bundle.unsigned` (no signature by a trusted key), `bundle.signature_wrong`
 */
export function verifyBundle(candidate: unknown, trustedKeys: readonly TrustedKey[]): Manifest {
  const parsed = envelope.safeParse(candidate);
  if (!parsed.success) throw malformed(`it is not a DSSE envelope: ${z.prettifyError(parsed.error)}`, parsed.error);
  const { payloadType: type, payload, signatures } = parsed.data;
  const bytes = Buffer.from(payload, 'base64');

  // The key id is a hint (DSSE protocol.md): it selects candidates, it proves nothing.
  const claimed = signatures.flatMap(({ keyid, sig }) => trustedKeys.filter((key) => key.keyId === keyid).map((key) => ({ key, sig })));
  if (claimed.length === 0) {
    const ids = signatures.map(({ keyid }) => keyid);
    throw new ReefError('bundle.unsigned', 'forbidden', ids.length === 0
      ? 'The bundle carries no signature. Publish the version again from a worker that has the signing key.'
      : `The bundle is signed by ${ids.join(', ')}, which is not trusted here. Enrol this device again if the signing key was replaced.`, { detail: { signedBy: ids, trusted: trustedKeys.map((key) => key.keyId) } });
  }
  const message = preAuthentication(type, bytes);
  if (!claimed.some(({ key, sig }) => signedBy(key, message, sig))) {
    throw new ReefError('bundle.signature_wrong', 'forbidden', 'The bundle does not match its signature: it was altered or damaged. Download it again; if that does not help, publish the version again.', { detail: { signedBy: claimed.map(({ key }) => key.keyId) } });
  }
  if (type !== payloadType) throw malformed(`its payload is ${type}, not ${payloadType}`);
  const held = statement.safeParse(jsonOf(bytes));
  if (!held.success) throw malformed(`it is not an in-toto statement about a bundle: ${z.prettifyError(held.error)}`, held.error);
  const manifest = parseManifest(held.data.predicate);
  if (held.data.subject[0]!.digest.sha256 !== bundleDigest(manifest)) throw malformed('its subject is not the digest of its manifest');
  return manifest;
}

/**
 * The manifest as the envelope claims it, whoever wrote it: to look at, and to leave files alone; never to run anything.
 * @throws ReefError `bundle.malformed`
 */
export function unverifiedManifest(candidate: unknown): Manifest {
  const parsed = envelope.safeParse(candidate);
  if (!parsed.success) throw malformed(`it is not a DSSE envelope: ${z.prettifyError(parsed.error)}`, parsed.error);
  const held = statement.safeParse(jsonOf(Buffer.from(parsed.data.payload, 'base64')));
  if (!held.success) throw malformed(`it is not an in-toto statement about a bundle: ${z.prettifyError(held.error)}`, held.error);
  return parseManifest(held.data.predicate);
}

/** PAE(type, body) of DSSE, protocol.md: lengths keep type and body from running into each other. */
function preAuthentication(type: string, body: Buffer): Buffer {
  return Buffer.concat([Buffer.from(`DSSEv1 ${Buffer.byteLength(type)} ${type} ${body.length} `), body]);
}

function signedBy(key: TrustedKey, message: Buffer, sig: string): boolean {
  let publicKey: KeyObject;
  try {
    publicKey = createPublicKey(key.publicKeyPem);
  } catch (cause) {
    throw new ReefError('bundle.key_malformed', 'invalid', `The trusted signing key ${key.keyId} is not a PEM public key.`, { cause });
  }
  // Any other type of key would be verified by another algorithm than the one we sign with.
  return publicKey.asymmetricKeyType === 'ed25519' && verify(null, message, publicKey, Buffer.from(sig, 'base64'));
}

function jsonOf(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch (cause) {
    throw malformed('its payload is not JSON', cause);
  }
}

function malformed(why: string, cause?: unknown): ReefError {
  return new ReefError('bundle.malformed', 'invalid', `This is not a usable bundle: ${why}.`, { cause });
}
