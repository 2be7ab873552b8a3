import pg from 'pg';
import type { DataSource } from 'typeorm';
import { prepared, type Tx } from './database.ts';
import type { Logger } from './logger.ts';

/** A row of this kind changed. A hint only: the reader looks at the row, which is the truth, and polls in case a hint is lost. */
export interface ChangeHint {
  kind: 'job' | 'job_log' | 'version' | 'device' | 'desired' | 'rollout' | 'telemetry' | 'alert' | 'token';
  /** Of one row, or of several separated by commas (`idsOf`). */
  id: string;
}

const channel = 'reef_changes';

/** Sends the hint when `on` commits (inside a transaction), at once otherwise. */
export async function hint(on: DataSource | Tx, change: ChangeHint): Promise<void> {
  await on.query('SELECT pg_notify($1, $2)', [channel, JSON.stringify(change)]);
}

/** PostgreSQL refuses a notification of 8,000 bytes; ids have 64 at most. */
const idsPerHint = 100;

/** The end of a statement that sends a hint of this kind about each `id` that the query `rows` gives: with the change itself, one round trip and one commit. */
export const hintingEach = (kind: ChangeHint['kind'], rows: string): string => `
  SELECT pg_notify('${channel}', json_build_object('kind', '${kind}', 'id', string_agg(id, ','))::text) AS told
  FROM (SELECT id, (row_number() OVER () - 1) / ${idsPerHint} AS bite FROM (${rows}) AS changed_row) AS bitten GROUP BY bite`;

/** As `hint` for many rows of one kind, in one statement: a fleet's worth of notifications a second would drown those who listen. */
export async function hintEach(on: DataSource | Tx, kind: ChangeHint['kind'], ids: readonly string[]): Promise<void> {
  if (ids.length > 0) await on.query(prepared(hintingEach(kind, 'SELECT unnest($1::text[]) AS id')), [ids]);
}

/** The rows that a hint is about. */
export const idsOf = (change: ChangeHint): string[] => change.id.split(',');

/** Listens for change hints on a connection of its own, which is opened again when it breaks. */
export class ChangeFeed {
  private readonly listeners = new Set<(change: ChangeHint) => void>();
  private client: pg.Client | undefined;
  private stopped = false;

  constructor(private readonly url: string, private readonly log: Logger) {}

  async start(): Promise<void> {
    const client = new pg.Client({ connectionString: this.url, application_name: 'reefkeeper-changes' });
    client.on('notification', ({ payload }) => {
      if (!payload) return;
      const change = JSON.parse(payload) as ChangeHint;
      for (const listener of this.listeners) listener(change);
    });
    client.on('error', () => void this.restart());
    try {
      await client.connect();
      await client.query(`LISTEN ${channel}`);
      this.client = client;
    } catch (error) {
      this.log.warn({ err: error }, 'change feed is down, trying again');
      void this.restart();
    }
  }

  private async restart(): Promise<void> {
    await this.client?.end().catch(() => {});
    this.client = undefined;
    if (this.stopped) return;
    setTimeout(() => { if (!this.stopped) void this.start(); }, 1_000).unref();
  }

  onChange(listener: (change: ChangeHint) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /**
   * What `read` makes of each hint that passes `wanted` (undefined = nothing), for GraphQL subscriptions. Listens from the call on and ends at once when the
   * consumer returns, also while it waits: an async generator would hold on to a subscriber that hung up until the next change. A hint that is waiting
   * already is not queued again: the row is read when its turn comes.
   * @param first read before any change comes
   */
  read<T>(wanted: (change: ChangeHint) => boolean, read: (change: ChangeHint) => Promise<T | undefined> | T | undefined, first: readonly ChangeHint[] = []): AsyncIterableIterator<T, void, void> {
    const queue = [...first];
    let ended = false;
    let wake = () => {};
    const off = this.onChange((change) => {
      // Whoever reads devices wants each that changed; of windows one stands for all, whatever the fleet sends in a second.
      const changes = change.kind === 'telemetry' ? [change] : idsOf(change).map((id) => ({ kind: change.kind, id }));
      for (const one of changes) {
        if (!wanted(one) || queue.some(({ kind, id }) => kind === one.kind && id === one.id)) continue;
        queue.push(one);
        if (queue.length > 1_000) queue.shift();
      }
      wake();
    });
    const end = (): void => {
      ended = true;
      off();
      wake();
    };
    const one = async (): Promise<IteratorResult<T, void>> => {
      for (;;) {
        if (ended) return { value: undefined, done: true };
        const change = queue.shift();
        if (!change) {
          await new Promise<void>((resolve) => { wake = resolve; });
          continue;
        }
        const value = await read(change);
        if (value !== undefined && !ended) return { value, done: false };
      }
    };
    let last: Promise<unknown> = Promise.resolve();
    return {
      next: () => {
        const answer = last.then(one);
        // A row that cannot be read ends the stream with its error.
        last = answer.catch(end);
        return answer;
      },
      return: async () => {
        end();
        return { value: undefined, done: true };
      },
      [Symbol.asyncIterator]() { return this; },
    };
  }

  async stop(): Promise<void> {
    this.stopped = true;
    await this.client?.end().catch(() => {});
  }
}
