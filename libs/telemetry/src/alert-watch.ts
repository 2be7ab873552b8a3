import { hintEach, type Clock } from '@reefkeeper/platform';
import type { DataSource } from 'typeorm';
import { judge, keyOf, lapseS, type AlertKinds, type Change, type LiveAlert } from './alert.ts';
import type { AlertSource, SourceRow } from './alert-sources.ts';

interface Group { sources: AlertSource[]; kinds: AlertKinds; sql: string }

/**
 * Opens and closes alerts: one look at the facts, one at the alerts, one decision, one statement. It only reads what devices have said,
 * so that taking reports and telemetry in costs nothing more, and it keeps nothing between two sweeps.
 */
export class AlertWatch {
  private readonly groups: ReadonlyMap<AlertSource['everyS'], Group>;

  constructor(private readonly db: DataSource, private readonly clock: Clock, sources: readonly AlertSource[]) {
    this.groups = new Map([...Map.groupBy(sources, ({ everyS }) => everyS)].map(([everyS, some]) => [everyS, {
      sources: some, kinds: Object.assign({}, ...some.map(({ kinds }) => kinds)) as AlertKinds,
      // Not every source asks what time it is, and PostgreSQL refuses a parameter that nothing names.
      sql: `WITH asked AS (SELECT $1::timestamptz) ${some.map(({ sql }, source) => `SELECT ${source} AS source, f.* FROM (${sql}) f`).join(' UNION ALL ')}`,
    }]));
  }

  /** How often there is something to look at, seconds. */
  get paces(): AlertSource['everyS'][] {
    return [...this.groups.keys()];
  }

  /** @returns how many alerts were opened and closed */
  async sweep(everyS: AlertSource['everyS']): Promise<number> {
    const { sources, kinds, sql } = this.groups.get(everyS)!;
    const now = this.clock.now();
    return this.db.transaction(async (tx) => {
      // Another worker that comes while this one judges and writes has nothing to do.
      const [lock] = await tx.query<{ got: boolean }[]>("SELECT pg_try_advisory_xact_lock(hashtext('reef.alerts'), $1) AS got", [everyS]);
      if (!lock!.got) return 0;
      const known = await tx.query<(Omit<LiveAlert, 'state'> & { state: LiveAlert['state'] | 'CLOSED' })[]>(`
        SELECT kind, subject, state, since, last_seen_at AS "lastSeenAt", gone_since AS "goneSince", times FROM alerts WHERE state <> 'CLOSED' AND kind = ANY($1)
        UNION ALL
        SELECT kind, subject, 'CLOSED', since, last_seen_at, gone_since, max(times) OVER (PARTITION BY kind, subject) FROM alerts WHERE state = 'CLOSED' AND closed_at > $2 AND kind = ANY($1)`,
      [Object.keys(kinds), new Date(now.getTime() - lapseS * 1_000)]);
      const live = known.filter((one): one is LiveAlert => one.state !== 'CLOSED');
      const open = new Set(live.filter(({ state }) => state !== 'PENDING').map(keyOf));
      const isOpen = (kind: string, subject: string) => open.has(keyOf({ kind, subject }));
      const rows = Map.groupBy(await tx.query<(SourceRow & { source: number })[]>(sql, [now]), ({ source }) => source);
      const facts = sources.flatMap((source, index) => source.read(rows.get(index) ?? [], isOpen));
      const lapsed = new Map(known.filter(({ state }) => state === 'CLOSED').map((one) => [keyOf(one), one.times]));
      const changes = judge(kinds, facts, live, lapsed, now);
      if (changes.length === 0) return 0;
      const done = await tx.query<{ id: string; move: Change['move'] | 'began' }[]>(write, [JSON.stringify(changes.map((change) => rowOf(kinds, change))), now]);
      const moved = done.filter(({ move }) => move === 'open' || move === 'close').map(({ id }) => id);
      await hintEach(tx, 'alert', moved);
      return moved.length;
    });
  }
}

function rowOf(kinds: AlertKinds, change: Change): Record<string, unknown> {
  const { kind, subject, move } = change;
  const { severity, summary, advice } = kinds[kind]!;
  if (!('fact' in change)) return { kind, subject, move, severity };
  const { fact } = change;
  return {
    kind, subject, move, severity, device: fact.device, workload: fact.workload, rollout: fact.rollout, numbers: fact.numbers, summary: summary(fact), advice: advice(fact),
    ...(change.move === 'begin' ? { state: change.state, times: change.times } : {}),
  };
}

/** What somebody acknowledged meanwhile stays acknowledged: only opening and closing touch the state. Rows are locked in the order of ids, as the webhook does it. */
const write = `
  WITH next AS (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS n(kind text, subject text, move text, state text, times integer, severity text, device text, workload text, rollout uuid, numbers jsonb, summary text, advice text)
  ), forgotten AS (
    DELETE FROM alerts a USING next n WHERE n.move = 'forget' AND a.kind = n.kind AND a.subject = n.subject AND a.state = 'PENDING'
  ), locked AS (
    SELECT a.id, n.* FROM alerts a JOIN next n ON a.kind = n.kind AND a.subject = n.subject WHERE n.move IN ('open', 'see', 'miss', 'close') AND a.state <> 'CLOSED' ORDER BY a.id FOR NO KEY UPDATE OF a
  ), changed AS (
    UPDATE alerts a SET
      state = CASE n.move WHEN 'open' THEN 'OPEN' WHEN 'close' THEN 'CLOSED' ELSE a.state END,
      opened_at = CASE n.move WHEN 'open' THEN $2::timestamptz ELSE a.opened_at END, closed_at = CASE n.move WHEN 'close' THEN $2::timestamptz END,
      gone_since = CASE n.move WHEN 'miss' THEN $2::timestamptz WHEN 'close' THEN coalesce(a.gone_since, $2::timestamptz) END,
      last_seen_at = CASE WHEN n.move IN ('open', 'see') THEN $2::timestamptz ELSE a.last_seen_at END,
      numbers = coalesce(n.numbers, a.numbers), summary = coalesce(n.summary, a.summary), advice = coalesce(n.advice, a.advice)
    FROM locked n WHERE a.id = n.id
    RETURNING a.id, n.move
  ), begun AS (
    INSERT INTO alerts (kind, subject, device_id, workload, rollout_id, severity, state, since, opened_at, last_seen_at, times, numbers, summary, advice)
    SELECT kind, subject, device, workload, rollout, severity, state, $2, CASE state WHEN 'OPEN' THEN $2::timestamptz END, $2, times, numbers, summary, advice
    FROM next WHERE move = 'begin' ORDER BY kind, subject ON CONFLICT (kind, subject) WHERE state <> 'CLOSED' DO NOTHING
    RETURNING id, CASE state WHEN 'OPEN' THEN 'open' ELSE 'begin' END
  )
  SELECT * FROM changed UNION ALL SELECT * FROM begun`;
