import { describe, expect, it } from 'vitest';
import { createRollout, settingsFor, type DeviceSample, type Sample, type Settings } from './rollout.ts';
import { judgeInstall, judgeSamples, noCounts, type Counts, type GateName, type Verdict } from './verdict.ts';

const settings = (gates: Record<string, unknown> = {}, more: Record<string, unknown> = {}): Settings => settingsFor(createRollout.parse({ version: 'm@2', workload: 'classifier', gates, ...more }), 5);
const counts = (some: Partial<Counts>): Counts => ({ ...noCounts(), ...some });
const sample = (some: Partial<Sample> = {}): Sample => ({ inferences: 200, errors: 0, p50Us: 8_000, p95Us: 10_000, labelled: 100, correct: 90, ...some });
const device = (n: number, current: Partial<Sample> = {}, baseline: Partial<Sample> | null = {}): DeviceSample => ({ device: `d${n}`, first: baseline === null, baseline: baseline && sample(baseline), current: sample(current) });
const fleet = (n: number, make: (i: number) => DeviceSample): DeviceSample[] => Array.from({ length: n }, (_, i) => make(i));
const nth = (verdicts: Verdict[], gate: GateName): Verdict => verdicts.find((one) => one.gate === gate)!;
const judge = (gate: GateName, samples: DeviceSample[], soaked = true, s = settings()): Verdict => nth(judgeSamples(s, samples, soaked), gate);

describe('install failures', () => {
  it.each([
    ['one of five failed, 5 % allowed: at once, before the others answer', { FAILED: 1, IN_PROGRESS: 4 }, {}, 'FAILED'],
    ['one of 40 failed, 5 % allowed', { FAILED: 1, SUCCEEDED: 39 }, {}, 'PASSED'],
    ['three of 40 failed, 5 % allowed', { FAILED: 3, SUCCEEDED: 37 }, {}, 'FAILED'],
    ['still open', { SUCCEEDED: 4, QUEUED: 1 }, {}, 'PENDING'],
    ['unanswered is not failed', { SUCCEEDED: 9, TIMED_OUT: 1 }, { maxPercent: 0, maxUnansweredPercent: 0 }, 'INCONCLUSIVE'],
    ['within the allowed silence', { SUCCEEDED: 9, TIMED_OUT: 1 }, { maxPercent: 0 }, 'PASSED'],
    ['group: 1 of 10 is 10 %', { FAILED: 1, SUCCEEDED: 4, TIMED_OUT: 5 }, { maxPercent: 15, maxUnansweredPercent: 100 }, 'PASSED'],
    ['executed: 1 of 5 answers is 20 %', { FAILED: 1, SUCCEEDED: 4, TIMED_OUT: 5 }, { maxPercent: 15, basis: 'executed', maxUnansweredPercent: 100 }, 'FAILED'],
    ['executed waits for the denominator', { FAILED: 1, SUCCEEDED: 4, QUEUED: 5 }, { maxPercent: 15, basis: 'executed' }, 'PENDING'],
    ['devices taken over by a newer rollout are no witnesses', { SUCCEEDED: 3, CANCELED: 2 }, {}, 'PASSED'],
  ] as const)('%s', (_, some, gate, expected) => {
    expect(judgeInstall(settings({ installFailures: gate }), counts(some))!.verdict).toBe(expected);
  });

  it('states the denominator next to the number, and what is missing', () => {
    expect(judgeInstall(settings({ installFailures: { maxUnansweredPercent: 0 } }), counts({ SUCCEEDED: 9, TIMED_OUT: 1 }))).toMatchObject({ value: 0, basis: 'group (10 devices)', unit: 'percent', needed: { answers: 1 } });
  });

  it('a big wave is stopped by its first answers, long before the budget of the whole is spent', () => {
    const verdict = judgeInstall(settings(), counts({ FAILED: 12, SUCCEEDED: 18, IN_PROGRESS: 970 }))!;
    expect(verdict).toMatchObject({ verdict: 'FAILED', method: 'sequential' });
    expect(verdict.interval![0]).toBeGreaterThan(5);
  });
});

describe('error rate', () => {
  it('small wave: judged at the end of the soak, against the own baseline', () => {
    expect(judge('error_rate', fleet(3, (i) => device(i, { errors: 20 })))).toMatchObject({ verdict: 'FAILED', value: 10, baseline: 0, limit: 1, method: 'threshold', interval: null });
    expect(judge('error_rate', fleet(3, (i) => device(i, { errors: 20 })), false).verdict).toBe('PENDING');
    expect(judge('error_rate', fleet(3, (i) => device(i, { errors: 20 }, { errors: 20 }))).verdict).toBe('PASSED');
  });
  it('a disaster is not watched to the end', () => expect(judge('error_rate', fleet(3, (i) => device(i, { errors: 150 })), false).verdict).toBe('FAILED'));
  it('without a baseline the absolute limit holds', () => {
    expect(judge('error_rate', [device(1, { errors: 30 }, null)])).toMatchObject({ verdict: 'FAILED', baseline: null, limit: 5 });
    expect(judge('error_rate', [device(1, { errors: 1 }, null)]).verdict).toBe('PASSED');
  });
  it('no data is not good news', () => {
    expect(judge('error_rate', fleet(5, (i) => device(i, { inferences: 0, labelled: 0, correct: 0, p95Us: null })))).toMatchObject({ verdict: 'PENDING', needed: { devices: 4, inferencesPerDevice: 50 } });
    expect(judge('error_rate', []).verdict).toBe('PENDING');
  });
});

describe('latency', () => {
  it('first installation: not applicable', () => expect(judge('latency_p95', [device(1, {}, null)])).toMatchObject({ verdict: 'NOT_APPLICABLE' }));
  it('twice as slow fails, with the numbers of both', () => expect(judge('latency_p95', fleet(2, (i) => device(i, { p95Us: 20_000, p50Us: 16_000 })))).toMatchObject({ verdict: 'FAILED', value: 20, baseline: 10, limit: 15, unit: 'ms' }));
  it('one noisy neighbour does not decide a small wave', () => expect(judge('latency_p95', fleet(5, (i) => device(i, i === 0 ? { p95Us: 90_000, p50Us: 60_000 } : {}))).verdict).toBe('PASSED'));
  it('a tail that rose without its median stays open on a small wave', () => expect(judge('latency_p95', fleet(2, (i) => device(i, { p95Us: 30_000 }))).verdict).toBe('PENDING'));
  it('a rise below the resolution is none', () => expect(judge('latency_p95', [device(1, { p95Us: 1_900, p50Us: 1_500 }, { p95Us: 1_000, p50Us: 500 })])).toMatchObject({ verdict: 'PASSED', limit: 3 }));
  it('no telemetry of the bundle before is not a first installation', () => expect(judge('latency_p95', [{ ...device(1), baseline: null, first: false }]).verdict).toBe('PENDING'));
  it('many devices: the interval decides, before the soak ends', () => {
    const noisy = (factor: number) => fleet(40, (i) => device(i, { p95Us: 10_000 * factor * Math.exp(0.1 * Math.sin(i * 12.9898)) }));
    expect(judge('latency_p95', noisy(1), false)).toMatchObject({ verdict: 'PASSED', method: 'sequential' });
    expect(judge('latency_p95', noisy(2), false)).toMatchObject({ verdict: 'FAILED', method: 'sequential' });
    const close = judge('latency_p95', noisy(1.49));
    expect(close).toMatchObject({ verdict: 'PENDING', method: 'sequential' });
    expect(close.interval![0]).toBeLessThan(15);
    expect(close.interval![1]).toBeGreaterThan(15);
    expect(close.needed!.devices).toBeGreaterThan(0);
  });
});

describe('accuracy', () => {
  it('a worse model fails against the own baseline', () => expect(judge('accuracy', fleet(1, (i) => device(i, { correct: 40 })))).toMatchObject({ verdict: 'FAILED', value: 40, baseline: 90, limit: 85 }));
  it('a drop that chance alone can make on so few frames stays open', () => expect(judge('accuracy', [device(1, { labelled: 30, correct: 25 }, { labelled: 30, correct: 27 })]).verdict).toBe('PENDING'));
  it('no labels, no floor: not applicable; required: waits for them', () => {
    const blind = fleet(3, (i) => device(i, { labelled: 0, correct: 0 }, { labelled: 0, correct: 0 }));
    expect(judge('accuracy', blind).verdict).toBe('NOT_APPLICABLE');
    expect(judge('accuracy', blind, true, settings({ accuracy: { required: true } }))).toMatchObject({ verdict: 'PENDING', needed: { labelledPerDevice: 20 } });
  });
  it('labels that stop coming are no good news', () => expect(judge('accuracy', fleet(3, (i) => device(i, { labelled: 0, correct: 0 }))).verdict).toBe('PENDING'));
  it('a floor holds on a first installation', () => expect(judge('accuracy', [device(1, { correct: 60 }, null)], true, settings({ accuracy: { minPercent: 80 } }))).toMatchObject({ verdict: 'FAILED', limit: 80 }));
});

it('a gate that is switched off gives no verdict', () => {
  const off = settings({ errorRate: null, accuracy: null, installFailures: null });
  expect(judgeSamples(off, [device(1)], true).map(({ gate }) => gate)).toEqual(['latency_p95']);
  expect(judgeInstall(off, counts({ FAILED: 5 }))).toBeUndefined();
});
