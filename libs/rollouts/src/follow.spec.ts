import type { Execution } from '@reefkeeper/protocol';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { follow, type Followed, type Seen } from './follow.ts';

const t0 = new Date('2026-01-01T00:00:00Z');
const at = (seconds: number): Date => new Date(t0.getTime() + seconds * 1_000);
const bundle = 'b'.repeat(64);
const before = 'a'.repeat(64);
const limits = { installTimeoutS: 60, rollbackTimeoutS: 60 };
const told: Followed = { device: 'd', state: 'QUEUED', step: null, percent: null, revision: 7, bundle, assignedAt: t0, rollbackState: null, rollbackRevision: null, rollbackAssignedAt: null, previousBundle: before };
const report = (some: Partial<Execution> = {}): Execution => ({ revision: 7, bundle, state: 'IN_PROGRESS', step: 'download', percent: 10, failure: null, ...some });
const seen = (some: Partial<Seen> = {}): Seen => ({ retired: false, wantedBundle: bundle, observedRevision: 7, running: before, execution: report(), ...some });

describe('on the way to the version', () => {
  it.each<[string, Partial<Seen>, Followed['state'] | undefined]>([
    ['progress', {}, 'IN_PROGRESS'],
    ['success with the bundle running', { running: bundle, execution: report({ state: 'SUCCEEDED', step: 'commit', percent: 100 }) }, 'SUCCEEDED'],
    ['a success that runs something else is none', { execution: report({ state: 'SUCCEEDED' }) }, 'IN_PROGRESS'],
    ['failure', { execution: report({ state: 'FAILED', failure: { code: 'golden.mismatch', message: 'no' } }) }, 'FAILED'],
    ['a later revision that still wants the same bundle', { running: bundle, observedRevision: 9, execution: report({ revision: 9, state: 'SUCCEEDED' }) }, 'SUCCEEDED'],
    ['an old success of the same bundle does not count', { running: bundle, execution: report({ revision: 3, state: 'SUCCEEDED' }) }, undefined],
    ['a report of another bundle does not count', { execution: report({ bundle: before, state: 'SUCCEEDED' }) }, undefined],
    ['no report at all', { execution: null, observedRevision: null }, undefined],
    ['taken over by something newer', { wantedBundle: 'c'.repeat(64) }, 'CANCELED'],
    ['retired', { retired: true }, 'REMOVED'],
  ])('%s', (_, some, expected) => {
    expect(follow(told, seen(some), limits, at(1))?.state).toBe(expected);
  });

  it('times out, unless the answer has come in the same moment', () => {
    expect(follow(told, seen({ execution: null }), limits, at(59))).toBeUndefined();
    expect(follow(told, seen(), limits, at(60))).toMatchObject({ state: 'TIMED_OUT', failure: { code: 'execution.timed_out' } });
    expect(follow(told, seen({ running: bundle, execution: report({ state: 'SUCCEEDED' }) }), limits, at(60))).toMatchObject({ state: 'SUCCEEDED' });
  });

  it('waits without failing: QUEUED with what the device waits for, for as long as it says so; when it goes on its time begins anew', () => {
    const waiting = report({ state: 'QUEUED', percent: null, failure: { code: 'budget_exceeded', message: 'over the budget' } });
    const moved = follow(told, seen({ execution: waiting }), limits, at(1))!;
    expect(moved).toMatchObject({ state: 'QUEUED', step: 'download', failure: { code: 'budget_exceeded' } });
    expect(follow({ ...told, ...moved }, seen({ execution: waiting }), limits, at(2))).toBeUndefined();
    expect(follow({ ...told, ...moved }, seen({ execution: report({ percent: null }) }), limits, at(3))).toMatchObject({ state: 'IN_PROGRESS', failure: null });
    expect(follow({ ...told, ...moved }, seen({ running: bundle, execution: report({ state: 'SUCCEEDED' }) }), limits, at(3))).toMatchObject({ state: 'SUCCEEDED', failure: null });
    expect(follow({ ...told, ...moved }, seen({ execution: waiting }), limits, at(86_400))).toBeUndefined();
    // It may say so late, and it may vanish while it waits.
    expect(follow(told, seen({ execution: waiting }), limits, at(60))).toMatchObject({ state: 'QUEUED', failure: { code: 'budget_exceeded' } });
    expect(follow({ ...told, ...moved }, seen({ execution: null, observedRevision: null }), limits, at(86_400))).toBeUndefined();
    const goesOn = { ...told, ...follow({ ...told, ...moved }, seen(), limits, at(86_400))!, timeoutFrom: at(86_400) };
    expect(goesOn).toMatchObject({ state: 'IN_PROGRESS', failure: null });
    expect(follow(goesOn, seen(), limits, at(86_459))).toBeUndefined();
    expect(follow(goesOn, seen(), limits, at(86_460))).toMatchObject({ state: 'TIMED_OUT', failure: { code: 'execution.timed_out' } });
  });

  it('the same report twice moves nothing; terminal is sticky whatever comes', () => {
    const moved = follow(told, seen(), limits, at(1))!;
    expect(follow({ ...told, ...moved }, seen(), limits, at(2))).toBeUndefined();
    fc.assert(fc.property(fc.constantFrom('SUCCEEDED', 'FAILED', 'TIMED_OUT', 'REJECTED', 'REMOVED', 'CANCELED' as const), fc.constantFrom('QUEUED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED' as const), fc.boolean(), fc.integer({ min: 0, max: 1_000 }), (state, said, retired, seconds) =>
      follow({ ...told, state: state as Followed['state'] }, seen({ retired, running: bundle, execution: report({ state: said as Execution['state'] }) }), limits, at(seconds)) === undefined));
  });
});

describe('on the way back', () => {
  const returning: Followed = { ...told, state: 'SUCCEEDED', rollbackState: 'QUEUED', rollbackRevision: 8, rollbackAssignedAt: at(100) };
  const back = (some: Partial<Seen> = {}): Seen => seen({ wantedBundle: before, observedRevision: 8, execution: report({ revision: 8, bundle: before, state: 'SUCCEEDED' }), ...some });
  it.each<[string, Partial<Seen>, Followed['rollbackState'] | undefined]>([
    ['back on its own bundle', {}, 'SUCCEEDED'],
    ['had gone back by itself, nothing left to do', { execution: report({ state: 'FAILED' }) }, 'SUCCEEDED'],
    ['not seen yet', { observedRevision: 7 }, undefined],
    ['on its way', { running: bundle, execution: report({ revision: 8, bundle: before, state: 'IN_PROGRESS' }) }, 'IN_PROGRESS'],
    ['cannot', { running: bundle, execution: report({ revision: 8, bundle: before, state: 'FAILED', failure: { code: 'artifact.missing', message: 'gone' } }) }, 'FAILED'],
    ['taken over', { wantedBundle: bundle }, 'CANCELED'],
    ['retired', { retired: true }, 'CANCELED'],
  ])('%s', (_, some, expected) => {
    expect(follow(returning, back(some), limits, at(101))?.rollbackState).toBe(expected);
  });
  it('a device that never answers is counted as that; its first part stays as it was', () => {
    expect(follow(returning, back({ observedRevision: 7, running: bundle }), limits, at(160))).toMatchObject({ state: 'SUCCEEDED', rollbackState: 'TIMED_OUT' });
  });
  it('a first installation is back when nothing runs', () => {
    expect(follow({ ...returning, previousBundle: null }, back({ wantedBundle: null, running: null, execution: null }), limits, at(101))).toMatchObject({ rollbackState: 'SUCCEEDED' });
  });
});
