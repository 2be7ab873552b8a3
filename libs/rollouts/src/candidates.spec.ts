import type { Version } from '@reefkeeper/registry';
import { expect, it } from 'vitest';
import { bytesOf } from './candidates.ts';

it('what a device fetches is every segment of its variant, and what it may have to fall back to', () => {
  const variants = [
    { name: 'cpu-int8', minRuntime: null, bytes: 5, details: null }, { name: 'edgetpu-14', minRuntime: 14, bytes: 7, details: { onChipBytes: 3 } },
    { name: 'edgetpu-14-x3', minRuntime: 14, bytes: 10, details: { moreSegments: [{ bytes: 20 }, { bytes: 30 }] } },
  ];
  const version = { variants } as unknown as Version;
  expect(['cpu-int8', 'edgetpu-14', 'edgetpu-14-x3', 'none'].map(bytesOf(version, { cpuFallback: true }))).toEqual([5, 12, 72, 0]);
  expect(['cpu-int8', 'edgetpu-14', 'edgetpu-14-x3'].map(bytesOf(version, { cpuFallback: false }))).toEqual([5, 7, 67]);
});
