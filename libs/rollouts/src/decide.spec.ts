import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decide, type Decision, type Facts } from './decide.ts';
import { noPaceFacts, type PaceFacts } from './pacing.ts';
import { createRollout, mayMove, reason, settingsFor, waveMoves, type DeviceSample, type Rollout, type RolloutExecutionState, type RolloutState, type Sample, type WaveState } from './rollout.ts';
import { noCounts } from './verdict.ts';

const t0 = new Date('2026-01-01T00:00:00Z');
const at = (seconds: number): Date => new Date(t0.getTime() + seconds * 1_000);

const rolloutOf = (sizes: number[], more: Record<string, unknown> = {}, state: RolloutState = 'RUNNING'): Rollout => ({
  id: 'r', state, wave: 0, startAt: null, stopAt: null, waiting: null,
  settings: settingsFor(createRollout.parse({ version: 'm@2', workload: 'w', soakS: 10, deadlineS: 60, ...more }), sizes.reduce((a, b) => a + b, 0)),
  waves: sizes.map((size, index) => ({ index, size, state: 'PENDING', startedAt: null, analysingAt: null, deadlineAt: null, endedAt: null })),
});
const queued = (...devices: string[]): PaceFacts => ({ ...noPaceFacts, queues: devices.length > 0 ? [{ site: '', zone: 'UTC', bytes: 1, freeze: null, devices }] : [] });
const facts = (some: Partial<Facts> = {}): Facts => ({ counts: noCounts(), pace: noPaceFacts, pinned: [], nextTimeoutAt: null, samples: [], rollback: { pending: 0, open: 0, done: 0, failed: 0, unanswered: 0, nextTimeoutAt: null, lost: [] }, skipped: 0, ...some });
const good: Sample = { inferences: 200, errors: 0, p50Us: 8_000, p95Us: 10_000, labelled: 100, correct: 90 };
const sampleOf = (device: string, current: Partial<Sample> = {}): DeviceSample => ({ device, first: false, baseline: good, current: { ...good, ...current } });
const kinds = (decisions: Decision[]): string[] => decisions.map(({ kind }) => kind);
const analysing = (rollout: Rollout, since: number): Rollout => ({ ...rollout, waves: rollout.waves.map((wave, i) => (i === rollout.wave ? { ...wave, state: 'ANALYSING' as WaveState, analysingAt: at(since), deadlineAt: at(since + 60) } : wave)) });

describe('scenarios', () => {
  it('opens a wave, assigns it, waits for the reports', () => {
    const rollout = rolloutOf([1, 4]);
    expect(decide(rollout, facts(), t0)).toMatchObject([{ kind: 'openWave', wave: 0, reason: { code: 'wave_opened' } }]);
    rollout.waves[0]!.state = 'RUNNING';
    expect(decide(rollout, facts({ counts: { ...noCounts(), PENDING: 1 }, pace: queued('a') }), t0)).toMatchObject([{ kind: 'assign', devices: ['a'] }]);
    expect(decide(rollout, facts({ counts: { ...noCounts(), QUEUED: 1 }, nextTimeoutAt: at(600) }), t0)).toMatchObject([{ kind: 'judge' }, { kind: 'wait', reason: { code: 'awaiting_reports' } }]);
    expect(kinds(decide(rollout, facts({ counts: { ...noCounts(), SUCCEEDED: 1 }, samples: [sampleOf('a')] }), t0))).toEqual(['analyse']);
  });
  it('a good wave passes only after its soak, and the next one opens', () => {
    const rollout = analysing(rolloutOf([1, 4]), 0);
    const seen = facts({ counts: { ...noCounts(), SUCCEEDED: 1 }, samples: [sampleOf('a')] });
    expect(kinds(decide(rollout, seen, at(9)))).toEqual(['judge', 'wait']);
    expect(decide(rollout, seen, at(10))).toMatchObject([{ kind: 'closeWave', as: 'PASSED' }, { kind: 'openWave', wave: 1 }]);
  });
  it('the last wave completes it, and says whom it left behind', () => {
    const seen = facts({ counts: { ...noCounts(), SUCCEEDED: 19, TIMED_OUT: 1 }, samples: Array.from({ length: 19 }, (_, i) => sampleOf(`d${i}`)), skipped: 1 });
    expect(decide(analysing(rolloutOf([20]), 0), seen, at(10))).toMatchObject([{ kind: 'closeWave', as: 'PASSED' }, { kind: 'complete', reason: { code: 'completed_with_skipped', numbers: { skipped: 1 } } }]);
  });
  it('a worse model is rolled back with the numbers', () => {
    const seen = facts({ counts: { ...noCounts(), SUCCEEDED: 1 }, samples: [sampleOf('a', { correct: 30 })] });
    expect(decide(analysing(rolloutOf([1, 4]), 0), seen, at(10))).toMatchObject([{ kind: 'closeWave', as: 'FAILED' }, { kind: 'rollBack', reason: { code: 'accuracy_failed', numbers: { value: 30, baseline: 90, limit: 85 } } }]);
  });
  it('onFailure pause leaves it to a person', () => {
    const seen = facts({ counts: { ...noCounts(), FAILED: 1 } });
    expect(kinds(decide(analysing(rolloutOf([1], { onFailure: 'pause' }), 0), seen, at(1)))).toEqual(['closeWave', 'pause']);
  });
  it('no data: inconclusive at the deadline, never before, and the reason names metric and sample (case 6)', () => {
    const silent = facts({ counts: { ...noCounts(), SUCCEEDED: 5 }, samples: ['a', 'b', 'c', 'd', 'e'].map((id) => sampleOf(id, { inferences: 0, p50Us: null, p95Us: null, labelled: 0, correct: 0 })) });
    const rollout = analysing(rolloutOf([5, 5]), 0);
    expect(kinds(decide(rollout, silent, at(59)))).toEqual(['judge', 'wait']);
    expect(decide(rollout, silent, at(60))).toMatchObject([{ kind: 'closeWave', as: 'INCONCLUSIVE' }, { kind: 'pause', reason: { code: 'inconclusive', numbers: { gate: 'error_rate', sample: { devices: 0, inferences: 0 }, needed: { devices: 4, inferencesPerDevice: 50 } } } }]);
  });
  it('devices that wait by their own word: the rest is judged at once; too many of them hold the wave until its deadline, or as long as others have to time out (case 10)', () => {
    const wave = (waits: number, more: Partial<Facts> = {}): Facts => facts({ counts: { ...noCounts(), SUCCEEDED: 10 - waits, QUEUED: waits }, waiting: { devices: waits, until: at(100) }, samples: Array.from({ length: 10 - waits }, (_, i) => sampleOf(`d${i}`)), ...more });
    const running = rolloutOf([10]);
    running.waves[0]!.state = 'RUNNING';
    expect(decide(running, wave(2), t0)).toMatchObject([{ kind: 'analyse', until: at(100), reason: { numbers: { waiting: 2 } } }]);
    const rollout = analysing(running, 0);
    rollout.waves[0]!.deadlineAt = at(100);
    expect(decide(rollout, wave(2), at(99))).toMatchObject([{ kind: 'judge', verdicts: [{ gate: 'install_failures', verdict: 'PENDING', needed: { answers: 1 } }, {}, {}, {}] }, { kind: 'wait', until: at(100), reason: { code: 'devices_wait', numbers: { waiting: 2 } } }]);
    expect(decide(rollout, wave(2), at(100))).toMatchObject([{ kind: 'closeWave', as: 'INCONCLUSIVE' }, { kind: 'pause', reason: { code: 'inconclusive', numbers: { gate: 'install_failures' } } }]);
    // One of ten may be without an answer: judged on ten all the same, and counted with those left behind.
    expect(decide(rollout, wave(1), at(10))).toMatchObject([{ kind: 'closeWave', as: 'PASSED', verdicts: [{ basis: 'group (10 devices)', message: expect.stringContaining('1 still waiting') as string }, {}, {}, {}] }, { kind: 'complete', reason: { code: 'completed_with_skipped', numbers: { skipped: 1 } } }]);
    // A worse version does not wait for them.
    expect(decide(rollout, wave(2, { samples: Array.from({ length: 8 }, (_, i) => sampleOf(`d${i}`, { correct: 30 })) }), at(10))).toMatchObject([{ kind: 'closeWave', as: 'FAILED' }, { kind: 'rollBack' }]);
  });
  it('the answer that was missing begins the soak anew; one more that was not does not', () => {
    const rollout = analysing(rolloutOf([10]), 0);
    const seen = (some: Partial<Facts>): Facts => facts({ counts: { ...noCounts(), SUCCEEDED: 9, QUEUED: 1 }, waiting: { devices: 1, until: t0 }, samples: Array.from({ length: 9 }, (_, i) => sampleOf(`d${i}`)), ...some });
    expect(decide(rollout, seen({ answeredSince: 1 }), at(50))).toMatchObject([{ kind: 'analyse', anew: true, until: at(110) }]);
    expect(kinds(decide(rollout, seen({ answeredSince: 0 }), at(50)))).toEqual(['closeWave', 'complete']);
    expect(kinds(decide(rollout, seen({ answeredSince: 1, counts: { ...noCounts(), SUCCEEDED: 10 }, waiting: null }), at(50)))).toEqual(['closeWave', 'complete']);
  });
  it('a canary that only waits is waited for; nobody to wait for is not', () => {
    const rollout = analysing(rolloutOf([1, 4], { gates: { installFailures: null, errorRate: null, latencyP95: null, accuracy: null } }), 0);
    const waits = facts({ counts: { ...noCounts(), QUEUED: 1 }, waiting: { devices: 1, until: t0 } });
    expect(decide(rollout, waits, at(20))).toMatchObject([{ kind: 'judge' }, { kind: 'wait', reason: { code: 'devices_wait' } }]);
    expect(decide(rollout, waits, at(60))).toMatchObject([{ kind: 'closeWave', as: 'INCONCLUSIVE' }, { kind: 'pause', reason: { code: 'no_device_updated' } }]);
  });
  it('devices that leave the version after their success are failed installations, in this wave and in those before', () => {
    const samples = (n: number): DeviceSample[] => Array.from({ length: n }, (_, i) => sampleOf(`d${i}`));
    const left = facts({ counts: { ...noCounts(), SUCCEEDED: 5 }, faults: 1, samples: samples(4) });
    expect(decide(analysing(rolloutOf([5]), 0), left, at(5))).toMatchObject([{ kind: 'closeWave', as: 'FAILED' }, { kind: 'rollBack', reason: { code: 'install_failures_failed', message: expect.stringContaining('1 of 5 devices (group) failed to install (1 of them left it after their success)') as string, numbers: { value: 20 } } }]);
    const second = analysing({ ...rolloutOf([5, 5]), wave: 1 }, 0);
    const fine = facts({ counts: { ...noCounts(), SUCCEEDED: 5 }, samples: samples(5), before: { updated: 5, faults: 1 } });
    expect(decide(second, fine, at(5))).toMatchObject([{ kind: 'closeWave', as: 'FAILED' }, { kind: 'rollBack', reason: { message: expect.stringContaining('In the waves before: 1 of 5') as string } }]);
    expect(kinds(decide(second, { ...fine, before: { updated: 100, faults: 1 } }, at(5)))).toEqual(['judge', 'wait']);
  });
  it('resume judges the same wave again', () => {
    const rollout = analysing(rolloutOf([1, 1]), 0);
    rollout.waves[0]!.state = 'INCONCLUSIVE';
    expect(kinds(decide(rollout, facts({ counts: { ...noCounts(), SUCCEEDED: 1 }, samples: [sampleOf('a')] }), at(500)))).toEqual(['analyse']);
  });
  it('a wave nobody took has not passed, even with every gate off', () => {
    const off = { gates: { installFailures: null, errorRate: null, latencyP95: null, accuracy: null } };
    expect(decide(analysing(rolloutOf([2, 2], off), 0), facts({ counts: { ...noCounts(), TIMED_OUT: 2 } }), at(10))).toMatchObject([{ kind: 'closeWave', as: 'INCONCLUSIVE' }, { kind: 'pause', reason: { code: 'no_device_updated' } }]);
  });
  it('a rollback ends, also with devices that never answer (case 7)', () => {
    const rollback = (some: Partial<Facts['rollback']>) => facts({ rollback: { pending: 0, open: 0, done: 0, failed: 0, unanswered: 0, nextTimeoutAt: null, lost: [], ...some } });
    expect(decide(rolloutOf([2], {}, 'ROLLING_BACK'), rollback({ open: 1, done: 1, nextTimeoutAt: at(30) }), t0)).toMatchObject([{ kind: 'wait' }]);
    expect(decide(rolloutOf([2], {}, 'ROLLING_BACK'), rollback({ done: 1, unanswered: 1 }), t0)).toMatchObject([{ kind: 'endRollback', reason: { code: 'rolled_back_incomplete' } }]);
    expect(decide(rolloutOf([2], {}, 'ROLLING_BACK'), rollback({ done: 1, unanswered: 1, lost: ['b'] }), t0)).toMatchObject([{ reason: { message: expect.stringContaining('(b)') as string, numbers: { lost: ['b'] } } }]);
  });
  it('devices that are held back: what is known is judged, and a look between does not ask for them', () => {
    const rollout = { ...rolloutOf([3]), stopAt: at(500), waiting: reason('waits_for_freeze', 'frozen') };
    rollout.waves[0]!.state = 'RUNNING';
    const held = facts({ counts: { ...noCounts(), PENDING: 2, SUCCEEDED: 1 }, samples: [sampleOf('a')], pace: { ...noPaceFacts, queues: [{ ...queued('b', 'c').queues[0]!, freeze: { until: at(100), reason: 'fair' } }] } });
    expect(decide(rollout, held, t0)).toMatchObject([{ kind: 'judge' }, { kind: 'wait', until: at(30), reason: { code: 'waits_for_freeze', message: expect.stringContaining('fair') as string } }]);
    expect(decide(rollout, held, at(90))).toMatchObject([{ kind: 'judge' }, { kind: 'wait', until: at(100) }]);
    expect(decide(rollout, { ...held, pace: null }, t0)).toMatchObject([{ kind: 'judge' }, { kind: 'wait', reason: { code: 'waits_for_freeze' } }]);
    expect(kinds(decide(rollout, held, at(500)))).toEqual(['pause']);
    expect(kinds(decide(rollout, { ...held, counts: { ...noCounts(), PENDING: 2, FAILED: 1 }, pace: null }, t0))).toEqual(['closeWave', 'rollBack']);
    expect(decide(rollout, { ...held, pinned: ['b'] }, t0)).toMatchObject([{ kind: 'leaveOut', devices: ['b'] }]);
  });
  it('after the stop time no wave opens, and the one that was told is still judged', () => {
    const rollout = { ...rolloutOf([1, 4]), stopAt: at(100) };
    expect(kinds(decide(rollout, facts(), at(99)))).toEqual(['openWave']);
    expect(decide(rollout, facts(), at(100))).toMatchObject([{ kind: 'pause', reason: { code: 'stop_time_reached' } }]);
    const seen = facts({ counts: { ...noCounts(), SUCCEEDED: 1 }, samples: [sampleOf('a')] });
    expect(kinds(decide(analysing(rollout, 0), seen, at(200)))).toEqual(['closeWave', 'pause']);
    expect(kinds(decide({ ...analysing(rolloutOf([1]), 0), stopAt: at(100) }, seen, at(200)))).toEqual(['closeWave', 'complete']);
  });
  it('a schedule is kept', () => {
    const rollout = { ...rolloutOf([1], {}, 'SCHEDULED'), startAt: at(100) };
    expect(decide(rollout, facts(), t0)).toMatchObject([{ kind: 'wait', until: at(100) }]);
    expect(kinds(decide(rollout, facts(), at(100)))).toEqual(['begin']);
  });
});

// -- properties: a world in memory that obeys decide() ------------------------------------------------------------------

/** How one device behaves: answers after a while, or never; and how its model does. */
interface Behaviour { answersAfterS: number | null; fails: boolean; telemetry: 'none' | 'same' | 'worse' | 'slow' }
const behaviour: fc.Arbitrary<Behaviour> = fc.record({
  answersAfterS: fc.oneof({ weight: 8, arbitrary: fc.integer({ min: 0, max: 40 }) }, { weight: 1, arbitrary: fc.constant(null) }),
  fails: fc.oneof({ weight: 9, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) }),
  telemetry: fc.oneof({ weight: 6, arbitrary: fc.constant('same' as const) }, { weight: 1, arbitrary: fc.constantFrom('none' as const, 'worse' as const, 'slow' as const) }),
});
const plan = fc.record({
  waves: fc.array(fc.array(behaviour, { minLength: 1, maxLength: 8 }), { minLength: 1, maxLength: 4 }),
  maxPercent: fc.integer({ min: 0, max: 50 }), maxUnansweredPercent: fc.integer({ min: 0, max: 100 }), onFailure: fc.constantFrom('rollback', 'pause'), backAtOnce: fc.integer({ min: 1, max: 12 }),
});

interface Trace { states: RolloutState[]; end: Rollout; assigned: Map<string, number>; decisions: { now: Date; state: RolloutState; decisions: Decision[]; facts: Facts }[]; settledIn: number }

function play({ waves, maxPercent, maxUnansweredPercent, onFailure, backAtOnce }: { waves: Behaviour[][]; maxPercent: number; maxUnansweredPercent: number; onFailure: string; backAtOnce: number }): Trace {
  const rollout = rolloutOf(waves.map((wave) => wave.length), { installTimeoutS: 30, rollbackTimeoutS: 30, rollback: { maxInProgress: backAtOnce }, onFailure, gates: { installFailures: { maxPercent, maxUnansweredPercent } } });
  const devices = waves.flatMap((wave, w) => wave.map((one, i) => ({ id: `${w}-${i}`, wave: w, ...one, state: 'PENDING' as RolloutExecutionState, assignedAt: null as Date | null, back: null as null | 'PENDING' | 'OPEN' | 'DONE' | 'UNANSWERED', backAt: null as Date | null })));
  const trace: Trace = { states: [rollout.state], end: rollout, assigned: new Map(), decisions: [], settledIn: 0 };
  const moveWave = (index: number, to: WaveState) => {
    const wave = rollout.waves[index]!;
    if (wave.state !== to) expect(waveMoves[wave.state], `${wave.state} -> ${to}`).toContain(to);
    wave.state = to;
  };
  const move = (to: RolloutState) => {
    expect(mayMove(rollout.state, to), `${rollout.state} -> ${to}`).toBe(true);
    rollout.state = to;
    trace.states.push(to);
  };
  const observe = (now: Date): Facts => {
    for (const one of devices) {
      if (one.assignedAt && (one.state === 'QUEUED' || one.state === 'IN_PROGRESS')) {
        const age = (now.getTime() - one.assignedAt.getTime()) / 1_000;
        if (one.answersAfterS !== null && age >= one.answersAfterS && one.answersAfterS < 30) one.state = one.fails ? 'FAILED' : 'SUCCEEDED';
        else if (age >= 30) one.state = 'TIMED_OUT';
      }
      if (one.back === 'OPEN') {
        const age = (now.getTime() - one.backAt!.getTime()) / 1_000;
        if (one.answersAfterS !== null && age >= 1) one.back = 'DONE';
        else if (age >= 30) one.back = 'UNANSWERED';
      }
    }
    const own = devices.filter(({ wave }) => wave === rollout.wave);
    const counts = noCounts();
    for (const one of own) counts[one.state]++;
    const open = own.filter(({ state }) => state === 'QUEUED').map(({ assignedAt }) => assignedAt!.getTime() + 30_000);
    const bad = { none: { inferences: 0, p50Us: null, p95Us: null, labelled: 0, correct: 0 }, same: {}, worse: { correct: 20 }, slow: { p50Us: 30_000, p95Us: 40_000 } };
    return {
      counts, pinned: [], pace: queued(...own.filter(({ state }) => state === 'PENDING').map(({ id }) => id)), nextTimeoutAt: open.length > 0 ? new Date(Math.min(...open)) : null,
      samples: own.filter(({ state }) => state === 'SUCCEEDED').map(({ id, telemetry }) => sampleOf(id, bad[telemetry])),
      rollback: { pending: devices.filter(({ back }) => back === 'PENDING').length, lost: [], open: devices.filter(({ back }) => back === 'OPEN').length, done: devices.filter(({ back }) => back === 'DONE').length, failed: 0, unanswered: devices.filter(({ back }) => back === 'UNANSWERED').length, nextTimeoutAt: null },
      skipped: devices.filter(({ state }) => state === 'TIMED_OUT').length,
    };
  };
  let now = t0;
  for (let pass = 0; pass < 5_000; pass++) {
    const seen = observe(now);
    const decisions = decide(rollout, seen, now);
    trace.decisions.push({ now, state: rollout.state, decisions, facts: seen });
    if (decisions.length === 0) { trace.settledIn = pass; return trace; }
    for (const decision of decisions) {
      switch (decision.kind) {
        case 'begin': move('RUNNING'); break;
        case 'openWave': rollout.wave = decision.wave; moveWave(decision.wave, 'RUNNING'); break;
        case 'assign': for (const id of decision.devices) { const one = devices.find((d) => d.id === id)!; one.state = 'QUEUED'; one.assignedAt = now; trace.assigned.set(id, rollout.wave); } break;
        case 'analyse': { moveWave(rollout.wave, 'ANALYSING'); const wave = rollout.waves[rollout.wave]!; wave.analysingAt ??= now; wave.deadlineAt = decision.until; break; }
        case 'closeWave': moveWave(rollout.wave, decision.as); break;
        case 'pause': move('PAUSED'); break;
        case 'rollBack': move('ROLLING_BACK'); for (const one of devices) if (one.assignedAt) one.back = 'PENDING'; else one.state = 'CANCELED'; break;
        case 'tellBack': for (const one of devices.filter(({ back }) => back === 'PENDING').slice(0, decision.devices)) { one.back = 'OPEN'; one.backAt = now; } break;
        case 'complete': move('SUCCEEDED'); break;
        case 'endRollback': move('ROLLED_BACK'); break;
        case 'judge': break;
        case 'wait': now = decision.until; break;
      }
    }
  }
  throw new Error('does not settle');
}

describe('properties', () => {
  it('every run settles, only by legal moves, and settled stays settled', () => {
    fc.assert(fc.property(plan, (p) => {
      const { end } = play(p);
      expect(['SUCCEEDED', 'ROLLED_BACK', 'PAUSED']).toContain(end.state);
      expect(decide(end, facts({ counts: { ...noCounts(), FAILED: 50 }, pace: queued('x') }), at(1e6))).toEqual([]);
    }), { numRuns: 300 });
  });
  it('every wait is in the future', () => {
    fc.assert(fc.property(plan, (p) => {
      for (const { now, decisions } of play(p).decisions) for (const one of decisions) if (one.kind === 'wait') expect(one.until.getTime()).toBeGreaterThan(now.getTime());
    }), { numRuns: 100 });
  });
  it('a spent budget always rolls back (or pauses, where a person wants it so), in that very pass', () => {
    fc.assert(fc.property(plan, (p) => {
      for (const { state, decisions, facts: seen } of play(p).decisions) {
        if (state !== 'RUNNING' || seen.counts.FAILED === 0) continue;
        const group = Object.values(seen.counts).reduce((a, b) => a + b, 0);
        if (seen.counts.FAILED * 100 > p.maxPercent * group) expect(kinds(decisions)).toContain(p.onFailure === 'pause' ? 'pause' : 'rollBack');
      }
    }), { numRuns: 300 });
  });
  it('blast radius: a device is never told before the wave ahead of it has passed', () => {
    fc.assert(fc.property(plan, (p) => {
      const { assigned, end } = play(p);
      for (const [id, during] of assigned) expect(Number(id.split('-')[0])).toBe(during);
      const reached = Math.max(0, ...assigned.values());
      for (const wave of end.waves.slice(0, reached)) expect(wave.state).toBe('PASSED');
    }), { numRuns: 200 });
  });
  it('a succeeded rollout passed every wave; a model that is worse everywhere never succeeds', () => {
    fc.assert(fc.property(plan, (p) => {
      const { end } = play(p);
      if (end.state === 'SUCCEEDED') for (const wave of end.waves) expect(wave.state).toBe('PASSED');
      const worse = play({ ...p, waves: p.waves.map((wave) => wave.map((one) => ({ ...one, telemetry: 'worse' }))) });
      expect(worse.end.state).not.toBe('SUCCEEDED');
      expect([...worse.assigned.values()].every((wave) => wave === 0)).toBe(true);
    }), { numRuns: 100 });
  });
  it('a rollback reaches every device that was told, and ends', () => {
    fc.assert(fc.property(plan, (p) => {
      const trace = play({ ...p, onFailure: 'rollback' });
      if (!trace.states.includes('ROLLING_BACK')) return;
      expect(trace.end.state).toBe('ROLLED_BACK');
      for (const { facts: { rollback: back } } of trace.decisions) expect(back.open).toBeLessThanOrEqual(p.backAtOnce);
      const last = trace.decisions.at(-2)!.facts.rollback;
      expect(last.done + last.unanswered).toBe(trace.assigned.size);
      expect(last.pending).toBe(0);
    }), { numRuns: 200 });
  });
  it('reasons carry a code', () => {
    fc.assert(fc.property(plan, (p) => {
      for (const { decisions } of play(p).decisions) for (const one of decisions) expect(one.reason.code).toMatch(/^[a-z0-9_]+$/);
    }), { numRuns: 50 });
    expect(reason('x', 'y')).toEqual({ code: 'x', message: 'y', numbers: {} });
  });
});
