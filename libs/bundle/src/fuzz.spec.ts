import { generateKeyPairSync, sign } from 'node:crypto';
import { gunzipSync, gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { ReefError } from '@reefkeeper/platform/errors';
import { jsonMutationsOf, mutationsOf } from '../../../test/support/mutations.ts';
import { decodeGolden, encodeGolden, judgeGolden, parseManifest, signBundle, verifyBundle, type Envelope, type GoldenPack, type Manifest } from './index.ts';

// What a device reads from the network: whatever the bytes, an answer or a declared error.

const manifest: Manifest = {
  schema: 1, model: 'lite0', version: 3, task: 'classification', labels: ['cat', 'dog'],
  inputs: [{ name: 'images', shape: [1, 8, 8, 3], dtype: 'int8', scale: 0.0078, zeroPoint: -1, preprocessing: { kind: 'image', width: 8, height: 8, channels: 3, resize: 'center-crop', mean: [127], std: [128] } }],
  outputs: [{ name: 'probs', shape: [1, 2], dtype: 'int8', scale: 1 / 256, zeroPoint: -128 }],
  variants: [{ name: 'cpu-int8', kind: 'cpu-int8', minRuntime: null, file: { digest: 'a'.repeat(64), bytes: 5 } }],
  golden: { digest: 'c'.repeat(64), bytes: 9, cases: 1 },
  lineage: { source: { digest: 'b'.repeat(64), filename: 'm.tar.gz' }, calibration: null, evaluation: null, job: null, parent: null, tools: { tensorflow: '2.21.0' } },
  parity: null, createdAt: '2026-11-25T08:00:00.000Z',
};
const { privateKey, publicKey } = generateKeyPairSync('ed25519');
const key = { keyId: 'k1', privateKey, publicKeyPem: publicKey.export({ type: 'spki', format: 'pem' }).toString() };

/** How many were answered; anything but a ReefError of these codes fails with the mutation's name. */
function answered<T>(mutations: Iterable<T & { how: string }>, codes: string[], ask: (mutation: T) => void): number {
  let count = 0;
  for (const mutation of mutations) {
    const begin = process.cpuUsage();
    try {
      ask(mutation);
      count += 1;
    } catch (cause) {
      if (!(cause instanceof ReefError && codes.includes(cause.code))) throw new Error(mutation.how, { cause });
    }
    if (process.cpuUsage(begin).user > 1_000_000) throw new Error(`${mutation.how}: took over a second`);
  }
  return count;
}

/** Signed as the real one is, so that what is behind the signature is read. */
function signed(statement: string): Envelope {
  const body = Buffer.from(statement);
  const type = 'application/vnd.in-toto+json';
  const sig = sign(null, Buffer.concat([Buffer.from(`DSSEv1 ${type.length} ${type} ${body.length} `), body]), privateKey).toString('base64');
  return { payloadType: type, payload: body.toString('base64'), signatures: [{ keyid: 'k1', sig }] };
}

describe('the envelope and what is in it', () => {
  const envelope = signBundle(manifest, key);
  const statement = Buffer.from(envelope.payload, 'base64').toString();
  const codes = ['bundle.malformed', 'bundle.unsigned', 'bundle.signature_wrong'];

  it('1,500 damaged envelopes: none is taken for the signed one', () => {
    const taken = answered(jsonMutationsOf(envelope, { count: 1500, seed: 21 }), codes, ({ value }) => {
      if (JSON.stringify(verifyBundle(value, [key])) !== JSON.stringify(manifest)) throw new Error('another manifest passed');
    });
    // A further signature or field beside the good one changes nothing.
    expect(taken).toBeLessThan(1000);
  });

  it('1,000 flips in the signed bytes: all refused', () => {
    const payload = Buffer.from(envelope.payload, 'base64');
    const flips = [...mutationsOf(payload, { count: 1000, seed: 22 })].filter(({ bytes }) => !payload.equals(bytes));
    expect(answered(flips, codes, ({ bytes }) => verifyBundle({ ...envelope, payload: Buffer.from(bytes).toString('base64') }, [key]))).toBe(0);
  });

  it('800 damaged statements with a good signature', () => {
    answered(jsonMutationsOf(JSON.parse(statement), { count: 800, seed: 23 }), codes, ({ value }) => verifyBundle(signed(JSON.stringify(value) ?? ''), [key]));
  });

  it('2,000 damaged manifests', () => {
    const usable = answered(jsonMutationsOf(manifest, { count: 2000, seed: 24 }), codes, ({ value }) => parseManifest(value));
    expect(usable).toBeGreaterThan(50);
    expect(usable).toBeLessThan(1900);
  });

  it.each<[string, unknown]>([
    ['nothing', undefined], ['a list as deep as a stack', JSON.parse(`${'['.repeat(100_000)}${']'.repeat(100_000)}`)], ['a payload of eight megabytes', { ...envelope, payload: 'A'.repeat(8 * 2 ** 20) }],
    ['a hundred thousand signatures', { ...envelope, signatures: Array.from({ length: 100_000 }, () => envelope.signatures[0]) }],
    ['a statement as deep as a stack', signed(statement.replace('"parity":null', `"parity":null,"more":${'['.repeat(100_000)}${']'.repeat(100_000)}`))],
  ])('%s', (_, value) => {
    expect(answered([{ how: 'it', value }], codes, () => verifyBundle(value, [key]))).toBe(0);
  });
});

describe('the golden pack', () => {
  const pack: GoldenPack = {
    cases: [
      { input: [Buffer.from([1, 2, 3])], expect: { top1: 1, outputs: [Buffer.from([1, 9, 3])], dtypes: ['int8'], tolerance: { maxStepDiff: 16 } } },
      { input: [Buffer.from([1])], expect: { top1: null, outputs: [Buffer.from(Float32Array.of(0.5, 1).buffer), Buffer.alloc(16)], dtypes: ['float32', 'int64'], tolerance: { maxStepDiff: 16 } } },
    ],
  };
  /** Read, and held against what a model answered. */
  const use = (bytes: Uint8Array): void => {
    for (const one of decodeGolden(bytes).cases) {
      const verdict = judgeGolden(one, one.expect.outputs);
      if (verdict.ok && !Number.isFinite(verdict.worstStepDiff)) throw new Error(`the worst difference is ${verdict.worstStepDiff}`);
      judgeGolden(one, [Buffer.from([1, 9, 3])]);
    }
  };

  it('1,500 damaged files', () => {
    answered(mutationsOf(encodeGolden(pack), { count: 1500, seed: 31 }), ['golden.malformed'], ({ bytes }) => use(bytes));
  });

  it('1,500 damaged texts, well packed', () => {
    answered(mutationsOf(gunzipSync(encodeGolden(pack)), { count: 1500, seed: 32 }), ['golden.malformed'], ({ bytes }) => use(gzipSync(bytes, { level: 1 })));
  });

  it('1,500 texts of another shape', () => {
    const usable = answered(jsonMutationsOf(JSON.parse(gunzipSync(encodeGolden(pack)).toString()), { count: 1500, seed: 33 }), ['golden.malformed'], ({ value }) => use(gzipSync(JSON.stringify(value) ?? '', { level: 1 })));
    expect(usable).toBeGreaterThan(50);
    expect(usable).toBeLessThan(1450);
  });
});
