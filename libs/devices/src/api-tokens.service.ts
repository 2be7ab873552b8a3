import { randomBytes, randomUUID } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { hint, prepared, ReefError, sha256, type Clock } from '@reefkeeper/platform';
import { DataSource } from 'typeorm';
import { record } from './audit.ts';
import { ApiToken } from './device.entity.ts';

export type TokenRole = ApiToken['role'];

const tokenByHash = prepared("SELECT id, name, role, COALESCE(last_used_at < $2::timestamptz - interval '1 minute', true) AS stale FROM api_tokens WHERE hash = $1 AND revoked_at IS NULL");

/** So long one may be believed without asking again where nobody says that it was revoked. */
const believedMs = 1_000;
const believedMost = 1_000;

/** Tokens for people and programs. Only hashes are kept; a token is long and random, so a plain SHA-256 is enough. */
@Injectable()
export class ApiTokens {
  private readonly believed = new Map<string, { caller: { name: string; role: TokenRole }; untilMs: number }>();
  private revocations = 0;

  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock) {}

  /** The token itself is in the answer and nowhere else. */
  async create(name: string, role: TokenRole, actor: string): Promise<{ id: string; name: string; role: TokenRole; token: string }> {
    const token = `reef_${randomBytes(24).toString('base64url')}`;
    const id = randomUUID();
    const now = this.clock.now();
    await this.db.transaction(async (tx) => {
      await tx.query('INSERT INTO api_tokens (id, name, role, hash, created_at, created_by) VALUES ($1, $2, $3, $4, $5, $6)', [id, name, role, sha256(token), now, actor]);
      await record(tx, { at: now, actor, action: 'token.create', subject: id, detail: { name, role } });
    });
    return { id, name, role, token };
  }

  /** Makes sure that the first administrator's token works; the same token twice is one row. */
  async bootstrap(token: string): Promise<void> {
    await this.db.query("INSERT INTO api_tokens (id, name, role, hash, created_at, created_by) VALUES ($1, 'first admin', 'admin', $2, $3, 'bootstrap') ON CONFLICT (hash) DO NOTHING", [randomUUID(), sha256(token), this.clock.now()]);
  }

  /**
   * Whose token this is; undefined when unknown or revoked. The look-up is by hash, so its timing tells nothing about the token. Who asks often is believed for a second; a revocation ends that at once in
   * this process, and in others when they hear of it (`forget`).
   */
  async find(token: string): Promise<{ name: string; role: TokenRole } | undefined> {
    const hash = sha256(token);
    const known = this.believed.get(hash);
    if (known && performance.now() < known.untilMs) return known.caller;
    const { revocations } = this;
    const [row] = await this.db.query<{ id: string; name: string; role: TokenRole; stale: boolean }[]>(tokenByHash, [hash, this.clock.now()]);
    if (row?.stale) await this.db.query('UPDATE api_tokens SET last_used_at = $2 WHERE id = $1', [row.id, this.clock.now()]);
    const caller = row && { name: row.name, role: row.role };
    // What was read before a revocation may be what it revoked.
    if (!caller || revocations !== this.revocations) return caller;
    if (this.believed.size >= believedMost) this.believed.clear();
    this.believed.set(hash, { caller, untilMs: performance.now() + believedMs });
    return caller;
  }

  /** Some token was revoked: everybody is looked up again. */
  forget(): void {
    this.revocations += 1;
    this.believed.clear();
  }

  async list(): Promise<ApiToken[]> {
    return this.db.manager.find(ApiToken, { order: { createdAt: 'ASC' } });
  }

  /** @throws ReefError `token.unknown` */
  async revoke(id: string, actor: string): Promise<void> {
    const at = this.clock.now();
    await this.db.transaction(async (tx) => {
      const changed = await tx.query<[unknown[], number]>('UPDATE api_tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL RETURNING id', [id, at]);
      if (changed[1] === 0) throw new ReefError('token.unknown', 'not_found', `There is no token with the id ${id} in use.`);
      await record(tx, { at, actor, action: 'token.revoke', subject: id });
      await hint(tx, { kind: 'token', id });
    });
    this.forget();
  }
}
