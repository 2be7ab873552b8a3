import { z } from 'zod';

/** When devices may be touched: recurring stretches of their own local time. Pure; zones and their rules are those of the runtime (ICU). */

export const weekdays = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const;
export type Weekday = (typeof weekdays)[number];
const time = z.string().regex(/^([01]\d|2[0-3]):[0-5]\d$/, 'a time of day is 00:00 to 23:59');

/** Begins on each of `days` at `from`; where `to` is not later it ends on the next day (the same time: 24 hours). */
export const maintenanceWindow = z.object({
  days: z.array(z.enum(weekdays)).min(1).max(7).default([...weekdays]), from: time, to: time,
}).meta({ id: 'MaintenanceWindow' });
export type MaintenanceWindow = z.output<typeof maintenanceWindow>;

/** `until`: when that changes; null = never. */
export interface Opening { open: boolean; until: Date | null }

const dayMs = 86_400_000;
/** How far ahead is looked, as far as it takes: a weekly window that falls into the hour that clocks skip comes again a week later. */
const horizonsDays = [2, 9, 17];

const formats = new Map<string, Intl.DateTimeFormat>();

function formatOf(zone: string): Intl.DateTimeFormat {
  const known = formats.get(zone);
  if (known) return known;
  const made = new Intl.DateTimeFormat('en-US', { timeZone: zone, calendar: 'gregory', numberingSystem: 'latn', hourCycle: 'h23', year: 'numeric', month: 'numeric', day: 'numeric', hour: 'numeric', minute: 'numeric', second: 'numeric' });
  formats.set(zone, made);
  return made;
}

export function isZone(name: string): boolean {
  try {
    formatOf(name);
    return true;
  } catch {
    return false;
  }
}

/** The zone a device lives in: its label `timezone`, else what its agent reports, else UTC. One that is none is said and counts as UTC. */
export function zoneOf(labels: Readonly<Record<string, string>>, reported: string | null | undefined): { zone: string; invalid: string | null } {
  const named = labels.timezone || reported;
  if (!named) return { zone: 'UTC', invalid: null };
  return isZone(named) ? { zone: named, invalid: null } : { zone: 'UTC', invalid: named };
}

/** Local wall clock as if it were UTC. */
function wallAt(zone: string, at: number): number {
  const parts: Record<string, number> = {};
  for (const { type, value } of formatOf(zone).formatToParts(at)) parts[type] = Number(value);
  return Date.UTC(parts.year!, parts.month! - 1, parts.day!, parts.hour, parts.minute, parts.second);
}

function offsetAt(zone: string, at: number): number {
  const second = Math.floor(at / 1_000) * 1_000;
  return wallAt(zone, second) - second;
}

/** When the zone's clocks first show `wall`; where they skip it, when they jump over it. */
export function instantOf(zone: string, wall: number): number {
  const before = offsetAt(zone, wall - dayMs);
  const after = offsetAt(zone, wall + dayMs);
  if (before === after) return wall - before;
  const shown = [before, after].filter((offset) => offsetAt(zone, wall - offset) === offset).map((offset) => wall - offset);
  if (shown.length > 0) return Math.min(...shown);
  // Clocks went forward over it: the jump lies between the two readings.
  let low = wall - Math.max(before, after);
  let high = wall - Math.min(before, after);
  const old = offsetAt(zone, low);
  while (high - low > 1_000) {
    const middle = Math.floor((low + high) / 2_000) * 1_000;
    if (offsetAt(zone, middle) === old) low = middle;
    else high = middle;
  }
  return high;
}

/** Stretches of `windows` from `day` (midnight of a local date as if UTC) on for `days` days, in order and merged. */
function stretches(windows: readonly MaintenanceWindow[], zone: string, day: number, days: number): [from: number, to: number][] {
  const minutes = (text: string): number => (Number(text.slice(0, 2)) * 60 + Number(text.slice(3))) * 60_000;
  const all: [number, number][] = [];
  for (let at = day; at < day + days * dayMs; at += dayMs) {
    const weekday = weekdays[(new Date(at).getUTCDay() + 6) % 7]!;
    for (const { days: on, from, to } of windows) {
      if (!on.includes(weekday)) continue;
      const ends = at + minutes(to) + (minutes(to) <= minutes(from) ? dayMs : 0);
      const stretch: [number, number] = [instantOf(zone, at + minutes(from)), instantOf(zone, ends)];
      if (stretch[1] > stretch[0]) all.push(stretch);
    }
  }
  all.sort(([a], [b]) => a - b);
  const merged: [number, number][] = [];
  for (const [from, to] of all) {
    const last = merged.at(-1);
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else merged.push([from, to]);
  }
  return merged;
}

/** What was found last stays true until it changes; a rollout asks for the same few zones every second. */
const known = new WeakMap<readonly MaintenanceWindow[], Map<string, { from: number; opening: Opening }>>();

/**
 * Whether devices in `zone` may be touched at `now`, and until when that holds. Without windows always. A window lasts from when local clocks first show `from` to when
 * they first show `to`, so it is an hour longer or shorter where clocks change in it, and does not open where they skip all of it.
 */
export function windowOpenAt(windows: readonly MaintenanceWindow[], zone: string, now: Date): Opening {
  if (windows.length === 0) return { open: true, until: null };
  const at = now.getTime();
  const zones = known.get(windows) ?? new Map<string, { from: number; opening: Opening }>();
  known.set(windows, zones);
  const kept = zones.get(zone);
  if (kept && kept.from <= at && (kept.opening.until === null || at < kept.opening.until.getTime())) return kept.opening;
  const today = Math.floor(wallAt(zone, at) / dayMs) * dayMs;
  let opening: Opening = { open: false, until: null };
  for (const days of horizonsDays) {
    // The day before yesterday's may still be open where clocks went back.
    const all = stretches(windows, zone, today - 2 * dayMs, days + 2);
    const current = all.find(([from, to]) => from <= at && at < to);
    // One that reaches the edge of what was looked at may go on.
    const ends = current && current[1] < today + (days - 1) * dayMs ? current[1] : undefined;
    const change = current ? ends : all.find(([from]) => from > at)?.[0];
    opening = { open: current !== undefined, until: change === undefined ? null : new Date(change) };
    if (opening.until) break;
  }
  zones.set(zone, { from: at, opening });
  return opening;
}

/** When `ms` of open time have passed since `from`, at the earliest moment that is open; null = not within two years. */
export function afterOpenTime(windows: readonly MaintenanceWindow[], zone: string, from: Date, ms: number): Date | null {
  let at = from;
  let left = ms;
  while (at.getTime() - from.getTime() < 730 * dayMs) {
    const { open, until } = windowOpenAt(windows, zone, at);
    if (open && (until === null || at.getTime() + left < until.getTime())) return new Date(at.getTime() + left);
    if (until === null) return null;
    if (open) left -= until.getTime() - at.getTime();
    at = until;
  }
  return null;
}
