import type { Command } from 'commander';
import { ReefError } from '@reefkeeper/platform/errors';
import { numberWithin, timeOf } from '../options.ts';

/** Who gets a version and when, as options of the command line. All throw ReefError `option.invalid`. */
export interface PaceOptions { startAt?: string; stopAt?: string; window?: string[]; rate?: string; ramp?: string; maxInProgress?: string; maxPerSite?: string; siteBandwidth?: string; dynamic?: boolean }

export function paceOptions(command: Command): Command {
  return budgetOptions(command
    .option('--start-at <time>', 'when it begins: 2026-12-01T22:00:00+01:00, or 90m, 2h, 3d from now').option('--stop-at <time>', 'after it nobody new is told; the rollout pauses')
    .option('--dynamic', 'devices that come to match later take the version, too'));
}

export function budgetOptions(command: Command): Command {
  return command
    .option('--window <when...>', 'tell devices only then, in their own time zone: "22:00-05:00", "mon-fri 22:00-05:00", "sat,sun 08:00-18:00"')
    .option('--rate <n>', 'devices told a minute').option('--ramp <base,factor,after,most>', 'devices told a minute, more with success: 10,2,100,1000 doubles from 10 after every 100 that succeeded, up to 1000')
    .option('--max-in-progress <n>', 'devices at once that were told and have not answered').option('--max-per-site <n>', 'the same for each value of the label site')
    .option('--site-bandwidth <bytes>', 'bytes a second that a site\'s link has for bundles, such as 500k or 2M');
}

export function paceOf(options: PaceOptions): Record<string, unknown> {
  if (options.rate !== undefined && options.ramp !== undefined) throw new ReefError('option.invalid', 'invalid', 'Either --rate or --ramp: one is fixed, the other rises.');
  const whole = (flag: string, text: string | undefined) => (text === undefined ? undefined : numberWithin(flag, text, [1, 1_000_000], { whole: true }));
  return {
    startAt: options.startAt && timeOf('--start-at', options.startAt).toISOString(), stopAt: options.stopAt && timeOf('--stop-at', options.stopAt).toISOString(),
    windows: options.window?.map(windowOf), rate: options.rate === undefined ? options.ramp && rampOf(options.ramp) : { perMinute: whole('--rate', options.rate) },
    maxInProgress: whole('--max-in-progress', options.maxInProgress), maxInProgressPerSite: whole('--max-per-site', options.maxPerSite), siteBytesPerSecond: options.siteBandwidth && bandwidthOf('--site-bandwidth', options.siteBandwidth), dynamic: options.dynamic,
  };
}

const strata = ['hostClass', 'runtime', 'site'];
const sizeForms = 'a percentage (20%, cumulative) or a count of devices (2)';
const waveForms = `${sizeForms}, either of each kind ("1 per hostClass", "10% per site"), a wave per kind ("by site"; kinds are ${strata.join(', ')}), or a label selector (canary=true, "site in (a,b)")`;

/** `20%`, `2`, `1 per hostClass`, `by site`, or a selector. A selector may begin with a digit, but what has no operator then was meant as a size. */
export function waveOf(text: string): Record<string, unknown> {
  const refuse = (why: string): ReefError => new ReefError('option.invalid', 'invalid', `--wave "${text}": ${why} A wave is ${waveForms}.`);
  const kind = (word: string): string => {
    if (!strata.includes(word)) throw refuse(`"${word}" is no kind of device.`);
    return word;
  };
  if (selectorLike.test(text)) return { selector: text };
  const by = /^by(?:\s+(.*))?$/i.exec(text.trim());
  if (by) return { by: kind(by[1] ?? '') };
  const per = /^(.*?)\s+per(?:\s+(.*))?$/i.exec(text.trim());
  const size = (per ?? [text, text])[1]!.trim();
  if (!per && size !== '' && !/^[-+.\d%]/.test(size)) return { selector: text };
  return { ...sizeIn(size, refuse), ...(per ? { perStratum: kind(per[2] ?? '') } : {}) };
}

const selectorLike = /[=!,()]/;

/** `20%` or `2`: where devices cannot be chosen otherwise. */
export function sizeOf(flag: string, text: string): { percent: number } | { count: number } {
  return sizeIn(text.trim(), (why) => new ReefError('option.invalid', 'invalid', `${flag} "${text}": ${why} It takes ${sizeForms}.`));
}

function sizeIn(text: string, refuse: (why: string) => ReefError): { percent: number } | { count: number } {
  const found = /^(\d+(?:\.\d+)?|\.\d+)\s*(%?)$/.exec(text);
  if (!found) throw refuse(`"${text}" is neither a number nor a percentage.`);
  const value = Number(found[1]);
  if (found[2] && !(value > 0 && value <= 100)) throw refuse('a percentage is above 0 and at most 100.');
  if (!found[2] && !(Number.isInteger(value) && value > 0)) throw refuse(`a count of devices is a whole number above 0${value > 0 && !Number.isInteger(value) ? `; a share is ${found[1]}%` : ''}.`);
  return found[2] ? { percent: value } : { count: value };
}

const week = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'];

/** `22:00-05:00`, `mon-fri 22:00-05:00`, `sat,sun 08:00-18:00`. A stretch of days may go over Sunday. */
export function windowOf(text: string): { days?: string[]; from: string; to: string } {
  const found = /^\s*(?:([a-z,-]+)\s+)?(\d{1,2}:\d{2})\s*-\s*(\d{1,2}:\d{2})\s*$/i.exec(text);
  const days = found?.[1]?.toLowerCase().split(',').flatMap((part) => {
    const [first, last = first] = part.split('-').map((day) => week.indexOf(day.slice(0, 3)));
    if (first === undefined || first < 0 || last! < 0) return [''];
    return Array.from({ length: ((last! - first + 7) % 7) + 1 }, (_, i) => week[(first + i) % 7]!);
  });
  if (!found || days?.includes('')) throw new ReefError('option.invalid', 'invalid', `--window takes days and a time, such as "mon-fri 22:00-05:00" or "22:00-05:00", not "${text}".`);
  return { ...(days ? { days: [...new Set(days)] } : {}), from: found[2]!.padStart(5, '0'), to: found[3]!.padStart(5, '0') };
}

export function rampOf(text: string): { base: number; factor: number; afterSucceeded: number; maxPerMinute: number } {
  const parts = text.split(',').map(Number);
  const [base, factor, afterSucceeded, maxPerMinute] = parts;
  if (parts.length !== 4 || parts.some((one) => !(one > 0))) throw new ReefError('option.invalid', 'invalid', `--ramp takes four numbers, base,factor,after,most, such as 10,2,100,1000; not "${text}".`);
  return { base: base!, factor: factor!, afterSucceeded: afterSucceeded!, maxPerMinute: maxPerMinute! };
}

export function bandwidthOf(flag: string, text: string): number {
  const found = /^([\d.]+)\s*([kMG]?)B?$/.exec(text.trim());
  const bytes = Math.floor(Number(found?.[1]) * { '': 1, k: 1e3, M: 1e6, G: 1e9 }[(found?.[2] ?? '') as 'k']!);
  if (!(bytes >= 1)) throw new ReefError('option.invalid', 'invalid', `${flag} takes bytes a second, such as 500k or 2M, not "${text}".`);
  return bytes;
}

export interface PaceView {
  windows: { days: string[]; from: string; to: string }[]; maxInProgress: number | null; maxInProgressPerSite: number | null; siteBytesPerSecond: number | null;
  rate: { perMinute: number } | { base: number; factor: number; afterSucceeded: number; maxPerMinute: number } | null;
}

export type LateView = { counts: Record<string, number>; stopped: { message: string } | null } | null;

/** Devices that came after the success of a dynamic rollout; null where it is not dynamic. */
export function lateText(late: LateView | undefined): string | null {
  if (!late) return null;
  const { SUCCEEDED = 0, FAILED = 0, REJECTED = 0, TIMED_OUT = 0, PENDING = 0, QUEUED = 0, IN_PROGRESS = 0 } = late.counts;
  return `${SUCCEEDED} updated, ${FAILED + REJECTED + TIMED_OUT} failed, ${PENDING + QUEUED + IN_PROGRESS} open${late.stopped ? `. ${late.stopped.message}` : ''}`;
}

/** In words; null where a wave is told at once. */
export function paceText(pace: PaceView | undefined): string | null {
  if (!pace) return null;
  const { windows, rate, maxInProgress, maxInProgressPerSite, siteBytesPerSecond } = pace;
  const parts = [
    ...windows.map(({ days, from, to }) => `${days.length === 7 ? 'daily' : days.join(',')} ${from}-${to} local time`),
    ...(rate ? ['perMinute' in rate ? `${rate.perMinute} a minute` : `from ${rate.base} a minute, x ${rate.factor} after every ${rate.afterSucceeded} that succeeded, ${rate.maxPerMinute} at most`] : []),
    ...(maxInProgress === null ? [] : [`${maxInProgress} at once`]), ...(maxInProgressPerSite === null ? [] : [`${maxInProgressPerSite} at once per site`]),
    ...(siteBytesPerSecond === null ? [] : [`${siteBytesPerSecond} bytes a second per site`]),
  ];
  return parts.length === 0 ? null : parts.join('; ');
}
