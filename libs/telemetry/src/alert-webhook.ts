import { createHash, createHmac } from 'node:crypto';
import type { Clock, Logger } from '@reefkeeper/platform';
import type { DataSource } from 'typeorm';
import { messageOf, type Untold } from './alert-message.ts';
import { labelsSql } from './alert-sources.ts';
import { silencedSql } from './silences.service.ts';

export interface WebhookOptions {
  url: string;
  /** Signs each message as Standard Webhooks says (https://www.standardwebhooks.com): `whsec_` and base64, or any text. */
  secret?: string | undefined;
  /** Where the console is, for links. */
  consoleUrl?: string | undefined;
  timeoutMs?: number;
}

const most = 100;
const waitMs = { first: 2_000, most: 300_000 };
/** What could not be said for so long is no news any more. */
const giveUpMs = 86_400_000;

/**
 * Tells one receiver of alerts that open and close, in the shape of Prometheus Alertmanager's webhook (version 4), which many receivers read. At least once each: a row is
 * claimed for a while, sent, and then marked; whoever dies in between leaves it to the next one. Any number of workers may do it.
 */
export class AlertWebhook {
  private fault: string | undefined;

  constructor(private readonly db: DataSource, private readonly clock: Clock, private readonly log: Logger, private readonly options: WebhookOptions) {}

  /** Sends what is due, until nothing is or the receiver cannot take any. @returns how many alerts it has taken */
  async deliver(): Promise<number> {
    for (let delivered = 0; ;) {
      const group = await this.claim();
      if (group.length === 0) return delivered;
      const refusal = await this.post(group);
      await this.settle(group, refusal?.why);
      if (!refusal) delivered += group.length;
      // One that is down is asked once a round, however much there is to tell.
      else if (refusal.down) return delivered;
    }
  }

  /**
   * Alerts of one kind that are all open or all closed, which is one message, as Alertmanager has it. Nobody else takes them until the time for an answer is long over.
   * What opened and closed before anybody was to be told of it is nothing to tell; that something ended is told through a silence, too.
   */
  private async claim(): Promise<Untold[]> {
    const now = this.clock.now();
    return this.db.transaction(async (tx) => {
      const silenced = await silencedSql(tx, now, 4);
      const due = `(a.tell_after IS NULL OR a.tell_after <= $1) AND a.told <> CASE a.state WHEN 'CLOSED' THEN 'resolved' ELSE 'firing' END`;
      const [rows] = await tx.query<[Untold[], number]>(`
        WITH due AS MATERIALIZED (
          SELECT a.id, a.kind, a.state = 'CLOSED' AS closed, ${labelsSql} AS labels FROM (
            SELECT * FROM alerts WHERE state IN ('OPEN', 'ACKNOWLEDGED') UNION ALL SELECT * FROM alerts WHERE state = 'CLOSED' AND closed_at > $3 AND (told <> 'nothing' OR tell_tries > 0)
          ) a LEFT JOIN devices d ON d.id = a.device_id WHERE ${due} AND (a.state = 'CLOSED' OR NOT ${silenced.sql})
        ), first AS (
          SELECT kind, closed FROM due ORDER BY id LIMIT 1
        )
        UPDATE alerts u SET tell_tries = u.tell_tries + 1, tell_after = $2 FROM (
          SELECT a.id, due.labels FROM alerts a JOIN due ON due.id = a.id JOIN first ON first.kind = due.kind AND first.closed = due.closed
          WHERE ${due} AND (a.state = 'CLOSED') = due.closed ORDER BY a.id LIMIT ${most} FOR NO KEY UPDATE OF a SKIP LOCKED
        ) claimed WHERE u.id = claimed.id
        RETURNING u.id, u.kind, u.subject, u.severity, u.device_id AS device, u.workload, u.rollout_id AS rollout, claimed.labels, u.state = 'CLOSED' AS closed, u.opened_at AS "openedAt", u.closed_at AS "closedAt", u.tell_tries AS tries, u.times, u.summary, u.advice, u.numbers`,
      [now, new Date(now.getTime() + 4 * this.timeoutMs), new Date(now.getTime() - giveUpMs), ...silenced.params]);
      return rows;
    });
  }

  private get timeoutMs(): number {
    return this.options.timeoutMs ?? 10_000;
  }

  /** @returns why it was not taken, and whether anything else would be; nothing where the receiver answered 2xx */
  private async post(alerts: readonly Untold[]): Promise<{ why: string; down: boolean } | undefined> {
    const body = JSON.stringify(messageOf(alerts, this.options.consoleUrl));
    try {
      const response = await fetch(this.options.url, { method: 'POST', redirect: 'error', body, headers: { 'content-type': 'application/json', 'user-agent': 'reefkeeper', ...this.signature(alerts, body) }, signal: AbortSignal.timeout(this.timeoutMs) });
      await response.body?.cancel();
      return response.ok ? undefined : { why: `it answered ${response.status}`, down: response.status >= 500 || response.status === 429 };
    } catch (error) {
      return { why: ((error as Error).cause as Error | undefined)?.message ?? (error as Error).message, down: true };
    }
  }

  /** The id is of what is told, so a receiver knows a message that comes again. */
  private signature(alerts: readonly Untold[], body: string): Record<string, string> {
    const id = `msg_${createHash('sha256').update(alerts.map((one) => `${one.id} ${one.closed}`).sort().join('\n')).digest('hex').slice(0, 32)}`;
    const timestamp = String(Math.floor(this.clock.now().getTime() / 1_000));
    const { secret } = this.options;
    if (!secret) return { 'webhook-id': id };
    const key = secret.startsWith('whsec_') ? Buffer.from(secret.slice('whsec_'.length), 'base64') : secret;
    return { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')}` };
  }

  /** What changed while it was on its way is due again at once, since it is not what was told. */
  private async settle(alerts: readonly Untold[], fault: string | undefined): Promise<void> {
    const ids = alerts.map(({ id }) => id);
    if (!fault) {
      this.fault = undefined;
      await this.db.query(`
        UPDATE alerts a SET told = $2, tell_tries = 0, tell_after = NULL FROM (SELECT id FROM alerts WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE) l WHERE a.id = l.id`, [ids, alerts[0]!.closed ? 'resolved' : 'firing']);
      return;
    }
    // An outage is told once, not at every attempt.
    if (fault !== this.fault) this.log.warn({ fault, alerts: alerts.length }, 'the alert webhook does not take what it is told, trying again');
    this.fault = fault;
    const now = this.clock.now().getTime();
    // Half the wait at least, the rest by chance, so that what failed together does not come together.
    const after = alerts.map(({ tries }) => new Date(now + Math.min(waitMs.most, waitMs.first * 2 ** (tries - 1)) * (0.5 + Math.random() / 2)));
    await this.db.query(`
      UPDATE alerts a SET tell_after = n.after FROM unnest($1::uuid[], $2::timestamptz[]) AS n(id, after) JOIN (SELECT id FROM alerts WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE) l ON l.id = n.id WHERE a.id = n.id`, [ids, after]);
  }
}
