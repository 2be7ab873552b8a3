import { createHash } from 'node:crypto';
import { defaultRollback, longestBackS } from './rollback.ts';
import { devicesIn, type Settings, type Stratum, type WaveSpec } from './rollout.ts';

/** One device as the planner sees it. */
export interface Candidate {
  id: string;
  labels: Record<string, string>;
  online: boolean;
  health: 'HEALTHY' | 'DEGRADED' | 'UNKNOWN';
  /** Empty where it is not known. Devices of one host class and runtime behave alike. */
  strata: Record<Stratum, string>;
  /** Where it is, for its maintenance windows; `invalidZone`: what was said instead of a zone. */
  zone: string;
  invalidZone: string | null;
  /** A person wants it left alone. */
  spared: { code: 'EXCLUDED' | 'PINNED'; message: string } | null;
  /** What of the version it can run, or why nothing. */
  fit: { ok: true; variant: string } | { ok: false; code: 'INCOMPATIBLE' | 'UNKNOWN'; message: string };
  /** Wanted and running that very bundle already. */
  current: boolean;
}

export interface Excluded { device: string; code: 'EXCLUDED' | 'PINNED' | 'INCOMPATIBLE' | 'UNKNOWN' | 'ALREADY_CURRENT'; reason: string }

export interface Plan {
  /** Devices that will get the version. */
  eligible: number;
  waves: PlannedWave[];
  excluded: Excluded[];
  /** Eligible, but in no wave. */
  uncovered: number;
  blastRadius: BlastRadius;
  /** What a person should know of it before it starts. */
  notes: string[];
}

/** `of`: the one kind of device that the wave is made of, where it was planned so. */
export interface PlannedWave { index: number; size: number; devices: { id: string; variant: string }[]; canary: boolean; of: { by: Stratum; value: string } | null }

export interface BlastRadius {
  /** The most devices that can be on an unproven version at once: the biggest wave. The engine never opens a wave before the last one's verdict. */
  unprovenDevices: number;
  /** Per wave: devices under test, devices on the version in all if this wave turns out bad, and the longest it can take from the first assignment until all that answer are back. */
  perWave: { wave: number; unproven: number; exposed: number; seconds: number }[];
  statement: string;
}

export type PlanFault = { code: 'rollout.no_device' | 'rollout.no_healthy_canary' | 'rollout.empty_plan' | 'rollout.too_many_waves'; message: string } | { code: 'rollout.wave_empty'; message: string; /** Counted from 0, as asked for. */ wave: number; selector: string };

/** Each wave soaks and is judged; more than this is a mistake in the plan, not a careful one. */
const mostWaves = 200;

type Eligible = Candidate & { fit: { ok: true; variant: string } };

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
  const eligible: Eligible[] = [];
  for (const one of candidates) {
    if (one.spared) excluded.push({ device: one.id, code: one.spared.code, reason: one.spared.message });
    else if (!one.fit.ok) excluded.push({ device: one.id, code: one.fit.code, reason: one.fit.message });
    else if (one.current) excluded.push({ device: one.id, code: 'ALREADY_CURRENT', reason: 'The device runs this bundle already.' });
    else eligible.push(one as Eligible);
  }
  const settings = settingsOf(eligible.length);
  if (eligible.length === 0) {
    const message = candidates.length === 0 ? 'No device matches the selector.' : `The selector matches ${devicesIn(candidates.length)}, none of which can or needs to take this version; the plan lists why.`;
    return { ok: false, fault: { code: 'rollout.no_device', message }, excluded };
  }
  const ordered = spread(eligible, seed);
  const waves = expanded(specs ?? defaultWaves(eligible.length), ordered);
  if (waves.length > mostWaves) return { ok: false, fault: { code: 'rollout.too_many_waves', message: `The plan has ${waves.length} waves; ${mostWaves} are the most. Put kinds together by selector, or take a share of each (perStratum).` }, excluded };
  const left = new Map(ordered.map((one) => [one.id, one]));
  const planned: Plan['waves'] = [];
  const taken: Eligible[] = [];
  const notes: string[] = [];
  for (const [position, spec] of waves.entries()) {
    const canary = position === 0 && waves.length > 1;
    const able = ({ online, health }: Candidate): boolean => !canary || (online && health === 'HEALTHY');
    const belongs = (one: Candidate): boolean => (spec.selector === undefined || matches(spec.selector, one.labels)) && (spec.of === null || spec.of.values.includes(one.strata[spec.of.by]));
    if (spec.selector !== undefined && !candidates.some(belongs)) {
      return { ok: false, fault: { code: 'rollout.wave_empty', wave: spec.given, selector: spec.selector, message: `Wave ${spec.given + 1} ("${spec.selector}") chooses none of the ${devicesIn(candidates.length)} that the rollout is for.` }, excluded };
    }
    const rest = [...left.values()].filter(belongs);
    const pool = rest.filter(able);
    if (canary && pool.length === 0) return { ok: false, fault: { code: 'rollout.no_healthy_canary', message: `No device ${spec.of ? `of ${kindName(spec.of.by, spec.of.values[0]!)} ` : ''}that may go first is online and healthy. A device that was unhealthy before cannot tell whether the new version is. Wait for one, or plan ${spec.of ? 'another first' : 'a single'} wave.` }, excluded };
    const { perStratum } = spec;
    const chosen = perStratum === undefined ? pool.slice(0, wanted(spec, pool, eligible, taken, position))
      : [...Map.groupBy(pool, ({ strata }) => strata[perStratum])].flatMap(([value, own]) => {
        const ofKind = (devices: readonly Eligible[]): Eligible[] => devices.filter(({ strata }) => strata[perStratum] === value);
        return own.slice(0, wanted(spec, own, ofKind(eligible), ofKind(taken), position));
      });
    if (canary && perStratum) {
      const missing = new Set(rest.map(({ strata }) => strata[perStratum]).filter((value) => !pool.some(({ strata }) => strata[perStratum] === value)));
      for (const value of missing) notes.push(`Nobody of ${kindName(perStratum, value)} goes first: none of them is online and healthy.`);
    }
    // A step that adds nobody (50 % of two devices after a canary of one) is no wave.
    if (chosen.length === 0) {
      if (spec.selector !== undefined) notes.push(`Wave ${spec.given + 1} ("${spec.selector}") adds nobody: earlier waves have its devices, or they are left out.`);
      continue;
    }
    for (const one of chosen) left.delete(one.id);
    taken.push(...chosen);
    planned.push({ index: planned.length, size: chosen.length, canary, of: spec.of && { by: spec.of.by, value: spec.of.values[0]! }, devices: chosen.map(({ id, fit }) => ({ id, variant: fit.variant })) });
  }
  if (planned.length === 0) return { ok: false, fault: { code: 'rollout.empty_plan', message: 'The waves choose no device. Check their selectors.' }, excluded };
  return { ok: true, settings, plan: { eligible: eligible.length, waves: planned, excluded, uncovered: left.size, blastRadius: blastRadiusOf(planned.map(({ size }) => size), settings), notes } };
}

/** How many of `pool` the wave takes; `all` and `taken` are what a percentage counts. */
function wanted(spec: WaveSpec, pool: readonly unknown[], all: readonly unknown[], taken: readonly unknown[], position: number): number {
  if (spec.count !== undefined) return spec.count;
  if (spec.percent === undefined) return pool.length;
  return Math.max(position === 0 ? 1 : 0, Math.ceil((spec.percent / 100) * all.length) - taken.length);
}

/** What a wave is planned from: `of` are the kinds that it takes, the one it is named after first; `given` is where it stands in what was asked for. */
type Expanded = WaveSpec & { of: { by: Stratum; values: string[] } | null; given: number };

/**
 * A wave per kind in place of `by`, the smallest kind first, so that least is at stake where least is known. Of the kind that goes first, those that may not be
 * canaries come with the last one.
 */
function expanded(specs: readonly WaveSpec[], eligible: readonly Eligible[]): Expanded[] {
  return specs.flatMap((spec, position): Expanded[] => {
    const { by } = spec;
    if (by === undefined) return [{ ...spec, of: null, given: position }];
    const kinds = [...Map.groupBy(eligible, ({ strata }) => strata[by])].sort(([a, some], [b, others]) => some.length - others.length || (a < b ? -1 : 1)).map(([value]) => value);
    return kinds.map((value, at) => ({ ...spec, given: position, of: { by, values: position === 0 && at > 0 && at === kinds.length - 1 ? [value, kinds[0]!] : [value] } }));
  });
}

export function kindName(by: Stratum, value: string): string {
  const word = { hostClass: 'host class', runtime: 'runtime', site: 'site' }[by];
  return value === '' ? `no ${word}` : `${word} ${value}`;
}

export function blastRadiusOf(sizes: readonly number[], settings: Settings): BlastRadius {
  let exposed = 0;
  const perWave = sizes.map((size, wave) => ({ wave, unproven: size, exposed: exposed += size, seconds: settings.installTimeoutS + settings.deadlineS + longestBackS(settings.rollback ?? defaultRollback, exposed, settings.rollbackTimeoutS) }));
  const unprovenDevices = Math.max(...sizes);
  const first = perWave[0]!;
  return {
    unprovenDevices, perWave,
    statement: `A fault that shows in the first wave reaches ${first.exposed} of ${devicesIn(exposed)}, for at most ${first.seconds} s each until they are back or counted as unanswered. At no time are more than ${devicesIn(unprovenDevices)} on a version whose wave has no verdict. An inconclusive wave waits for a person.`,
  };
}

/** Rendezvous order within each stratum, then one of each stratum in turn: the first devices differ in hardware. */
function spread<T extends Candidate>(candidates: readonly T[], seed: string): T[] {
  const key = (id: string): string => createHash('sha256').update(`${seed}\n${id}`).digest('hex');
  const strata = new Map<string, { one: T; key: string }[]>();
  for (const one of candidates) {
    const kind = `${one.strata.hostClass}/${one.strata.runtime}`;
    const stratum = strata.get(kind) ?? [];
    stratum.push({ one, key: key(one.id) });
    strata.set(kind, stratum);
  }
  const order = [...strata.values()].map((stratum) => stratum.sort((a, b) => (a.key < b.key ? -1 : 1))).sort((a, b) => b.length - a.length || (a[0]!.key < b[0]!.key ? -1 : 1));
  const result: T[] = [];
  for (let rank = 0; result.length < candidates.length; rank++) for (const stratum of order) result.push(...stratum.slice(rank, rank + 1).map(({ one }) => one));
  return result;
}
