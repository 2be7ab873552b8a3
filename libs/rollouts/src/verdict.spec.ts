import { describe, expect, it } from 'vitest';
import { gates } from './gates.ts';
import { stillNeeded } from './judging.ts';
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

describe('other quantiles of the latency', () => {
  const p99 = settings({ latencyP99: { maxIncreasePercent: 100 } });
  it('p50 and p99 are judged like p95, each by its own number', () => {
    const slow = fleet(3, (i) => device(i, { p50Us: 16_000, p95Us: 20_000, p99Us: 44_000 }, { p99Us: 20_000 }));
    expect(judge('latency_p50', slow, true, settings({ latencyP50: {} }))).toMatchObject({ verdict: 'FAILED', value: 16, baseline: 8, limit: 10 });
    expect(judge('latency_p99', slow, true, p99)).toMatchObject({ verdict: 'FAILED', value: 44, baseline: 20, limit: 40 });
    expect(judge('latency_p99', fleet(3, (i) => device(i, { p99Us: 39_000 }, { p99Us: 20_000 })), true, p99).verdict).toBe('PASSED');
  });
  it('a p99 wants so many inferences that it is not just the largest of them', () => {
    expect(judge('latency_p99', fleet(3, (i) => device(i, { inferences: 120, p99Us: 20_000 }, { p99Us: 20_000 })), true, p99)).toMatchObject({ verdict: 'PENDING', needed: { devices: 3, inferencesPerDevice: 200 } });
  });
  it('an absolute limit holds whatever the baseline, and is not excused by a median that stood still', () => {
    expect(judge('latency_p95', fleet(2, (i) => device(i)), true, settings({ latencyP95: { maxMs: 9 } }))).toMatchObject({ verdict: 'FAILED', value: 10, limit: 9 });
    expect(judge('latency_p95', [device(1, {}, null)], true, settings({ latencyP95: { maxMs: 9 } }))).toMatchObject({ verdict: 'FAILED', baseline: null });
  });
});

describe('temperature', () => {
  const on = settings({ temperature: {} });
  const at = (now: number | null, before: number | null) => fleet(3, (i) => device(i, { temperatureC: now }, { temperatureC: before }));
  it.each<[string, number | null, number | null, Record<string, unknown>, string]>([
    ['as before', 60, 60, {}, 'PASSED'],
    ['12 degrees more', 72, 60, {}, 'FAILED'],
    ['over the absolute limit', 90, 88, {}, 'FAILED'],
    ['within a degree of noise over it', 70.5, 60, {}, 'PENDING'],
    ['unknown now and before: not applicable, never 0', null, null, {}, 'NOT_APPLICABLE'],
    ['a sensor that fell silent is a missing sample', null, 60, {}, 'PENDING'],
    ['no temperature before, no absolute limit', 95, null, { maxC: null }, 'NOT_APPLICABLE'],
    ['no temperature before, an absolute limit', 95, null, {}, 'FAILED'],
  ])('%s', (_, now, before, gate, expected) => expect(judge('temperature', at(now, before), true, settings({ temperature: gate })).verdict).toBe(expected));
  it('a baseline of an older controller holds no temperature', () => {
    const { temperatureC: _, ...old } = sample({ temperatureC: 1 });
    expect(judge('temperature', [{ ...device(1, { temperatureC: 60 }), baseline: old }], true, on)).toMatchObject({ verdict: 'PASSED', baseline: null, limit: 85, unit: 'celsius' });
  });
  it('says which it judged by', () => expect(judge('temperature', at(72, 60), true, on)).toMatchObject({ value: 72, baseline: 60, limit: 70, sample: { devices: 3 } }));
});

describe('score drift', () => {
  const drifting = (psi: number, scores = 1_000) => fleet(3, (i) => device(i, { drift: { psi, scores } }));
  const on = settings({ scoreDrift: {} });
  it('moved scores fail, others pass; an index below zero is shown as none', () => {
    expect(judge('score_drift', drifting(0.4), true, on)).toMatchObject({ verdict: 'FAILED', value: 0.4, limit: 0.25, unit: 'psi' });
    expect(judge('score_drift', drifting(-0.01), true, on)).toMatchObject({ verdict: 'PASSED', value: 0 });
  });
  it('who asks for it is not told that no reference is good news', () => {
    expect(judge('score_drift', fleet(3, (i) => device(i, { drift: null })), true, on)).toMatchObject({ verdict: 'PENDING', needed: { devices: 3, scoresPerDevice: 100 } });
  });
});

describe('shadow agreement', () => {
  const on = settings({ shadowAgreement: { minPercent: 95 } });
  const shadowing = (agreed: number, frames = 1_000) => fleet(3, (i) => device(i, { shadow: { frames, agreed } }));
  it('agreement passes, disagreement fails, no frames wait', () => {
    expect(judge('shadow_agreement', shadowing(990), true, on)).toMatchObject({ verdict: 'PASSED', value: 99, limit: 95, sample: { devices: 3, inferences: 3_000 } });
    expect(judge('shadow_agreement', shadowing(900), true, on).verdict).toBe('FAILED');
    expect(judge('shadow_agreement', fleet(3, (i) => device(i)), true, on)).toMatchObject({ verdict: 'PENDING', needed: { devices: 3, shadowFramesPerDevice: 100 } });
  });
  it('what chance can do to so few frames stays open, and says how many it would take', () => {
    const close = judge('shadow_agreement', shadowing(94, 100), true, on);
    expect(close.verdict).toBe('PENDING');
    const frames = close.needed!.shadowFramesPerDevice!;
    expect(frames).toBeGreaterThan(100);
    expect(judge('shadow_agreement', shadowing(0.94 * frames, frames), true, on).verdict).toBe('FAILED');
  });
});

describe('numbers of a site\'s own program', () => {
  /** Numbers with this mean and a spread of 0.1. */
  const numbers = (mean: number, count = 400) => ({ rejects: { count, sum: mean * count, sumSquares: (mean * mean + 0.01) * count } });
  const sites = (now: number, before: number | null, count = 400) => fleet(3, (i) => device(i, { metrics: numbers(now, count) }, before === null ? null : { metrics: numbers(before) }));
  const custom = (gate: Record<string, unknown>) => settings({ custom: [{ metric: 'rejects', better: 'lower', ...gate }] });
  it.each<[string, Record<string, unknown>, number, number | null, string]>([
    ['more rejects than before', { maxIncreasePercent: 20 }, 0.5, 0.3, 'FAILED'],
    ['as before', { maxIncreasePercent: 20 }, 0.3, 0.3, 'PASSED'],
    ['a rise from nothing is one, once it is beyond chance', { maxIncreasePercent: 20 }, 0.3, 0, 'FAILED'],
    ['a first installation has nothing to compare with', { maxIncreasePercent: 20 }, 0.3, null, 'NOT_APPLICABLE'],
    ['an absolute limit holds there, too', { max: 0.2 }, 0.3, null, 'FAILED'],
    ['the stricter of two limits', { max: 0.31, maxIncreasePercent: 200 }, 0.4, 0.3, 'FAILED'],
    ['less of what should be high', { better: 'higher', maxDropPercent: 10 }, 0.7, 0.9, 'FAILED'],
    ['more of what should be high', { better: 'higher', min: 0.8 }, 0.9, null, 'PASSED'],
    ['a level below zero: per cent of how far it is from it', { maxIncreasePercent: 10 }, -18, -20, 'PASSED'],
    ['a level below zero that rose', { maxIncreasePercent: 10 }, -17, -20, 'FAILED'],
  ])('%s', (_, gate, now, before, expected) => expect(judge('custom_rejects', sites(now, before), true, custom(gate)).verdict).toBe(expected));
  it('says value, baseline and limit the right way round', () => {
    expect(judge('custom_rejects', sites(0.7, 0.9), true, custom({ better: 'higher', maxDropPercent: 10 }))).toMatchObject({ value: 0.7, baseline: 0.9, limit: 0.81, unit: 'number', sample: { devices: 3, inferences: 1_200 } });
  });
  it('no numbers are no good news; a few stay open and say how many it would take', () => {
    expect(judge('custom_rejects', fleet(3, (i) => device(i)), true, custom({ max: 1 }))).toMatchObject({ verdict: 'PENDING', needed: { devices: 3, numbersPerDevice: 10 } });
    const close = judge('custom_rejects', sites(0.21, null, 10), true, custom({ max: 0.2 }));
    expect(close).toMatchObject({ verdict: 'PENDING', needed: { numbersPerDevice: expect.any(Number) as number } });
    expect(judge('custom_rejects', sites(0.21, null, close.needed!.numbersPerDevice), true, custom({ max: 0.2 })).verdict).toBe('FAILED');
  });
  it('many devices: the interval decides, and lies around the value whichever way is better', () => {
    for (const [gate, level] of [[{ maxIncreasePercent: 5 }, 1.2], [{ better: 'higher', maxDropPercent: 5 }, 0.8]] as const) {
      const many = fleet(40, (i) => device(i, { metrics: numbers(level + 0.02 * Math.sin(i * 12.9898)) }, { metrics: numbers(1) }));
      const verdict = judge('custom_rejects', many, false, custom(gate));
      expect(verdict).toMatchObject({ verdict: 'FAILED', method: 'sequential' });
      expect(verdict.interval![0]).toBeLessThan(verdict.value!);
      expect(verdict.interval![1]).toBeGreaterThan(verdict.value!);
    }
  });
  it.each([[{ better: 'lower', min: 1 }], [{ better: 'higher', maxIncreasePercent: 1 }], [{ better: 'lower' }]])('a limit for the wrong direction, or none, is refused: %j', (gate) => {
    expect(gates.safeParse({ custom: [{ metric: 'm', ...gate }] })).toMatchObject({ success: false });
  });
});

describe('what an undecided gate still needs, in words', () => {
  it.each([
    [{ devices: 4, inferencesPerDevice: 50 }, '4 more devices with 50 inferences each'], [{ devices: 1 }, '1 more device'], [{ answers: 3 }, '3 more answers'],
    [{ labelledPerDevice: 900 }, '900 labelled frames on each device'], [{ soak: true as const }, 'the end of the soak'], [null, 'out of reach: the value is too near its limit for any sample'],
  ])('%j', (needed, text) => {
    expect(stillNeeded({ verdict: 'PENDING', needed })).toBe(text);
    expect(stillNeeded({ verdict: 'PASSED', needed })).toBeNull();
  });
  it('before the soak ends a threshold waits for that', () => expect(stillNeeded(judge('accuracy', fleet(2, (i) => device(i)), false))).toBe('the end of the soak'));
});

it('a gate that is switched off gives no verdict', () => {
  const off = settings({ errorRate: null, accuracy: null, installFailures: null });
  expect(judgeSamples(off, [device(1)], true).map(({ gate }) => gate)).toEqual(['latency_p95']);
  expect(judgeInstall(off, counts({ FAILED: 5 }))).toBeUndefined();
});
