import { Column, Entity, PrimaryColumn } from 'typeorm';
import type { AlertState, Severity } from './alert.ts';

/** A condition that somebody may have to look at. Of one kind and subject at most one row is not CLOSED; the database holds that. */
@Entity('alerts')
export class AlertRow {
  @PrimaryColumn({ name: 'id', type: 'uuid' }) id!: string;
  /** In the order in which the conditions were first seen; the cursor of lists. */
  @Column({ name: 'seq', type: 'bigint', generated: 'increment', transformer: { from: Number, to: (value: number) => value } }) seq!: number;
  @Column({ name: 'kind', type: 'text' }) kind!: string;
  @Column({ name: 'subject', type: 'text' }) subject!: string;
  @Column({ name: 'device_id', type: 'text', nullable: true }) device!: string | null;
  @Column({ name: 'workload', type: 'text', nullable: true }) workload!: string | null;
  @Column({ name: 'rollout_id', type: 'uuid', nullable: true }) rollout!: string | null;
  @Column({ name: 'severity', type: 'text' }) severity!: Severity;
  /** `PENDING` until the condition has held for long enough; those are nobody's business yet and in no list. */
  @Column({ name: 'state', type: 'text' }) state!: AlertState;
  @Column({ name: 'since', type: 'timestamptz' }) since!: Date;
  @Column({ name: 'opened_at', type: 'timestamptz' }) openedAt!: Date;
  @Column({ name: 'last_seen_at', type: 'timestamptz' }) lastSeenAt!: Date;
  @Column({ name: 'gone_since', type: 'timestamptz', nullable: true }) goneSince!: Date | null;
  @Column({ name: 'closed_at', type: 'timestamptz', nullable: true }) closedAt!: Date | null;
  @Column({ name: 'times', type: 'integer' }) times!: number;
  @Column({ name: 'numbers', type: 'jsonb' }) numbers!: Record<string, unknown>;
  @Column({ name: 'summary', type: 'text' }) summary!: string;
  @Column({ name: 'advice', type: 'text' }) advice!: string;
  @Column({ name: 'acknowledged_at', type: 'timestamptz', nullable: true }) acknowledgedAt!: Date | null;
  @Column({ name: 'acknowledged_by', type: 'text', nullable: true }) acknowledgedBy!: string | null;
  @Column({ name: 'note', type: 'text', nullable: true }) note!: string | null;
  /** What the webhook was told last: the row is the outbox. */
  @Column({ name: 'told', type: 'text', select: false }) told!: 'nothing' | 'firing' | 'resolved';
  @Column({ name: 'tell_tries', type: 'integer', select: false }) tellTries!: number;
  @Column({ name: 'tell_after', type: 'timestamptz', nullable: true, select: false }) tellAfter!: Date | null;
}

/** While it lasts, alerts about devices that match open and close as ever, and nobody is told. */
@Entity('alert_silences')
export class SilenceRow {
  @PrimaryColumn({ name: 'id', type: 'uuid' }) id!: string;
  /** Empty = every device. */
  @Column({ name: 'selector', type: 'text' }) selector!: string;
  /** Empty = every kind. */
  @Column({ name: 'kinds', type: 'text', array: true }) kinds!: string[];
  @Column({ name: 'until', type: 'timestamptz' }) until!: Date;
  @Column({ name: 'reason', type: 'text' }) reason!: string;
  @Column({ name: 'created_at', type: 'timestamptz' }) createdAt!: Date;
  @Column({ name: 'created_by', type: 'text' }) createdBy!: string;
  @Column({ name: 'lifted_at', type: 'timestamptz', nullable: true }) liftedAt!: Date | null;
  @Column({ name: 'lifted_by', type: 'text', nullable: true }) liftedBy!: string | null;
}
