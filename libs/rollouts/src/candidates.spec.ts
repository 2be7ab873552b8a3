import type { Version } from '@reefkeeper/registry';
import { expect, it } from 'vitest';
import { bytesOf } from './candidates.ts';

it('what a device fetches of a variant in segments is all of them', () => {
  const version = { variants: [{ name: 'cpu-int8', bytes: 5, details: null }, { name: 'edgetpu-14-x3', bytes: 10, details: { moreSegments: [{ bytes: 20 }, { bytes: 30 }] } }] } as unknown as Version;
  expect(['cpu-int8', 'edgetpu-14-x3', 'none'].map((name) => bytesOf(version, name))).toEqual([5, 60, 0]);
});
