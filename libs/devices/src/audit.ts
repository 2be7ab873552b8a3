import type { Tx } from '@reefkeeper/platform';
import type { DataSource } from 'typeorm';

/** For a statement that does a deed and writes it down at once. */
export const auditInsert = 'INSERT INTO audit (at, actor, action, subject, detail)';

/** Writes down who did what, in the transaction that does it: there is no deed without its entry. */
export async function record(on: Tx | DataSource, entry: { at: Date; actor: string; action: string; subject: string; detail?: Record<string, unknown> }): Promise<void> {
  await recordEach(on, { ...entry, subjects: [entry.subject] });
}

/** The same deed to many, in one statement. */
export async function recordEach(on: Tx | DataSource, entry: { at: Date; actor: string; action: string; subjects: readonly string[]; detail?: Record<string, unknown> }): Promise<void> {
  await on.query(`${auditInsert} SELECT $1, $2, $3, unnest($4::text[]), $5`, [entry.at, entry.actor, entry.action, entry.subjects, entry.detail ?? {}]);
}
