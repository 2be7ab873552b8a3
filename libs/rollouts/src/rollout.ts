import { activationLimitS, deviceId, policy, terminalStates, workloadName, type ExecutionState, type MetricMoments } from '@reefkeeper/protocol';
import { z } from 'zod';
import { gates, type Gates } from './gates.ts';
import { noPace, rate, type Pace } from './pacing.ts';
import { rollbackPlan, type RollbackPlan } from './rollback.ts';
import { maintenanceWindow } from './windows.ts';

/** The words of a rollout: states, the moves between them, settings with their defaults. Nothing here knows a database or a clock. */

export const rolloutStates = ['DRAFT', 'AWAITING_APPROVAL', 'SCHEDULED', 'RUNNING', 'PAUSED', 'ROLLING_BACK', 'SUCCEEDED', 'ROLLED_BACK', 'ABORTED'] as const;
export type RolloutState = (typeof rolloutStates)[number];

/** Every legal move. A state without a way out is an end, except that a success can still be taken back. */
export const moves: Readonly<Record<RolloutState, readonly RolloutState[]>> = {
  DRAFT: ['AWAITING_APPROVAL', 'SCHEDULED', 'RUNNING', 'ABORTED'],
  AWAITING_APPROVAL: ['SCHEDULED', 'RUNNING', 'ABORTED'],
  SCHEDULED: ['RUNNING', 'ABORTED'],
  RUNNING: ['PAUSED', 'SUCCEEDED', 'ROLLING_BACK', 'ABORTED'],
  PAUSED: ['RUNNING', 'SUCCEEDED', 'ROLLING_BACK', 'ABORTED'],
  SUCCEEDED: ['ROLLING_BACK'],
  ROLLING_BACK: ['ROLLED_BACK'],
  ROLLED_BACK: [],
  ABORTED: ['ROLLING_BACK'],
};

/** `1 device`, `2 devices` */
export const devicesIn = (count: number): string => `${count} ${count === 1 ? 'device' : 'devices'}`;

export const mayMove = (from: RolloutState, to: RolloutState): boolean => moves[from].includes(to);

/** No more devices are given the version, whatever happens, unless a person starts something new. */
export const endedStates: ReadonlySet<RolloutState> = new Set<RolloutState>(['SUCCEEDED', 'ROLLED_BACK', 'ABORTED']);
/** Holds its devices: another rollout of the same workload must not touch them. */
export const holdingStates: readonly RolloutState[] = ['AWAITING_APPROVAL', 'SCHEDULED', 'RUNNING', 'PAUSED', 'ROLLING_BACK'];

export const waveStates = ['PENDING', 'RUNNING', 'ANALYSING', 'PASSED', 'FAILED', 'INCONCLUSIVE', 'SKIPPED'] as const;
export type WaveState = (typeof waveStates)[number];

export const waveMoves: Readonly<Record<WaveState, readonly WaveState[]>> = {
  PENDING: ['RUNNING', 'SKIPPED'],
  RUNNING: ['ANALYSING', 'FAILED', 'SKIPPED'],
  ANALYSING: ['PASSED', 'FAILED', 'INCONCLUSIVE', 'SKIPPED'],
  // `resume` judges the same wave again, with the samples that came late.
  INCONCLUSIVE: ['ANALYSING', 'FAILED', 'SKIPPED'],
  FAILED: ['ANALYSING', 'SKIPPED'],
  PASSED: [],
  SKIPPED: [],
};

/** Not assigned yet, or the protocol's states. Terminal is sticky: a late or repeated report changes nothing. */
export type RolloutExecutionState = 'PENDING' | ExecutionState;
export const isSettled = (state: RolloutExecutionState): boolean => state !== 'PENDING' && terminalStates.has(state);

/** Why something happened: a stable code, a sentence for people, the numbers behind it. */
export interface Reason { code: string; message: string; numbers: Record<string, unknown> }
export const reason = (code: string, message: string, numbers: Record<string, unknown> = {}): Reason => ({ code, message, numbers });

const percentOf = z.number().min(0).max(100);

/** What devices can be told apart by: hardware, RuntimeVersion of libedgetpu, the label `site`. */
export const strata = ['hostClass', 'runtime', 'site'] as const;
export type Stratum = (typeof strata)[number];

/**
 * How devices are chosen: `percent` is cumulative over the eligible devices, `count` and `selector` are this wave's own; with `perStratum`, count and percent
 * hold for each kind (one of each first). `by` stands for a wave per kind, the smallest first.
 */
export const waveSpec = z.object({
  percent: z.number().positive().max(100).optional(),
  count: z.number().int().positive().optional(),
  selector: z.string().max(1_000).optional(),
  by: z.enum(strata).optional(),
  perStratum: z.enum(strata).optional(),
}).refine((wave) => [wave.percent, wave.count, wave.selector, wave.by].filter((part) => part !== undefined).length === 1, 'a wave has exactly one of percent, count, selector, by')
  .refine((wave) => wave.perStratum === undefined || wave.percent !== undefined || wave.count !== undefined, { path: ['perStratum'], message: 'perStratum goes with count or percent' }).meta({ id: 'RolloutWaveSpec' });
export type WaveSpec = z.output<typeof waveSpec>;

/** Devices that a rollout leaves alone, whatever its selector says. */
export const exclude = z.object({ devices: z.array(deviceId).max(10_000).default([]), selector: z.string().min(1).max(1_000).nullable().default(null) }).meta({ id: 'RolloutExclude' });
export type Exclude = z.output<typeof exclude>;

export const abortMode = z.enum(['stop-new', 'recall']);
export type AbortMode = z.output<typeof abortMode>;

export const advanceRollout = z.object({
  skipPending: z.boolean().default(false).describe('leave out the devices of the wave that have not answered and judge the rest, instead of passing the wave without a verdict'),
}).prefault({}).meta({ id: 'AdvanceRollout' });
export type AdvanceRollout = z.output<typeof advanceRollout>;

export const createRollout = z.object({
  version: z.string().max(100).describe('model@number; the newest ready version when only a model is named'),
  workload: workloadName,
  selector: z.string().max(1_000).default('').describe('Kubernetes label selector; empty = every device'),
  devices: z.array(deviceId).min(1).max(10_000).optional().describe('only these of the devices that the selector chooses'),
  exclude: exclude.prefault({}),
  name: z.string().min(1).max(120).optional(),
  waves: z.array(waveSpec).min(1).max(100).optional(),
  gates: gates.prefault({}),
  soakS: z.number().min(0).max(2_592_000).optional().describe('a wave serves at least this long, seconds, before it can pass'),
  deadlineS: z.number().min(1).max(2_592_000).optional().describe('seconds from the last installation until an undecided wave is inconclusive'),
  minSamples: z.number().int().min(1).default(50).describe('inferences per device before it is judged'),
  minReportingPercent: percentOf.default(80).describe('share of the updated devices that must have that sample'),
  installTimeoutS: z.number().min(1).max(2_592_000).optional().describe('a device that has not answered after this is TIMED_OUT; policy.timeoutS + policy.observeS + policy.shadow.maxS + 30 when absent'),
  rollbackTimeoutS: z.number().min(1).max(2_592_000).default(300),
  rollback: rollbackPlan.prefault({}).describe('how devices go back, should they have to'),
  baselineWindowS: z.number().min(1).max(2_592_000).default(1_800).describe('telemetry of the previous bundle before the assignment that makes the baseline'),
  alpha: z.number().positive().max(0.5).default(0.05).describe('chance of a wrong verdict per gate and wave, over all looks together'),
  policy: policy.prefault({}),
  onFailure: z.enum(['rollback', 'pause']).default('rollback'),
  abortMode: abortMode.default('stop-new').describe('what abort means when it does not say'),
  start: z.boolean().default(true),
  startAt: z.iso.datetime().optional(),
  stopAt: z.iso.datetime().optional().describe('after it nobody new is told; the rollout pauses'),
  windows: z.array(maintenanceWindow).max(50).default([]).describe('devices are told only in these stretches of their own local time; empty = always'),
  rate: rate.nullable().default(noPace.rate),
  maxInProgress: z.number().int().min(1).max(1_000_000).nullable().default(noPace.maxInProgress).describe('devices at once that were told and have not answered'),
  maxInProgressPerSite: z.number().int().min(1).max(1_000_000).nullable().default(noPace.maxInProgressPerSite).describe('the same per value of the label site'),
  siteBytesPerSecond: z.number().int().min(1).max(1e12).nullable().default(noPace.siteBytesPerSecond).describe('of the link of a site; devices there are told so far apart that their bundles fit'),
  requireApproval: z.boolean().default(false),
  dynamic: z.boolean().default(false).describe('devices that come to match later join: its last wave before that opens, and after the success until something newer takes over'),
  supersede: z.boolean().default(false).describe('abort (stop-new) the rollouts of the same workload that hold these devices'),
}).refine((body) => body.soakS === undefined || body.deadlineS === undefined || body.deadlineS >= body.soakS, { path: ['deadlineS'], message: 'deadlineS must not be below soakS' }).refine((body) => body.stopAt === undefined || body.startAt === undefined || body.stopAt > body.startAt, { path: ['stopAt'], message: 'stopAt must be after startAt' }).meta({ id: 'CreateRollout' });
export type CreateRollout = z.output<typeof createRollout>;

/** What a rollout goes by; fixed at creation and shown with it, so that later defaults never change a running one. */
export interface Settings {
  gates: Gates;
  soakS: number;
  deadlineS: number;
  minSamples: number;
  minReportingPercent: number;
  installTimeoutS: number;
  rollbackTimeoutS: number;
  /** Absent in rollouts of older controllers. */
  rollback?: RollbackPlan;
  baselineWindowS: number;
  alpha: number;
  policy: z.output<typeof policy>;
  onFailure: 'rollback' | 'pause';
  abortMode: AbortMode;
  /** Missing in rollouts from before it was: those tell a whole wave at once. */
  pace?: Pace;
  dynamic?: boolean;
  exclude?: Exclude;
}

/** Up to this many devices somebody is usually watching, and minutes matter more than a long look. */
const smallFleet = 20;

/** An agent infers nothing: what can be wrong with a release shows in whether devices come back on it, and say so. */
export function forAgents(body: CreateRollout): CreateRollout {
  const none = { errorRate: null, latencyP50: null, latencyP95: null, latencyP99: null, accuracy: null, temperature: null, scoreDrift: null, shadowAgreement: null, custom: [] };
  return { ...body, gates: { ...body.gates, ...none } };
}

export function settingsFor(body: CreateRollout, eligible: number): Settings {
  const soakS = body.soakS ?? Math.min(eligible <= smallFleet ? 15 : 300, body.deadlineS ?? Infinity);
  return {
    gates: body.gates,
    soakS,
    deadlineS: body.deadlineS ?? Math.max(eligible <= smallFleet ? 180 : 3_600, soakS * 2),
    minSamples: body.minSamples,
    minReportingPercent: body.minReportingPercent,
    installTimeoutS: body.installTimeoutS ?? activationLimitS(body.policy) + 30,
    rollbackTimeoutS: body.rollbackTimeoutS,
    rollback: body.rollback,
    baselineWindowS: body.baselineWindowS,
    alpha: body.alpha,
    policy: body.policy,
    onFailure: body.onFailure,
    abortMode: body.abortMode,
    dynamic: body.dynamic, exclude: body.exclude,
    pace: { windows: body.windows, rate: body.rate, maxInProgress: body.maxInProgress, maxInProgressPerSite: body.maxInProgressPerSite, siteBytesPerSecond: body.siteBytesPerSecond },
  };
}

export interface Wave {
  index: number;
  state: WaveState;
  size: number;
  startedAt: Date | null;
  /** Since when every device of the wave has answered or timed out: the soak and the deadline run from here. */
  analysingAt: Date | null;
  deadlineAt: Date | null;
  endedAt: Date | null;
}

/** As much of a rollout as the engine needs. */
export interface Rollout {
  id: string;
  state: RolloutState;
  wave: number;
  settings: Settings;
  waves: Wave[];
  startAt: Date | null;
  /** After it nobody new is told. */
  stopAt: Date | null;
  /** What it waited for when it was last looked at. */
  waiting: Reason | null;
  /** Why no more devices are taken in after its success. */
  lateStopped?: Reason | null;
}

/** Health of one device over a stretch of time, as numbers that can be stored. The optional parts are absent in baselines of older controllers. */
export interface Sample {
  inferences: number;
  errors: number;
  p50Us: number | null;
  p95Us: number | null;
  p99Us?: number | null;
  labelled: number;
  correct: number;
  /** Mean over the stretch; null = not known. */
  temperatureC?: number | null;
  /** Mean index, cleared of what chance alone adds, and the scores behind it. */
  drift?: { psi: number; scores: number } | null;
  metrics?: Record<string, MetricMoments>;
  /** The version beside the active model, before it served. */
  shadow?: { frames: number; agreed: number } | null;
}

export interface DeviceSample {
  device: string;
  /** The previous bundle of this device, before the assignment. `first`: there was none. */
  baseline: Sample | null;
  first: boolean;
  current: Sample;
}

