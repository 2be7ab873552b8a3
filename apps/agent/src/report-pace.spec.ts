import { expect, it } from 'vitest';
import { ReportPace } from './report-pace.ts';
import { quiet, reportOf } from './report.ts';
import { activated, begun, committed, did, emptyWorkload, entered, failed, type WorkloadState } from './workload.ts';

const wanted = { bundle: 'ab'.repeat(32), variant: 'cpu-int8', manifestUrl: '/v1/bundles/ab', policy: {}, rollback: false, rollbackTo: null } as never;
const said = (workload: WorkloadState, percent: number | null = null) => reportOf({ desired: { revision: 3 }, workloads: { classifier: workload } } as never, { ...quiet, percent: percent === null ? new Map() : new Map([['classifier', percent]]) });

it('steps wait for each other, whatever matters does not', () => {
  const pace = new ReportPace();
  const begin = begun(emptyWorkload, 3, wanted);
  expect(pace.delayMs(said(begin), 0)).toBe(0);
  pace.sent(said(begin), 0);
  const download = entered(begin, 'download');
  expect(pace.delayMs(said(download), 10)).toBe(240);
  expect(pace.delayMs(said(download, 40), 20)).toBe(230);
  expect(pace.delayMs(said(entered(did(download, 'download'), 'verify')), 60)).toBe(190);
  expect(pace.delayMs(said(entered(download, 'install')), 400)).toBe(0);
  expect(pace.delayMs(said(failed(download, { code: 'golden.mismatch', message: '' })), 20)).toBe(0);
  const serving = activated(entered(download, 'activate'), { bundle: 'ab'.repeat(32), variant: 'cpu-int8', backend: 'cpu' });
  expect(pace.delayMs(said(serving), 20)).toBe(0);
  pace.sent(said(serving), 20);
  expect(pace.delayMs(said(entered(serving, 'observe')), 30)).toBe(240);
  expect(pace.delayMs(said(committed(serving)), 30)).toBe(0);
});

it('a condition, what runs, or another revision is said at once', () => {
  const pace = new ReportPace();
  const before = said(emptyWorkload);
  pace.sent(before, 0);
  for (const now of [{ ...before, observedRevision: 4 }, { ...before, health: 'DEGRADED' as const, conditions: ['CAMERA_LOST'] }, { ...before, workloads: { classifier: { ...before.workloads.classifier!, running: 'cd'.repeat(32) } } }, { ...before, workloads: {} } as typeof before]) expect(pace.delayMs(now, 1)).toBe(0);
  expect(pace.delayMs({ ...before, workloads: { classifier: { ...before.workloads.classifier!, learning: { command: 'c', step: 'train', percent: 3 } as never } } }, 1)).toBe(249);
});
