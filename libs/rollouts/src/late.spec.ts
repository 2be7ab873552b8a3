import { describe, expect, it } from 'vitest';
import { decide, type Facts } from './decide.ts';
import type { LateFacts } from './late.ts';
import { noPaceFacts } from './pacing.ts';
import { createRollout, settingsFor, type Rollout } from './rollout.ts';
import { noCounts } from './verdict.ts';

const t0 = new Date('2026-01-01T00:00:00Z');
const at = (seconds: number): Date => new Date(t0.getTime() + seconds * 1_000);
const rolloutOf = (more: Partial<Rollout> = {}): Rollout => ({
  id: 'r', state: 'SUCCEEDED', wave: 1, startAt: null, stopAt: null, waiting: null, lateStopped: null,
  settings: settingsFor(createRollout.parse({ version: 'm@2', workload: 'w', dynamic: true }), 5),
  waves: [1, 4].map((size, index) => ({ index, size, state: 'PASSED', startedAt: t0, analysingAt: t0, deadlineAt: t0, endedAt: t0 })), ...more,
});
const facts = (late: Partial<LateFacts> | undefined, newcomers: string[] = []): Facts => ({
  counts: { ...noCounts(), SUCCEEDED: 4 }, pace: noPaceFacts, pinned: [], nextTimeoutAt: null, samples: [], skipped: 0, newcomers,
  rollback: { pending: 0, open: 0, done: 0, failed: 0, unanswered: 0, nextTimeoutAt: null, lost: [] },
  ...(late ? { late: { counts: noCounts(), pace: noPaceFacts, pinned: [], taken: [], superseded: false, ...late } } : {}),
});
const queued = (...devices: string[]) => ({ ...noPaceFacts, queues: [{ site: '', zone: 'UTC', bytes: 1, freeze: null, devices }] });

describe('a dynamic rollout that has succeeded', () => {
  it('takes in who comes, tells them, follows them, and looks for more', () => {
    expect(decide(rolloutOf(), facts({}), t0)).toMatchObject([{ kind: 'wait', until: at(30), reason: { code: 'takes_in_newcomers' } }]);
    expect(decide(rolloutOf(), facts({}, ['a', 'b']), t0)).toMatchObject([{ kind: 'join', devices: ['a', 'b'], wave: 2, reason: { code: 'devices_came_late' } }]);
    expect(decide(rolloutOf(), facts({ counts: { ...noCounts(), PENDING: 2 }, pace: queued('a', 'b') }), t0)).toMatchObject([{ kind: 'assign', devices: ['a', 'b'] }]);
    expect(decide(rolloutOf(), facts({ counts: { ...noCounts(), QUEUED: 2 } }), t0)).toMatchObject([{ kind: 'wait', until: at(1) }]);
  });
  it('leaves to others what is theirs by now', () => {
    expect(decide(rolloutOf(), facts({ counts: { ...noCounts(), PENDING: 2 }, pace: queued('a', 'b'), taken: ['a'] }), t0)).toMatchObject([{ kind: 'leaveOut', devices: ['a'], reason: { code: 'devices_taken' } }]);
  });
  it('keeps the pace of its waves', () => {
    const frozen = { ...noPaceFacts, queues: [{ ...queued('a').queues[0]!, freeze: { until: at(10), reason: 'fair' } }] };
    expect(decide(rolloutOf(), facts({ counts: { ...noCounts(), PENDING: 1 }, pace: frozen }), t0)).toMatchObject([{ kind: 'wait', until: at(10), reason: { code: 'waits_for_freeze' } }]);
  });
  it('takes in nobody more when more of them failed than the gate allows, or something newer took over', () => {
    expect(decide(rolloutOf(), facts({ counts: { ...noCounts(), FAILED: 1, SUCCEEDED: 3 } }, ['x']), t0)).toMatchObject([{ kind: 'stopJoining', reason: { code: 'late_installs_failed', numbers: { value: 25, limit: 5 } } }]);
    expect(decide(rolloutOf(), facts({ superseded: true }, ['x']), t0)).toMatchObject([{ kind: 'stopJoining', reason: { code: 'late_superseded' } }]);
    expect(decide(rolloutOf({ stopAt: at(-1) }), facts({ counts: { ...noCounts(), PENDING: 1 }, pace: queued('a') }), t0)).toMatchObject([{ kind: 'stopJoining', reason: { code: 'stop_time_reached' } }]);
    const stopped = rolloutOf({ lateStopped: { code: 'late_superseded', message: '', numbers: {} } });
    expect(decide(stopped, facts({ counts: { ...noCounts(), QUEUED: 1, FAILED: 9 } }, ['x']), t0)).toMatchObject([{ kind: 'wait' }]);
    expect(decide(stopped, facts({}, ['x']), t0)).toEqual([]);
  });
  it('one that is not dynamic has ended', () => expect(decide(rolloutOf(), facts(undefined, ['x']), t0)).toEqual([]));
});

describe('before it has', () => {
  const running = (states: ('PENDING' | 'RUNNING' | 'PASSED')[]): Rollout => rolloutOf({ state: 'RUNNING', wave: 0, waves: rolloutOf().waves.map((wave, i) => ({ ...wave, state: states[i]!, analysingAt: null })) });
  it('who comes joins the last wave, as long as that has not opened', () => {
    expect(decide(running(['RUNNING', 'PENDING']), facts(undefined, ['a']), t0)).toMatchObject([{ kind: 'join', wave: 1, reason: { code: 'devices_joined' } }]);
    expect(decide({ ...running(['PASSED', 'RUNNING']), wave: 1 }, facts(undefined, ['a']), t0).some(({ kind }) => kind === 'join')).toBe(false);
  });
});
