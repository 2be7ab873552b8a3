import { Column, Entity, PrimaryColumn } from 'typeorm';
import type { Transfer } from '@reefkeeper/protocol';
import type { RollbackState } from './follow.ts';
import type { Plan, PlannedWave } from './plan.ts';
import type { Reason, RolloutExecutionState, RolloutState, Sample, Settings, Wave, WaveState } from './rollout.ts';
import type { Verdict } from './verdict.ts';

/** The plan as kept with the rollout: the devices themselves are the executions. */
export type KeptPlan = Omit<Plan, 'waves'> & { waves: Omit<PlannedWave, 'devices'>[] };

@Entity('rollouts')
export class RolloutRow {
  @PrimaryColumn({ name: 'id', type: 'uuid' }) id!: string;
  @Column({ name: 'name', type: 'text' }) name!: string;
  @Column({ name: 'version_ref', type: 'text' }) versionRef!: string;
  @Column({ name: 'version_id', type: 'text' }) versionId!: string;
  @Column({ name: 'bundle', type: 'text' }) bundle!: string;
  @Column({ name: 'workload', type: 'text' }) workload!: string;
  @Column({ name: 'selector', type: 'text' }) selector!: string;
  @Column({ name: 'state', type: 'text' }) state!: RolloutState;
  @Column({ name: 'state_reason', type: 'jsonb' }) stateReason!: Reason;
  @Column({ name: 'wave', type: 'integer' }) wave!: number;
  @Column({ name: 'settings', type: 'jsonb' }) settings!: Settings;
  @Column({ name: 'plan', type: 'jsonb' }) plan!: KeptPlan;
  @Column({ name: 'supersede', type: 'boolean' }) supersede!: boolean;
  /** When the engine wants to look again at the latest. A column, so that any replica can take over at any moment. */
  @Column({ name: 'wait_until', type: 'timestamptz', nullable: true }) waitUntil!: Date | null;
  @Column({ name: 'start_at', type: 'timestamptz', nullable: true }) startAt!: Date | null;
  @Column({ name: 'stop_at', type: 'timestamptz', nullable: true }) stopAt!: Date | null;
  /** Why nothing more happens now, while it is under way. */
  @Column({ name: 'waiting', type: 'jsonb', nullable: true }) waiting!: Reason | null;
  /** Why a dynamic rollout takes in no more devices after its success. */
  @Column({ name: 'late_stopped', type: 'jsonb', nullable: true }) lateStopped!: Reason | null;
  @Column({ name: 'created_at', type: 'timestamptz' }) createdAt!: Date;
  @Column({ name: 'created_by', type: 'text' }) createdBy!: string;
  @Column({ name: 'started_at', type: 'timestamptz', nullable: true }) startedAt!: Date | null;
  @Column({ name: 'ended_at', type: 'timestamptz', nullable: true }) endedAt!: Date | null;
}

@Entity('rollout_waves')
export class WaveRow implements Wave {
  @PrimaryColumn({ name: 'rollout_id', type: 'uuid' }) rolloutId!: string;
  @PrimaryColumn({ name: 'index', type: 'integer' }) index!: number;
  @Column({ name: 'state', type: 'text' }) state!: WaveState;
  @Column({ name: 'size', type: 'integer' }) size!: number;
  @Column({ name: 'verdicts', type: 'jsonb' }) verdicts!: Verdict[];
  @Column({ name: 'started_at', type: 'timestamptz', nullable: true }) startedAt!: Date | null;
  @Column({ name: 'analysing_at', type: 'timestamptz', nullable: true }) analysingAt!: Date | null;
  @Column({ name: 'deadline_at', type: 'timestamptz', nullable: true }) deadlineAt!: Date | null;
  @Column({ name: 'ended_at', type: 'timestamptz', nullable: true }) endedAt!: Date | null;
}

/** One device's part. There is one row per device and rollout, whatever is delivered twice. */
@Entity('rollout_executions')
export class ExecutionRow {
  @PrimaryColumn({ name: 'rollout_id', type: 'uuid' }) rolloutId!: string;
  @PrimaryColumn({ name: 'device_id', type: 'text' }) deviceId!: string;
  @Column({ name: 'wave', type: 'integer' }) wave!: number;
  @Column({ name: 'variant', type: 'text' }) variant!: string;
  /** What it fetches at most. */
  @Column({ name: 'bytes', type: 'bigint', transformer: { from: Number, to: (value: number) => value } }) bytes!: number;
  @Column({ name: 'state', type: 'text' }) state!: RolloutExecutionState;
  @Column({ name: 'step', type: 'text', nullable: true }) step!: string | null;
  @Column({ name: 'percent', type: 'real', nullable: true }) percent!: number | null;
  @Column({ name: 'failure', type: 'jsonb', nullable: true }) failure!: { code: string; message: string } | null;
  /** Of the desired state that told the device. */
  @Column({ name: 'revision', type: 'bigint', nullable: true, transformer: { from: (value: string | null) => (value === null ? null : Number(value)), to: (value: number | null) => value } }) revision!: number | null;
  /** What this very device goes back to; null = it ran nothing. */
  @Column({ name: 'previous_bundle', type: 'text', nullable: true }) previousBundle!: string | null;
  @Column({ name: 'previous_version_id', type: 'text', nullable: true }) previousVersionId!: string | null;
  @Column({ name: 'previous_variant', type: 'text', nullable: true }) previousVariant!: string | null;
  /** Health on the previous bundle just before the assignment. */
  @Column({ name: 'baseline', type: 'jsonb', nullable: true }) baseline!: Sample | null;
  @Column({ name: 'assigned_at', type: 'timestamptz', nullable: true }) assignedAt!: Date | null;
  /** From when the time for the installation runs: since a wait of the device's own was over; null = since the assignment. */
  @Column({ name: 'timeout_from', type: 'timestamptz', nullable: true }) timeoutFrom!: Date | null;
  @Column({ name: 'settled_at', type: 'timestamptz', nullable: true }) settledAt!: Date | null;
  /** Why the device left the version after its success. The success stays one; gates count it as a failure. */
  @Column({ name: 'fault', type: 'jsonb', nullable: true }) fault!: { code: string; message: string } | null;
  /** Somebody has left it out of its wave's verdict. */
  @Column({ name: 'skipped', type: 'boolean', default: false }) skipped!: boolean;
  @Column({ name: 'rollback_state', type: 'text', nullable: true }) rollbackState!: RollbackState | null;
  @Column({ name: 'rollback_revision', type: 'bigint', nullable: true, transformer: { from: (value: string | null) => (value === null ? null : Number(value)), to: (value: number | null) => value } }) rollbackRevision!: number | null;
  /** What the device's files took, as it said last. */
  @Column({ name: 'transfer', type: 'jsonb', nullable: true }) transfer!: Transfer | null;
  @Column({ name: 'rollback_failure', type: 'jsonb', nullable: true }) rollbackFailure!: { code: string; message: string } | null;
  @Column({ name: 'rollback_assigned_at', type: 'timestamptz', nullable: true }) rollbackAssignedAt!: Date | null;
  @Column({ name: 'rollback_settled_at', type: 'timestamptz', nullable: true }) rollbackSettledAt!: Date | null;
}

/** No rollout tells a device that matches anything new while it lasts. */
@Entity('rollout_freezes')
export class FreezeRow {
  @PrimaryColumn({ name: 'id', type: 'uuid' }) id!: string;
  @Column({ name: 'selector', type: 'text' }) selector!: string;
  @Column({ name: 'until', type: 'timestamptz' }) until!: Date;
  @Column({ name: 'reason', type: 'text' }) reason!: string;
  @Column({ name: 'created_at', type: 'timestamptz' }) createdAt!: Date;
  @Column({ name: 'created_by', type: 'text' }) createdBy!: string;
  @Column({ name: 'lifted_at', type: 'timestamptz', nullable: true }) liftedAt!: Date | null;
  @Column({ name: 'lifted_by', type: 'text', nullable: true }) liftedBy!: string | null;
}

/** The decision log: what was decided, why, on which numbers, by whom. Append-only. */
@Entity('rollout_events')
export class RolloutEvent {
  @PrimaryColumn({ name: 'id', type: 'bigint', transformer: { from: Number, to: (value: number) => value } }) id!: number;
  @Column({ name: 'rollout_id', type: 'uuid' }) rolloutId!: string;
  @Column({ name: 'at', type: 'timestamptz' }) at!: Date;
  @Column({ name: 'kind', type: 'text' }) kind!: string;
  @Column({ name: 'wave', type: 'integer', nullable: true }) wave!: number | null;
  @Column({ name: 'code', type: 'text' }) code!: string;
  @Column({ name: 'message', type: 'text' }) message!: string;
  @Column({ name: 'numbers', type: 'jsonb' }) numbers!: Record<string, unknown>;
  /** `engine`, or who asked for it. */
  @Column({ name: 'actor', type: 'text' }) actor!: string;
}
