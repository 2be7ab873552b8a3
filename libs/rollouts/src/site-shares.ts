/**
 * The link of a site is one, however many rollouts bring something there. Pure: what others do at each site and what is allowed there in, what is left for one rollout out.
 *
 * At a site all that is told counts together, against the tightest of what the site itself allows, what the rollout states, and what any other rollout states that is at work there (has somebody on the way, told somebody
 * lately, or waits for room). Whoever finds no room claims the site; of those that claim it, the one that told somebody there longest ago goes first, so nobody starves; a claim is as old as its rollout's last look, so
 * that none of a rollout that has paused or cannot be advanced blocks others.
 */

export interface SiteLimit { maxInProgress: number | null; bytesPerSecond: number | null }
export const noSiteLimit: SiteLimit = { maxInProgress: null, bytesPerSecond: null };
/** What a site is allowed that has no setting of its own. Devices without the label are at no one place, and it is not for them. */
export const anySite = '*';

export interface OtherRollout {
  id: string;
  name: string;
  stated: SiteLimit;
  /** Sites that it found no room at, at its last look. */
  claims: ReadonlySet<string>;
  /** Told and without an answer, by site. */
  open: ReadonlyMap<string, number>;
  /** Told lately. */
  told: readonly { at: Date; site: string; bytes: number }[];
  /** Of the sites that it claims: when it last told somebody there. */
  lastTold: ReadonlyMap<string, Date>;
}

export interface SiteShare extends SiteLimit {
  /** Of other rollouts. */
  open: number;
  told: readonly { at: Date; bytes: number }[];
  /** Others are at work there. */
  contested: boolean;
  /** Name of the one that goes first. */
  yieldsTo: string | null;
}

export function sharesOf(sites: Iterable<string>, self: { id: string; lastTold: ReadonlyMap<string, Date> }, others: readonly OtherRollout[], limits: ReadonlyMap<string, SiteLimit>): Map<string, SiteShare> {
  const toldAt = new Map(others.map((one) => [one, Map.groupBy(one.told, ({ site }) => site)]));
  return new Map([...sites].map((site) => {
    const own = limitFor(site, limits);
    const there = others.filter((one) => one.claims.has(site) || (one.open.get(site) ?? 0) > 0 || toldAt.get(one)!.has(site));
    const order = (one: { id: string; lastTold: ReadonlyMap<string, Date> }): [number, string] => [one.lastTold.get(site)?.getTime() ?? -Infinity, one.id];
    const first = there.filter(({ claims }) => claims.has(site)).filter((one) => before(order(one), order(self))).sort((a, b) => (before(order(a), order(b)) ? -1 : 1))[0];
    return [site, {
      maxInProgress: tightest(own.maxInProgress, ...there.map(({ stated }) => stated.maxInProgress)), bytesPerSecond: tightest(own.bytesPerSecond, ...there.map(({ stated }) => stated.bytesPerSecond)),
      open: there.reduce((sum, { open }) => sum + (open.get(site) ?? 0), 0), told: there.flatMap((one) => toldAt.get(one)!.get(site) ?? []), contested: there.length > 0, yieldsTo: first?.name ?? null,
    }];
  }));
}

/** What the site itself is allowed. */
export function limitFor(site: string, limits: ReadonlyMap<string, SiteLimit>): SiteLimit {
  return limits.get(site) ?? (site === '' ? undefined : limits.get(anySite)) ?? noSiteLimit;
}

export function tightest(...limits: (number | null)[]): number | null {
  const stated = limits.filter((limit) => limit !== null);
  return stated.length === 0 ? null : Math.min(...stated);
}

const before = ([at, id]: [number, string], [otherAt, otherId]: [number, string]): boolean => at < otherAt || (at === otherAt && id < otherId);
