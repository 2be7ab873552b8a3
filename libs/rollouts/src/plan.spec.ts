import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { planWaves, type Candidate, type Plan } from './plan.ts';
import { createRollout, settingsFor, type WaveSpec } from './rollout.ts';

const body = createRollout.parse({ version: 'm@2', workload: 'w' });
const device = (id: string, some: Partial<Candidate> = {}): Candidate => ({ id, labels: {}, online: true, health: 'HEALTHY', strata: { hostClass: 'dev-board', runtime: '14', site: '' }, zone: 'UTC', invalidZone: null, spared: null, fit: { ok: true, variant: 'cpu-int8' }, current: false, ...some });
const site = (selector: string, labels: Record<string, string>): boolean => labels.site === selector.split('=')[1];
const planFor = (candidates: Candidate[], waves?: WaveSpec[], seed = 'b') => planWaves(candidates, waves, seed, (n) => settingsFor(body, n), site);
const planned = (candidates: Candidate[], waves?: WaveSpec[], seed?: string): Plan => {
  const result = planFor(candidates, waves, seed);
  if (!result.ok) throw new Error(result.fault.message);
  return result.plan;
};
const kind = (hostClass: string, site = '') => ({ hostClass, runtime: '14', site });
const fleet = (n: number, some: (i: number) => Partial<Candidate> = () => ({})): Candidate[] => Array.from({ length: n }, (_, i) => device(`d${i}`, some(i)));
const sizes = (plan: Plan): number[] => plan.waves.map(({ size }) => size);

describe('waves', () => {
  it.each([[1, [1]], [2, [1, 1]], [3, [1, 1, 1]], [5, [1, 2, 2]], [20, [2, 8, 10]], [100, [10, 40, 50]], [10_000, [1_000, 4_000, 5_000]]])('of %d devices by default: %j', (n, expected) => {
    expect(sizes(planned(fleet(n)))).toEqual(expected);
  });
  it('by count, selector and cumulative percent together', () => {
    const plan = planned(fleet(20, (i) => ({ labels: { site: i < 6 ? 'lyon' : 'bonn' } })), [{ count: 2 }, { selector: 'site=lyon' }, { percent: 100 }]);
    const lyon = (wave: number): boolean[] => plan.waves[wave]!.devices.map(({ id }) => Number(id.slice(1)) < 6);
    expect(lyon(1).every(Boolean)).toBe(true);
    expect(sizes(plan).reduce((a, b) => a + b, 0)).toBe(20);
    expect(lyon(2).some(Boolean)).toBe(false);
  });
  it('a selector that chooses none of them is refused, whichever wave it is', () => {
    const some = fleet(4, () => ({ labels: { site: 'lyon' } }));
    for (const [wave, waves] of [[[0], [{ selector: 'site=oslo' }, { percent: 100 }]], [[1], [{ count: 1 }, { selector: 'site=oslo' }, { percent: 100 }]], [[2], [{ by: 'hostClass' as const }, { percent: 50 }, { selector: 'site=oslo' }]]] as [number[], WaveSpec[]][]) {
      expect(planFor(some, waves)).toMatchObject({ ok: false, fault: { code: 'rollout.wave_empty', wave: wave[0], selector: 'site=oslo', message: `Wave ${wave[0]! + 1} ("site=oslo") chooses none of the 4 devices that the rollout is for.` } });
    }
  });
  it('one whose devices are all taken or left out adds nobody, which is said', () => {
    const plan = planned(fleet(4, (i) => ({ labels: { site: i === 0 ? 'lyon' : 'bonn' }, current: i === 0 })), [{ count: 1 }, { selector: 'site=lyon' }, { percent: 100 }]);
    expect(sizes(plan)).toEqual([1, 2]);
    expect(plan.notes).toEqual(['Wave 2 ("site=lyon") adds nobody: earlier waves have its devices, or they are left out.']);
  });
  it('says how many devices no wave covers', () => expect(planned(fleet(10), [{ count: 1 }, { percent: 50 }])).toMatchObject({ uncovered: 5, eligible: 10 }));
  it('every eligible device is in exactly one wave of 100 %', () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 60 }), fc.array(fc.integer({ min: 1, max: 99 }), { maxLength: 5 }), (n, percents) => {
      const plan = planned(fleet(n), [...percents.sort((a, b) => a - b).map((percent) => ({ percent })), { percent: 100 }]);
      const ids = plan.waves.flatMap(({ devices }) => devices.map(({ id }) => id));
      return new Set(ids).size === n && ids.length === n && plan.uncovered === 0 && plan.blastRadius.perWave.at(-1)!.exposed === n;
    }));
  });
});

describe('waves by kind', () => {
  const kinds = (plan: Plan, wave: number, by: 'hostClass' | 'site', candidates: Candidate[]): string[] => plan.waves[wave]!.devices.map(({ id }) => candidates.find((one) => one.id === id)!.strata[by]).sort();
  const hosts = ['dev-board', 'dev-board', 'dev-board', 'raspberry-pi-4', 'x86-64'];
  const mixed = fleet(50, (i) => ({ strata: kind(hosts[i % 5]!, i < 30 ? 'lyon' : i < 45 ? 'bonn' : '') }));
  it('one of each first', () => {
    const plan = planned(mixed, [{ count: 1, perStratum: 'hostClass' }, { percent: 100 }]);
    expect(kinds(plan, 0, 'hostClass', mixed)).toEqual(['dev-board', 'raspberry-pi-4', 'x86-64']);
    expect(plan).toMatchObject({ uncovered: 0, notes: [] });
  });
  it('a share of each, cumulative', () => {
    const plan = planned(mixed, [{ percent: 10, perStratum: 'site' }, { percent: 50, perStratum: 'site' }, { percent: 100 }]);
    expect(kinds(plan, 0, 'site', mixed)).toEqual(['', 'bonn', 'bonn', 'lyon', 'lyon', 'lyon']);
    expect(sizes(plan)).toEqual([6, 3 + 8 + 15 - 6, 50 - 26]);
  });
  it('a wave per kind, the smallest first, after a canary; those without the label are a kind', () => {
    const plan = planned(mixed, [{ count: 2 }, { by: 'site' }]);
    expect(plan.waves.map(({ of }) => of?.value ?? null)).toEqual([null, '', 'bonn', 'lyon']);
    for (const wave of [1, 2, 3]) expect(new Set(kinds(plan, wave, 'site', mixed)).size).toBe(1);
    expect(plan.uncovered).toBe(0);
  });
  it('a wave per kind from the start: who may not be a canary comes with the last', () => {
    const some = fleet(6, (i) => ({ strata: kind('dev-board', i < 2 ? 'bonn' : 'lyon'), online: i !== 0 }));
    const plan = planned(some, [{ by: 'site' }]);
    expect(plan.waves.map(({ of, size, canary }) => [of!.value, size, canary])).toEqual([['bonn', 1, true], ['lyon', 5, false]]);
    expect(plan.waves[1]!.devices.map(({ id }) => id)).toContain('d0');
  });
  it('a kind that has no canary is named', () => {
    const plan = planned(fleet(4, (i) => ({ strata: kind(i === 0 ? 'x86-64' : 'dev-board'), online: i !== 0 })), [{ count: 1, perStratum: 'hostClass' }, { percent: 100 }]);
    expect(plan.notes).toEqual([expect.stringContaining('host class x86-64')]);
    expect(sizes(plan)).toEqual([1, 3]);
  });
  it('whatever the fleet: a wave per kind holds that kind alone, and all of them hold everybody once', () => {
    fc.assert(fc.property(fc.array(fc.constantFrom('', 'a', 'b', 'c', 'd'), { minLength: 1, maxLength: 40 }), fc.constantFrom('site' as const, 'hostClass' as const), fc.boolean(), (values, by, first) => {
      const some = fleet(values.length, (i) => ({ strata: { hostClass: values[i]!, runtime: '', site: values[i]! } }));
      const plan = planned(some, first ? [{ by }] : [{ count: 1 }, { by }]);
      const ids = plan.waves.flatMap(({ devices }) => devices.map(({ id }) => id));
      expect(new Set(ids).size).toBe(values.length);
      expect(ids).toHaveLength(values.length);
      for (const wave of plan.waves) if (wave.of) for (const { id } of wave.devices) expect(some.find((one) => one.id === id)!.strata[by]).toBe(wave.of.value);
    }));
  });
  it('more waves than anybody would sit through are refused', () => {
    expect(planFor(fleet(300, (i) => ({ strata: kind('dev-board', `s${i}`) })), [{ by: 'site' }])).toMatchObject({ ok: false, fault: { code: 'rollout.too_many_waves' } });
  });
  it('says what it does not understand', () => {
    const parse = (wave: unknown) => createRollout.safeParse({ version: 'm@2', workload: 'w', waves: [wave] }).success;
    expect([{ count: 1, perStratum: 'hostClass' }, { percent: 5, perStratum: 'site' }, { by: 'runtime' }].map(parse)).toEqual([true, true, true]);
    expect([{ perStratum: 'site' }, { by: 'site', count: 1 }, { by: 'colour' }, { selector: 'a=b', perStratum: 'site' }].map(parse)).toEqual([false, false, false, false]);
  });
});

it('whom a person wants left alone is left out with the reason, and is in no wave', () => {
  const plan = planned(fleet(5, (i) => (i === 0 ? { spared: { code: 'PINNED', message: 'Pinned by olga: on trial' }, fit: { ok: false, code: 'UNKNOWN', message: 'x' } } : i === 1 ? { spared: { code: 'EXCLUDED', message: 'The rollout leaves it out.' } } : {})));
  expect(plan.excluded).toEqual([{ device: 'd0', code: 'PINNED', reason: 'Pinned by olga: on trial' }, { device: 'd1', code: 'EXCLUDED', reason: expect.any(String) }]);
  expect(plan.eligible).toBe(3);
});

describe('canaries', () => {
  it('are never devices that were unhealthy or away before the update', () => {
    const plan = planned(fleet(10, (i) => (i < 4 ? { online: false } : i < 8 ? { health: 'DEGRADED' } : {})), [{ count: 5 }, { percent: 100 }]);
    expect(plan.waves[0]!.devices.map(({ id }) => id).sort()).toEqual(['d8', 'd9']);
    expect(sizes(plan)).toEqual([2, 8]);
  });
  it('none healthy: refused with a way out', () => expect(planFor(fleet(3, () => ({ online: false })))).toMatchObject({ ok: false, fault: { code: 'rollout.no_healthy_canary' } }));
  it('a single wave has no canary', () => expect(sizes(planned(fleet(3, () => ({ online: false })), [{ percent: 100 }]))).toEqual([3]));
  it('differ in hardware', () => {
    const plan = planned(fleet(30, (i) => ({ strata: kind(i < 28 ? 'dev-board' : 'raspberry-pi-4') })), [{ count: 2 }, { percent: 100 }]);
    expect(plan.waves[0]!.devices.filter(({ id }) => Number(id.slice(1)) >= 28)).toHaveLength(1);
  });
  it('are the same at every preview, and others for another version', () => {
    const first = (seed: string) => planned(fleet(200), [{ count: 3 }, { percent: 100 }], seed).waves[0]!.devices;
    expect(first('a')).toEqual(first('a'));
    expect(first('a')).not.toEqual(first('b'));
  });
});

it('case 5: runtime too old or not known: listed with the reason, planned for nobody else', () => {
  const plan = planned(fleet(10, (i) => (i < 3 ? { fit: { ok: false, code: 'INCOMPATIBLE', message: 'needs runtime 14, has 13' } } : i === 3 ? { fit: { ok: false, code: 'UNKNOWN', message: 'no runtime reported' } } : {})));
  expect(plan.eligible).toBe(6);
  expect(plan.excluded.map(({ code }) => code)).toEqual(['INCOMPATIBLE', 'INCOMPATIBLE', 'INCOMPATIBLE', 'UNKNOWN']);
  expect(plan.waves.flatMap(({ devices }) => devices).some(({ id }) => ['d0', 'd1', 'd2', 'd3'].includes(id))).toBe(false);
});

it('devices that run it already need nothing; nothing to do at all is said', () => {
  expect(planned(fleet(3, (i) => ({ current: i === 0 }))).excluded).toEqual([{ device: 'd0', code: 'ALREADY_CURRENT', reason: expect.any(String) }]);
  expect(planFor(fleet(2, () => ({ current: true })))).toMatchObject({ ok: false, fault: { code: 'rollout.no_device' } });
});
