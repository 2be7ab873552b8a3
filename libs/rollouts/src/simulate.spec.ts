import { describe, expect, it } from 'vitest';
import { createRollout, noFaults, sameAsBefore, simulate, usualFaults, type Simulated, type Simulation } from './simulate.ts';

const body = createRollout.parse({ version: 'm@2', workload: 'classifier', soakS: 60, deadlineS: 600, installTimeoutS: 900, minSamples: 50 });
const run = (some: Partial<Simulation> = {}): Simulated => {
  const result = simulate({ seed: 7, devices: 2_000, sites: 20, faults: usualFaults, version: sameAsBefore, body, ...some });
  if ('fault' in result) throw new Error(result.fault);
  return result;
};

describe('a simulated rollout', () => {
  it('of a version like the one before reaches everybody who can be reached; those who cannot are counted', () => {
    const done = run();
    expect(done).toMatchObject({ state: 'SUCCEEDED', wrong: 0 });
    expect(done.waves.map(({ state, size }) => [state, size])).toEqual([['PASSED', 200], ['PASSED', 800], ['PASSED', 1_000]]);
    expect(done.waves.reduce((sum, { updated, unanswered }) => sum + updated + unanswered, 0)).toBe(2_000);
    expect(done.waves[2]!.unanswered).toBeGreaterThan(0);
  });

  it.each<[string, Partial<Simulation['version']>, string]>([
    ['20 % of the installations fail', { installFailurePercent: 20 }, 'install_failures_failed'],
    ['is twice as slow', { latencyFactor: 2 }, 'latency_p95_failed'],
    ['fails on 5 % of the frames', { errorPercent: 5 }, 'error_rate_failed'],
    ['loses 12 points of accuracy', { accuracyDropPoints: 12 }, 'accuracy_failed'],
  ])('of a version that %s is brought back from the first wave', (_what, version, code) => {
    const done = run({ version: { ...sameAsBefore, ...version } });
    expect(done).toMatchObject({ state: 'ROLLED_BACK', reason: { code }, wrong: 0 });
    expect(done.exposed).toBeLessThanOrEqual(200);
    expect(done.waves.slice(1).map(({ state }) => state)).toEqual(['SKIPPED', 'SKIPPED']);
  });

  it('goes back in waves where a rollout says so, whoever came last first, and takes longer for it', () => {
    const bad = { ...sameAsBefore, accuracyDropPoints: 12 };
    const staged = createRollout.parse({ ...body, rollback: { maxInProgress: 60, waves: [{ count: 5 }, { percent: 50 }] } });
    const [atOnce, inWaves] = [run({ version: bad, faults: noFaults }), run({ version: bad, faults: noFaults, body: staged })];
    expect(inWaves).toMatchObject({ state: 'ROLLED_BACK', wrong: 0, exposed: atOnce.exposed });
    expect(inWaves.transcript.filter((line) => line.includes('rollback_wave')).length).toBeGreaterThanOrEqual(3);
    expect(atOnce.transcript.filter((line) => line.includes('rollback_wave'))).toHaveLength(1);
    expect(inWaves.tookS).toBeGreaterThan(atOnce.tookS);
  });

  it('is the same for the same seed, and another for another', () => {
    expect(run().digest).toBe(run().digest);
    expect(run({ seed: 8 }).digest).not.toBe(run().digest);
  });

  it('does not care for the clocks of devices', () => {
    expect(run({ faults: { ...usualFaults, lyingClockPercent: 100 } }).transcript).toEqual(run({ faults: { ...usualFaults, lyingClockPercent: 99.999 } }).transcript);
  });

  it('holds the stated blast radius, settles, and leaves nobody on a wrong version, whatever goes wrong', () => {
    for (let seed = 1; seed <= 40; seed += 1) {
      const share = (n: number) => ((seed * n) % 7) * 5;
      const faults = { offlinePercent: share(1), flappingPercent: share(2), slowPercent: share(3), hotPercent: share(4), brokenDeltaPercent: share(5), lyingClockPercent: share(6) };
      const version = { installFailurePercent: seed % 3 === 0 ? 4 : 0, latencyFactor: 1 + (seed % 4) / 4, errorPercent: seed % 5 === 0 ? 2 : 0, accuracyDropPoints: (seed % 3) * 4 };
      const done = run({ seed, devices: 200, faults, version });
      expect(['SUCCEEDED', 'ROLLED_BACK', 'PAUSED'], `seed ${seed}`).toContain(done.state);
      expect(done.unproven.most, `seed ${seed}`).toBeLessThanOrEqual(done.unproven.stated);
      if (done.state !== 'PAUSED') expect(done.wrong, `seed ${seed}`).toBe(0);
    }
  });

  it('takes the time that its rate, concurrency, windows and the links of its sites leave it', () => {
    const paced = (some: object) => run({ devices: 200, sites: 8, faults: noFaults, body: { ...body, waves: [{ percent: 100 }], ...some } });
    const free = paced({});
    const rated = paced({ rate: { perMinute: 20 } });
    expect(rated.tookS - free.tookS).toBeGreaterThanOrEqual(9 * 60);
    expect(rated.tookS - free.tookS).toBeLessThanOrEqual(11 * 60);
    expect(rated.digest).toBe(paced({ rate: { perMinute: 20 } }).digest);
    // Eight sites of some 25 devices, 4 MB each, a megabyte a second.
    expect(paced({ siteBytesPerSecond: 1_000_000 }).tookS - free.tookS).toBeGreaterThan(80);
    // Twenty at once, each some twenty seconds with its observation.
    expect(paced({ maxInProgress: 20 }).tookS - free.tookS).toBeGreaterThan(100);
    // The run begins at midnight in London; the last of the sites to come to 22:00 is in Los Angeles, 06:00 the day after.
    const windowed = paced({ windows: [{ days: ['thu', 'fri'], from: '22:00', to: '05:00' }] });
    expect(windowed).toMatchObject({ state: 'SUCCEEDED', unproven: { stated: 200 } });
    expect(windowed.tookS).toBeGreaterThan(30 * 3_600);
    expect(windowed.tookS).toBeLessThan(31 * 3_600);
    for (const one of [rated, windowed]) expect(one.waves[0]!.unanswered).toBe(0);
  });

  it('that cannot begin says why', () => {
    expect(simulate({ seed: 1, devices: 10, sites: 1, faults: { ...noFaults, offlinePercent: 100 }, version: sameAsBefore, body })).toEqual({ fault: expect.stringContaining('No device that may go first') as string });
  });
});
