import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { afterOpenTime, instantOf, isZone, maintenanceWindow, weekdays, windowOpenAt, zoneOf, type MaintenanceWindow } from './windows.ts';

const window = (some: Partial<MaintenanceWindow>): MaintenanceWindow => maintenanceWindow.parse({ from: '22:00', to: '05:00', ...some });
const at = (text: string): Date => new Date(text);
const opening = (windows: MaintenanceWindow[], zone: string, when: string) => {
  const { open, until } = windowOpenAt(windows, zone, at(when));
  return [open, until?.toISOString() ?? null];
};

describe('a maintenance window', () => {
  it('without any, it is always open', () => expect(windowOpenAt([], 'UTC', at('2026-01-01T00:00:00Z'))).toEqual({ open: true, until: null }));
  it('goes over midnight and belongs to the day on which it begins', () => {
    const friday = [window({ days: ['fri'] })];
    expect(opening(friday, 'UTC', '2026-11-27T21:59:59Z')).toEqual([false, '2026-11-27T22:00:00.000Z']);
    expect(opening(friday, 'UTC', '2026-11-27T22:00:00Z')).toEqual([true, '2026-11-28T05:00:00.000Z']);
    expect(opening(friday, 'UTC', '2026-11-28T04:59:59.999Z')).toEqual([true, '2026-11-28T05:00:00.000Z']);
    expect(opening(friday, 'UTC', '2026-11-28T05:00:00Z')).toEqual([false, '2026-12-04T22:00:00.000Z']);
  });
  it('is in the time of the device', () => {
    expect(opening([window({})], 'Asia/Tokyo', '2026-06-01T13:00:00Z')).toEqual([true, '2026-06-01T20:00:00.000Z']);
    expect(opening([window({})], 'America/New_York', '2026-06-01T13:00:00Z')).toEqual([false, '2026-06-02T02:00:00.000Z']);
    expect(opening([window({ from: '10:00', to: '10:30' })], 'Asia/Kathmandu', '2026-06-01T04:15:00Z')).toEqual([true, '2026-06-01T04:45:00.000Z']);
  });
  it('from and to alike is a whole day; every day of it never closes', () => {
    expect(opening([window({ days: ['sat'], from: '00:00', to: '00:00' })], 'UTC', '2026-11-28T12:00:00Z')).toEqual([true, '2026-11-29T00:00:00.000Z']);
    expect(opening([window({ from: '00:00', to: '00:00' })], 'Europe/Paris', '2026-11-28T12:00:00Z')).toEqual([true, null]);
  });
  it('windows that touch are one', () => {
    expect(opening([window({ from: '20:00', to: '23:00' }), window({ from: '23:00', to: '02:00' })], 'UTC', '2026-11-28T21:00:00Z')).toEqual([true, '2026-11-29T02:00:00.000Z']);
  });
  it.each([
    // Clocks in Paris go back on 25 October 2026, 03:00 to 02:00, and forward on 29 March, 02:00 to 03:00.
    ['is an hour longer in the night that has 25', '22:00', '05:00', '2026-10-24T21:00:00Z', true, '2026-10-25T04:00:00.000Z'],
    ['and an hour shorter in the one that has 23', '22:00', '05:00', '2026-03-28T22:00:00Z', true, '2026-03-29T03:00:00.000Z'],
    ['ends when clocks first show its end', '01:00', '02:30', '2026-10-25T00:00:00Z', true, '2026-10-25T00:30:00.000Z'],
    ['and does not open again when they show it once more', '01:00', '02:30', '2026-10-25T01:10:00Z', false, '2026-10-26T00:00:00.000Z'],
    ['begins at the jump where its beginning is skipped', '02:30', '04:00', '2026-03-29T00:59:00Z', false, '2026-03-29T01:00:00.000Z'],
    ['does not open where all of it is skipped', '02:00', '03:00', '2026-03-28T12:00:00Z', false, '2026-03-30T00:00:00.000Z'],
  ])('%s', (_what, from, to, when, open, until) => expect(opening([window({ from, to })], 'Europe/Paris', when)).toEqual([open, until]));
  it('a half-hour change: Lord Howe', () => expect(opening([window({ from: '01:00', to: '03:00' })], 'Australia/Lord_Howe', '2026-10-03T14:30:00Z')).toEqual([true, '2026-10-03T16:00:00.000Z']));
  it('says what cannot be', () => {
    for (const bad of [{ from: '24:00', to: '01:00' }, { from: '9:00', to: '10:00' }, { from: '01:00', to: '02:00', days: [] }, { from: '01:00', to: '02:00', days: ['monday'] }]) expect(maintenanceWindow.safeParse(bad).success).toBe(false);
  });
});

describe('zones', () => {
  it('label, else report, else UTC; one that is none is said', () => {
    expect(zoneOf({ timezone: 'Europe/Paris' }, 'Asia/Tokyo')).toEqual({ zone: 'Europe/Paris', invalid: null });
    expect(zoneOf({}, 'Asia/Tokyo')).toEqual({ zone: 'Asia/Tokyo', invalid: null });
    expect(zoneOf({}, null)).toEqual({ zone: 'UTC', invalid: null });
    expect(zoneOf({ timezone: 'Europe/Pariss' }, 'Asia/Tokyo')).toEqual({ zone: 'UTC', invalid: 'Europe/Pariss' });
    expect(isZone('')).toBe(false);
  });
});

it('open time is counted across closed time', () => {
  const nightly = [window({ from: '22:00', to: '23:00' })];
  expect(afterOpenTime(nightly, 'UTC', at('2026-06-01T12:00:00Z'), 0)).toEqual(at('2026-06-01T22:00:00Z'));
  expect(afterOpenTime(nightly, 'UTC', at('2026-06-01T22:30:00Z'), 90 * 60_000)).toEqual(at('2026-06-03T22:00:00Z'));
  expect(afterOpenTime([], 'UTC', at('2026-06-01T12:00:00Z'), 60_000)).toEqual(at('2026-06-01T12:01:00Z'));
});

// -- properties over zones and changes of clocks ---------------------------------------------------------------------------

const zone = fc.constantFrom('UTC', 'Europe/Paris', 'America/New_York', 'America/Santiago', 'Australia/Lord_Howe', 'Asia/Kathmandu', 'Africa/Casablanca', 'Pacific/Apia', 'Asia/Kolkata', 'America/St_Johns', 'Pacific/Kiritimati', 'Antarctica/Troll');
const clock = fc.tuple(fc.integer({ min: 0, max: 23 }), fc.integer({ min: 0, max: 59 })).map(([h, m]) => `${String(h).padStart(2, '0')}:${String(m).padStart(2, '0')}`);
const someWindow = fc.record({ days: fc.uniqueArray(fc.constantFrom(...weekdays), { minLength: 1, maxLength: 7 }), from: clock, to: clock });
const moment = fc.integer({ min: Date.parse('2025-01-01T00:00:00Z') / 1_000, max: Date.parse('2028-01-01T00:00:00Z') / 1_000 }).map((s) => new Date(s * 1_000));

/** Written by other means: minutes of the local week, read off Intl alone. */
function wallMinute(name: string, when: number): { day: number; minute: number; offset: string } {
  const parts = Object.fromEntries(new Intl.DateTimeFormat('en-GB', { timeZone: name, weekday: 'short', hour: '2-digit', minute: '2-digit', hourCycle: 'h23', timeZoneName: 'longOffset' }).formatToParts(when).map(({ type, value }) => [type, value]));
  return { day: weekdays.indexOf(parts.weekday!.toLowerCase() as never), minute: Number(parts.hour) * 60 + Number(parts.minute), offset: parts.timeZoneName! };
}
const minutes = (text: string): number => Number(text.slice(0, 2)) * 60 + Number(text.slice(3));
function shows({ days, from, to }: MaintenanceWindow, { day, minute }: { day: number; minute: number }): boolean {
  const begins = (d: number): boolean => days.includes(weekdays[(d + 7) % 7]!);
  if (minutes(to) > minutes(from)) return begins(day) && minute >= minutes(from) && minute < minutes(to);
  return (begins(day) && minute >= minutes(from)) || (begins(day - 1) && minute < minutes(to));
}

describe('over zones and years', () => {
  it('where clocks do not change nearby, it is open exactly when the local clock says so', () => {
    fc.assert(fc.property(fc.array(someWindow, { minLength: 1, maxLength: 3 }), zone, moment, (windows, name, now) => {
      const here = wallMinute(name, now.getTime());
      fc.pre([-2, -1, 1, 2].every((days) => wallMinute(name, now.getTime() + days * 86_400_000).offset === here.offset));
      expect(windowOpenAt(windows, name, now).open).toBe(windows.some((one) => shows(one, here)));
    }), { numRuns: 400 });
  });
  it('until is when it changes: the other way there, the same way just before', () => {
    fc.assert(fc.property(fc.array(someWindow, { minLength: 1, maxLength: 3 }), zone, moment, (windows, name, now) => {
      const { open, until } = windowOpenAt(windows, name, now);
      if (until === null) {
        expect(open).toBe(true);
        return;
      }
      expect(until.getTime()).toBeGreaterThan(now.getTime());
      // Fresh arrays: nothing may come from what was found before.
      expect(windowOpenAt([...windows], name, until).open).toBe(!open);
      expect(windowOpenAt([...windows], name, new Date(until.getTime() - 1)).open).toBe(open);
      expect(windowOpenAt([...windows], name, new Date((now.getTime() + until.getTime()) / 2)).open).toBe(open);
    }), { numRuns: 150 });
  });
  it('what was found before never changes an answer', () => {
    fc.assert(fc.property(fc.array(someWindow, { minLength: 1, maxLength: 2 }), zone, fc.array(moment, { minLength: 2, maxLength: 6 }), (windows, name, moments) => {
      for (const now of moments) expect(windowOpenAt(windows, name, now)).toEqual(windowOpenAt([...windows], name, now));
    }), { numRuns: 50 });
  });
  it('a wall clock reading is the first moment at which clocks show it, or the jump over it', () => {
    fc.assert(fc.property(zone, moment, (name, now) => {
      const wall = Math.floor(now.getTime() / 60_000) * 60_000;
      const found = instantOf(name, wall);
      const minuteOf = wallMinute(name, found).minute;
      const wanted = new Date(wall).getUTCHours() * 60 + new Date(wall).getUTCMinutes();
      if (minuteOf === wanted) expect(wallMinute(name, found - 3_600_000).minute === wanted && wallMinute(name, found - 3_600_000).day === wallMinute(name, found).day).toBe(false);
      else expect(wallMinute(name, found - 1_000).offset).not.toBe(wallMinute(name, found).offset);
    }), { numRuns: 400 });
  });
});
