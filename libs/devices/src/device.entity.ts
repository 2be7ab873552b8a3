import { Column, Entity, PrimaryColumn } from 'typeorm';
import type { AgentConfig, Capabilities, CommandResult, Policy, ReportedWorkload } from '@reefkeeper/protocol';

const number = { from: (value: string | null) => (value === null ? null : Number(value)), to: (value: number | null) => value };

@Entity('devices')
export class Device {
  @PrimaryColumn({ name: 'id', type: 'text' }) id!: string;
  @Column({ name: 'labels', type: 'jsonb' }) labels!: Record<string, string>;
  @Column({ name: 'online', type: 'boolean' }) online!: boolean;
  /** The highest connection counter seen; presence of a lower one is old news. */
  @Column({ name: 'session', type: 'bigint', transformer: number }) session!: number;
  @Column({ name: 'last_seen_at', type: 'timestamptz', nullable: true }) lastSeenAt!: Date | null;
  @Column({ name: 'capabilities', type: 'jsonb', nullable: true }) capabilities!: Capabilities | null;
  @Column({ name: 'enrolled_at', type: 'timestamptz' }) enrolledAt!: Date;
  @Column({ name: 'retired_at', type: 'timestamptz', nullable: true }) retiredAt!: Date | null;
  @Column({ name: 'retired_reason', type: 'text', nullable: true }) retiredReason!: string | null;
}

/** A device that keeps what it runs: no rollout gives it anything new. */
@Entity('device_pins')
export class DevicePin {
  @PrimaryColumn({ name: 'device_id', type: 'text' }) deviceId!: string;
  /** Empty = every workload. */
  @PrimaryColumn({ name: 'workload', type: 'text' }) workload!: string;
  @Column({ name: 'reason', type: 'text' }) reason!: string;
  @Column({ name: 'pinned_by', type: 'text' }) pinnedBy!: string;
  @Column({ name: 'pinned_at', type: 'timestamptz' }) pinnedAt!: Date;
}

/** One row per device: the revision of its wanted state, and the last one that went out. The pair is the outbox. */
@Entity('desired')
export class DesiredState {
  @PrimaryColumn({ name: 'device_id', type: 'text' }) deviceId!: string;
  @Column({ name: 'revision', type: 'bigint', transformer: number }) revision!: number;
  @Column({ name: 'published_revision', type: 'bigint', transformer: number }) publishedRevision!: number;
  @Column({ name: 'config', type: 'jsonb' }) config!: Partial<AgentConfig>;
}

@Entity('desired_workloads')
export class DesiredWorkload {
  @PrimaryColumn({ name: 'device_id', type: 'text' }) deviceId!: string;
  @PrimaryColumn({ name: 'workload', type: 'text' }) workload!: string;
  @Column({ name: 'bundle', type: 'text' }) bundle!: string;
  @Column({ name: 'version_id', type: 'text', nullable: true }) versionId!: string | null;
  @Column({ name: 'variant', type: 'text' }) variant!: string;
  @Column({ name: 'policy', type: 'jsonb' }) policy!: Policy;
  @Column({ name: 'rollback', type: 'boolean' }) rollback!: boolean;
  @Column({ name: 'rollback_to', type: 'text', nullable: true }) rollbackTo!: string | null;
}

/** The newest report of a device, in the order of (bootId, seq). */
@Entity('reported')
export class ReportedState {
  @PrimaryColumn({ name: 'device_id', type: 'text' }) deviceId!: string;
  @Column({ name: 'boot_id', type: 'text' }) bootId!: string;
  @Column({ name: 'seq', type: 'bigint', transformer: number }) seq!: number;
  @Column({ name: 'session', type: 'bigint', transformer: number }) session!: number;
  @Column({ name: 'observed_revision', type: 'bigint', nullable: true, transformer: number }) observedRevision!: number | null;
  @Column({ name: 'health', type: 'text' }) health!: 'HEALTHY' | 'DEGRADED';
  @Column({ name: 'conditions', type: 'jsonb' }) conditions!: string[];
  @Column({ name: 'workloads', type: 'jsonb' }) workloads!: Record<string, ReportedWorkload>;
  @Column({ name: 'received_at', type: 'timestamptz' }) receivedAt!: Date;
}

@Entity('enrolment_tokens')
export class EnrolmentToken {
  /** SHA-256 of the secret; the secret itself is shown once and kept nowhere. */
  @PrimaryColumn({ name: 'hash', type: 'text' }) hash!: string;
  @Column({ name: 'device_id', type: 'text', nullable: true }) deviceId!: string | null;
  @Column({ name: 'labels', type: 'jsonb' }) labels!: Record<string, string>;
  @Column({ name: 'uses_left', type: 'integer' }) usesLeft!: number;
  @Column({ name: 'expires_at', type: 'timestamptz' }) expiresAt!: Date;
  @Column({ name: 'created_by', type: 'text' }) createdBy!: string;
  @Column({ name: 'created_at', type: 'timestamptz' }) createdAt!: Date;
}

@Entity('certificates')
export class Certificate {
  /** Hexadecimal, as in the certificate. */
  @PrimaryColumn({ name: 'serial', type: 'text' }) serial!: string;
  @Column({ name: 'device_id', type: 'text' }) deviceId!: string;
  @Column({ name: 'not_after', type: 'timestamptz' }) notAfter!: Date;
  @Column({ name: 'issued_at', type: 'timestamptz' }) issuedAt!: Date;
  @Column({ name: 'revoked_at', type: 'timestamptz', nullable: true }) revokedAt!: Date | null;
}

@Entity('api_tokens')
export class ApiToken {
  @PrimaryColumn({ name: 'id', type: 'uuid' }) id!: string;
  @Column({ name: 'name', type: 'text' }) name!: string;
  @Column({ name: 'role', type: 'text' }) role!: 'viewer' | 'operator' | 'approver' | 'admin';
  @Column({ name: 'hash', type: 'text', select: false }) hash!: string;
  @Column({ name: 'created_at', type: 'timestamptz' }) createdAt!: Date;
  @Column({ name: 'created_by', type: 'text' }) createdBy!: string;
  @Column({ name: 'last_used_at', type: 'timestamptz', nullable: true }) lastUsedAt!: Date | null;
  @Column({ name: 'revoked_at', type: 'timestamptz', nullable: true }) revokedAt!: Date | null;
}

/** Who did what to what. Rows are only ever added; the database refuses anything else. */
@Entity('audit')
export class AuditEntry {
  @PrimaryColumn({ name: 'id', type: 'bigint', transformer: number }) id!: number;
  @Column({ name: 'at', type: 'timestamptz' }) at!: Date;
  @Column({ name: 'actor', type: 'text' }) actor!: string;
  @Column({ name: 'action', type: 'text' }) action!: string;
  @Column({ name: 'subject', type: 'text' }) subject!: string;
  @Column({ name: 'detail', type: 'jsonb' }) detail!: Record<string, unknown>;
}

@Entity('device_commands')
export class DeviceCommand {
  @PrimaryColumn({ name: 'id', type: 'uuid' }) id!: string;
  @Column({ name: 'device_id', type: 'text' }) deviceId!: string;
  @Column({ name: 'kind', type: 'text' }) kind!: string;
  @Column({ name: 'args', type: 'jsonb' }) args!: Record<string, unknown>;
  @Column({ name: 'state', type: 'text' }) state!: 'QUEUED' | 'SENT' | 'SUCCEEDED' | 'FAILED';
  @Column({ name: 'answer', type: 'jsonb', nullable: true }) answer!: CommandResult | null;
  @Column({ name: 'created_by', type: 'text' }) createdBy!: string;
  @Column({ name: 'created_at', type: 'timestamptz' }) createdAt!: Date;
  @Column({ name: 'expires_at', type: 'timestamptz' }) expiresAt!: Date;
  @Column({ name: 'answered_at', type: 'timestamptz', nullable: true }) answeredAt!: Date | null;
}

export const deviceEntities = [Device, DevicePin, DesiredState, DesiredWorkload, ReportedState, EnrolmentToken, Certificate, ApiToken, AuditEntry, DeviceCommand];
