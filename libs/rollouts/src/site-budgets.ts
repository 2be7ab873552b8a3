import type { Tx } from '@reefkeeper/platform';
import type { Pace } from './pacing.ts';
import { answeringSql } from './follow.ts';
import { noSiteLimit, sharesOf, tightest, type OtherRollout, type SiteLimit, type SiteShare } from './site-shares.ts';

/** What the database knows of the sites that a rollout is about to tell devices at: what they are allowed, and what other rollouts do there. */

export interface SiteBudgets {
  /** Per site; with `anySite`, of those without a row of their own. */
  limits: ReadonlyMap<string, SiteLimit>;
  others: readonly Pick<OtherRollout, 'id' | 'name' | 'stated' | 'claims'>[];
  /** Whether anything is limited per site at all. Where nothing is, the rest is not asked for. */
  limited: boolean;
  /** The slowest link that may count, bytes a second. */
  slowest: number | null;
}

/** A claim of a rollout whose look is overdue by more is none: it cannot be advanced. */
const freshMs = 10_000;
/** What an ended rollout told may still be on its way. */
const endedMs = 600_000;

export async function siteLimitsOf(on: Pick<Tx, 'query'>): Promise<Map<string, SiteLimit>> {
  const rows = await on.query<({ site: string } & SiteLimit)[]>('SELECT site, max_in_progress AS "maxInProgress", bytes_per_second::float8 AS "bytesPerSecond" FROM site_limits');
  return new Map(rows.map(({ site, maxInProgress, bytesPerSecond }) => [site, { maxInProgress, bytesPerSecond }]));
}

export async function siteBudgets(tx: Tx, rollout: string, pace: Pace, now: Date): Promise<SiteBudgets> {
  const limits = await siteLimitsOf(tx);
  const rows = await tx.query<{ id: string; name: string; pace: Pace | null; claims: string[] | null }[]>(`
    SELECT id, name, settings -> 'pace' AS pace, CASE WHEN state IN ('RUNNING', 'SUCCEEDED') AND wait_until > $2 THEN jsonb_path_query_array(waiting, '$.numbers.holds[*].claims[*]') END AS claims
    FROM rollouts WHERE id <> $1 AND ((wait_until IS NOT NULL AND state IN ('RUNNING', 'PAUSED', 'SUCCEEDED')) OR ended_at > $3)`, [rollout, new Date(now.getTime() - freshMs), new Date(now.getTime() - endedMs)]);
  const others = rows.map(({ id, name, pace: other, claims }) => ({ id, name, stated: statedBy(other), claims: new Set(claims) }));
  const all = [statedBy(pace), ...limits.values(), ...others.map(({ stated }) => stated)];
  return {
    limits, others, limited: all.some(({ maxInProgress, bytesPerSecond }) => (maxInProgress ?? bytesPerSecond) !== null),
    slowest: tightest(...all.map(({ bytesPerSecond }) => bytesPerSecond)),
  };
}

/** Replicas decide at once: between two that tell devices at limited sites, one sees what the other has told. Held until the pass is committed; false where somebody else has it. */
export async function trySites(tx: Tx): Promise<boolean> {
  const [{ locked }] = await tx.query<[{ locked: boolean }]>("SELECT pg_try_advisory_xact_lock(hashtext('reef.sites'), 0) AS locked");
  return locked;
}

/** @param backS how far back what was told counts */
export async function observeShares(tx: Tx, rollout: string, { limits, others }: SiteBudgets, sites: ReadonlySet<string>, backS: number, now: Date): Promise<Map<string, SiteShare>> {
  const there = [...sites];
  const ids = others.map(({ id }) => id);
  if (ids.length === 0) return sharesOf(there, { id: rollout, lastTold: new Map() }, [], limits);
  const site = "coalesce(d.labels ->> 'site', '')";
  const open = await tx.query<{ id: string; site: string; n: number }[]>(`
    SELECT e.rollout_id AS id, ${site} AS site, count(*)::int AS n FROM rollout_executions e JOIN devices d ON d.id = e.device_id
    WHERE e.rollout_id = ANY($1) AND ${answeringSql('e.')} AND ${site} = ANY($2) GROUP BY 1, 2`, [ids, there]);
  const told = backS === 0 ? [] : await tx.query<{ id: string; at: Date; site: string; bytes: number }[]>(`
    SELECT e.rollout_id AS id, e.assigned_at AS at, ${site} AS site, sum(e.bytes)::float8 AS bytes FROM rollout_executions e JOIN devices d ON d.id = e.device_id
    WHERE e.rollout_id = ANY($1) AND e.assigned_at > $3 AND ${site} = ANY($2) GROUP BY 1, 2, 3`, [ids, there, new Date(now.getTime() - backS * 1_000)]);
  const claimants = others.filter(({ claims }) => there.some((one) => claims.has(one)));
  const last = claimants.length === 0 ? [] : await tx.query<{ id: string; site: string; at: Date }[]>(`
    SELECT e.rollout_id AS id, ${site} AS site, max(e.assigned_at) AS at FROM rollout_executions e JOIN devices d ON d.id = e.device_id
    WHERE e.rollout_id = ANY($1) AND e.assigned_at IS NOT NULL AND ${site} = ANY($2) GROUP BY 1, 2`, [[rollout, ...claimants.map(({ id }) => id)], there.filter((one) => claimants.some(({ claims }) => claims.has(one)))]);
  const lastOf = (id: string): Map<string, Date> => new Map(last.filter((one) => one.id === id).map((one) => [one.site, one.at]));
  return sharesOf(there, { id: rollout, lastTold: lastOf(rollout) }, others.map((other) => ({
    ...other, open: new Map(open.filter(({ id }) => id === other.id).map((one) => [one.site, one.n])), told: told.filter(({ id }) => id === other.id), lastTold: lastOf(other.id),
  })), limits);
}

function statedBy(pace: Pace | null): SiteLimit {
  return pace ? { maxInProgress: pace.maxInProgressPerSite, bytesPerSecond: pace.siteBytesPerSecond } : noSiteLimit;
}
