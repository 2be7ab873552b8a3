import { expect, it } from 'vitest';
import { versionText, type VersionView } from './models.ts';

it('a variant in segments is shown with what they come to, and how many they are', () => {
  const version: VersionView = {
    id: 'v', model: 'lanes', version: 1, ref: 'lanes@1', state: 'READY', task: 'classification', createdAt: '2026-11-28T00:00:00Z', bundleDigest: 'b'.repeat(64), error: null, failedVariants: [],
    hold: null, confirmedAt: null, confirmedBy: null, labels: null, analysis: null, lineage: null, parity: null,
    variants: [
      { name: 'edgetpu-14', kind: 'edgetpu', minRuntime: 14, digest: 'a'.repeat(64), bytes: 4_500_000, segments: 1, totalBytes: 4_500_000 },
      { name: 'edgetpu-14-x2', kind: 'edgetpu', minRuntime: 14, digest: 'c'.repeat(64), bytes: 1_500_000, segments: 2, totalBytes: 4_700_000 },
    ],
    pipelines: [{ minRuntime: 14, segments: [{ digest: 'c'.repeat(64), bytes: 1_500_000, details: {} }, { digest: 'd'.repeat(64), bytes: 3_200_000, details: {} }] }],
  };
  const text = versionText(version);
  expect(text).toMatch(/edgetpu-14 .*4\.5 MB .*aaaaaaaaaaaa/);
  expect(text).toMatch(/edgetpu-14-x2 .*4\.7 MB in 2 segments/);
  expect(text).toMatch(/segment 2 of 2 .*3\.2 MB .*dddddddddddd/);
  expect(text.match(/1\.5 MB/g)).toHaveLength(1);
});
