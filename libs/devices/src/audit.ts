import type { Tx } from '@reefkeeper/platform';
import type { DataSource } from 'typeorm';

/** Writes down who did what, in the transaction that does it: there is no deed without its entry. */
export async function record(on: Tx | DataSource, entry: { at: Date; actor: string; action: string; subject: string; detail?: Record<string, unknown> }): Promise<void> {
  await on.query('INSERT INTO audit (at, actor, action, subject, detail) VALUES ($1, $2, $3, $4, $5)', [entry.at, entry.actor, entry.action, entry.subject, entry.detail ?? {}]);
}
