import { Inject, Injectable } from '@nestjs/common';
import { record } from '@reefkeeper/devices';
import { ReefError, type Clock } from '@reefkeeper/platform';
import { DataSource } from 'typeorm';
import { z } from 'zod';
import { answeringSql } from './follow.ts';
import { wakeRollouts } from './freezes.service.ts';
import { anySite, limitFor, type SiteLimit } from './site-shares.ts';
import { siteLimitsOf } from './site-budgets.ts';

export const siteLimitBody = z.object({
  maxInProgress: z.number().int().min(1).max(1_000_000).nullable().default(null).describe('devices of the site at once that were told and have not answered, whatever rollouts tell them'),
  bytesPerSecond: z.number().int().min(1).max(1e12).nullable().default(null).describe('of the link of the site; devices there are told so far apart that their bundles fit'),
}).refine(({ maxInProgress, bytesPerSecond }) => (maxInProgress ?? bytesPerSecond) !== null, 'say at least one of maxInProgress and bytesPerSecond').meta({ id: 'SiteLimit' });

/** `of`: whose limit it is, the site's own or that of every site; null where there is none. */
export interface SiteView extends SiteLimit { site: string; of: 'site' | 'every site' | null; devices: number; inProgress: number }

/** What the links of sites bear, for all rollouts together. */
@Injectable()
export class SiteLimits {
  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock) {}

  /** Every site that has devices or a limit; `*` is every other one. */
  async list(): Promise<SiteView[]> {
    const limits = await siteLimitsOf(this.db);
    const counted = await this.db.query<{ site: string; devices: number; inProgress: number }[]>(`
      WITH open AS (SELECT device_id, count(*) AS n FROM rollout_executions WHERE ${answeringSql()} GROUP BY 1)
      SELECT d.labels ->> 'site' AS site, count(*)::int AS devices, coalesce(sum(open.n), 0)::int AS "inProgress" FROM devices d LEFT JOIN open ON open.device_id = d.id
      WHERE d.retired_at IS NULL AND coalesce(d.labels ->> 'site', '') <> '' GROUP BY 1`);
    const known = new Map(counted.map((one) => [one.site, one]));
    return [...new Set([...limits.keys(), ...known.keys()])].sort().map((site): SiteView => {
      const of = site !== anySite && limits.has(site) ? 'site' : limits.has(anySite) ? 'every site' : null;
      return { site, ...limitFor(site, limits), of, devices: known.get(site)?.devices ?? 0, inProgress: known.get(site)?.inProgress ?? 0 };
    });
  }

  async set(site: string, limit: SiteLimit, actor: string): Promise<SiteView> {
    const now = this.clock.now();
    await this.db.transaction(async (tx) => {
      await tx.query(`
        INSERT INTO site_limits (site, max_in_progress, bytes_per_second, set_at, set_by) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (site) DO UPDATE SET max_in_progress = excluded.max_in_progress, bytes_per_second = excluded.bytes_per_second, set_at = excluded.set_at, set_by = excluded.set_by`, [site, limit.maxInProgress, limit.bytesPerSecond, now, actor]);
      await record(tx, { at: now, actor, action: 'site.limit', subject: site, detail: { ...limit } });
      await wakeRollouts(tx, now);
    });
    return (await this.list()).find((one) => one.site === site)!;
  }

  /** @throws ReefError `site.no_limit` */
  async remove(site: string, actor: string): Promise<void> {
    const now = this.clock.now();
    await this.db.transaction(async (tx) => {
      const [gone] = await tx.query<[unknown[], number]>('DELETE FROM site_limits WHERE site = $1 RETURNING site', [site]);
      if (gone.length === 0) throw new ReefError('site.no_limit', 'not_found', `${site === anySite ? 'There is no limit for every site' : `The site ${site} has no limit of its own`}. \`reef site ls\` lists those that have.`, { detail: { site } });
      await record(tx, { at: now, actor, action: 'site.unlimit', subject: site, detail: {} });
      await wakeRollouts(tx, now);
    });
  }
}
