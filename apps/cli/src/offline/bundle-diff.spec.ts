import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadOrCreateSigningKey, signBundle, type Manifest } from '@reefkeeper/bundle';
import { bundleDiff, bundleDiffText, openBundle } from './bundle-diff.ts';

let dir: string;
const nobody = async () => { throw new Error('no controller is needed'); };

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'reef-diff-'));
  const key = await loadOrCreateSigningKey(dir);
  const put = async (folder: string, content: Buffer) => {
    const digest = createHash('sha256').update(content).digest('hex');
    await mkdir(join(dir, folder, 'blobs'), { recursive: true });
    await writeFile(join(dir, folder, 'blobs', digest), content);
    return { digest, bytes: content.length };
  };
  const model = randomBytes(200_000);
  const retrained = Buffer.from(model);
  randomBytes(2_000).copy(retrained, 150_000);
  const golden = randomBytes(30_000);
  for (const [folder, content, labels] of [['v1', model, ['cat', 'dog']], ['v2', retrained, ['dog', 'cat']]] as const) {
    const manifest: Manifest = {
      schema: 1, model: 'm', version: Number(folder.slice(1)), task: 'classification', labels: [...labels], inputs: [{ name: 'x', shape: [1, 3], dtype: 'int8', scale: 1, zeroPoint: 0, preprocessing: { kind: 'raw' } }], outputs: [{ name: 'y', shape: [1, 2], dtype: 'int8', scale: 1, zeroPoint: 0 }],
      variants: [{ name: 'cpu-int8', kind: 'cpu-int8', minRuntime: null, file: await put(folder, content) }, ...(folder === 'v2' ? [{ name: 'edgetpu-14', kind: 'edgetpu' as const, minRuntime: 14, file: await put(folder, randomBytes(90_000)) }, { name: 'edgetpu-14-x2', kind: 'edgetpu' as const, minRuntime: 14, file: await put(folder, randomBytes(40_000)), moreSegments: [await put(folder, randomBytes(60_000))] }] : [])],
      golden: { ...(await put(folder, golden)), cases: 3 }, lineage: { source: { digest: 'd'.repeat(64), filename: 'm' }, calibration: null, evaluation: null, job: null, parent: null, tools: {} }, parity: null, createdAt: '2026-11-25T08:00:00.000Z',
    };
    await writeFile(join(dir, folder, 'envelope.json'), JSON.stringify(signBundle(manifest, key)));
  }
});
afterAll(() => rm(dir, { recursive: true }));

describe('two bundles on disk', () => {
  it('what a device transfers: a delta, a file it has, a file it never had', async () => {
    const diff = await bundleDiff(await openBundle(join(dir, 'v1'), nobody), await openBundle(join(dir, 'v2/envelope.json'), nobody));
    expect(diff.files.map(({ part, change, transferBytes }) => [part, change, transferBytes])).toEqual([['cpu-int8', 'changed', expect.any(Number)], ['golden', 'same', 0], ['edgetpu-14', 'added', 90_000], ['edgetpu-14-x2', 'added', 40_000], ['edgetpu-14-x2, segment 2', 'added', 60_000]]);
    expect(diff.files[0]!.deltaBytes).toBeLessThan(3_000);
    expect(diff.transfers).toEqual([{ variant: 'cpu-int8', bytes: diff.files[0]!.deltaBytes, fullBytes: 230_000 }, { variant: 'edgetpu-14', bytes: 90_000 + diff.files[0]!.deltaBytes!, fullBytes: 320_000 }, { variant: 'edgetpu-14-x2', bytes: 190_000 + diff.files[0]!.deltaBytes!, fullBytes: 420_000 }]);
    const text = bundleDiffText(diff);
    expect(text).toContain('labels at another output: dog, cat');
    expect(text).toMatch(/A device on cpu-int8 that has the first transfers 2\.\d kB of 230\.0 kB\./);
  });

  it('without the files the sizes are unknown, not wrong; the same bundle is the same', async () => {
    await rm(join(dir, 'v2/blobs'), { recursive: true });
    const two = await openBundle(join(dir, 'v2'), nobody);
    const diff = await bundleDiff(await openBundle(join(dir, 'v1'), nobody), two);
    expect(diff.transfers[0]).toEqual({ variant: 'cpu-int8', bytes: null, fullBytes: 230_000 });
    expect(bundleDiffText(diff)).toContain('unknown: the files are not here');
    expect(bundleDiffText(await bundleDiff(two, two))).toContain('the same bundle');
  });

  it('says what is no bundle', async () => {
    await writeFile(join(dir, 'x.json'), '{');
    await expect(openBundle(join(dir, 'x.json'), nobody)).rejects.toMatchObject({ code: 'bundle.malformed' });
    await expect(openBundle(join(dir, 'nothing'), nobody)).rejects.toMatchObject({ code: 'file.missing' });
    await mkdir(join(dir, 'empty'));
    await expect(openBundle(join(dir, 'empty'), nobody)).rejects.toMatchObject({ code: 'file.missing' });
  });
});
