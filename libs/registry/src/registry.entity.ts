import { Column, Entity, JoinColumn, ManyToOne, OneToMany, PrimaryColumn } from 'typeorm';
import type { Lineage, Parity, Task, VariantKind } from '@reefkeeper/bundle';
import type { VersionState } from './version.ts';

@Entity('models')
export class Model {
  @PrimaryColumn({ name: 'name', type: 'text' }) name!: string;
  @Column({ name: 'description', type: 'text', nullable: true }) description!: string | null;
  @Column({ name: 'created_at', type: 'timestamptz' }) createdAt!: Date;
  @Column({ name: 'created_by', type: 'text' }) createdBy!: string;
}

export interface VersionError {
  code: string;
  message: string;
  step?: string;
}

/** Why nobody should roll a version out without having looked at it. */
export interface VersionHold {
  code: string;
  message: string;
  /** Names of the variants it is about. */
  variants: string[];
}

/** A variant that was asked for and could not be made, while others were. */
export interface FailedVariant {
  name: string;
  minRuntime: number | null;
  code: string;
  message: string;
}

/** The model cut into segments, one for each of several Edge TPUs, in order: the files behind the variant `edgetpu-N-xM`. */
export interface SegmentedModel {
  minRuntime: number;
  nondeterministic: string | null;
  segments: { digest: string; bytes: number; details: Record<string, unknown> }[];
}

@Entity('versions')
export class Version {
  @PrimaryColumn({ name: 'id', type: 'uuid' }) id!: string;
  @Column({ name: 'model', type: 'text' }) model!: string;
  @Column({ name: 'version', type: 'integer' }) version!: number;
  @Column({ name: 'state', type: 'text' }) state!: VersionState;
  @Column({ name: 'task', type: 'text' }) task!: Task;
  @Column({ name: 'labels', type: 'jsonb', nullable: true }) labels!: string[] | null;
  @Column({ name: 'notes', type: 'text', nullable: true }) notes!: string | null;
  @Column({ name: 'lineage', type: 'jsonb', nullable: true }) lineage!: Lineage | null;
  @Column({ name: 'parity', type: 'jsonb', nullable: true }) parity!: Parity | null;
  /** The op-level pre-flight, as the analyzer gave it. */
  @Column({ name: 'analysis', type: 'jsonb', nullable: true }) analysis!: Record<string, unknown> | null;
  @Column({ name: 'error', type: 'jsonb', nullable: true }) error!: VersionError | null;
  /** SHA-256 of the canonical manifest; what devices are told to run. */
  @Column({ name: 'bundle_digest', type: 'text', nullable: true }) bundleDigest!: string | null;
  /** Where the signed envelope is stored. */
  @Column({ name: 'envelope_digest', type: 'text', nullable: true }) envelopeDigest!: string | null;
  @Column({ name: 'created_at', type: 'timestamptz' }) createdAt!: Date;
  @Column({ name: 'created_by', type: 'text' }) createdBy!: string;
  @Column({ name: 'ready_at', type: 'timestamptz', nullable: true }) readyAt!: Date | null;
  @Column({ name: 'failed_variants', type: 'jsonb' }) failedVariants!: FailedVariant[];
  @Column({ name: 'pipelines', type: 'jsonb' }) pipelines!: SegmentedModel[];
  @Column({ name: 'hold', type: 'jsonb', nullable: true }) hold!: VersionHold | null;
  /** When a person took the hold off, and who. */
  @Column({ name: 'confirmed_at', type: 'timestamptz', nullable: true }) confirmedAt!: Date | null;
  @Column({ name: 'confirmed_by', type: 'text', nullable: true }) confirmedBy!: string | null;
  @OneToMany(() => Variant, (variant) => variant.of) variants!: Variant[];
}

@Entity('variants')
export class Variant {
  @PrimaryColumn({ name: 'version_id', type: 'uuid' }) versionId!: string;
  @PrimaryColumn({ name: 'name', type: 'text' }) name!: string;
  @Column({ name: 'kind', type: 'text' }) kind!: VariantKind;
  @Column({ name: 'min_runtime', type: 'integer', nullable: true }) minRuntime!: number | null;
  @Column({ name: 'digest', type: 'text' }) digest!: string;
  @Column({ name: 'bytes', type: 'bigint', transformer: { from: Number, to: (value: number) => value } }) bytes!: number;
  /** What inspection found: memory on and off the chip, operators on the CPU, predicted latency. */
  @Column({ name: 'details', type: 'jsonb', nullable: true }) details!: Record<string, unknown> | null;
  @ManyToOne(() => Version, (version) => version.variants) @JoinColumn({ name: 'version_id' }) of!: Version;
}

/** What the object store holds on purpose. `role` says what for: `upload`, `model`, `golden`, `envelope`, `compile-log`. */
@Entity('artifacts')
export class Artifact {
  @PrimaryColumn({ name: 'digest', type: 'text' }) digest!: string;
  @Column({ name: 'bytes', type: 'bigint', transformer: { from: Number, to: (value: number) => value } }) bytes!: number;
  @Column({ name: 'media_type', type: 'text' }) mediaType!: string;
  @Column({ name: 'role', type: 'text' }) role!: string;
  @Column({ name: 'created_at', type: 'timestamptz' }) createdAt!: Date;
  /** When it was last put or referred to: see `Retention`. */
  @Column({ name: 'touched_at', type: 'timestamptz' }) touchedAt!: Date;
}
