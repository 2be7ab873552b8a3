import { Column, Entity, PrimaryColumn } from 'typeorm';
import type { BuildRequest, JobError, JobState, StepName, StepState } from './job.ts';

const bigint = { from: Number, to: (value: number) => value };

/** One run of the pipeline for one version. The row is the truth; queue messages only say "look". */
@Entity('jobs')
export class Job {
  @PrimaryColumn({ name: 'id', type: 'uuid' }) id!: string;
  @Column({ name: 'version_id', type: 'uuid' }) versionId!: string;
  @Column({ name: 'model', type: 'text' }) model!: string;
  /** `name@3` */
  @Column({ name: 'ref', type: 'text' }) ref!: string;
  @Column({ name: 'state', type: 'text' }) state!: JobState;
  @Column({ name: 'request', type: 'jsonb' }) request!: BuildRequest;
  /** Higher goes first, -100 to 100. */
  @Column({ name: 'priority', type: 'integer' }) priority!: number;
  @Column({ name: 'error', type: 'jsonb', nullable: true }) error!: JobError | null;
  @Column({ name: 'created_at', type: 'timestamptz' }) createdAt!: Date;
  @Column({ name: 'created_by', type: 'text' }) createdBy!: string;
  @Column({ name: 'started_at', type: 'timestamptz', nullable: true }) startedAt!: Date | null;
  @Column({ name: 'ended_at', type: 'timestamptz', nullable: true }) endedAt!: Date | null;
  @Column({ name: 'cancel_requested_at', type: 'timestamptz', nullable: true }) cancelRequestedAt!: Date | null;
  /** Random token of the run that owns the job now. A run writes only while the token is its own. */
  @Column({ name: 'owner', type: 'uuid', nullable: true }) owner!: string | null;
  // Leases go by the database's clock, so that the workers' clocks need not agree.
  @Column({ name: 'heartbeat_at', type: 'timestamptz', nullable: true }) heartbeatAt!: Date | null;
  @Column({ name: 'run_after', type: 'timestamptz', nullable: true }) runAfter!: Date | null;
  @Column({ name: 'changed_at', type: 'timestamptz' }) changedAt!: Date;
  /** Number of the queue message that is due; part of its id, so that sweeping twice queues once. */
  @Column({ name: 'message', type: 'integer' }) message!: number;
}

@Entity('job_steps')
export class JobStep {
  @PrimaryColumn({ name: 'job_id', type: 'uuid' }) jobId!: string;
  @PrimaryColumn({ name: 'ordinal', type: 'integer' }) ordinal!: number;
  @Column({ name: 'name', type: 'text' }) name!: StepName;
  @Column({ name: 'state', type: 'text' }) state!: StepState;
  @Column({ name: 'percent', type: 'real', nullable: true }) percent!: number | null;
  @Column({ name: 'eta_s', type: 'integer', nullable: true }) etaS!: number | null;
  @Column({ name: 'message', type: 'text', nullable: true }) message!: string | null;
  @Column({ name: 'tries', type: 'integer' }) tries!: number;
  /** Runs that ended with the death of their worker. */
  @Column({ name: 'losses', type: 'integer' }) losses!: number;
  @Column({ name: 'key', type: 'text', nullable: true }) key!: string | null;
  @Column({ name: 'output', type: 'jsonb', nullable: true }) output!: unknown;
  @Column({ name: 'error', type: 'jsonb', nullable: true }) error!: JobError | null;
  @Column({ name: 'started_at', type: 'timestamptz', nullable: true }) startedAt!: Date | null;
  @Column({ name: 'ended_at', type: 'timestamptz', nullable: true }) endedAt!: Date | null;
}

@Entity('job_log')
export class JobLogLine {
  /** Rises within a job, with gaps. */
  @PrimaryColumn({ name: 'n', type: 'bigint', transformer: bigint, generated: 'increment' }) n!: number;
  @Column({ name: 'job_id', type: 'uuid' }) jobId!: string;
  @Column({ name: 'at', type: 'timestamptz' }) at!: Date;
  @Column({ name: 'step', type: 'text' }) step!: StepName;
  @Column({ name: 'stream', type: 'text' }) stream!: 'out' | 'err';
  @Column({ name: 'text', type: 'text' }) text!: string;
}
