import { z } from 'zod';
import { tightest, type SiteShare } from './site-shares.ts';
import { windowOpenAt, type MaintenanceWindow } from './windows.ts';

/**
 * How many devices of a wave are told now, and which. Pure: settings + facts + now in, devices out. What was told and when are rows; nothing is counted between two looks.
 */

/** Fixed, or rising with success as in AWS IoT Jobs: `base * factor^floor(succeeded / afterSucceeded)`, at most `maxPerMinute`. */
export const rate = z.union([
  z.strictObject({ perMinute: z.number().int().min(1).max(1_000_000) }),
  z.strictObject({ base: z.number().int().min(1).max(1_000_000), factor: z.number().min(1.1).max(10).default(2), afterSucceeded: z.number().int().min(1).max(1_000_000), maxPerMinute: z.number().int().min(1).max(1_000_000) }),
]).meta({ id: 'RolloutRate' });
export type Rate = z.output<typeof rate>;

export interface Pace {
  windows: MaintenanceWindow[];
  rate: Rate | null;
  maxInProgress: number | null;
  maxInProgressPerSite: number | null;
  /** Of the link of a site, bytes a second: devices there are told so far apart that their bundles fit through it. */
  siteBytesPerSecond: number | null;
}
export const noPace: Pace = { windows: [], rate: null, maxInProgress: null, maxInProgressPerSite: null, siteBytesPerSecond: null };

/** Devices of the wave that are yet to be told and that pacing cannot tell apart. */
export interface Queue {
  /** Label `site`; those without are one site. */
  site: string;
  zone: string;
  /** Of the bundle that each would fetch. */
  bytes: number;
  freeze: Freeze | null;
  devices: readonly string[];
}
export interface Freeze { until: Date; reason: string }

export interface PaceFacts {
  queues: readonly Queue[];
  /** Told and without an answer yet, in the whole rollout, by site. */
  open: ReadonlyMap<string, number>;
  /** What the rollout told lately, as far back as `lookbackS` says. */
  told: readonly { at: Date; site: string; devices: number; bytes: number }[];
  /** Devices of the whole rollout that run it. */
  succeeded: number;
  /** Where something is limited per site: what other rollouts and the site itself leave. */
  sites?: ReadonlyMap<string, SiteShare>;
  /** Another rollout is telling devices at this very moment, so what is known of sites may be old when it is acted on. */
  busy?: boolean;
}
export const noPaceFacts: PaceFacts = { queues: [], open: new Map(), told: [], succeeded: 0 };

/** The longest wait first. */
const holds = ['waits_for_freeze', 'waits_for_window', 'paced'] as const;
export type HoldCode = (typeof holds)[number];
export const holdCodes: ReadonlySet<string> = new Set(holds);
/** Why devices are not told yet. `until`: when that may change by itself; null = when others answer. */
/** `claims`: sites that others are at work at, too, and where there was no room. */
export interface Hold { code: HoldCode; devices: number; until: Date | null; why: string; claims?: string[] }
export interface Paced { devices: string[]; holds: Hold[] }

const minuteMs = 60_000;
/** A minute's worth is not told at once but in tenths. */
const sliceMs = 6_000;
const linkMs = 1_000;
/** Who claims a site looks so often whether it is its turn. */
const turnMs = 1_000;
const busyMs = 200;

export function perMinuteOf(one: Rate, succeeded: number): number {
  if ('perMinute' in one) return one.perMinute;
  return Math.max(1, Math.floor(Math.min(one.maxPerMinute, one.base * one.factor ** Math.floor(succeeded / one.afterSucceeded))));
}

/** How far back `told` has to go, seconds. */
export function lookbackS({ rate: limit, siteBytesPerSecond }: Pace, mostBytes: number): number {
  return Math.max(limit ? minuteMs / 1_000 : 0, siteBytesPerSecond ? Math.max(mostBytes / siteBytesPerSecond, linkMs / 1_000) + 1 : 0);
}

/**
 * Invariants, over any stretch of time: no device whose window is closed or which is frozen; at most the rate per minute, and a tenth of it (rounded up) per six seconds; never more
 * open than `maxInProgress`; per site and second at most its bytes, or one bundle where that is more, and over longer stretches its bytes a second. What is per site counts what other
 * rollouts have there (`sites`) with this one's.
 */
export function paceOf(pace: Pace, facts: PaceFacts, now: Date): Paced {
  const held = new Map<string, Hold>();
  const hold = (code: HoldCode, devices: number, until: Date | null, why: string): void => {
    const same = held.get(code);
    if (!same) held.set(code, { code, devices, until, why });
    else Object.assign(same, { devices: same.devices + devices, ...(until && (!same.until || until < same.until) ? { until, why } : {}) });
  };
  const windows = new Map<string, ReturnType<typeof windowOpenAt>>();
  const ready = facts.queues.filter(({ freeze, zone, devices }) => {
    if (freeze && freeze.until > now) {
      hold('waits_for_freeze', devices.length, freeze.until, freeze.reason);
      return false;
    }
    let window = windows.get(zone);
    if (!window) windows.set(zone, window = windowOpenAt(pace.windows, zone, now));
    const { open, until } = window;
    if (!open) hold('waits_for_window', devices.length, until, zone);
    return open;
  }).sort((a, b) => b.devices.length - a.devices.length || (a.site < b.site ? -1 : 1));

  const perMinute = pace.rate ? perMinuteOf(pace.rate, facts.succeeded) : null;
  const slice = perMinute === null ? null : roomIn(facts.told, sliceMs, Math.ceil(perMinute / 10), now);
  const minute = perMinute === null ? null : roomIn(facts.told, minuteMs, perMinute, now);
  const openNow = [...facts.open.values()].reduce((sum, n) => sum + n, 0);
  let left = facts.busy ? 0 : Math.min(slice?.room ?? Infinity, minute?.room ?? Infinity, pace.maxInProgress === null ? Infinity : Math.max(0, pace.maxInProgress - openNow));
  let toldBySite: Map<string, PaceFacts['told'][number][]> | undefined;
  const rooms = new Map<string, ReturnType<typeof siteRoom>>();
  // Only those that are asked for: at most looks the rate has been used up, and there are many sites.
  const roomAt = (site: string): ReturnType<typeof siteRoom> => {
    toldBySite ??= Map.groupBy(facts.told, (one) => one.site);
    const room = rooms.get(site) ?? siteRoom(pace, facts.open.get(site) ?? 0, toldBySite.get(site) ?? [], facts.sites?.get(site), now);
    rooms.set(site, room);
    return room;
  };
  const devices: string[] = [];
  // One of each queue in turn, so that no site waits for another.
  const taken = ready.map(() => 0);
  const full = new Set<Queue>();
  for (let rank = 0; left > 0 && rank < (ready[0]?.devices.length ?? 0); rank++) {
    for (const [at, queue] of ready.entries()) {
      if (left <= 0 || queue.devices.length <= rank) break;
      if (full.has(queue)) continue;
      if (!roomAt(queue.site).take(queue.bytes)) { full.add(queue); continue; }
      devices.push(queue.devices[taken[at]!++]!);
      left--;
    }
    if (full.size === ready.length) break;
  }
  const waiting = ready.reduce((sum, queue, at) => sum + queue.devices.length - taken[at]!, 0);
  if (waiting > 0) {
    const rateUntil = [slice, minute].reduce<Date | null>((latest, one) => (one && one.room === 0 && (!latest || one.until! > latest) ? one.until : latest), null);
    const sitesUntil = rateUntil || devices.length > 0 ? null : ready.flatMap((queue, at) => (taken[at]! < queue.devices.length ? [roomAt(queue.site).freeAt] : [])).reduce<Date | null>((first, at) => (at && at > now && (!first || at < first) ? at : first), null);
    // After these were told, the next look says when there is room again; before, the earliest that could be.
    const claims = [...new Set(ready.flatMap((queue, at) => (full.has(queue) && taken[at]! < queue.devices.length && facts.sites?.get(queue.site)?.contested ? [queue.site] : [])))];
    const turn = facts.busy ? busyMs : claims.length > 0 ? turnMs : null;
    const soon = turn === null ? null : new Date(now.getTime() + turn);
    hold('paced', waiting, devices.length > 0 ? null : facts.busy ? soon : rateUntil ?? earlier(sitesUntil, soon), [
      ...(perMinute === null ? [] : [`${perMinute} a minute`]), ...(pace.maxInProgress === null ? [] : [`${pace.maxInProgress} at once`]),
      ...(pace.maxInProgressPerSite === null ? [] : [`${pace.maxInProgressPerSite} at once per site`]), ...(pace.siteBytesPerSecond === null ? [] : [`${pace.siteBytesPerSecond} bytes a second per site`]),
      ...(facts.busy ? ['another rollout is telling devices'] : []), ...claims.slice(0, 3).map((site) => shareText(site, facts.sites!.get(site)!)), ...(claims.length > 3 ? [`and ${claims.length - 3} more sites`] : []),
    ].join(', '));
    if (claims.length > 0) held.get('paced')!.claims = claims;
  }
  return { devices, holds: [...held.values()].sort((a, b) => holds.indexOf(a.code) - holds.indexOf(b.code)) };
}

/** How many more may be told so that the last `spanMs` hold at most `most`; `until`: when the first of them leaves. */
function roomIn(told: PaceFacts['told'], spanMs: number, most: number, now: Date): { room: number; until: Date | null } {
  const recent = told.filter(({ at }) => now.getTime() - at.getTime() < spanMs).sort((a, b) => a.at.getTime() - b.at.getTime());
  let count = recent.reduce((sum, { devices }) => sum + devices, 0);
  if (count < most) return { room: most - count, until: null };
  for (const { at, devices } of recent) {
    count -= devices;
    if (count < most) return { room: 0, until: new Date(at.getTime() + spanMs) };
  }
  return { room: 0, until: new Date(now.getTime() + spanMs) };
}

const earlier = (a: Date | null, b: Date | null): Date | null => (a && b ? (a < b ? a : b) : a ?? b);

function shareText(site: string, { maxInProgress, bytesPerSecond, open, yieldsTo }: SiteShare): string {
  const limits = [...(maxInProgress === null ? [] : [`${maxInProgress} at once`]), ...(bytesPerSecond === null ? [] : [`${bytesPerSecond} bytes a second`])].join(' and ');
  return `site ${site || '(none)'} is shared${limits ? `, ${limits} for all` : ''}${open > 0 ? `, ${open} of other rollouts on their way` : ''}${yieldsTo ? `, the turn is "${yieldsTo}"'s` : ''}`;
}

/** When the link of a site is free: bundles told at one moment go through it from then on, and the next ones are told after that. */
function linkFreeAt(told: readonly { at: Date; bytes: number }[], bytesPerSecond: number): Date | null {
  let freeAt = -Infinity;
  for (const { at, bytes } of told.toSorted((a, b) => a.at.getTime() - b.at.getTime())) freeAt = Math.max(freeAt, at.getTime()) + (bytes / bytesPerSecond) * 1_000;
  return freeAt === -Infinity ? null : new Date(Math.ceil(freeAt));
}

/** What a site has room for now. */
function siteRoom(pace: Pace, open: number, told: PaceFacts['told'], share: SiteShare | undefined, now: Date): { take(bytes: number): boolean; freeAt: Date | null } {
  const most = tightest(pace.maxInProgressPerSite, share?.maxInProgress ?? null);
  const bytesPerSecond = tightest(pace.siteBytesPerSecond, share?.bytesPerSecond ?? null);
  const freeAt = bytesPerSecond === null ? null : linkFreeAt([...told, ...share?.told ?? []], bytesPerSecond);
  let left = share?.yieldsTo && (most ?? bytesPerSecond) !== null ? 0 : most === null ? Infinity : most - open - (share?.open ?? 0);
  let sum = 0;
  return {
    freeAt,
    take(bytes) {
      if (left <= 0 || (freeAt && freeAt > now)) return false;
      if (bytesPerSecond !== null && sum > 0 && sum + bytes > bytesPerSecond * (linkMs / 1_000)) return false;
      sum += bytes;
      left--;
      return true;
    },
  };
}
