import { perMinuteOf, type Freeze, type Pace } from './pacing.ts';
import { noSiteLimit, tightest, type SiteLimit } from './site-shares.ts';
import { afterOpenTime } from './windows.ts';

/** Devices of a wave that pacing cannot tell apart. */
export interface TimedGroup { site: string; zone: string; freeze: Freeze | null; devices: number; /** Of one bundle. */ bytes: number }

export interface Timing {
  /** The latest moments, where nothing pauses: everybody told, everybody answered and the wave judged; null = not within two years. */
  waves: { wave: number; toldBy: Date | null; endsBy: Date | null }[];
  endsBy: Date | null;
  statement: string;
}

/**
 * How long a rollout can take when it has its sites for itself, every device uses all of its time and every wave all of its deadline. An upper bound: what limits the telling is added up, and of a rising rate the
 * first one counts.
 */
export function timingOf(waves: readonly (readonly TimedGroup[])[], pace: Pace, { installTimeoutS, deadlineS }: { installTimeoutS: number; deadlineS: number }, start: Date, limitOf: (site: string) => SiteLimit = () => noSiteLimit): Timing {
  let begin: Date | null = start;
  const timed = waves.map((groups, wave) => {
    const toldBy = begin && tellingEnds(groups, pace, installTimeoutS, begin, limitOf);
    const endsBy = toldBy && new Date(toldBy.getTime() + (installTimeoutS + deadlineS) * 1_000);
    begin = endsBy;
    return { wave, toldBy, endsBy };
  });
  const endsBy = timed.at(-1)?.endsBy ?? null;
  return { waves: timed, endsBy, statement: endsBy ? `Begun at ${start.toISOString()}, it can take until ${endsBy.toISOString()}, and longer where it pauses for a person.` : 'It cannot be done within two years: the maintenance windows are too short for its pace.' };
}

/** A tenth of a minute's worth is told at once. */
const turnsOf = (devices: number, perMinute: number): number => (devices <= Math.ceil(perMinute / 10) ? 0 : Math.ceil(devices / perMinute) * 60);

function tellingEnds(groups: readonly TimedGroup[], pace: Pace, installTimeoutS: number, begin: Date, limitOf: (site: string) => SiteLimit): Date | null {
  const devices = groups.reduce((sum, one) => sum + one.devices, 0);
  const sites = [...Map.groupBy(groups, ({ site }) => site).values()];
  const inTurns = (n: number, most: number | null): number => (most === null ? 0 : (Math.ceil(n / most) - 1) * installTimeoutS);
  const rateS = pace.rate ? turnsOf(devices, perMinuteOf(pace.rate, 0)) : 0;
  const siteS = sites.map((site) => {
    const own = site.reduce((sum, one) => sum + one.devices, 0);
    const bytes = site.reduce((sum, one) => sum + one.devices * one.bytes, 0);
    // Up to a second's worth is told at once, so a second is lost at each of the moments at most.
    const limit = limitOf(site[0]!.site);
    const bytesPerSecond = tightest(pace.siteBytesPerSecond, limit.bytesPerSecond);
    return inTurns(own, tightest(pace.maxInProgressPerSite, limit.maxInProgress)) + (bytesPerSecond === null ? 0 : (2 * bytes) / bytesPerSecond);
  });
  const neededMs = 1_000 * (rateS + inTurns(devices, pace.maxInProgress) + Math.max(0, ...siteS));
  let latest: Date | null = begin;
  for (const { zone, freeze } of groups) {
    const from: Date = freeze && freeze.until > begin ? freeze.until : begin;
    const ends = afterOpenTime(pace.windows, zone, from, neededMs);
    if (!ends) return null;
    if (ends > latest!) latest = ends;
  }
  return latest;
}
