import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { planWaves, type Candidate, type Plan } from './plan.ts';
import { createRollout, settingsFor, type WaveSpec } from './rollout.ts';

const body = createRollout.parse({ version: 'm@2', workload: 'w' });
const device = (id: string, some: Partial<Candidate> = {}): Candidate => ({ id, labels: {}, online: true, health: 'HEALTHY', stratum: 'dev-board', fit: { ok: true, variant: 'cpu-int8' }, current: false, ...some });
const site = (selector: string, labels: Record<string, string>): boolean => labels.site === selector.split('=')[1];
const planFor = (candidates: Candidate[], waves?: WaveSpec[], seed = 'b') => planWaves(candidates, waves, seed, (n) => settingsFor(body, n), site);
const planned = (candidates: Candidate[], waves?: WaveSpec[], seed?: string): Plan => {
  const result = planFor(candidates, waves, seed);
  if (!result.ok) throw new Error(result.fault.message);
  return result.plan;
};
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
  it('says how many devices no wave covers', () => expect(planned(fleet(10), [{ count: 1 }, { percent: 50 }])).toMatchObject({ uncovered: 5, eligible: 10 }));
  it('every eligible device is in exactly one wave of 100 %', () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 60 }), fc.array(fc.integer({ min: 1, max: 99 }), { maxLength: 5 }), (n, percents) => {
      const plan = planned(fleet(n), [...percents.sort((a, b) => a - b).map((percent) => ({ percent })), { percent: 100 }]);
      const ids = plan.waves.flatMap(({ devices }) => devices.map(({ id }) => id));
      return new Set(ids).size === n && ids.length === n && plan.uncovered === 0 && plan.blastRadius.perWave.at(-1)!.exposed === n;
    }));
  });
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
    const plan = planned(fleet(30, (i) => ({ stratum: i < 28 ? 'dev-board' : 'raspberry-pi-4' })), [{ count: 2 }, { percent: 100 }]);
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
