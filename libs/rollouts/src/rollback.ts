import { z } from 'zod';

/** How a rollout goes back: a plan of its own. The bundle from before is on each device's disk, so no bytes are fetched; what is spared is many restarts at once. */

export const rollbackPlan = z.object({
  /** Devices on their way back at once at most. Up to so many go back all at once. */
  maxInProgress: z.number().int().min(1).max(100_000).default(500),
  /** A wave of the way back opens when every device of the one before is back or counted as not. `percent` is cumulative; whoever is left forms the last one. */
  waves: z.array(z.object({ percent: z.number().positive().max(100).optional(), count: z.number().int().positive().optional() })
    .refine(({ percent, count }) => (percent === undefined) !== (count === undefined), 'a wave of the way back has either percent or count')).min(1).max(100).optional(),
  /** Whoever got the version last goes back first: the older ones have at least proven to run. */
  order: z.enum(['newest-first', 'oldest-first']).default('newest-first'),
}).meta({ id: 'RollbackPlan' });
export type RollbackPlan = z.output<typeof rollbackPlan>;

/** Of rollouts that were created before there was a plan. */
export const defaultRollback: RollbackPlan = rollbackPlan.parse({});

export interface RollbackCounts { /** Not told yet. */ pending: number; open: number; done: number; failed: number; unanswered: number }

/** How many more devices are told to go back now. */
export function tellNow({ maxInProgress, waves }: RollbackPlan, { pending, open, done, failed, unanswered }: RollbackCounts): number {
  const told = open + done + failed + unanswered;
  const free = Math.max(0, maxInProgress - open);
  return Math.min(pending, free, endOfWave(waves ?? [], told, told + pending, open > 0) - told);
}

/** Up to which device, counted from the first, the current wave of the way back goes. */
function endOfWave(waves: NonNullable<RollbackPlan['waves']>, told: number, total: number, busy: boolean): number {
  let end = 0;
  for (const { percent, count } of waves) {
    end = Math.max(end, Math.min(total, percent === undefined ? end + count! : Math.ceil((percent / 100) * total)));
    // While somebody of it is on the way, the wave that has been told is not over.
    if (busy ? end >= told && told > 0 : end > told) return end;
  }
  return total;
}

/** The longest it can take until the last of so many devices is back or counted as not, seconds. */
export function longestBackS({ maxInProgress, waves }: RollbackPlan, devices: number, rollbackTimeoutS: number): number {
  let batches = 0;
  for (let told = 0; told < devices; batches += 1) told += tellNow({ maxInProgress, waves, order: 'newest-first' }, { pending: devices - told, open: 0, done: told, failed: 0, unanswered: 0 });
  return Math.max(1, batches) * rollbackTimeoutS;
}
