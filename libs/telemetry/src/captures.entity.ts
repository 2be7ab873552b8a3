import { Column, Entity, PrimaryColumn } from 'typeorm';

/** A picture on which a device's model was not sure. Its bytes are in the artifact store. */
@Entity({ name: 'captures' })
export class Capture {
  @PrimaryColumn({ name: 'id', type: 'uuid' }) id!: string;
  /** In the order received; the cursor of lists. */
  @Column({ name: 'seq', type: 'bigint', generated: 'increment', transformer: { from: Number, to: (value: number) => value } }) seq!: number;
  @Column({ name: 'device_id', type: 'text' }) deviceId!: string;
  @Column({ name: 'workload', type: 'text' }) workload!: string;
  @Column({ name: 'bundle', type: 'text' }) bundle!: string;
  @Column({ name: 'variant', type: 'text' }) variant!: string;
  @Column({ name: 'backend', type: 'text' }) backend!: string;
  @Column({ name: 'prediction', type: 'text' }) prediction!: string;
  @Column({ name: 'score', type: 'real' }) score!: number;
  /** To the second best class. */
  @Column({ name: 'margin', type: 'real' }) margin!: number;
  /** Device clock: data only. */
  @Column({ name: 'taken_at', type: 'timestamptz' }) takenAt!: Date;
  @Column({ name: 'received_at', type: 'timestamptz' }) receivedAt!: Date;
  @Column({ name: 'digest', type: 'text' }) digest!: string;
  @Column({ name: 'bytes', type: 'integer' }) bytes!: number;
  /** What a person says it is. */
  @Column({ name: 'label', type: 'text', nullable: true }) label!: string | null;
  @Column({ name: 'labelled_by', type: 'text', nullable: true }) labelledBy!: string | null;
  @Column({ name: 'labelled_at', type: 'timestamptz', nullable: true }) labelledAt!: Date | null;
}
