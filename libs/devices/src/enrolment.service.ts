import { randomBytes } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { hint, ReefError, sha256, type Clock } from '@reefkeeper/platform';
import { deviceId as deviceIdSchema } from '@reefkeeper/protocol';
import { DataSource } from 'typeorm';
import { applyRules, keepRules } from './config-rules.service.ts';
import { record } from './audit.ts';
import { Authority, type Issued } from './authority.ts';
import { controllerName } from './broker-acl.ts';
import { checkLabels, unknownDevice } from './devices.service.ts';

export interface TokenRequest {
  /** The one id it may be used for; any id when absent. */
  deviceId?: string | undefined;
  labels?: Record<string, string> | undefined;
  uses?: number | undefined;
  ttlS?: number | undefined;
}

const tokenPattern = /^reef1\.([A-Za-z0-9_-]{20,})\.([0-9a-f]{32})$/;

/** How devices come in: a token that works once, a key made on the device, a certificate from our authority. */
@Injectable()
export class Enrolment {
  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock, @Inject(Authority) private readonly authority: Authority) {}

  /** The token's text holds the CA's fingerprint, so that the device knows whom it talks to before it trusts anyone. */
  async createToken(request: TokenRequest, actor: string): Promise<{ token: string; expiresAt: Date }> {
    checkLabels(request.labels ?? {});
    const secret = randomBytes(24).toString('base64url');
    const now = this.clock.now();
    const expiresAt = new Date(now.getTime() + (request.ttlS ?? 3_600) * 1_000);
    await this.db.transaction(async (tx) => {
      await tx.query('INSERT INTO enrolment_tokens (hash, device_id, labels, uses_left, expires_at, created_by, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)',
        [sha256(secret), request.deviceId ?? null, request.labels ?? {}, request.uses ?? 1, expiresAt, actor, now]);
      await record(tx, { at: now, actor, action: 'enrolment.token_create', subject: request.deviceId ?? '*', detail: { labels: request.labels ?? {}, uses: request.uses ?? 1, expiresAt } });
    });
    return { token: `reef1.${secret}.${this.authority.fingerprint.slice(0, 32)}`, expiresAt };
  }

  /**
   * Lets a device in and signs its key. A device that asks again with its own unused token (its first answer was lost) is let in again.
   * @throws ReefError `enrolment.token_invalid`, `enrolment.id_taken`, `enrolment.id_invalid`, `enrolment.csr_invalid`
   */
  async enrol(request: { token: string; csr: string; deviceId?: string | undefined }): Promise<Issued & { deviceId: string }> {
    const secret = tokenPattern.exec(request.token)?.[1];
    const now = this.clock.now();
    const refused = new ReefError('enrolment.token_invalid', 'forbidden', 'This enrolment token is not valid: unknown, used up, expired, or for another device. Make a new one with `reef device token`.');
    if (!secret) throw refused;
    return this.db.transaction(async (tx) => {
      await keepRules(tx);
      const [taken] = await tx.query<[{ device_id: string | null; labels: Record<string, string>; created_by: string }[], number]>(
        'UPDATE enrolment_tokens SET uses_left = uses_left - 1 WHERE hash = $1 AND uses_left > 0 AND expires_at > $2 RETURNING device_id, labels, created_by', [sha256(secret), now]);
      const token = taken[0];
      if (!token || (token.device_id !== null && request.deviceId !== undefined && request.deviceId !== token.device_id)) throw refused;
      const deviceId = token.device_id ?? request.deviceId ?? `device-${randomBytes(4).toString('hex')}`;
      if (!deviceIdSchema.safeParse(deviceId).success || deviceId === controllerName) throw new ReefError('enrolment.id_invalid', 'invalid', `"${deviceId}" cannot be a device id: use 1 to 64 of A-Z a-z 0-9 _ - (and not ${controllerName}).`);
      const created = await tx.query<unknown[]>('INSERT INTO devices (id, labels, enrolled_at) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING RETURNING id', [deviceId, token.labels, now]);
      // Only a token made for this very id may take over an id that exists: a device that was set up anew.
      if (created.length === 0 && token.device_id !== deviceId) throw new ReefError('enrolment.id_taken', 'conflict', `A device "${deviceId}" exists already. Choose another id, or make a token for it with \`reef device token --id ${deviceId}\`.`);
      if (created.length === 0) {
        await tx.query('UPDATE devices SET retired_at = NULL, retired_reason = NULL, enrolled_at = $2, labels = labels || $3 WHERE id = $1', [deviceId, now, token.labels]);
        await tx.query('UPDATE certificates SET revoked_at = $2 WHERE device_id = $1 AND revoked_at IS NULL', [deviceId, now]);
        // The new agent has never seen a revision; the old report would look newer than its first.
        await tx.query('DELETE FROM reported WHERE device_id = $1', [deviceId]);
        await tx.query('UPDATE devices SET session = -1 WHERE id = $1', [deviceId]);
        await tx.query('UPDATE desired SET published_revision = 0 WHERE device_id = $1', [deviceId]);
      }
      await tx.query('INSERT INTO desired (device_id) VALUES ($1) ON CONFLICT DO NOTHING', [deviceId]);
      await applyRules(tx, [deviceId]);
      const issued = await this.issue(tx, deviceId, request.csr, now);
      await record(tx, { at: now, actor: `token of ${token.created_by}`, action: 'device.enrol', subject: deviceId, detail: { serial: issued.serial } });
      await hint(tx, { kind: 'device', id: deviceId });
      return { ...issued, deviceId };
    });
  }

  /** A fresh certificate for a device that still has a good one. @throws ReefError `enrolment.csr_invalid`, `device.unknown` */
  async renew(deviceId: string, csr: string): Promise<Issued> {
    const now = this.clock.now();
    return this.db.transaction(async (tx) => {
      // Locked against a retirement at the same moment, which must revoke this one too.
      const [found] = await tx.query<unknown[]>('SELECT 1 FROM devices WHERE id = $1 AND retired_at IS NULL FOR NO KEY UPDATE', [deviceId]);
      if (!found) throw unknownDevice(deviceId);
      const issued = await this.issue(tx, deviceId, csr, now);
      await record(tx, { at: now, actor: deviceId, action: 'device.renew', subject: deviceId, detail: { serial: issued.serial } });
      return issued;
    });
  }

  private async issue(tx: { query(sql: string, params: unknown[]): Promise<unknown> }, deviceId: string, csr: string, now: Date): Promise<Issued> {
    const issued = await this.authority.signDevice(csr, deviceId);
    await tx.query('INSERT INTO certificates (serial, device_id, not_after, issued_at) VALUES ($1, $2, $3, $4)', [issued.serial, deviceId, issued.notAfter, now]);
    return issued;
  }
}
