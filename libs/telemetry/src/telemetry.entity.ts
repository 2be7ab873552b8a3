import type { DriftWindow, MetricMoments, ShadowWindow } from '@reefkeeper/protocol';
import { Column, Entity, PrimaryColumn } from 'typeorm';

/** One closed window of one workload on one bundle, as the device sent it. (device, bootId, seq) names it for ever. */
@Entity('telemetry_windows')
export class TelemetryWindow {
  @PrimaryColumn({ name: 'device_id', type: 'text' }) deviceId!: string;
  @PrimaryColumn({ name: 'boot_id', type: 'text' }) bootId!: string;
  @PrimaryColumn({ name: 'seq', type: 'bigint', transformer: { from: Number, to: (value: number) => value } }) seq!: number;
  @Column({ name: 'workload', type: 'text' }) workload!: string;
  @Column({ name: 'bundle', type: 'text' }) bundle!: string;
  @Column({ name: 'variant', type: 'text' }) variant!: string;
  @Column({ name: 'backend', type: 'text' }) backend!: string;
  /** Device clock: data only. Everything that is decided goes by `receivedAt`. */
  @Column({ name: 'started_at', type: 'timestamptz' }) startedAt!: Date;
  @Column({ name: 'received_at', type: 'timestamptz' }) receivedAt!: Date;
  @Column({ name: 'duration_ms', type: 'integer' }) durationMs!: number;
  @Column({ name: 'inferences', type: 'integer' }) inferences!: number;
  @Column({ name: 'errors', type: 'jsonb' }) errors!: Record<string, number>;
  @Column({ name: 'error_count', type: 'integer' }) errorCount!: number;
  /** Stage -> base64 sketch, microseconds. */
  @Column({ name: 'latency', type: 'jsonb' }) latency!: Record<string, string>;
  @Column({ name: 'labelled', type: 'integer' }) labelled!: number;
  @Column({ name: 'correct', type: 'integer' }) correct!: number;
  @Column({ name: 'scores', type: 'text', nullable: true }) scores!: string | null;
  @Column({ name: 'temperature_c', type: 'real', nullable: true }) temperatureC!: number | null;
  /** A candidate beside the active model, sketches as sent. */
  @Column({ name: 'shadow', type: 'jsonb', nullable: true }) shadow!: ShadowWindow | null;
  /** Numbers of the site's own program, by name. */
  @Column({ name: 'metrics', type: 'jsonb', nullable: true }) metrics!: Record<string, MetricMoments> | null;
  @Column({ name: 'drift', type: 'jsonb', nullable: true }) drift!: DriftWindow | null;
  /** What the device threw away before this window, for want of room. */
  @Column({ name: 'lost', type: 'jsonb', nullable: true }) lost!: { windows: number; inferences: number } | null;
}
