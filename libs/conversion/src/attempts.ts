import { createHash } from 'node:crypto';
import { canonicalBytes } from '@reefkeeper/bundle';
import type { Clock } from '@reefkeeper/platform';
import { Column, Entity, PrimaryColumn, type DataSource } from 'typeorm';

const bigint = { from: (value: string | null) => (value === null ? null : Number(value)), to: (value: number) => value };

/** One run of `edgetpu_compiler`. */
@Entity('compile_attempts')
export class CompileAttempt {
  @PrimaryColumn({ name: 'id', type: 'bigint', transformer: bigint, generated: 'increment' }) id!: number;
  @Column({ name: 'job_id', type: 'uuid' }) jobId!: string;
  /** Names input digests, compiler version and flags: equal recipes should have equal results. */
  @Column({ name: 'recipe', type: 'text' }) recipe!: string;
  @Column({ name: 'inputs', type: 'jsonb' }) inputs!: string[];
  @Column({ name: 'compiler_version', type: 'text', nullable: true }) compilerVersion!: string | null;
  @Column({ name: 'flags', type: 'jsonb' }) flags!: string[];
  @Column({ name: 'started_at', type: 'timestamptz' }) startedAt!: Date;
  @Column({ name: 'duration_ms', type: 'integer', nullable: true }) durationMs!: number | null;
  @Column({ name: 'exit_code', type: 'integer', nullable: true }) exitCode!: number | null;
  @Column({ name: 'signal', type: 'text', nullable: true }) signal!: string | null;
  /** `ok`, a failure code, or null: it runs, or its worker died meanwhile. */
  @Column({ name: 'result', type: 'text', nullable: true }) result!: string | null;
  @Column({ name: 'message', type: 'text', nullable: true }) message!: string | null;
  /** A failure after which nobody tries this recipe again without being told to. */
  @Column({ name: 'final', type: 'boolean' }) final!: boolean;
  /** What it made, in the order of models or segments. */
  @Column({ name: 'outputs', type: 'jsonb' }) outputs!: string[];
  /** All that it printed, as a stored object. */
  @Column({ name: 'log_digest', type: 'text', nullable: true }) logDigest!: string | null;
}

export interface Recipe {
  inputs: string[];
  compilerVersion: string | null;
  flags: string[];
}

/** Failures that tell of the model and the compiler, not of the machine, and may change between runs. */
const capricious = ['compile.internal', 'compile.crashed', 'compile.incomplete'];

/** The compiler's history: what one job writes, what all of them learn from. */
export class AttemptBook {
  /** `claim` as `Registry.claim`: says which objects are not stored. */
  constructor(private readonly db: DataSource, private readonly clock: Clock, private readonly jobId: string, private readonly claim: (digests: string[]) => Promise<string[]>) {}

  /** Written before the compiler starts, so that the run of a worker that dies is not forgotten. */
  async begin(recipe: Recipe): Promise<number> {
    const [{ id }] = (await this.db.query('INSERT INTO compile_attempts (job_id, recipe, inputs, compiler_version, flags, started_at) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id',
      [this.jobId, recipeKey(recipe), JSON.stringify(recipe.inputs), recipe.compilerVersion, JSON.stringify(recipe.flags), this.clock.now()])) as [{ id: string }];
    return Number(id);
  }

  async end(id: number, how: Pick<CompileAttempt, 'durationMs' | 'exitCode' | 'signal' | 'result' | 'message' | 'final' | 'outputs' | 'logDigest'>): Promise<void> {
    await this.db.query('UPDATE compile_attempts SET duration_ms = $2, exit_code = $3, signal = $4, result = $5, message = $6, final = $7, outputs = $8, log_digest = $9 WHERE id = $1',
      [id, how.durationMs, how.exitCode, how.signal, how.result, how.message, how.final, JSON.stringify(how.outputs), how.logDigest]);
  }

  /** The failure that stands in the way of this recipe: the newest one that ended was given up for good. */
  async verdictOn(recipe: Recipe): Promise<CompileAttempt | null> {
    const last = await this.db.getRepository(CompileAttempt).createQueryBuilder('a').where('a.recipe = :recipe AND a.result IS NOT NULL', { recipe: recipeKey(recipe) }).orderBy('a.id', 'DESC').getOne();
    return last?.final ? last : null;
  }

  /** How often this recipe has failed as only a compiler that is not deterministic does, in any job, and which outputs it has had. */
  async historyOf(recipe: Recipe): Promise<{ failures: number; outputs: string[][] }> {
    const rows = (await this.db.query("SELECT result, outputs FROM compile_attempts WHERE recipe = $1 AND (result = 'ok' OR result = ANY ($2)) ORDER BY id", [recipeKey(recipe), capricious])) as { result: string; outputs: string[] }[];
    return { failures: rows.filter(({ result }) => result !== 'ok').length, outputs: rows.filter(({ result }) => result === 'ok').map(({ outputs }) => outputs) };
  }

  /**
   * What came of compiling several models together, for every job that asks: their files belong to each other, so all must take them from
   * the same run. The first to say so decides.
   */
  async agree(recipe: Recipe, made: Together | null): Promise<Together | null> {
    const key = recipeKey(recipe);
    if (made) await this.db.query('INSERT INTO compiled_together (recipe, outputs, nondeterministic) VALUES ($1, $2, $3) ON CONFLICT (recipe) DO NOTHING', [key, JSON.stringify(made.outputs), made.nondeterministic]);
    const [found] = (await this.db.query('SELECT outputs, nondeterministic FROM compiled_together WHERE recipe = $1', [key])) as Together[];
    if (!found || (await this.claim(found.outputs)).length === 0) return found ?? null;
    // Collected meanwhile: the next run decides.
    await this.db.query('DELETE FROM compiled_together WHERE recipe = $1 AND outputs = $2', [key, JSON.stringify(found.outputs)]);
    return null;
  }
}

export interface Together {
  outputs: string[];
  nondeterministic: string | null;
}

function recipeKey({ inputs, compilerVersion, flags }: Recipe): string {
  return createHash('sha256').update(canonicalBytes({ inputs, compilerVersion, flags })).digest('hex');
}
