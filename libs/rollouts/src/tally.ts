import type { Tx } from '@reefkeeper/platform';
import type { Facts } from './decide.ts';
import { rollbackOpen, waitingSql, type RollbackState } from './follow.ts';
import type { RolloutRow, WaveRow } from './rollout.entity.ts';
import type { RolloutExecutionState } from './rollout.ts';
import { noCounts, type Counts } from './verdict.ts';

/** How the executions of a rollout stand: what the gates count. */
export interface Tally extends Required<Pick<Facts, 'counts' | 'nextTimeoutAt' | 'waiting' | 'faults' | 'before' | 'answeredSince' | 'skipped' | 'rollback'>> {
  /** Of those that came after the success. */
  late: { counts: Counts; waiting: number; faults: number };
  /** Whether anybody of any wave still owes an answer; `waiting`: all of them wait by their own word. */
  open: false | 'waiting' | 'answering';
}

interface Group {
  wave: number; state: RolloutExecutionState; waiting: boolean; faulty: boolean; skipped: boolean; rollback: RollbackState | null; n: number; since: number;
  oldest: Date | null; newest: Date | null; oldestRollback: Date | null;
}

/** One statement, however many devices; names of those that were lost on the way back are not in it. */
export async function tallyOf(tx: Tx, { id, wave: current, settings }: RolloutRow, waves: readonly WaveRow[]): Promise<Tally> {
  const groups = await tx.query<Group[]>(`
    SELECT wave, state, ${waitingSql()} AS waiting, fault IS NOT NULL AS faulty, skipped, rollback_state AS rollback, count(*)::int AS n, count(*) FILTER (WHERE state = 'SUCCEEDED' AND settled_at > $2)::int AS since,
      min(coalesce(timeout_from, assigned_at)) AS oldest, max(coalesce(timeout_from, assigned_at)) AS newest, min(rollback_assigned_at) AS "oldestRollback"
    FROM rollout_executions WHERE rollout_id = $1 GROUP BY 1, 2, 3, 4, 5, 6`, [id, waves[current]?.analysingAt ?? null]);
  const after = (since: Date | null, seconds: number): number => (since ? since.getTime() + seconds * 1_000 : Infinity);
  const counts = noCounts();
  const late = { counts: noCounts(), waiting: 0, faults: 0 };
  const rollback: Facts['rollback'] = { pending: 0, open: 0, done: 0, failed: 0, unanswered: 0, nextTimeoutAt: null, lost: [] };
  const before = { updated: 0, faults: 0 };
  const waiting = { devices: 0, untilMs: 0 };
  let [faults, answeredSince, skipped, nextTimeoutMs, nextBackMs] = [0, 0, 0, Infinity, Infinity];
  let open: Tally['open'] = false;
  for (const group of groups) {
    const { wave, state, n } = group;
    const faulty = group.faulty ? n : 0;
    if (wave === current) {
      // Who was left out is no witness, whatever became of it.
      counts[group.skipped ? 'CANCELED' : state] += n;
      if (!group.skipped) {
        faults += faulty;
        answeredSince += group.since;
        if (group.waiting) Object.assign(waiting, { devices: waiting.devices + n, untilMs: Math.max(waiting.untilMs, after(group.newest, settings.installTimeoutS)) });
      }
    } else if (wave < current && state === 'SUCCEEDED') {
      before.updated += n;
      before.faults += faulty;
    }
    if (wave === waves.length) {
      late.counts[state] += n;
      late.faults += faulty;
      if (group.waiting) late.waiting += n;
    }
    if (state === 'QUEUED' || state === 'IN_PROGRESS') {
      if (group.waiting) open ||= 'waiting';
      else {
        open = 'answering';
        nextTimeoutMs = Math.min(nextTimeoutMs, after(group.oldest, settings.installTimeoutS));
      }
    }
    if (state === 'TIMED_OUT' || state === 'CANCELED') skipped += n;
    if (group.rollback === 'PENDING') rollback.pending += n;
    if (group.rollback === 'SUCCEEDED') rollback.done += n;
    if (group.rollback === 'FAILED') rollback.failed += n;
    if (group.rollback === 'TIMED_OUT') rollback.unanswered += n;
    if (rollbackOpen(group.rollback)) {
      rollback.open += n;
      nextBackMs = Math.min(nextBackMs, after(group.oldestRollback, settings.rollbackTimeoutS));
    }
  }
  const at = (ms: number): Date | null => (ms === Infinity ? null : new Date(ms));
  return {
    counts, faults, answeredSince, before, skipped, late, open, nextTimeoutAt: at(nextTimeoutMs), rollback: { ...rollback, nextTimeoutAt: at(nextBackMs) },
    waiting: waiting.devices > 0 ? { devices: waiting.devices, until: new Date(waiting.untilMs) } : null,
  };
}
