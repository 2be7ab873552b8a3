import { randomUUID } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { hintEach, hintingEach, prepared, ReefError, type Clock } from '@reefkeeper/platform';
import type { Command, CommandResult } from '@reefkeeper/protocol';
import { DataSource } from 'typeorm';
import { auditInsert } from './audit.ts';
import { DeviceCommand } from './device.entity.ts';
import { unknownDevice } from './devices.service.ts';

const insertCommand = prepared(`
  WITH made AS (
    INSERT INTO device_commands (id, device_id, kind, args, state, created_by, created_at, expires_at)
    SELECT $1, d.id, $3, $4, $5, $6, $7, $8 FROM devices d WHERE d.id = $2 AND d.retired_at IS NULL RETURNING id, device_id
  ), noted AS (
    ${auditInsert} SELECT $7, $6, $9, device_id, jsonb_build_object('id', id) FROM made
  )
  SELECT id FROM made`);

const storeAnswers = prepared(`
  WITH changed AS (
    UPDATE device_commands c SET state = CASE WHEN a.ok THEN 'SUCCEEDED' ELSE 'FAILED' END, answer = a.answer, answered_at = $5 FROM unnest($1::text[], $2::uuid[], $3::boolean[], $4::jsonb[]) AS a(device_id, id, ok, answer)
    WHERE c.id = a.id AND c.device_id = a.device_id AND c.state IN ('QUEUED', 'SENT') RETURNING c.device_id
  )
  ${hintingEach('device', 'SELECT DISTINCT device_id AS id FROM changed')}`);

/** One-off requests to a device. The row goes first and is published from there, so a crash between loses nothing; the device journals ids. */
@Injectable()
export class Commands {
  private publish: (made: DeviceCommand) => void = () => {};

  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock) {}

  /** Who hears at once of each command that this process makes. */
  publishWith(publish: (made: DeviceCommand) => void): void {
    this.publish = publish;
  }

  /** @throws ReefError `device.unknown` */
  async send(deviceId: string, request: { kind: Command['kind']; args: Record<string, unknown>; ttlS: number }, actor: string): Promise<DeviceCommand> {
    const now = this.clock.now();
    const made: DeviceCommand = {
      id: randomUUID(), deviceId, kind: request.kind, args: request.args, state: 'QUEUED', answer: null,
      createdBy: actor, createdAt: now, expiresAt: new Date(now.getTime() + request.ttlS * 1_000), answeredAt: null,
    };
    // One statement: whoever waits for the device waits for one round trip and one commit.
    const rows = await this.db.query<unknown[]>(insertCommand, [made.id, deviceId, made.kind, made.args, made.state, actor, made.createdAt, made.expiresAt, `device.command.${made.kind}`]);
    if (rows.length === 0) throw unknownDevice(deviceId);
    this.publish(made);
    return made;
  }

  /** @throws ReefError `command.unknown` */
  async get(deviceId: string, id: string): Promise<DeviceCommand> {
    const found = await this.db.manager.findOneBy(DeviceCommand, { deviceId, id });
    if (!found) throw new ReefError('command.unknown', 'not_found', `Device ${deviceId} was sent no command ${id}.`);
    return found;
  }

  /** Whether the device was asked to learn from these bytes and may fetch them for it: only it, and only while the command is open. */
  async opensTo(deviceId: string, digest: string): Promise<boolean> {
    const [found] = await this.db.query<unknown[]>("SELECT 1 FROM device_commands WHERE device_id = $1 AND kind = 'learn' AND state IN ('QUEUED', 'SENT') AND expires_at > $3 AND args #>> '{images,digest}' = $2 LIMIT 1", [deviceId, digest, this.clock.now()]);
    return found !== undefined;
  }

  /** What waits and was made before `before`: nobody who made it has published it. Oldest first. */
  async queued(limit: number, before: Date): Promise<DeviceCommand[]> {
    return this.db.manager.createQueryBuilder(DeviceCommand, 'c').where("c.state = 'QUEUED' AND c.createdAt < :before AND c.expiresAt > :now", { before, now: this.clock.now() }).orderBy('c.createdAt').limit(limit).getMany();
  }

  async markSent(ids: string[]): Promise<void> {
    if (ids.length > 0) await this.db.query("UPDATE device_commands SET state = 'SENT' WHERE id = ANY($1) AND state = 'QUEUED'", [ids]);
  }

  /** What nobody answered in time has failed. Only a late answer is lost by it, never the device's own record. */
  async expire(): Promise<void> {
    await this.db.transaction(async (tx) => {
      const [gone] = await tx.query<[{ device_id: string }[], number]>(`
        UPDATE device_commands SET state = 'FAILED', answered_at = $1, answer = jsonb_build_object('id', id, 'ok', false, 'result', '{}'::jsonb,
          'failure', jsonb_build_object('code', 'command.expired', 'message', 'The device did not answer in time; check that it is online and send it again.'))
        WHERE state IN ('QUEUED', 'SENT') AND expires_at <= $1 RETURNING device_id`, [this.clock.now()]);
      await hintEach(tx, 'device', [...new Set(gone.map(({ device_id: device }) => device))]);
    });
  }

  /** The first answer counts; repeats change nothing. */
  async answered(batch: readonly { device: string; answer: CommandResult }[]): Promise<void> {
    const first = new Map<string, { device: string; answer: CommandResult }>();
    for (const one of batch) if (uuid.test(one.answer.id) && !first.has(`${one.device} ${one.answer.id}`)) first.set(`${one.device} ${one.answer.id}`, one);
    const answers = [...first.values()];
    if (answers.length === 0) return;
    await this.db.query(storeAnswers, [answers.map(({ device }) => device), answers.map(({ answer }) => answer.id), answers.map(({ answer }) => answer.ok), answers.map(({ answer }) => JSON.stringify(answer)), this.clock.now()]);
  }
}

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
