import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { noPace, paceOf, type Pace } from './pacing.ts';
import { anySite, noSiteLimit, sharesOf, tightest, type OtherRollout, type SiteLimit } from './site-shares.ts';

const t0 = Date.parse('2026-01-01T00:00:00Z');
const at = (second: number): Date => new Date(t0 + second * 1_000);
const other = (some: Partial<OtherRollout>): OtherRollout => ({ id: 'b', name: 'B', stated: noSiteLimit, claims: new Set(), open: new Map(), told: [], lastTold: new Map(), ...some });
const shareOf = (others: OtherRollout[], limits: Record<string, SiteLimit> = {}, lastTold = new Map<string, Date>()) => sharesOf(['lyon'], { id: 'a', lastTold }, others, new Map(Object.entries(limits))).get('lyon')!;

describe('what is left of a site', () => {
  it('the tightest of its own limit and of those who are at work there', () => {
    const limits = { lyon: { maxInProgress: 5, bytesPerSecond: null }, [anySite]: { maxInProgress: 1, bytesPerSecond: 9 } };
    expect(shareOf([], limits)).toMatchObject({ maxInProgress: 5, bytesPerSecond: null, open: 0, contested: false });
    expect(shareOf([], { [anySite]: limits[anySite] })).toMatchObject({ maxInProgress: 1, bytesPerSecond: 9 });
    const stated = { maxInProgress: 2, bytesPerSecond: 100 };
    expect(shareOf([other({ stated })], limits)).toMatchObject({ maxInProgress: 5, contested: false });
    expect(shareOf([other({ stated, open: new Map([['lyon', 3]]) })], limits)).toMatchObject({ maxInProgress: 2, bytesPerSecond: 100, open: 3, contested: true });
    expect(shareOf([other({ stated, claims: new Set(['lyon']) })], limits)).toMatchObject({ maxInProgress: 2 });
  });
  it('who was told there longest ago goes first', () => {
    const claims = new Set(['lyon']);
    expect(shareOf([other({ claims, lastTold: new Map([['lyon', at(5)]]) })], {}, new Map([['lyon', at(4)]])).yieldsTo).toBeNull();
    expect(shareOf([other({ claims, lastTold: new Map([['lyon', at(5)]]) })], {}, new Map([['lyon', at(6)]])).yieldsTo).toBe('B');
    expect(shareOf([other({ claims }), other({ id: '0', name: 'Zero', claims })]).yieldsTo).toBe('Zero');
    expect(shareOf([other({ open: new Map([['lyon', 1]]) })], {}, new Map([['lyon', at(6)]])).yieldsTo).toBeNull();
  });
});

// -- several rollouts, each deciding for itself, as the engine's replicas do -------------------------------------------------------

const sites = ['', 'a', 'b'];
const stated = fc.record({ maxInProgressPerSite: fc.option(fc.integer({ min: 1, max: 4 })), siteBytesPerSecond: fc.option(fc.integer({ min: 500, max: 20_000 })), maxInProgress: fc.option(fc.integer({ min: 1, max: 6 })) });
const shape = fc.record({ stated, beginsS: fc.integer({ min: 0, max: 20 }), answerS: fc.integer({ min: 1, max: 15 }), bytes: fc.integer({ min: 1, max: 10_000 }), devices: fc.record({ '': fc.nat(4), a: fc.nat(6), b: fc.nat(6) }) });
const siteLimit = fc.record({ maxInProgress: fc.option(fc.integer({ min: 1, max: 4 })), bytesPerSecond: fc.option(fc.integer({ min: 500, max: 20_000 })) });

interface Running { id: string; pace: Pace; beginsS: number; answerS: number; bytes: number; left: Map<string, string[]>; told: { site: string; at: Date; answeredAt: number }[]; claims: Set<string> }

const running = (some: Pick<Running, 'id' | 'answerS'> & Partial<Running>): Running => ({ pace: noPace, beginsS: 0, bytes: 1_000, left: new Map(), told: [], claims: new Set(), ...some });

/** One look of `self`; returns what was told. */
function look(self: Running, all: readonly Running[], limits: ReadonlyMap<string, SiteLimit>, second: number): { site: string; most: number | null }[] {
  const now = at(second);
  const openAt = (one: Running, site: string): number => one.told.filter((told) => told.site === site && told.answeredAt > second).length;
  const lastTold = (one: Running): Map<string, Date> => new Map(one.told.map((told) => [told.site, told.at]));
  const others = all.filter((one) => one !== self).map((one): OtherRollout => ({
    id: one.id, name: one.id, stated: { maxInProgress: one.pace.maxInProgressPerSite, bytesPerSecond: one.pace.siteBytesPerSecond }, claims: one.claims,
    open: new Map(sites.map((site) => [site, openAt(one, site)])), told: one.told.filter((told) => second - (told.at.getTime() - t0) / 1_000 < 30).map((told) => ({ at: told.at, site: told.site, bytes: one.bytes })), lastTold: lastTold(one),
  }));
  const shares = sharesOf(sites, { id: self.id, lastTold: lastTold(self) }, others, limits);
  const paced = paceOf(self.pace, {
    queues: [...self.left].filter(([, devices]) => devices.length > 0).map(([site, devices]) => ({ site, zone: 'UTC', bytes: self.bytes, freeze: null, devices })), open: new Map(sites.map((site) => [site, openAt(self, site)])),
    told: self.told.map((told) => ({ at: told.at, site: told.site, devices: 1, bytes: self.bytes })), succeeded: 0, sites: shares,
  }, now);
  self.claims = new Set(paced.holds.flatMap(({ claims }) => claims ?? []));
  return paced.devices.map((id) => {
    const [site, devices] = [...self.left].find(([, some]) => some.includes(id))!;
    self.left.set(site, devices.filter((one) => one !== id));
    self.told.push({ site, at: now, answeredAt: second + self.answerS });
    return { site, most: tightest(self.pace.maxInProgressPerSite, shares.get(site)!.maxInProgress) };
  });
}

const unfinished = (all: readonly Running[]): boolean => all.some(({ left }) => [...left.values()].some((devices) => devices.length > 0));

describe('several rollouts at one site', () => {
  it('whatever they and the site state: never more on their way together than the tightest, the site\'s link never over its rate, and nobody is left behind', () => {
    fc.assert(fc.property(fc.array(shape, { minLength: 2, maxLength: 3 }), fc.option(siteLimit), fc.infiniteStream(fc.nat(5)), (shapes, limit, order) => {
      const limits = new Map(limit ? [['a', limit]] : []);
      const all = shapes.map((one, i) => running({ id: `r${i}`, pace: { ...noPace, ...one.stated }, beginsS: one.beginsS, answerS: one.answerS, bytes: one.bytes, left: new Map(sites.map((site) => [site, Array.from({ length: one.devices[site as 'a'] }, (_, n) => `${site}${n}`)])) }));
      const draw = order[Symbol.iterator]();
      let second = 0;
      for (; unfinished(all); second++) {
        if (second > 3_000) throw new Error('somebody is never told');
        const turn = Number(draw.next().value) % all.length;
        for (const self of [...all.slice(turn), ...all.slice(0, turn)]) {
          if (second < self.beginsS) continue;
          for (const { site, most } of look(self, all, limits, second)) {
            const open = all.reduce((sum, one) => sum + one.told.filter((told) => told.site === site && told.answeredAt > second).length, 0);
            if (most !== null) expect(open).toBeLessThanOrEqual(most);
            if (site === 'a' && limit?.maxInProgress) expect(open).toBeLessThanOrEqual(limit.maxInProgress);
          }
        }
      }
      if (!limit?.bytesPerSecond) return;
      const told = all.flatMap((one) => one.told.filter(({ site }) => site === 'a').map((one2) => ({ second: (one2.at.getTime() - t0) / 1_000, bytes: one.bytes }))).sort((a, b) => a.second - b.second);
      const most = Math.max(limit.bytesPerSecond, ...told.map(({ bytes }) => bytes));
      for (const from of told) for (const to of told) if (to.second >= from.second) expect(told.filter((one) => one.second >= from.second && one.second <= to.second).reduce((sum, one) => sum + one.bytes, 0)).toBeLessThanOrEqual(limit.bytesPerSecond * (to.second - from.second) + most + 1e-6);
    }), { numRuns: 150 });
  });

  it('take turns, also where one alone could fill it for good', () => {
    const devices = (id: string): Map<string, string[]> => new Map([['a', Array.from({ length: 6 }, (_, n) => `${id}${n}`)]]);
    const pace = { ...noPace, maxInProgressPerSite: 1 };
    const all = [running({ id: 'x', answerS: 3, pace, left: devices('x') }), running({ id: 'y', answerS: 3, left: devices('y'), beginsS: 5 })];
    const told: string[] = [];
    for (let second = 0; unfinished(all) && second < 200; second++) for (const self of all) if (second >= self.beginsS) for (const _ of look(self, all, new Map(), second)) told.push(self.id);
    expect(told.join('')).toMatch(/^xx(yx)+y*$/);
  });
});
