import { generateKeyPairSync } from 'node:crypto';
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bundleDigest, canonicalManifest, choicesFor, edgeTpusOf, loadOrCreateSigningKey, parseManifest, segmentsOf, signBundle, verifyBundle, type Envelope, type Manifest, type SigningKey } from './index.ts';

const sample: Manifest = {
  schema: 1, model: 'lite0', version: 3, task: 'classification', labels: ['cat', 'dog', 'hot dog'],
  inputs: [{ name: 'images', shape: [1, 224, 224, 3], dtype: 'int8', scale: 0.0078, zeroPoint: -1, preprocessing: { kind: 'image', width: 224, height: 224, channels: 3, resize: 'center-crop', mean: [127], std: [128] } }],
  outputs: [{ name: 'probs', shape: [1, 3], dtype: 'int8', scale: 1 / 256, zeroPoint: -128 }],
  variants: [{ name: 'cpu-int8', kind: 'cpu-int8', minRuntime: null, file: { digest: 'a'.repeat(64), bytes: 5 } }],
  golden: null,
  lineage: { source: { digest: 'b'.repeat(64), filename: 'm.tar.gz' }, calibration: null, evaluation: null, job: null, parent: null, tools: { tensorflow: '2.21.0' } },
  parity: null, createdAt: '2026-11-25T08:00:00.000Z',
};

let dir: string;
let key: SigningKey;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'reef-keys-'));
  key = await loadOrCreateSigningKey(dir);
});
afterAll(async () => rm(dir, { recursive: true }));

describe('signing key', () => {
  it('is the same for everyone who asks, also at once, and private', async () => {
    const fresh = join(dir, 'fresh');
    const ids = await Promise.all(Array.from({ length: 8 }, async () => (await loadOrCreateSigningKey(fresh)).keyId));
    expect(new Set(ids).size).toBe(1);
    expect(ids[0]).toMatch(/^[0-9a-f]{16}$/);
    expect(await readdir(fresh)).toEqual(['signing-key.pem']);
    expect((await stat(join(fresh, 'signing-key.pem'))).mode & 0o077).toBe(0);
  });

  it('is never replaced when it cannot be read', async () => {
    const broken = await mkdtemp(join(dir, 'broken-'));
    await writeFile(join(broken, 'signing-key.pem'), 'not a key');
    await expect(loadOrCreateSigningKey(broken)).rejects.toMatchObject({ code: 'signing_key.unusable' });
    await writeFile(join(broken, 'signing-key.pem'), generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ type: 'pkcs8', format: 'pem' }));
    await expect(loadOrCreateSigningKey(broken)).rejects.toMatchObject({ code: 'signing_key.unusable' });
  });
});

describe('bundle', () => {
  it('comes back as signed, through JSON', () => {
    const envelope = JSON.parse(JSON.stringify(signBundle(sample, key))) as Envelope;
    expect(verifyBundle(envelope, [key])).toEqual(sample);
    const statement = JSON.parse(Buffer.from(envelope.payload, 'base64').toString()) as { subject: { name: string; digest: { sha256: string } }[] };
    expect(statement.subject[0]).toEqual({ name: 'lite0@3', digest: { sha256: bundleDigest(sample) } });
    expect(statement.subject[1]).toEqual({ name: 'cpu-int8', digest: { sha256: 'a'.repeat(64) } });
  });

  it('has one digest whatever the order of its fields', () => {
    expect(bundleDigest(Object.fromEntries(Object.entries(sample).reverse()) as Manifest)).toBe(bundleDigest(sample));
    expect(canonicalManifest(sample).toString()).toMatch(/^\{"createdAt":/);
  });

  it('keeps fields of a newer controller, so that the digest holds', () => {
    const newer = { ...sample, later: { more: 1 }, outputs: [{ ...sample.outputs[0]!, meaning: 'p' }] } as Manifest;
    expect(bundleDigest(newer)).not.toBe(bundleDigest(sample));
    expect(bundleDigest(verifyBundle(signBundle(newer, key), [key]))).toBe(bundleDigest(newer));
  });

  it.each<[string, (e: Envelope) => unknown, string]>([
    ['an altered payload', (e) => ({ ...e, payload: Buffer.from(Buffer.from(e.payload, 'base64').toString().replace('"dog"', '"cow"')).toString('base64') }), 'bundle.signature_wrong'],
    ['another payload type', (e) => ({ ...e, payloadType: 'application/json' }), 'bundle.signature_wrong'],
    ['a damaged signature', (e) => ({ ...e, signatures: [{ ...e.signatures[0]!, sig: Buffer.alloc(64).toString('base64') }] }), 'bundle.signature_wrong'],
    ['no signature', (e) => ({ ...e, signatures: [] }), 'bundle.unsigned'],
    ['an unknown key', (e) => ({ ...e, signatures: [{ ...e.signatures[0]!, keyid: 'feedfeedfeedfeed' }] }), 'bundle.unsigned'],
    ['something else', () => 'hello', 'bundle.malformed'],
    ['nothing', () => null, 'bundle.malformed'],
  ])('refuses %s', (_what, alter, code) => {
    expect(() => verifyBundle(alter(signBundle(sample, key)), [key])).toThrow(expect.objectContaining({ code }));
  });

  it('refuses another key that claims our key id', async () => {
    const other = await loadOrCreateSigningKey(join(dir, 'other'));
    expect(() => verifyBundle(signBundle(sample, other), [key])).toThrow(expect.objectContaining({ code: 'bundle.unsigned' }));
    expect(() => verifyBundle(signBundle(sample, { ...other, keyId: key.keyId }), [key])).toThrow(expect.objectContaining({ code: 'bundle.signature_wrong' }));
    expect(verifyBundle(signBundle(sample, other), [key, other])).toEqual(sample);
  });

  it('refuses a manifest that says nothing useful before it is signed', () => {
    expect(() => signBundle({ ...sample, variants: [] }, key)).toThrow(expect.objectContaining({ code: 'bundle.malformed' }));
    expect(() => signBundle({ ...sample, outputs: [{ ...sample.outputs[0]!, scale: Number.NaN }] }, key)).toThrow(expect.objectContaining({ code: 'bundle.malformed' }));
  });

  it('does not verify after any change of one byte of the payload', () => {
    const envelope = signBundle(sample, key);
    const payload = Buffer.from(envelope.payload, 'base64');
    fc.assert(fc.property(fc.nat(payload.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const altered = Buffer.from(payload);
      altered[at] = altered[at]! ^ flip;
      expect(() => verifyBundle({ ...envelope, payload: altered.toString('base64') }, [key])).toThrow(expect.objectContaining({ code: 'bundle.signature_wrong' }));
    }), { numRuns: 200 });
  });

  it('round-trips any labels and lineage', () => {
    fc.assert(fc.property(fc.array(fc.string({ unit: 'grapheme', maxLength: 20 }), { maxLength: 8 }), fc.dictionary(fc.string({ maxLength: 10 }), fc.string({ maxLength: 10 })), (labels, tools) => {
      const manifest = { ...sample, labels, lineage: { ...sample.lineage, tools: { ...tools } } };
      const back = verifyBundle(JSON.parse(JSON.stringify(signBundle(manifest, key))), [key]);
      expect(bundleDigest(back)).toBe(bundleDigest(manifest));
      expect(back.labels).toEqual(labels);
    }), { numRuns: 100 });
  });
});

describe('a variant in segments', () => {
  const of = (...digits: string[]) => digits.map((digit) => ({ digest: digit.repeat(64), bytes: 7 }));
  const cut = (name: string, ...moreSegments: { digest: string; bytes: number }[]): Manifest => ({
    ...sample, variants: [...sample.variants, { name, kind: 'edgetpu', minRuntime: 14, file: of('c')[0]!, ...(moreSegments.length > 0 ? { moreSegments } : {}) }],
  });

  it('is signed with all its files, in order; one file is a variant as ever', () => {
    const manifest = cut('edgetpu-14-x3', ...of('d', 'e'));
    const read = verifyBundle(signBundle(manifest, key), [key]);
    expect(read.variants.map(segmentsOf)).toEqual([of('a').map((one) => ({ ...one, bytes: 5 })), of('c', 'd', 'e')]);
    expect(JSON.parse(Buffer.from(signBundle(manifest, key).payload, 'base64').toString('utf8'))).toMatchObject({ subject: [{}, { name: 'cpu-int8' }, { name: 'edgetpu-14-x3' }, { name: 'edgetpu-14-x3, segment 2' }, { digest: { sha256: 'e'.repeat(64) } }] });
  });

  it.each([['too few', cut('edgetpu-14-x3', ...of('d'))], ['none', cut('edgetpu-14-x2')], ['a name that says nothing of them', cut('edgetpu-14', ...of('d'))]])('%s is refused', (_what, manifest) => {
    expect(() => parseManifest(manifest)).toThrow(expect.objectContaining({ code: 'bundle.malformed', message: expect.stringContaining('edgetpu-14-x2 has two') }));
  });

  it('says by its name how many Edge TPUs it takes', () => {
    expect(['cpu-int8', 'agent-amd64', 'edgetpu-14', 'edgetpu-14-x2', 'edgetpu-13-x16', 'edgetpu-x0'].map(edgeTpusOf)).toEqual([0, 0, 1, 2, 16, 1]);
  });

  it('is followed by what stands in for it: fewer Edge TPUs, one of each number, then the CPU where it may', () => {
    const variants = ['agent-amd64', 'cpu-int8', 'edgetpu-12', 'edgetpu-13', 'edgetpu-14', 'edgetpu-14-x2', 'edgetpu-14-x3', 'edgetpu-13-x3'].map((name) => ({ name, minRuntime: Number(/\d\d/.exec(name)?.[0] ?? 0) || null }));
    const choices = (name: string, cpuFallback = true, some = variants) => choicesFor(name, some, cpuFallback).map((variant) => variant.name);
    expect(choices('edgetpu-14-x3')).toEqual(['edgetpu-14-x3', 'edgetpu-14-x2', 'edgetpu-14', 'cpu-int8']);
    // Not for a newer runtime than is known to be there, unless there is nothing else.
    expect(choices('edgetpu-13-x3', false)).toEqual(['edgetpu-13-x3', 'edgetpu-14-x2', 'edgetpu-13']);
    expect(choices('edgetpu-14', false)).toEqual(['edgetpu-14']);
    expect(choices('edgetpu-14')).toEqual(['edgetpu-14', 'cpu-int8']);
    expect([choices('cpu-int8'), choices('agent-amd64'), choices('edgetpu-15')]).toEqual([['cpu-int8'], ['agent-amd64'], []]);
    fc.assert(fc.property(fc.shuffledSubarray(variants), fc.constantFrom(...variants), fc.boolean(), (some, { name }, cpuFallback) => {
      expect(choices(name, cpuFallback, some)).toEqual(choices(name, cpuFallback, some.toReversed()));
    }));
  });
});
