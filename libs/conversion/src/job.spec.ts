import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ReefError, type ErrorKind } from '@reefkeeper/platform/errors';
import { afterStep, buildRequest, etaS, isSettled, maxTries, objectsIn, stepKey, type StepOutcome } from './job.ts';

const failed = (kind: ErrorKind): StepOutcome => ({ kind: 'failed', error: new ReefError('x.y', kind, 'It broke.') });

describe('after a step', () => {
  it.each<[string, StepOutcome, number, boolean, object]>([
    ['done, more to come', { kind: 'succeeded' }, 1, false, { step: 'SUCCEEDED', job: 'RUNNING' }],
    ['done, last', { kind: 'succeeded' }, 1, true, { step: 'SUCCEEDED', job: 'SUCCEEDED' }],
    ['known already', { kind: 'cached' }, 1, false, { step: 'CACHED', job: 'RUNNING' }],
    ['nothing to do', { kind: 'skipped', reason: 'no compiler' }, 1, false, { step: 'SKIPPED', job: 'RUNNING', error: null }],
    ['wrong input is not tried again', failed('invalid'), 1, false, { step: 'FAILED', job: 'FAILED', error: { code: 'x.y', step: 'convert' } }],
    ['a bug is not tried again', failed('bug'), 1, false, { step: 'FAILED', job: 'FAILED' }],
    ['what may pass is tried again', failed('unavailable'), 1, false, { step: 'PENDING', job: 'RUNNING', waitMs: 750 }],
    ['later each time', failed('unavailable'), 3, false, { step: 'PENDING', job: 'RUNNING', waitMs: 3_000 }],
    ['but not for ever', failed('unavailable'), maxTries, false, { step: 'FAILED', job: 'FAILED' }],
    ['too long', { kind: 'timedOut', afterMs: 5_000 }, 1, false, { step: 'TIMED_OUT', job: 'TIMED_OUT', error: { code: 'step.timed_out' } }],
    ['a tool in it took too long', { kind: 'timedOut', afterMs: 5_000, error: new ReefError('compile.timed_out', 'invalid', 'The compiler hung.') }, 1, false, { step: 'TIMED_OUT', job: 'TIMED_OUT', error: { code: 'compile.timed_out', message: 'The compiler hung.', step: 'convert' } }],
    ['canceled', { kind: 'canceled' }, 1, true, { step: 'CANCELED', job: 'CANCELED' }],
    ['the worker stops', { kind: 'interrupted' }, 1, true, { step: 'PENDING', job: 'RUNNING', waitMs: 0, error: null }],
  ])('%s', (_what, outcome, tries, last, expected) => {
    expect(afterStep('convert', outcome, { tries, last, jitter: 0.5 })).toMatchObject(expected);
  });

  it('a settled failure always says why, and waiting always ends', () => {
    const outcomes = fc.oneof(
      fc.constantFrom<ErrorKind>('invalid', 'not_found', 'conflict', 'forbidden', 'unavailable', 'bug').map(failed),
      fc.constantFrom<StepOutcome>({ kind: 'succeeded' }, { kind: 'canceled' }, { kind: 'timedOut', afterMs: 1 }, { kind: 'interrupted' }),
    );
    fc.assert(fc.property(outcomes, fc.integer({ min: 1, max: 10 }), fc.boolean(), fc.double({ min: 0, max: 1, noNaN: true }), (outcome, tries, last, jitter) => {
      const next = afterStep('verify', outcome, { tries, last, jitter });
      if (isSettled(next.job) && next.job !== 'SUCCEEDED') expect(next.error?.code).toBeTruthy();
      if (tries >= maxTries && outcome.kind === 'failed') expect(isSettled(next.job)).toBe(true);
      expect(next.waitMs).toBeLessThanOrEqual(8_000);
    }));
  });
});

describe('time left', () => {
  it.each([[10_000, null, 30_000, 20], [10_000, 0, 30_000, 20], [10_000, 50, 30_000, 10], [40_000, null, 30_000, null], [500, 50, 2_500, 2]])('%d ms at %s %% of a step that usually takes %d ms leaves %s s', (elapsed, percent, typical, expected) => {
    expect(etaS(elapsed, percent, typical)).toBe(expected);
  });
  it.each([[10_000, 50, 10], [10_000, 100, 0], [10_000, 1, null], [500, 50, null], [60_000, null, null]])('%d ms at %s %% leaves %s s', (elapsed, percent, expected) => {
    expect(etaS(elapsed, percent)).toBe(expected);
  });
});

describe('step keys', () => {
  it('depend on the content, not on its order', () => {
    expect(stepKey('convert', { a: 1, b: [1, 2] })).toBe(stepKey('convert', { b: [1, 2], a: 1 }));
    expect(stepKey('convert', { a: 1, gone: undefined })).toBe(stepKey('convert', { a: 1 }));
    expect(stepKey('convert', { a: 1 })).not.toBe(stepKey('verify', { a: 1 }));
    expect(stepKey('convert', { a: [1, 2] })).not.toBe(stepKey('convert', { a: [2, 1] }));
  });

  it('finds every stored object of an output', () => {
    expect(objectsIn({ model: { digest: 'a', bytes: 1 }, list: [{ digest: 'b', bytes: 2, more: { digest: 'c', bytes: 3 } }], not: { digest: 'd' } })).toEqual(['a', 'b', 'c']);
  });
});

describe('build request', () => {
  const source = { digest: 'a'.repeat(64), filename: 'model.tar.gz' };
  it('has defaults', () => {
    expect(buildRequest.parse({ source })).toMatchObject({ calibration: null, evaluation: null, labels: null, task: 'classification', allowWorse: false, thresholds: {} });
  });
  it.each([['../../etc/passwd'], ['a/b'], ['a\\b'], ['..'], ['']])('refuses the file name %j', (filename) => {
    expect(buildRequest.safeParse({ source: { ...source, filename } }).success).toBe(false);
  });
});
