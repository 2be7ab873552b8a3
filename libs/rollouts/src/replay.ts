import { z } from 'zod';
import { waitWords } from './follow.ts';
import { gates, type Gates } from './gates.ts';
import { noPace, rate } from './pacing.ts';
import type { Plan } from './plan.ts';
import { maintenanceWindow } from './windows.ts';
import { RecordedFleet, type RecordedDevice, type RecordedWindow } from './recorded-fleet.ts';
import type { Sample, Settings } from './rollout.ts';
import type { Frozen } from './simulated-fleet.ts';
import { digestOf, playRollout, simulationStart, type Move, type Simulated } from './simulate.ts';

/** A rollout that really was, run again over what its devices did: with its own settings, or with others. */

/** As the API answers it. Times are ISO strings. */
export interface RolloutRecord {
  rollout: { id: string; name: string; state: string; stateReason: { code: string }; startedAt: string | null; stopAt: string | null; settings: Settings; plan: Omit<Plan, 'waves'> & { waves: Omit<Plan['waves'][number], 'devices'>[] } };
  executions: { device: string; wave: number; variant: string; site: string; timeZone: string; bytes: number; state: string; failure: { code: string } | null; timeoutFrom: string | null; fault: { code: string } | null; previousBundle: string | null; baseline: Sample | null; assignedAt: string | null; settledAt: string | null; rollbackState: string | null; rollbackAssignedAt: string | null; rollbackSettledAt: string | null }[];
  events: { at: string; kind: string; wave: number | null; code: string; message: string; numbers: Record<string, unknown>; actor: string }[];
  windows: { device: string; windows: RecordedWindow[] }[];
  /** Those that held meanwhile; `endedAt` null = it holds. */
  freezes: { reason: string; from: string; until: string; endedAt: string | null; devices: string[] }[];
}

const most = z.number().int().min(1).nullable();

/** What may be other than it was. */
export const replaySettings = z.object({
  gates: z.record(z.string(), z.unknown()).default({}).describe('as in a rollout; what is not named stays as it was, null turns a gate off'),
  waves: z.array(z.object({ percent: z.number().positive().max(100).optional(), count: z.number().int().positive().optional() })
    .refine(({ percent, count }) => (percent === undefined) !== (count === undefined), 'a replayed wave has either percent or count')).min(1).max(100).optional(),
  soakS: z.number().min(0).optional(), deadlineS: z.number().min(1).optional(), minSamples: z.number().int().min(1).optional(), minReportingPercent: z.number().min(0).max(100).optional(),
  installTimeoutS: z.number().min(1).optional(), pace: z.object({ windows: z.array(maintenanceWindow), rate: rate.nullable(), maxInProgress: most, maxInProgressPerSite: most, siteBytesPerSecond: most }).partial().nullable().optional().describe('what is not named stays as it was; null = everybody of a wave at once'),
  freezes: z.boolean().default(true).describe('false = as if nothing had been frozen'),
  alpha: z.number().positive().max(0.5).optional(), onFailure: z.enum(['rollback', 'pause']).optional(),
});
export type ReplaySettings = z.output<typeof replaySettings>;

export interface Replayed {
  rollout: string;
  name: string;
  /** How it ended when it was, and in the replay; `UNKNOWN` where the replay told devices that nobody has observed. */
  ended: { was: { state: string; code: string }; would: { state: Simulated['state'] | 'UNKNOWN'; code: string; afterS: number } };
  /** Move by move; one side is null where only the other made it. */
  moves: { was: Move | null; would: Move | null; differs: boolean }[];
  /** The first move that differs; null where none does. */
  differsAt: number | null;
  waves: Simulated['waves'];
  exposed: number;
  /** What people did when it was; a replay is of the engine alone. */
  people: Move[];
  /** What the replay does not know. */
  notes: string[];
  transcript: string[];
  digest: string;
}

/** @throws ZodError when `changes` make no valid settings */
export function replay(record: RolloutRecord, changes: Partial<z.input<typeof replaySettings>> = {}): Replayed {
  const other = replaySettings.parse(changes);
  const { rollout, executions } = record;
  const devices = recordedDevices(record, other.freezes);
  const settings = settingsWith(rollout.settings, other);
  // Windows are a matter of the calendar: the clock begins when the rollout did.
  const start = rollout.startedAt === null ? simulationStart : Date.parse(rollout.startedAt);
  const fleet = new RecordedFleet(devices, start);
  const played = playRollout(fleet, planOf(record, other), settings, { limitS, start, stopAt: rollout.stopAt === null ? null : new Date(rollout.stopAt) });
  const until = fleet.beyondAt === null ? Infinity : (fleet.beyondAt - start) / 1_000;
  const now = played.moves.filter(({ afterS }) => afterS < until);
  const [then, people] = movesOf(record);
  const moves = sideBySide(then, now.filter(({ code }) => !untold.test(code)), settings);
  const differsAt = moves.findIndex(({ differs }) => differs);
  const unanswered = executions.filter(({ assignedAt, state }) => assignedAt !== null && !['SUCCEEDED', 'FAILED', 'REJECTED'].includes(state)).length;
  const cut = played.transcript.slice(0, now.length);
  return {
    rollout: rollout.id, name: rollout.name,
    ended: {
      was: { state: rollout.state, code: rollout.stateReason.code },
      would: until === Infinity ? { state: played.state, code: played.reason.code, afterS: played.tookS } : { state: 'UNKNOWN', code: 'not_observed', afterS: until },
    },
    moves, differsAt: differsAt === -1 ? null : differsAt, waves: played.waves, exposed: played.exposed, people,
    notes: [
      ...(until === Infinity ? [] : [`After ${until} s it would have told devices that were never told, so nothing is known of what came then.`]),
      ...(unanswered > 0 ? [`${unanswered} of the devices never gave an answer of their own; in the replay they do not either.`] : []),
      ...(other.freezes && devices.some(({ freezes }) => freezes.length > 0) ? ['Who was frozen goes by the labels that the devices have now.'] : []),
      ...(settings.pace && (settings.pace.windows.length > 0 || (settings.pace.maxInProgressPerSite ?? settings.pace.siteBytesPerSecond) !== null) ? ['Sites and time zones are those that the devices have now; what other rollouts did at the sites is left out.'] : []),
      ...(people.length > 0 ? ['People acted on this rollout; the replay is of the engine alone.'] : []),
    ],
    transcript: cut, digest: digestOf(cut),
  };
}

const limitS = 60 * 86_400;

function recordedDevices({ executions, windows, events, freezes }: RolloutRecord, frozen: boolean): RecordedDevice[] {
  const freezesOf = new Map<string, Frozen[]>();
  for (const { devices, from, until, endedAt, reason } of frozen ? freezes : []) {
    const one: Frozen = { from: Date.parse(from), until: Date.parse(until), endedAt: Date.parse(endedAt ?? until), reason };
    for (const device of devices) freezesOf.set(device, [...freezesOf.get(device) ?? [], one]);
  }
  const byDevice = new Map(windows.map((one) => [one.device, one.windows]));
  const between = (from: string | null, to: string | null): number | null => (from === null || to === null ? null : Date.parse(to) - Date.parse(from));
  const leftAt = new Map(events.flatMap(({ kind, at, numbers }) => (kind === 'device' && numbers.fault ? [[String(numbers.device), at]] : [])));
  // In the order they were planned: wave by wave, then as the list gives them.
  return executions.map((one): RecordedDevice => {
    const afterMs = between(one.assignedAt, one.settledAt);
    const answered = one.state === 'SUCCEEDED' || one.state === 'FAILED' || one.state === 'REJECTED';
    return {
      device: one.device, wave: one.wave, told: one.assignedAt !== null, first: one.previousBundle === null, baseline: one.baseline, site: one.site, zone: one.timeZone, bytes: one.bytes,
      waits: one.timeoutFrom !== null ? { code: 'waited', untilMs: between(one.assignedAt, one.timeoutFrom) } : !answered && one.failure && one.failure.code in waitWords ? { code: one.failure.code, untilMs: null } : null,
      leftAfterMs: between(one.assignedAt, leftAt.get(one.device) ?? null),
      end: answered && afterMs !== null ? { state: one.state as 'SUCCEEDED', code: one.failure?.code ?? null, afterMs } : null,
      backAfterMs: one.rollbackState === 'SUCCEEDED' ? between(one.rollbackAssignedAt, one.rollbackSettledAt) : null, windows: byDevice.get(one.device) ?? [], freezes: freezesOf.get(one.device) ?? [],
    };
  });
}

function settingsWith(settings: Settings, { gates: changed, waves: _waves, freezes: _freezes, pace, ...rest }: ReplaySettings): Settings {
  const given = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined));
  const own = settings.gates as unknown as Record<string, unknown>;
  const merged = Object.fromEntries(Object.entries(changed).map(([name, gate]) => [name, gate !== null && typeof gate === 'object' && !Array.isArray(gate) ? { ...(own[name] as object | null | undefined), ...gate } : gate]));
  const known = Object.fromEntries(Object.keys(gates.shape).map((name) => [name, own[name] ?? (name === 'custom' ? [] : null)]));
  const unknown = Object.keys(merged).filter((name) => !(name in known));
  if (unknown.length > 0) throw new z.ZodError(unknown.map((name) => ({ code: 'custom', path: ['gates', name], message: `there is no gate ${name}`, input: name })));
  const paced = pace === undefined ? settings.pace : pace === null ? noPace : { ...settings.pace ?? noPace, ...pace };
  return { ...settings, ...given, ...(paced ? { pace: paced as Settings['pace'] & object } : {}), gates: gates.parse({ ...known, ...merged }) as Gates };
}

/** The waves as they were, or the same devices in the same order cut otherwise. */
function planOf({ rollout, executions }: RolloutRecord, { waves }: ReplaySettings): Plan {
  const { plan } = rollout;
  const inOrder = executions.map(({ device, variant, wave }) => ({ id: device, variant, wave }));
  if (!waves) return { ...plan, waves: plan.waves.map((wave) => ({ ...wave, devices: inOrder.filter((one) => one.wave === wave.index).map(({ id, variant }) => ({ id, variant })) })) };
  const cut: Plan['waves'] = [];
  let taken = 0;
  for (const { percent, count } of [...waves, { percent: 100, count: undefined }]) {
    const end = Math.min(inOrder.length, percent === undefined ? taken + count! : Math.ceil((percent / 100) * inOrder.length));
    if (end <= taken) continue;
    cut.push({ index: cut.length, size: end - taken, canary: cut.length === 0, of: null, devices: inOrder.slice(taken, end).map(({ id, variant }) => ({ id, variant })) });
    taken = end;
  }
  return { ...plan, waves: cut, blastRadius: { ...plan.blastRadius, unprovenDevices: Math.max(...cut.map(({ size }) => size)) } };
}

/** Steps of one move, waits and single devices: no moves of the rollout. */
const untold = /^(created|scheduled|started|start_time_reached|wave_assigning|waits_for_\w+|paced|rollback_\w+)$/;

function movesOf({ rollout, events }: RolloutRecord): [engine: Move[], people: Move[]] {
  const from = Date.parse(rollout.startedAt ?? events[0]?.at ?? '1970-01-01T00:00:00Z');
  const all = events.filter(({ kind, code }) => kind !== 'device' && !untold.test(code)).map(({ at, wave, code, message, actor }) => ({ actor, afterS: (Date.parse(at) - from) / 1_000, wave, code, message }));
  const plain = ({ actor: _actor, ...move }: Move & { actor: string }): Move => move;
  return [all.filter(({ actor }) => actor === 'engine').map(plain), all.filter(({ actor }) => actor !== 'engine').map(plain)];
}

function sideBySide(then: readonly Move[], now: readonly Move[], { soakS, pace }: Settings): Replayed['moves'] {
  // A real pass waits for a report, a poll, a look at the samples; the replay does it on whole seconds. Where a wave is told bit by bit, the bits add up.
  const slackAt = (afterS: number): number => Math.max(5, soakS / 5, pace && (pace.windows.length > 0 || (pace.rate ?? pace.maxInProgress ?? pace.maxInProgressPerSite ?? pace.siteBytesPerSecond) !== null) ? afterS / 20 : 0);
  return Array.from({ length: Math.max(then.length, now.length) }, (_, at) => {
    const [was, would] = [then[at] ?? null, now[at] ?? null];
    return { was, would, differs: !was || !would || was.code !== would.code || Math.abs(was.afterS - would.afterS) > slackAt(was.afterS) };
  });
}

