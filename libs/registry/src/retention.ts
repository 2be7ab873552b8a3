import { Inject, Injectable } from '@nestjs/common';
import { DataSource } from 'typeorm';
import type { Clock, ObjectStore } from '@reefkeeper/platform';

/** What keeps objects alive beyond the registry's own rows, as SQL: each library that names objects says how. */
export interface Roots {
  /** Queries of one text column with digests of objects. They may use `kept_versions (id)`: versions whose files stay. */
  objects: readonly string[];
  /** Queries of one text column with digests of bundles that somebody runs or is to run. */
  bundles: readonly string[];
}

export interface Collected {
  dryRun: boolean;
  /** Nothing that was stored or used after this is touched. */
  before: Date;
  objects: number;
  bytes: number;
  /** Largest first. */
  roles: { role: string; objects: number; bytes: number }[];
  /** There was more than one call takes. */
  more: boolean;
}

/**
 * An upload and the job that will use it, a step's files and the step's end: between them nothing refers to the object yet. No step may last longer
 * (`StepExecutor.timeoutMs`), so what is older and unreferred to is not about to be.
 */
const graceMs = 24 * 3_600_000;
const batch = 50;
const mostObjects = 20_000;

/** Digests anywhere in a JSON value. */
export const digestsIn = (column: string): string => `jsonb_path_query(${column}, 'strict $.** ? (@.type() == "string" && @ like_regex "^[0-9a-f]{64}$")') AS found`;

/**
 * Removes stored objects that nothing refers to any more.
 *
 * Invariant: an object that is referred to is stored. Whoever makes a reference, or puts bytes that are stored already, first *claims* the object
 * (`Registry.recordArtifact`, `Registry.claim`: its row's `touched_at` becomes now, under the row's lock), and only then looks whether it is there
 * or moves the bytes into place. A collection takes the row's lock, looks at `touched_at` and the references again under it, deletes
 * the bytes, then the row, and commits. So of the two one comes first: the claim, and the collection passes the object by; or the collection,
 * and the claim finds a row that is gone, makes a new one, and sees that the bytes are missing or puts them again.
 */
@Injectable()
export class Retention {
  constructor(
    @Inject(DataSource) private readonly db: DataSource,
    @Inject('CLOCK') private readonly clock: Clock,
    @Inject('OBJECTS') private readonly objects: ObjectStore,
    @Inject('ROOTS') private readonly roots: Roots,
  ) {}

  /** Any number may run at once. With `dryRun`, only says what would go. */
  async collect({ olderThanMs, dryRun = false }: { olderThanMs: number; dryRun?: boolean }): Promise<Collected> {
    const before = new Date(this.clock.now().getTime() - Math.max(graceMs, olderThanMs));
    if (dryRun) {
      const roles = (await this.db.query(`${this.reachable()} SELECT a.role, count(*)::int AS objects, sum(a.bytes)::float8 AS bytes FROM artifacts a WHERE ${unreached} GROUP BY a.role ORDER BY bytes DESC`, [before])) as Collected['roles'];
      return summary(roles, before, true, false);
    }
    await this.adopt();
    // Made again when somebody asks. Those used since are in `reachable`; an object that two rows name goes with the last.
    await this.db.query('DELETE FROM deltas WHERE used_at < $1', [before]);
    const gone = new Map<string, Collected['roles'][number]>();
    for (let done = 0; done < mostObjects; done += batch) {
      const removed = await this.removeSome(before);
      for (const { role, bytes } of removed) {
        const sum = gone.get(role) ?? { role, objects: 0, bytes: 0 };
        gone.set(role, { role, objects: sum.objects + 1, bytes: sum.bytes + Number(bytes) });
      }
      if (removed.length < batch) return summary([...gone.values()], before, false, false);
    }
    return summary([...gone.values()], before, false, true);
  }

  private async removeSome(before: Date): Promise<{ digest: string; role: string; bytes: string }[]> {
    return this.db.transaction(async (tx) => {
      // A row that changed since the statement began is judged again by its new state before it is locked; one that is locked is being claimed.
      const found = (await tx.query(`${this.reachable()} SELECT a.digest, a.role, a.bytes FROM artifacts a WHERE ${unreached} ORDER BY a.touched_at LIMIT ${batch} FOR UPDATE OF a SKIP LOCKED`, [before])) as { digest: string; role: string; bytes: string }[];
      // First the bytes: a row without bytes is found again by the next collection, bytes without a row would only be by listing the store.
      for (const { digest } of found) await this.objects.delete(digest);
      if (found.length > 0) await tx.query('DELETE FROM artifacts WHERE digest = ANY ($1)', [found.map(({ digest }) => digest)]);
      return found;
    });
  }

  /** Objects without a row, from before there were rows or put there by hand: from now on they age as the others do. */
  private async adopt(): Promise<void> {
    let some: { digest: string; bytes: number }[] = [];
    const note = async () => {
      await this.db.query("INSERT INTO artifacts (digest, bytes, media_type, role, created_at, touched_at) SELECT digest, bytes, 'application/octet-stream', 'unknown', $3, $3 FROM unnest($1::text[], $2::bigint[]) AS o (digest, bytes) WHERE NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.digest = o.digest) ON CONFLICT (digest) DO NOTHING",
        [some.map(({ digest }) => digest), some.map(({ bytes }) => bytes), this.clock.now()]);
      some = [];
    };
    for await (const object of this.objects.list()) {
      some.push(object);
      if (some.length >= 1_000) await note();
    }
    if (some.length > 0) await note();
  }

  private reachable(): string {
    const none = "SELECT ''::text WHERE false";
    return `
      WITH bundles (digest) AS (${this.roots.bundles.join(' UNION ') || none}),
      kept_versions AS (SELECT id, envelope_digest, lineage, pipelines FROM versions WHERE state IN ('READY', 'BUILDING', 'DRAFT') OR bundle_digest IN (SELECT digest FROM bundles)),
      reachable (digest) AS (
        SELECT envelope_digest FROM kept_versions WHERE envelope_digest IS NOT NULL
        UNION SELECT f.digest FROM variants f JOIN kept_versions v ON v.id = f.version_id
        UNION SELECT found #>> '{}' FROM kept_versions v, ${digestsIn('v.lineage')}
        UNION SELECT found #>> '{}' FROM kept_versions v, ${digestsIn('v.pipelines')}
        UNION SELECT digest FROM deltas WHERE digest IS NOT NULL AND used_at >= $1
        ${this.roots.objects.map((sql) => `UNION ${sql}`).join(' ')}
      )`;
  }
}

const unreached = 'a.touched_at < $1 AND NOT EXISTS (SELECT 1 FROM reachable r WHERE r.digest = a.digest)';

function summary(roles: Collected['roles'], before: Date, dryRun: boolean, more: boolean): Collected {
  const sorted = roles.toSorted((a, b) => b.bytes - a.bytes);
  return { dryRun, before, objects: sorted.reduce((sum, { objects }) => sum + objects, 0), bytes: sorted.reduce((sum, { bytes }) => sum + bytes, 0), roles: sorted, more };
}
