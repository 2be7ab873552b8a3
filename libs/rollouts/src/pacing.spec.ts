import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { lookbackS, noPace, paceOf, perMinuteOf, type Pace, type PaceFacts, type Queue } from './pacing.ts';
import { createRollout } from './rollout.ts';
import { timingOf } from './timing.ts';
import { maintenanceWindow, weekdays, windowOpenAt } from './windows.ts';

const t0 = new Date('2026-03-28T20:00:00Z');
const at = (seconds: number): Date => new Date(t0.getTime() + seconds * 1_000);
const queue = (some: Partial<Queue> = {}): Queue => ({ site: 'a', zone: 'UTC', bytes: 1_000, freeze: null, devices: ['d1', 'd2', 'd3'], ...some });
const facts = (some: Partial<PaceFacts> = {}): PaceFacts => ({ queues: [queue()], open: new Map(), told: [], succeeded: 0, ...some });

describe('scenarios', () => {
  it('without limits everybody is told', () => expect(paceOf(noPace, facts(), t0)).toEqual({ devices: ['d1', 'd2', 'd3'], holds: [] }));
  it('a freeze and a closed window hold their devices alone, and say so', () => {
    const windows = [maintenanceWindow.parse({ from: '22:00', to: '05:00' })];
    const paced = paceOf({ ...noPace, windows }, facts({ queues: [queue({ devices: ['tokyo'], zone: 'Asia/Tokyo' }), queue({ devices: ['paris', 'nice'], zone: 'Europe/Paris' }), queue({ devices: ['x'], zone: 'Asia/Tokyo', freeze: { until: at(60), reason: 'fair' } })] }), at(-3_600));
    expect(paced).toEqual({ devices: ['tokyo'], holds: [{ code: 'waits_for_freeze', devices: 1, until: at(60), why: 'fair' }, { code: 'waits_for_window', devices: 2, until: at(3_600), why: 'Europe/Paris' }] });
  });
  it('a freeze that is over holds nobody', () => expect(paceOf(noPace, facts({ queues: [queue({ freeze: { until: t0, reason: 'fair' } })] }), t0).devices).toHaveLength(3));
  it('sites take turns', () => {
    expect(paceOf({ ...noPace, maxInProgress: 4 }, facts({ queues: [queue({ devices: ['a1', 'a2', 'a3'] }), queue({ site: 'b', devices: ['b1'] }), queue({ site: 'c', devices: ['c1', 'c2'] })] }), t0).devices).toEqual(['a1', 'c1', 'b1', 'a2']);
  });
  it('concurrency counts what is open, in all and per site', () => {
    const open = new Map([['a', 2], ['b', 1]]);
    expect(paceOf({ ...noPace, maxInProgress: 4 }, facts({ open }), t0)).toEqual({ devices: ['d1'], holds: [{ code: 'paced', devices: 2, until: null, why: '4 at once' }] });
    expect(paceOf({ ...noPace, maxInProgressPerSite: 2 }, facts({ open, queues: [queue(), queue({ site: 'b', devices: ['b1', 'b2'] })] }), t0).devices).toEqual(['b1']);
    expect(paceOf({ ...noPace, maxInProgress: 3 }, facts({ open }), t0).devices).toEqual([]);
  });
  it('a minute\'s worth is told in tenths, and the next look is when there is room', () => {
    const rate = { perMinute: 20 };
    expect(paceOf({ ...noPace, rate }, facts(), t0).devices).toEqual(['d1', 'd2']);
    expect(paceOf({ ...noPace, rate }, facts({ told: [{ at: at(-2), site: 'a', devices: 2, bytes: 2_000 }] }), t0)).toMatchObject({ devices: [], holds: [{ code: 'paced', until: at(4), why: '20 a minute' }] });
    expect(paceOf({ ...noPace, rate }, facts({ told: [{ at: at(-50), site: 'a', devices: 20, bytes: 2_000 }] }), t0)).toMatchObject({ devices: [], holds: [{ until: at(10) }] });
  });
  it('a rising rate rises with success, to its end', () => {
    const rate = { base: 10, factor: 2, afterSucceeded: 100, maxPerMinute: 50 };
    expect([0, 99, 100, 200, 300, 100_000].map((n) => perMinuteOf(rate, n))).toEqual([10, 10, 20, 40, 50, 50]);
  });
  it('a site\'s link: a second\'s worth at once, or one bundle, then as long as that takes', () => {
    const pace = { ...noPace, siteBytesPerSecond: 2_000 };
    expect(paceOf(pace, facts(), t0)).toMatchObject({ devices: ['d1', 'd2'], holds: [{ code: 'paced', devices: 1 }] });
    expect(paceOf(pace, facts({ queues: [queue({ bytes: 10_000 })] }), t0).devices).toEqual(['d1']);
    expect(paceOf(pace, facts({ told: [{ at: at(-2), site: 'a', devices: 1, bytes: 10_000 }, { at: at(-2), site: 'b', devices: 9, bytes: 90_000 }] }), t0)).toMatchObject({ devices: [], holds: [{ until: at(3) }] });
  });
  it('says what it does not understand', () => {
    const parse = (some: object) => createRollout.safeParse({ version: 'm@2', workload: 'w', ...some }).success;
    expect([{ rate: { perMinute: 5 } }, { rate: { base: 1, afterSucceeded: 10, maxPerMinute: 100 } }, { maxInProgress: 1 }].map(parse)).toEqual([true, true, true]);
    expect([{ rate: { perMinute: 0 } }, { rate: { perMinute: 5, base: 1 } }, { rate: {} }, { maxInProgress: 0 }, { siteBytesPerSecond: -1 }, { startAt: '2026-01-02T00:00:00Z', stopAt: '2026-01-01T00:00:00Z' }].map(parse)).toEqual([false, false, false, false, false, false]);
  });
});

// -- properties: told pass by pass, as the engine does --------------------------------------------------------------------

const someWindow = fc.record({ days: fc.uniqueArray(fc.constantFrom(...weekdays), { minLength: 4, maxLength: 7 }), from: fc.constantFrom('00:00', '21:30', '22:00', '02:30'), to: fc.constantFrom('05:00', '23:00', '02:00', '03:30') });
const somePace = fc.record({
  windows: fc.array(someWindow, { maxLength: 2 }),
  rate: fc.option(fc.oneof(fc.record({ perMinute: fc.integer({ min: 1, max: 120 }) }), fc.record({ base: fc.integer({ min: 1, max: 10 }), factor: fc.constantFrom(1.5, 2), afterSucceeded: fc.integer({ min: 1, max: 20 }), maxPerMinute: fc.integer({ min: 10, max: 200 }) }))),
  maxInProgress: fc.option(fc.integer({ min: 1, max: 20 })), maxInProgressPerSite: fc.option(fc.integer({ min: 1, max: 5 })), siteBytesPerSecond: fc.option(fc.integer({ min: 100, max: 20_000 })),
});
const someQueue = fc.record({ site: fc.constantFrom('', 'a', 'b'), zone: fc.constantFrom('UTC', 'Europe/Paris', 'America/New_York', 'Australia/Lord_Howe'), bytes: fc.integer({ min: 1, max: 30_000 }), frozenS: fc.option(fc.integer({ min: 1, max: 20_000 })), devices: fc.integer({ min: 1, max: 12 }) });

interface Telling { device: string; at: Date; queue: Queue; open: { all: number; site: number }; perMinute: number }

/** Passes until everybody is told; a device answers after `answerS`. The next pass is when the pace wants it, a second later where answers free it. */
function tell(pace: Pace, shapes: { site: string; zone: string; bytes: number; frozenS: number | null; devices: number }[], answerS: number): { told: Telling[]; all: number } {
  const queues = shapes.map((one, q): Queue => ({ site: one.site, zone: one.zone, bytes: one.bytes, freeze: one.frozenS === null ? null : { until: at(one.frozenS), reason: 'x' }, devices: Array.from({ length: one.devices }, (_, i) => `${q}-${i}`) }));
  const home = new Map(queues.flatMap((one) => one.devices.map((id) => [id, one] as const)));
  const told: Telling[] = [];
  const back = lookbackS(pace, Math.max(...shapes.map(({ bytes }) => bytes))) * 1_000;
  for (let now = t0, passes = 0; told.length < home.size; passes++) {
    if (passes > 20_000) throw new Error(`${home.size - told.length} are never told`);
    const gone = new Set(told.map(({ device }) => device));
    const open = new Map<string, number>();
    for (const one of told) if (now.getTime() - one.at.getTime() < answerS * 1_000) open.set(one.queue.site, (open.get(one.queue.site) ?? 0) + 1);
    const seen: PaceFacts = {
      queues: queues.map((one) => ({ ...one, devices: one.devices.filter((id) => !gone.has(id)) })).filter(({ devices }) => devices.length > 0), open,
      told: told.filter((one) => now.getTime() - one.at.getTime() <= back).map((one) => ({ at: one.at, site: one.queue.site, devices: 1, bytes: one.queue.bytes })), succeeded: told.length - [...open.values()].reduce((a, b) => a + b, 0),
    };
    const { devices, holds } = paceOf(pace, seen, now);
    expect(devices.length + holds.reduce((sum, one) => sum + one.devices, 0)).toBe(home.size - told.length);
    for (const { until } of holds) if (until) expect(until.getTime()).toBeGreaterThan(now.getTime());
    const site = new Map(open);
    for (const device of devices) {
      const own = home.get(device)!;
      site.set(own.site, (site.get(own.site) ?? 0) + 1);
      told.push({ device, at: now, queue: own, open: { all: [...site.values()].reduce((a, b) => a + b, 0), site: site.get(own.site)! }, perMinute: pace.rate ? perMinuteOf(pace.rate, seen.succeeded) : Infinity });
    }
    const untils = holds.flatMap(({ until }) => (until ? [until.getTime()] : []));
    const soon = open.size > 0 || devices.length > 0 ? now.getTime() + 1_000 : Infinity;
    const next = Math.min(...untils, soon);
    if (told.length < home.size) expect(next).toBeLessThan(Infinity);
    now = new Date(next);
  }
  return { told, all: home.size };
}

describe('whatever the settings', () => {
  it('everybody is told once, nobody outside the window or frozen, and never more than any budget over any stretch of time', () => {
    fc.assert(fc.property(somePace, fc.array(someQueue, { minLength: 1, maxLength: 4 }), fc.integer({ min: 1, max: 60 }), (pace, shapes, answerS) => {
      // A window that clocks skip for good would never open; these do within a week.
      const { told, all } = tell(pace, shapes, answerS);
      expect(new Set(told.map(({ device }) => device)).size).toBe(all);
      for (const one of told) {
        expect(windowOpenAt(pace.windows, one.queue.zone, one.at).open || pace.windows.length === 0).toBe(true);
        if (one.queue.freeze) expect(one.at.getTime()).toBeGreaterThanOrEqual(one.queue.freeze.until.getTime());
        if (pace.maxInProgress !== null) expect(one.open.all).toBeLessThanOrEqual(pace.maxInProgress);
        if (pace.maxInProgressPerSite !== null) expect(one.open.site).toBeLessThanOrEqual(pace.maxInProgressPerSite);
        // Every stretch that ends with this telling.
        const within = (ms: number) => told.filter((other) => other.at <= one.at && one.at.getTime() - other.at.getTime() < ms);
        expect(within(60_000).length).toBeLessThanOrEqual(one.perMinute);
        expect(within(6_000).length).toBeLessThanOrEqual(Math.ceil(one.perMinute / 10));
        if (pace.siteBytesPerSecond === null) continue;
        const own = told.filter((other) => other.queue.site === one.queue.site && other.at <= one.at);
        const most = Math.max(pace.siteBytesPerSecond, ...own.map(({ queue: { bytes } }) => bytes));
        for (const first of own) {
          const seconds = (one.at.getTime() - first.at.getTime()) / 1_000;
          const bytes = own.filter((other) => other.at >= first.at).reduce((sum, other) => sum + other.queue.bytes, 0);
          expect(bytes).toBeLessThanOrEqual(pace.siteBytesPerSecond * seconds + most + 1e-6);
        }
      }
    }), { numRuns: 30 });
  });

  it('the forecast is not earlier than it happens', () => {
    fc.assert(fc.property(somePace, fc.array(someQueue, { minLength: 1, maxLength: 3 }), (pace, shapes) => {
      const answerS = 60;
      const { told } = tell(pace, shapes, answerS);
      const groups = shapes.map((one) => ({ site: one.site, zone: one.zone, bytes: one.bytes, devices: one.devices, freeze: one.frozenS === null ? null : { until: at(one.frozenS), reason: 'x' } }));
      const { waves: [wave] } = timingOf([groups], pace, { installTimeoutS: answerS, deadlineS: 100 }, t0);
      expect(wave!.toldBy!.getTime() + 1_000).toBeGreaterThanOrEqual(Math.max(...told.map((one) => one.at.getTime())));
      expect(wave!.endsBy!.getTime() - wave!.toldBy!.getTime()).toBe((answerS + 100) * 1_000);
    }), { numRuns: 30 });
  });
});
