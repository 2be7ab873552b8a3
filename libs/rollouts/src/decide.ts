import { decideLate, joinReason, type LateFacts } from './late.ts';
import { holdReason, toldReason } from './pace-reasons.ts';
import { noPace, paceOf, type PaceFacts } from './pacing.ts';
import { defaultRollback, tellNow, type RollbackCounts } from './rollback.ts';
import { devicesIn, endedStates, reason, type DeviceSample, type Reason, type Rollout } from './rollout.ts';
import { judgeInstall, judgeSamples, lacksAnswers, noCounts, openCount, type Counts, type Verdict } from './verdict.ts';

/** What the engine knows of the world at one moment. */
export interface Facts {
  /** Executions of the current wave by state. */
  counts: Counts;
  /** Devices of the current wave that have not been told yet, and what decides when they are; null = not looked at, because they are held back until the next due look. */
  pace: PaceFacts | null;
  /** Of those, the ones that somebody has pinned since the rollout was planned. */
  pinned: string[];
  /** Of a dynamic rollout: devices that match and have no part in it yet. */
  newcomers?: readonly string[];
  /** Of a dynamic rollout that has succeeded: those that came after. */
  late?: LateFacts;
  /** When the next open execution times out; null when none is open, or all of them wait by their own word. */
  nextTimeoutAt: Date | null;
  /** Devices of the current wave that say that they will not begin yet (a data budget, an accelerator). `until`: when the last of them would have timed out. */
  waiting?: { devices: number; until: Date } | null;
  /** Devices of the current wave that left the version after their success. */
  faults?: number;
  /** The same of earlier waves, and how many have it there. */
  before?: { updated: number; faults: number };
  /** Devices of the current wave that succeeded after its analysis had begun. */
  answeredSince?: number;
  /** One per updated device of the current wave. */
  samples: DeviceSample[];
  /** Executions on their way back, and those that reached an end of it. */
  rollback: RollbackCounts & { nextTimeoutAt: Date | null; /** Devices that could not be brought back, the first of them. */ lost: string[] };
  /** Devices that were passed over or did not answer, in all waves. */
  skipped: number;
}

/** Every decision says why, as a code; prose comes with it but nothing branches on prose. */
export type Decision =
  | { kind: 'begin'; reason: Reason }
  | { kind: 'openWave'; wave: number; reason: Reason }
  | { kind: 'assign' | 'leaveOut'; devices: string[]; reason: Reason }
  | { kind: 'join'; devices: readonly string[]; wave: number; reason: Reason }
  | { kind: 'stopJoining'; reason: Reason }
  | { kind: 'tellBack'; devices: number; reason: Reason }
  /** `anew`: the soak begins again. */
  | { kind: 'analyse'; until: Date; anew?: boolean; reason: Reason }
  | { kind: 'judge'; verdicts: Verdict[]; reason: Reason }
  | { kind: 'closeWave'; as: 'PASSED' | 'FAILED' | 'INCONCLUSIVE' | 'SKIPPED'; verdicts: Verdict[]; reason: Reason }
  | { kind: 'pause' | 'rollBack' | 'complete' | 'endRollback'; reason: Reason }
  | { kind: 'wait'; until: Date; reason: Reason };

/** Reports come as hints too; this is how long a lost hint can delay a move. */
const pollMs = 1_000;
/** A freeze may end early, a label change; nobody tells. */
const heldMs = 30_000;
/** Reading every window of a wave is the dear part of a look. */
const looksPerSoak = 15;

const after = (date: Date, seconds: number): Date => new Date(date.getTime() + seconds * 1_000);
const earliest = (now: Date, ...dates: (Date | null)[]): Date => {
  const future = dates.filter((date): date is Date => date !== null).map((date) => Math.max(date.getTime(), now.getTime() + 1));
  return new Date(Math.min(...future));
};

/**
 * How long until the next look at a wave under analysis. One that is told over hours is looked at ever more rarely, by a twentieth of its age: reading every window of it each half
 * minute would cost more than it finds.
 */
export const lookMs = (soakS: number, ageMs = 0): number => Math.max(Math.min(30_000, Math.max(pollMs, (soakS * 1_000) / looksPerSoak)), Math.min(600_000, ageMs / 20));

const judged: ReadonlySet<string> = new Set(['RUNNING', 'ANALYSING', 'INCONCLUSIVE', 'FAILED']);

/** Whether telemetry is read at this look: somebody serves the version, the wave is being judged, and either nobody is left to wait for or the last reading is old enough. */
export function readsSamples({ state, wave: at, waves, settings }: Pick<Rollout, 'state' | 'wave' | 'waves' | 'settings'>, counts: Counts, waiting: number, readAtMs: number, nowMs: number): boolean {
  const wave = waves[at];
  if (state !== 'RUNNING' || counts.SUCCEEDED === 0 || !wave || !judged.has(wave.state)) return false;
  return openCount(counts) === waiting || nowMs - readAtMs >= lookMs(settings.soakS, nowMs - (wave.startedAt?.getTime() ?? nowMs));
}

/**
 * The whole engine: state + facts + now -> what to do. No effect, no clock. Applying every decision up to a `wait` and calling again
 * ends; a rollout that has ended or waits for a person gets nothing.
 */
export function decide(rollout: Rollout, facts: Facts, now: Date): Decision[] {
  if (rollout.state === 'SUCCEEDED' && facts.late) return decideLate(rollout, facts.late, facts.newcomers ?? [], now);
  if (endedStates.has(rollout.state)) return [];
  switch (rollout.state) {
    case 'SCHEDULED':
      return rollout.startAt && rollout.startAt > now
        ? [{ kind: 'wait', until: rollout.startAt, reason: reason('scheduled', `Starts at ${rollout.startAt.toISOString()}.`) }]
        : [{ kind: 'begin', reason: reason('start_time_reached', 'The scheduled time has come.') }];
    case 'RUNNING': return decideWave(rollout, facts, now);
    case 'ROLLING_BACK': return decideRollback(rollout, facts, now);
    // A person decides. Open executions are still followed, so what they report is not lost.
    default: return [];
  }
}

function decideWave(rollout: Rollout, facts: Facts, now: Date): Decision[] {
  const { settings } = rollout;
  const wave = rollout.waves[rollout.wave];
  if (!wave) return [complete(facts)];
  // Nobody joins a wave that is being told: its denominator, and what was stated to be at stake, would move.
  const last = rollout.waves.at(-1)!;
  if (facts.newcomers?.length && last.state === 'PENDING') return [{ kind: 'join', devices: facts.newcomers, wave: last.index, reason: joinReason(facts.newcomers, last.index) }];
  if (wave.state === 'PASSED' || wave.state === 'SKIPPED') return next(rollout, facts, now);
  if (wave.state === 'PENDING') return stopped(rollout, now) ?? [{ kind: 'openWave', wave: wave.index, reason: reason('wave_opened', `Wave ${wave.index + 1} of ${rollout.waves.length} starts with ${devicesIn(wave.size)}.`, { wave: wave.index, devices: wave.size }) }];

  // Failing comes first, so a late success can never hide a spent budget.
  const waiting = facts.waiting?.devices ?? 0;
  const install = judgeInstall(settings, facts.counts, { waiting, faults: facts.faults });
  if (install?.verdict === 'FAILED') return fail(rollout, [install], install);
  // A version that devices of waves which passed have left since is no better than one that fails in this wave.
  const before = facts.before?.faults ? judgeInstall(settings, { ...noCounts(), SUCCEEDED: facts.before.updated }, { faults: facts.before.faults }) : undefined;
  if (before?.verdict === 'FAILED') return fail(rollout, [before], { ...before, message: `In the waves before: ${before.message}` });
  if (facts.pinned.length > 0) return [{ kind: 'leaveOut', devices: facts.pinned, reason: reason('devices_pinned', `${devicesIn(facts.pinned.length)} left out: pinned since the rollout was planned.`, { devices: facts.pinned }) }];
  const paced = facts.pace ? paceOf(settings.pace ?? noPace, facts.pace, now) : { devices: [], holds: [] };
  if (paced.devices.length > 0 || paced.holds.length > 0) {
    const stop = stopped(rollout, now);
    if (stop) return stop;
  }
  if (paced.devices.length > 0) return [{ kind: 'assign', devices: paced.devices, reason: toldReason(wave.index, paced.devices.length, facts.counts) }];

  const open = openCount(facts.counts) - waiting;
  const soaked = wave.analysingAt !== null && now >= after(wave.analysingAt, settings.soakS);
  const verdicts = [...(install ? [install] : []), ...judgeSamples(settings, facts.samples, soaked && open === 0)];
  const failed = verdicts.find(({ verdict }) => verdict === 'FAILED');
  if (failed) return fail(rollout, verdicts, failed);

  const look = new Date(now.getTime() + (facts.samples.length > 0 ? lookMs(settings.soakS) : pollMs));
  if (paced.holds.length > 0 || !facts.pace) {
    const why = facts.pace ? holdReason(paced.holds) : rollout.waiting ?? reason('paced', 'Devices are told bit by bit.');
    const soon = open > facts.counts.PENDING ? new Date(now.getTime() + pollMs) : null;
    return [{ kind: 'judge', verdicts, reason: why }, { kind: 'wait', until: earliest(now, ...paced.holds.map(({ until }) => until), rollout.stopAt, soon, new Date(now.getTime() + heldMs)), reason: why }];
  }
  if (open > 0) {
    return [{ kind: 'judge', verdicts, reason: reason('awaiting_reports', `${devicesIn(open)} yet to answer.`, { open }) }, { kind: 'wait', until: earliest(now, facts.nextTimeoutAt, look, new Date(now.getTime() + pollMs)), reason: reason('awaiting_reports', `${devicesIn(open)} yet to answer.`, { open }) }];
  }
  // Devices that waited have answered, and only now enough have: what they do is looked at for as long as what the others did.
  const unanswered = facts.counts.TIMED_OUT + waiting;
  const anew = wave.analysingAt !== null && lacksAnswers(settings, facts.counts, unanswered + (facts.answeredSince ?? 0)) && !lacksAnswers(settings, facts.counts, unanswered);
  if (!wave.analysingAt || wave.state === 'INCONCLUSIVE' || wave.state === 'FAILED' || anew) {
    // Whoever waits has at least the time in which others time out.
    const until = new Date(Math.max(after(now, settings.deadlineS).getTime(), facts.waiting?.until.getTime() ?? 0));
    return [{ kind: 'analyse', until, anew, reason: reason('wave_answered', `Every device of wave ${wave.index + 1} has answered${waiting > 0 ? ', waits by its own word,' : ''} or timed out: ${facts.counts.SUCCEEDED} updated${waiting > 0 ? `, ${waiting} waiting` : ''}.`, { wave: wave.index, counts: facts.counts, ...(waiting > 0 ? { waiting } : {}) }) }];
  }
  if (!soaked) {
    const until = after(wave.analysingAt, settings.soakS);
    return [{ kind: 'judge', verdicts, reason: reason('soaking', `The wave serves until ${until.toISOString()} before it can pass.`) }, { kind: 'wait', until: earliest(now, until, look), reason: reason('soaking', 'The soak time is not over.') }];
  }
  // With every gate off, a wave nobody took is still not a wave that passed.
  const nobody = facts.counts.SUCCEEDED - (facts.faults ?? 0) === 0;
  const undecided = verdicts.find(({ verdict }) => verdict === 'INCONCLUSIVE') ?? verdicts.find(({ verdict }) => verdict === 'PENDING');
  if (!undecided && !nobody) {
    return [
      { kind: 'closeWave', as: 'PASSED', verdicts, reason: reason('wave_passed', `Wave ${wave.index + 1} passed every gate.`, numbersOf(verdicts)) },
      ...next(rollout, facts, now),
    ];
  }
  const deadline = wave.deadlineAt ?? after(wave.analysingAt, settings.deadlineS);
  if (now >= deadline || (nobody && waiting === 0) || undecided?.verdict === 'INCONCLUSIVE') {
    const final = verdicts.map((one) => (one.verdict === 'PENDING' ? { ...one, verdict: 'INCONCLUSIVE' as const } : one));
    // Inconclusive is not failed and not good news: a person decides.
    const why = undecided ? reason('inconclusive', undecided.message, { gate: undecided.gate, sample: undecided.sample, needed: undecided.needed, value: undecided.value, limit: undecided.limit })
      : reason('no_device_updated', 'No device of the wave runs the version, so nothing can be said about it.', { counts: facts.counts });
    return [{ kind: 'closeWave', as: 'INCONCLUSIVE', verdicts: final, reason: why }, { kind: 'pause', reason: why }];
  }
  const why = !undecided || (undecided === install && waiting > 0) ? reason('devices_wait', `${devicesIn(waiting)} of wave ${wave.index + 1} will not begin yet; the wave waits for them until ${deadline.toISOString()}.`, { waiting })
    : reason('awaiting_samples', undecided.message, { gate: undecided.gate, needed: undecided.needed });
  return [{ kind: 'judge', verdicts, reason: why }, { kind: 'wait', until: earliest(now, deadline, look), reason: why }];
}

/** After the stop time nobody new is told; whoever was is still judged. */
function stopped({ stopAt }: Rollout, now: Date): Decision[] | undefined {
  return stopAt && stopAt <= now ? [{ kind: 'pause', reason: reason('stop_time_reached', `Nobody new is told after ${stopAt.toISOString()}. Resume to go on without a stop time.`, { stopAt }) }] : undefined;
}

function next(rollout: Rollout, facts: Facts, now: Date): Decision[] {
  const following = rollout.waves[rollout.wave + 1];
  if (!following) return [complete(facts)];
  return stopped(rollout, now) ?? [{ kind: 'openWave', wave: following.index, reason: reason('wave_opened', `Wave ${following.index + 1} of ${rollout.waves.length} starts with ${devicesIn(following.size)}.`, { wave: following.index, devices: following.size }) }];
}

function complete({ skipped: passed, waiting }: Facts): Decision {
  const skipped = passed + (waiting?.devices ?? 0);
  return { kind: 'complete', reason: skipped > 0 ? reason('completed_with_skipped', `Done, with ${devicesIn(skipped)} skipped; they take the version when they come back.`, { skipped }) : reason('completed', 'Every wave is done.', { skipped }) };
}

function fail(rollout: Rollout, verdicts: Verdict[], failed: Verdict): Decision[] {
  // Codes are a closed list; which of a site's own metrics it was is in the numbers.
  const why = reason(`${failed.gate.startsWith('custom_') ? 'custom' : failed.gate}_failed`, failed.message, { gate: failed.gate, value: failed.value, baseline: failed.baseline, limit: failed.limit, unit: failed.unit, basis: failed.basis, method: failed.method, sample: failed.sample });
  return [{ kind: 'closeWave', as: 'FAILED', verdicts, reason: why }, { kind: rollout.settings.onFailure === 'pause' ? 'pause' : 'rollBack', reason: why }];
}

function decideRollback({ settings }: Rollout, { rollback }: Facts, now: Date): Decision[] {
  const { pending, open, done, failed, unanswered, lost } = rollback;
  const devices = tellNow(settings.rollback ?? defaultRollback, rollback);
  if (devices > 0) return [{ kind: 'tellBack', devices, reason: reason(open === 0 ? 'rollback_wave' : 'rollback_continues', `${devicesIn(devices)} told to go back${pending > devices ? `, ${pending - devices} in line` : ''}.`, { devices, pending: pending - devices, open, done, failed, unanswered }) }];
  if (open > 0) return [{ kind: 'wait', until: earliest(now, rollback.nextTimeoutAt, new Date(now.getTime() + pollMs)), reason: reason('awaiting_rollback', `${devicesIn(open)} on the way back.`, { open, pending }) }];
  const names = lost.length === 0 ? '' : ` (${lost.join(', ')}${failed + unanswered > lost.length ? ', ...' : ''})`;
  const said = `${devicesIn(done)} back on the bundle from before.${failed > 0 ? ` ${failed} could not go back.` : ''}${unanswered > 0 ? ` No answer from ${unanswered}: back on return.` : ''}${names}`;
  return [{ kind: 'endRollback', reason: reason(failed + unanswered > 0 ? 'rolled_back_incomplete' : 'rolled_back', said, { done, failed, unanswered, ...(lost.length > 0 ? { lost } : {}) }) }];
}

function numbersOf(verdicts: Verdict[]): Record<string, unknown> {
  return Object.fromEntries(verdicts.map(({ gate, verdict, value, baseline, limit, unit, method, sample }) => [gate, { verdict, value, baseline, limit, unit, method, sample }]));
}
