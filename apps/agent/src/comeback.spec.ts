import { describe, expect, it } from 'vitest';
import { randomOf } from '@reefkeeper/platform/random';
import { agentComeback as policy, Comeback } from './comeback.ts';

/** When each device of a fleet asks, until the broker has been away for `awayMs`; the last time is that of its return. */
function outage(devices: number, awayMs: number, seed = 1): number[][] {
  const random = randomOf(seed);
  return Array.from({ length: devices }, () => {
    const comeback = new Comeback(policy, -3_600_000, random);
    const asked = [comeback.waitMs(3_600_000, 0)];
    while (asked.at(-1)! < awayMs) asked.push(asked.at(-1)! + comeback.waitMs(0, asked.at(-1)!));
    return asked;
  });
}

describe('coming back', () => {
  it.each([1_000, 5_000, 20_000, 60_000, 600_000])('after %d ms away nobody waits longer than that, nor than the longest wait', (awayMs) => {
    const bound = Math.min(policy.maxMs, Math.max(policy.firstMs, awayMs));
    for (const asked of outage(2_000, awayMs)) expect(asked.at(-1)! - awayMs).toBeLessThanOrEqual(bound);
  });

  it('a fleet of 10,000 spreads its return: a tenth and a bit of it in the fullest second, and it asks no faster while it waits', () => {
    const [devices, awayMs] = [10_000, 120_000];
    const fleet = outage(devices, awayMs);
    const fullest = (times: number[]) => {
      const perSecond = new Map<number, number>();
      for (const at of times) perSecond.set(Math.floor(at / 1_000), (perSecond.get(Math.floor(at / 1_000)) ?? 0) + 1);
      return Math.max(...perSecond.values());
    };
    const mean = devices / (policy.maxMs / 2_000);
    // Five standard deviations of a count of that size.
    const most = mean + 5 * Math.sqrt(mean);
    expect(fullest(fleet.map((asked) => asked.at(-1)! - awayMs))).toBeLessThan(most);
    expect(fullest(fleet.flatMap((asked) => asked.filter((at) => at > 60_000 && at < awayMs)))).toBeLessThan(most);
  });

  it('a broker that accepts and drops is asked as seldom as one that is away', () => {
    const comeback = new Comeback(policy, 0, randomOf(3));
    let [now, tries] = [0, 0];
    const [from, until] = [120_000, 3_720_000];
    while (now < until) {
      if (now > from) tries += 1;
      now += 100;
      now += comeback.waitMs(100, now);
    }
    expect(tries).toBeGreaterThan(300);
    expect(tries).toBeLessThan(420);
  });

  it('an outage soon after another is waited out with the patience of both, one after a stable time anew', () => {
    const waits = (lastedMs: number) => {
      const comeback = new Comeback(policy, 0, () => 1);
      let now = 3_600_000;
      for (let tries = 0, lasted = now; tries < 8; tries += 1, lasted = 0) now += comeback.waitMs(lasted, now);
      return comeback.waitMs(lastedMs, now + lastedMs);
    };
    expect(waits(policy.stableMs - 1)).toBe(policy.maxMs);
    expect(waits(policy.stableMs)).toBe(policy.firstMs);
  });
});
