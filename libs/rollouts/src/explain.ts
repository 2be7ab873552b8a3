import { holdCodes } from './pacing.ts';
import { devicesIn, type Reason } from './rollout.ts';
import type { RolloutView } from './views.ts';

/** Why a rollout is where it is, what it waits for and what would move it: the answer to "what now?", from what is stored. */
export interface Explanation {
  rollout: string;
  name: string;
  state: RolloutView['state'];
  wave: number;
  why: Reason;
  /** Of a dynamic rollout that has succeeded: how many came later, and whether more are taken in; null otherwise. */
  late: string | null;
  /** What it waits for by itself; empty where only a person moves it. */
  waitsFor: { what: string; until: Date | null }[];
  /** What a person could do now, and what each would do. */
  moves: { verb: string; command: string; does: string; /** What `POST /rollouts/{id}/{verb}` is sent. */ body: Record<string, unknown> }[];
}

/** Devices of the current wave that have no answer that counts. */
export interface Unanswered { /** Told, no answer yet. */ open: number; /** Told, and will not begin yet by their own word. */ waiting: number; untold: number; timedOut: number; /** The first of them. */ devices: string[]; nextTimeoutAt: Date | null }

export function explain(view: RolloutView, unanswered: Unanswered): Explanation {
  return { rollout: view.id, name: view.name, state: view.state, wave: view.wave, why: view.stateReason, late: lateText(view), waitsFor: waitsFor(view, unanswered), moves: movesOf(view, unanswered) };
}

function waitsFor(view: RolloutView, { open, waiting, untold, devices, nextTimeoutAt }: Unanswered): Explanation['waitsFor'] {
  const { state, startAt, settings, rollback } = view;
  const wave = view.waves[view.wave];
  switch (state) {
    case 'AWAITING_APPROVAL': return [{ what: `an approver other than ${view.createdBy}`, until: null }];
    case 'SCHEDULED': return [{ what: 'its start time', until: startAt }];
    case 'ROLLING_BACK': return [{ what: `${devicesIn((rollback?.QUEUED ?? 0) + (rollback?.IN_PROGRESS ?? 0))} on the way back${rollback?.PENDING ? ` and ${rollback.PENDING} in line` : ''}; after ${settings.rollbackTimeoutS} s without an answer a device is counted as that, and goes back when it returns`, until: null }];
    case 'RUNNING': break;
    case 'SUCCEEDED': return waitsForNewcomers(view);
    default: return [];
  }
  const waits: Explanation['waitsFor'] = view.waiting && holdCodes.has(view.waiting.code) ? [{ what: view.waiting.message, until: null }] : [];
  if (open > 0) waits.push({ what: `the answers of ${devicesIn(open)} of wave ${view.wave + 1} (${named(devices, open)}); the next one times out`, until: nextTimeoutAt });
  // The wave goes by its deadline only once all others have answered.
  if (waiting > 0) for (const some of view.waitingDevices) waits.push({ what: `${devicesIn(some.count)} waiting for ${some.what} (${named(some.devices, some.count)}): ${some.message}`, until: wave?.state === 'ANALYSING' ? wave.deadlineAt : null });
  if (!wave || wave.state !== 'ANALYSING' || open + untold > 0) return waits;
  const soakedAt = new Date(wave.analysingAt!.getTime() + settings.soakS * 1_000);
  waits.push({ what: `the end of the soak of ${settings.soakS} s: wave ${view.wave + 1} serves so long before it can pass`, until: soakedAt });
  for (const { gate, stillNeeded } of wave.verdicts) if (stillNeeded && stillNeeded !== 'the end of the soak') waits.push({ what: `${gate.replaceAll('_', ' ')}: ${stillNeeded}`, until: null });
  waits.push({ what: 'the deadline, when a wave that is still undecided is inconclusive and the rollout pauses', until: wave.deadlineAt });
  return waits;
}

/** A success that is dynamic goes on: for those that come to match, and for the answers of those that did. */
function waitsForNewcomers({ late, waiting, selector, stopAt }: RolloutView): Explanation['waitsFor'] {
  if (!late) return [];
  const { QUEUED, IN_PROGRESS } = late.counts;
  const open = QUEUED + IN_PROGRESS;
  return [
    ...(late.stopped ? [] : [{ what: `devices that come to match ${selector === '' ? '(any that is enrolled)' : `"${selector}"`}: they take the version, too`, until: stopAt }]),
    ...(!late.stopped && waiting && holdCodes.has(waiting.code) ? [{ what: waiting.message, until: null }] : []),
    ...(open > 0 ? [{ what: `the answers of ${devicesIn(open)} that came late`, until: null }] : []),
  ];
}

function lateText({ state, late }: RolloutView): string | null {
  if (!late || state !== 'SUCCEEDED') return null;
  const { counts: { SUCCEEDED, FAILED, REJECTED, TIMED_OUT, PENDING, QUEUED, IN_PROGRESS }, stopped } = late;
  const failed = FAILED + REJECTED + TIMED_OUT;
  const open = PENDING + QUEUED + IN_PROGRESS;
  const came = SUCCEEDED + failed + open;
  const parts = [`${SUCCEEDED} updated`, ...(failed > 0 ? [`${failed} failed or without an answer`] : []), ...(open > 0 ? [`${open} under way`] : [])];
  return `${came === 0 ? 'No device has come since its success' : `${devicesIn(came)} came since its success: ${parts.join(', ')}`}. ${stopped ? stopped.message : 'It still takes in those that come.'}`;
}

const bodies = { '': {}, '--skip-pending': { skipPending: true }, '--stop-new': { mode: 'stop-new' } } as const;

function movesOf(view: RolloutView, { open, waiting, untold, timedOut, devices }: Unanswered): Explanation['moves'] {
  const { state, wave: at, settings, waves } = view;
  const move = (verb: string, does: string, flag: keyof typeof bodies = ''): Explanation['moves'][number] => ({ verb, does, command: `reef rollout ${verb} ${view.id}${flag && ` ${flag}`}`, body: bodies[flag] });
  const missing = open + waiting + untold + timedOut;
  const past = [
    ...(missing > 0 ? [move('advance', `leaves out the ${devicesIn(missing)} of wave ${at + 1} that have not answered (${named(devices, missing)}) and judges the rest`, '--skip-pending')] : []),
    move('advance', `goes past wave ${at + 1} without its verdict, ${at + 1 < waves.length ? `and opens wave ${at + 2}` : 'and ends the rollout as succeeded'}; a person answers for it`),
  ];
  const stop = [move('rollback', 'sends every device that was told back to its own previous version'), move('abort', 'tells nobody else and leaves devices as they are', '--stop-new')];
  switch (state) {
    case 'DRAFT': return [move('start', 'starts it'), move('abort', 'ends it', '--stop-new')];
    case 'AWAITING_APPROVAL': return [move('approve', `starts it; not by ${view.createdBy}`), move('abort', 'ends it', '--stop-new')];
    case 'SCHEDULED': return [move('abort', 'ends it before it starts', '--stop-new')];
    case 'RUNNING': return [move('pause', 'tells nobody else for now'), ...past, ...stop];
    case 'PAUSED': {
      const judged = waves[at]?.state === 'INCONCLUSIVE' || waves[at]?.state === 'FAILED';
      return [move('resume', judged ? `judges wave ${at + 1} again, with what came since and a new deadline of ${settings.deadlineS} s` : 'goes on where it was'), ...past, ...stop];
    }
    case 'SUCCEEDED': case 'ABORTED': return [move('rollback', 'sends every device that was told, and that nothing newer has taken over, back to its own previous version')];
    case 'ROLLING_BACK': case 'ROLLED_BACK': return [];
  }
}

const named = (devices: readonly string[], total: number): string => `${devices.join(', ')}${total > devices.length ? `, and ${total - devices.length} more` : ''}`;
