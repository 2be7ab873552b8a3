import { createHash } from 'node:crypto';
import { devicesIn, type Settings, type WaveSpec } from './rollout.ts';

/** One device as the planner sees it. */
export interface Candidate {
  id: string;
  labels: Record<string, string>;
  online: boolean;
  health: 'HEALTHY' | 'DEGRADED' | 'UNKNOWN';
  /** RuntimeVersion of libedgetpu and host class, as far as reported: devices of one stratum behave alike. */
  stratum: string;
  /** What of the version it can run, or why nothing. */
  fit: { ok: true; variant: string } | { ok: false; code: 'INCOMPATIBLE' | 'UNKNOWN'; message: string };
  /** Wanted and running that very bundle already. */
  current: boolean;
}

export interface Excluded { device: string; code: 'INCOMPATIBLE' | 'UNKNOWN' | 'ALREADY_CURRENT'; reason: string }

export interface Plan {
  /** Devices that will get the version. */
  eligible: number;
  waves: { index: number; size: number; devices: { id: string; variant: string }[]; canary: boolean }[];
  excluded: Excluded[];
  /** Eligible, but in no wave. */
  uncovered: number;
  blastRadius: BlastRadius;
}

export interface BlastRadius {
  /** The most devices that can be on an unproven version at once: the biggest wave. The engine never opens a wave before the last one's verdict. */
  unprovenDevices: number;
  /** Per wave: devices under test, devices on the version in all if this wave turns out bad, and the longest it can take from the first assignment until all that answer are back. */
  perWave: { wave: number; unproven: number; exposed: number; seconds: number }[];
  statement: string;
}

export type PlanFault = { code: 'rollout.no_device' | 'rollout.no_healthy_canary' | 'rollout.empty_plan'; message: string };

/** Cumulative. One device first in a small fleet, a tenth in a big one. */
export function defaultWaves(eligible: number): WaveSpec[] {
  if (eligible === 1) return [{ percent: 100 }];
  return [eligible < 20 ? { count: 1 } : { percent: 10 }, { percent: 50 }, { percent: 100 }];
}

/**
 * Who gets the version, when. `seed` (the bundle) makes the order the same at every preview and another one for every version, so that it
 * is not always the same devices that go first.
 */
export function planWaves(candidates: readonly Candidate[], specs: readonly WaveSpec[] | undefined, seed: string, settingsOf: (eligible: number) => Settings, matches: (selector: string, labels: Record<string, string>) => boolean): { ok: true; plan: Plan; settings: Settings } | { ok: false; fault: PlanFault; excluded: Excluded[] } {
  const excluded: Excluded[] = [];
  const eligible: (Candidate & { fit: { ok: true; variant: string } })[] = [];
  for (const one of candidates) {
    if (!one.fit.ok) excluded.push({ device: one.id, code: one.fit.code, reason: one.fit.message });
    else if (one.current) excluded.push({ device: one.id, code: 'ALREADY_CURRENT', reason: 'The device runs this bundle already.' });
    else eligible.push(one as typeof eligible[number]);
  }
  const settings = settingsOf(eligible.length);
  if (eligible.length === 0) {
    const message = candidates.length === 0 ? 'No device matches the selector.' : `The selector matches ${devicesIn(candidates.length)}, none of which can or needs to take this version; the plan lists why.`;
    return { ok: false, fault: { code: 'rollout.no_device', message }, excluded };
  }
  const waves = specs ?? defaultWaves(eligible.length);
  const left = new Map(spread(eligible, seed).map((one) => [one.id, one]));
  const planned: Plan['waves'] = [];
  let taken = 0;
  for (const [position, spec] of waves.entries()) {
    const canary = position === 0 && waves.length > 1;
    const pool = [...left.values()].filter((one) => (!canary || (one.online && one.health === 'HEALTHY')) && (spec.selector === undefined || matches(spec.selector, one.labels)));
    if (canary && pool.length === 0) return { ok: false, fault: { code: 'rollout.no_healthy_canary', message: 'No device that may go first is online and healthy. A device that was unhealthy before cannot tell whether the new version is. Wait for one, or plan a single wave.' }, excluded };
    const want = spec.count ?? (spec.percent === undefined ? pool.length : Math.max(position === 0 ? 1 : 0, Math.ceil((spec.percent / 100) * eligible.length) - taken));
    const chosen = pool.slice(0, Math.max(0, want));
    // A step that adds nobody (50 % of two devices after a canary of one) is no wave.
    if (chosen.length === 0) continue;
    for (const one of chosen) left.delete(one.id);
    taken += chosen.length;
    planned.push({ index: planned.length, size: chosen.length, canary, devices: chosen.map(({ id, fit }) => ({ id, variant: fit.variant })) });
  }
  if (planned.length === 0) return { ok: false, fault: { code: 'rollout.empty_plan', message: 'The waves choose no device. Check their selectors.' }, excluded };
  return { ok: true, settings, plan: { eligible: eligible.length, waves: planned, excluded, uncovered: left.size, blastRadius: blastRadiusOf(planned.map(({ size }) => size), settings) } };
}

export function blastRadiusOf(sizes: readonly number[], settings: Settings): BlastRadius {
  const seconds = settings.installTimeoutS + settings.deadlineS + settings.rollbackTimeoutS;
  let exposed = 0;
  const perWave = sizes.map((size, wave) => ({ wave, unproven: size, exposed: exposed += size, seconds }));
  const unprovenDevices = Math.max(...sizes);
  const first = perWave[0]!;
  return {
    unprovenDevices, perWave,
    statement: `A fault that shows in the first wave reaches ${first.exposed} of ${devicesIn(exposed)}, for at most ${seconds} s each until they are back or counted as unanswered. At no time are more than ${devicesIn(unprovenDevices)} on a version whose wave has no verdict. An inconclusive wave waits for a person.`,
  };
}

/** Rendezvous order within each stratum, then one of each stratum in turn: the first devices differ in hardware. */
function spread<T extends Candidate>(candidates: readonly T[], seed: string): T[] {
  const key = (id: string): string => createHash('sha256').update(`${seed}\n${id}`).digest('hex');
  const strata = new Map<string, { one: T; key: string }[]>();
  for (const one of candidates) {
    const stratum = strata.get(one.stratum) ?? [];
    stratum.push({ one, key: key(one.id) });
    strata.set(one.stratum, stratum);
  }
  const order = [...strata.values()].map((stratum) => stratum.sort((a, b) => (a.key < b.key ? -1 : 1))).sort((a, b) => b.length - a.length || (a[0]!.key < b[0]!.key ? -1 : 1));
  const result: T[] = [];
  for (let rank = 0; result.length < candidates.length; rank++) for (const stratum of order) result.push(...stratum.slice(rank, rank + 1).map(({ one }) => one));
  return result;
}
