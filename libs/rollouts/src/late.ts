import type { Decision } from './decide.ts';
import { holdReason, toldReason } from './pace-reasons.ts';
import { noPace, paceOf, type PaceFacts } from './pacing.ts';
import { devicesIn, reason, type Reason, type Rollout } from './rollout.ts';
import { judgeInstall, openCount, type Counts } from './verdict.ts';

/** Devices that came to match a rollout after it had succeeded. They are told as its last wave was, and judged as a group of their own, by their installations. */
export interface LateFacts {
  counts: Counts;
  /** Of those, the ones that will not begin yet, by their own word. */
  waiting?: number;
  /** And those that left the version after their success. */
  faults?: number;
  pace: PaceFacts;
  pinned: string[];
  /** Yet to be told, and another rollout's by now. */
  taken: string[];
  /** A newer rollout of the workload has taken over. */
  superseded: boolean;
}

/** How long a device that comes to match may wait until it is seen. */
export const joinMs = 30_000;
const pollMs = 1_000;

export function joinReason(devices: readonly string[], wave: number | null): Reason {
  const names = `${devices.slice(0, 5).join(', ')}${devices.length > 5 ? ', ...' : ''}`;
  return reason(wave === null ? 'devices_came_late' : 'devices_joined', `${devicesIn(devices.length)} that came to match ${wave === null ? 'since take the version, too' : `joined wave ${wave + 1}`}: ${names}.`, { devices: devices.slice(0, 100), wave });
}

/** A success that is dynamic goes on for those that come, until more of them fail than the gate allows or something newer takes over. Its state stays. */
export function decideLate(rollout: Rollout, { counts, waiting = 0, faults, pace, pinned, taken, superseded }: LateFacts, newcomers: readonly string[], now: Date): Decision[] {
  const at = (ms: number): Date => new Date(now.getTime() + ms);
  const told = openCount(counts) - counts.PENDING - waiting;
  const following = (until: Date, why: Reason): Decision => ({ kind: 'wait', until, reason: why });
  // What was told is followed to its end, whoever else may come.
  if (rollout.lateStopped) return told + waiting > 0 ? [following(at(told > 0 ? pollMs : joinMs), reason('awaiting_reports', `${devicesIn(told + waiting)} that came late yet to answer.`, { open: told, waiting }))] : [];
  const install = judgeInstall(rollout.settings, counts, { waiting, faults });
  if (install?.verdict === 'FAILED') return [{ kind: 'stopJoining', reason: reason('late_installs_failed', `No more devices are taken in: of those that came late, ${install.message}`, { value: install.value, limit: install.limit, basis: install.basis, sample: install.sample }) }];
  if (superseded) return [{ kind: 'stopJoining', reason: reason('late_superseded', 'No more devices are taken in: a newer rollout of the workload has taken over.') }];
  if (pinned.length > 0) return [{ kind: 'leaveOut', devices: pinned, reason: reason('devices_pinned', `${devicesIn(pinned.length)} left out: pinned since they came.`, { devices: pinned }) }];
  if (taken.length > 0) return [{ kind: 'leaveOut', devices: taken, reason: reason('devices_taken', `${devicesIn(taken.length)} left out: another rollout has them by now.`, { devices: taken }) }];
  if (newcomers.length > 0) return [{ kind: 'join', devices: newcomers, wave: rollout.waves.length, reason: joinReason(newcomers, null) }];
  const stopped = rollout.stopAt !== null && rollout.stopAt <= now;
  if (stopped) return [{ kind: 'stopJoining', reason: reason('stop_time_reached', `Nobody new is told after ${rollout.stopAt!.toISOString()}.`, { stopAt: rollout.stopAt }) }];
  const paced = paceOf(rollout.settings.pace ?? noPace, pace, now);
  if (paced.devices.length > 0) return [{ kind: 'assign', devices: paced.devices, reason: toldReason(rollout.waves.length, paced.devices.length, counts) }];
  const untils = paced.holds.flatMap(({ until }) => (until ? [until.getTime()] : []));
  const until = new Date(Math.min(...untils, now.getTime() + (told > 0 || (counts.PENDING > 0 && paced.holds.length === 0) ? pollMs : joinMs)));
  return [following(until > now ? until : at(1), paced.holds.length > 0 ? holdReason(paced.holds) : reason('takes_in_newcomers', 'Devices that come to match take the version, too.'))];
}
