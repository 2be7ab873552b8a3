import { randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { Inject, Injectable } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { asReefError, hint, ReefError, type Clock, type Logger, type ObjectStore, type QueueHost, type Tx, type Worker } from '@reefkeeper/platform';
import { Registry, refOf } from '@reefkeeper/registry';
import { afterStep, isDone, objectsIn, stepKey, type StepName, type StepOutcome } from './job.ts';
import { AttemptBook } from './attempts.ts';
import { Job, JobStep } from './job.entity.ts';
import { Jobs, leaseS, pipelineQueue } from './jobs.service.ts';
import { RunReport } from './run-report.ts';
import { afterTraining } from './step-train.ts';
import type { Executors, StepContext, StepExecutor, StepOutputs, StepResult } from './steps.ts';

export interface PipelineOptions {
  executors: Executors;
  /** Folder for the steps' work; each run has an own one in it. */
  workDir: string;
}

const heartbeatMs = 500;
/** How long an aborted executor may take to clear up before its step is settled without it. */
const graceMs = 1_200;
/** A step during which this many workers died is given up: it is what kills them. */
const maxLosses = 3;

type StopReason = 'cancel' | 'timeout' | 'lost' | 'stopping';
type Claim = { job: Job; steps: JobStep[]; step: JobStep; owner: string };

/**
 * Runs jobs, one step per queue message. Invariants: at most one live run per job (the owner token, checked in every write);
 * a step's effects are its stored objects and the one transaction that settles it, so a run that died leaves nothing to undo.
 */
@Injectable()
export class Pipeline {
  private readonly running = new Map<string, { stop(reason: StopReason): void; ended: Promise<void> }>();
  private stopping = false;
  private taker: Worker | undefined;

  constructor(
    @Inject(DataSource) private readonly db: DataSource,
    @Inject('CLOCK') private readonly clock: Clock,
    @Inject('LOG') private readonly logger: Logger,
    @Inject('OBJECTS') private readonly objects: ObjectStore,
    @Inject('QUEUES') private readonly queues: QueueHost,
    @Inject(Registry) private readonly registry: Registry,
    @Inject(Jobs) private readonly jobs: Jobs,
    @Inject('PIPELINE') private readonly options: PipelineOptions,
  ) {}

  /** Begins taking jobs. */
  start(concurrency: number): void {
    this.taker = this.queues.worker<{ jobId: string }>(pipelineQueue, async (message) => this.advance(message.data.jobId), { concurrency, lockMs: leaseS * 1_000 });
  }

  /** Gives up what runs here; other workers take it over at once. */
  async stop(): Promise<void> {
    this.stopping = true;
    // Before the runs are given up, so that the messages they leave for others do not come back here.
    const closed = this.taker?.close().catch(() => {});
    for (const run of this.running.values()) run.stop('stopping');
    await Promise.all([...this.running.values()].map(async (run) => run.ended));
    await closed;
  }

  /** Runs the next step of a job, if nobody else does. */
  async advance(jobId: string): Promise<void> {
    if (this.stopping) return;
    const claim = await this.claim(jobId);
    if (!claim) return;
    let ended = () => {};
    const controller = new AbortController();
    this.running.set(claim.owner, { stop: (reason) => controller.abort(reason), ended: new Promise((resolve) => { ended = resolve; }) });
    try {
      await this.run(claim, controller);
    } finally {
      this.running.delete(claim.owner);
      ended();
    }
  }

  /** Takes a job that has no live owner. Settles it here when there is nothing left to run. */
  private async claim(jobId: string): Promise<Claim | undefined> {
    return this.db.transaction(async (tx) => {
      const owner = randomUUID();
      const [rows] = (await tx.query(`
        UPDATE jobs SET owner = $2, heartbeat_at = now(), state = 'RUNNING', started_at = coalesce(started_at, $3), changed_at = now()
        WHERE id = $1 AND state IN ('QUEUED', 'RUNNING') AND (run_after IS NULL OR run_after <= now())
          AND (owner IS NULL OR heartbeat_at < now() - make_interval(secs => $4)) RETURNING id`, [jobId, owner, this.clock.now(), leaseS])) as [unknown[], number];
      if (rows.length === 0) return undefined;
      const { steps, ...job } = await this.jobs.find(jobId, tx);
      await hint(tx, { kind: 'job', id: jobId });
      if (job.cancelRequestedAt) {
        await this.jobs.settleCanceled(job, tx);
        return undefined;
      }
      const step = steps.find((one) => !isDone(one.state))!;
      if (step.state === 'RUNNING') step.losses += 1;
      const now = this.clock.now();
      await tx.query("UPDATE job_steps SET state = 'RUNNING', percent = NULL, eta_s = NULL, message = NULL, losses = $3, tries = tries + 1, started_at = $4, ended_at = NULL WHERE job_id = $1 AND ordinal = $2", [jobId, step.ordinal, step.losses, now]);
      return { job: job as Job, steps, step: Object.assign(step, { state: 'RUNNING', startedAt: now, tries: step.tries + 1 }), owner };
    });
  }

  private async run({ job, steps, step, owner }: Claim, controller: AbortController): Promise<void> {
    const { signal } = controller;
    const executor = this.options.executors[step.name] as StepExecutor<StepName>;
    const report = new RunReport(this.db, this.clock, { jobId: job.id, owner, step, typicalMs: await this.typicalMs(job.model, step.name).catch(() => null) });
    const workDir = join(this.options.workDir, `${job.id}-${owner.slice(0, 8)}`);
    const timer = setTimeout(() => controller.abort('timeout'), executor.timeoutMs);
    const heart = report.beat(heartbeatMs, leaseS * 1_000 - 2_000, (reason) => controller.abort(reason));
    // A cancel is then seen within milliseconds; should its hint be lost, at the next beat.
    const deaf = this.jobs.heed(job.id, heart.look);
    let outcome: StepOutcome;
    let output: unknown = null;
    let key: string | null = null;
    let note: string | null = null;
    try {
      if (step.losses >= maxLosses) throw new ReefError('worker.lost', 'bug', `The worker died ${step.losses} times during ${step.name}, perhaps for lack of memory. Give workers more memory, or lower their concurrency, and try the job again.`);
      await mkdir(workDir, { recursive: true });
      const context = await this.context(job, steps, step, workDir, signal, report);
      const inputs = await executor.inputs(context);
      key = inputs === null ? null : stepKey(step.name, inputs);
      const earlier = key && (await this.earlierResult(key));
      if (earlier) {
        outcome = { kind: 'cached' };
        output = earlier.output;
        note = `Taken from job ${earlier.jobId}: the same inputs, options and tools.`;
      } else {
        const result = await untilAborted(executor.run(context), signal);
        outcome = 'skipped' in result ? { kind: 'skipped', reason: result.skipped } : { kind: 'succeeded' };
        output = 'skipped' in result ? null : (result as { output: unknown }).output;
        if ('reusable' in result && result.reusable === false) key = null;
      }
      if (signal.aborted) throw new Aborted();
    } catch (thrown) {
      outcome = this.outcomeOf(thrown, signal, executor.timeoutMs);
      output = null;
      if (outcome.kind === 'failed' || (outcome.kind === 'timedOut' && outcome.error)) {
        report.log(`${outcome.error!.message} (${outcome.error!.code})`, 'err');
        if (outcome.error!.kind === 'bug') this.logger.error({ err: thrown, job: job.id, step: step.name }, 'step broke');
      }
    } finally {
      clearTimeout(timer);
      deaf();
      heart.end();
      await rm(workDir, { recursive: true, force: true }).catch(() => {});
    }
    if (signal.reason === 'lost') return;
    await report.flush();
    await this.settle({ job, steps, step, owner }, outcome, output, key, note).catch(async (thrown: unknown) => {
      if (!isFinal(thrown)) throw thrown;
      this.logger.error({ err: thrown, job: job.id, step: step.name }, 'result could not be stored');
      await this.settle({ job, steps, step, owner }, { kind: 'failed', error: asReefError(thrown) }, null, null);
    });
  }

  private outcomeOf(thrown: unknown, signal: AbortSignal, timeoutMs: number): StepOutcome {
    switch (signal.aborted ? (signal.reason as StopReason) : undefined) {
      case 'cancel': return { kind: 'canceled' };
      case 'timeout': return { kind: 'timedOut', afterMs: timeoutMs };
      case 'stopping': case 'lost': return { kind: 'interrupted' };
      default: break;
    }
    const error = asReefError(thrown);
    // A tool inside the step ran into a limit of its own.
    return error.code.endsWith('.timed_out') ? { kind: 'timedOut', afterMs: timeoutMs, error } : { kind: 'failed', error };
  }

  /** The one place where a step's result becomes visible. Nothing happens when another run has taken the job since. */
  private async settle({ job, steps, step, owner }: Claim, outcome: StepOutcome, output: unknown, key: string | null, note: string | null = null): Promise<void> {
    const last = step.ordinal === steps.length - 1;
    const next = afterStep(step.name, outcome, { tries: step.tries, last, jitter: Math.random() });
    const settled = next.job !== 'RUNNING';
    const message = job.message + 1;
    const ours = await this.db.transaction(async (tx) => {
      const [rows] = (await tx.query(`
        UPDATE jobs SET owner = NULL, heartbeat_at = NULL, changed_at = now(), state = $3, error = $4, ended_at = $5, message = $6, run_after = now() + make_interval(secs => $7)
        WHERE id = $1 AND owner = $2 RETURNING id`, [job.id, owner, next.job, settled && next.error ? JSON.stringify(next.error) : null, settled ? this.clock.now() : null, message, next.waitMs / 1_000])) as [unknown[], number];
      if (rows.length === 0) return false;
      const said = outcome.kind === 'skipped' ? outcome.reason : next.waitMs > 0 ? `${next.error!.message} Trying again in ${(next.waitMs / 1_000).toFixed(1)} s.` : note;
      await tx.query(`
        UPDATE job_steps SET state = $3, percent = CASE WHEN $3 IN ('SUCCEEDED', 'CACHED') THEN 100 ELSE percent END, eta_s = NULL, message = coalesce($4, message), key = $5, output = $6, error = $7, ended_at = $8,
          tries = tries - CASE WHEN $9 THEN 1 ELSE 0 END
        WHERE job_id = $1 AND ordinal = $2`,
      [job.id, step.ordinal, next.step, said, key, output === null ? null : JSON.stringify(output), next.error ? JSON.stringify(next.error) : null, next.step === 'PENDING' ? null : this.clock.now(), outcome.kind === 'interrupted']);
      if (settled && next.job !== 'SUCCEEDED') {
        await tx.query("UPDATE job_steps SET state = 'CANCELED' WHERE job_id = $1 AND state = 'PENDING' AND $2 = 'CANCELED'", [job.id, next.job]);
        await this.registry.move(job.versionId, next.job === 'CANCELED' ? 'CANCELED' : 'FAILED', tx, { code: next.error!.code, message: next.error!.message, step: step.name });
      }
      await this.show(job, step.name, output, tx);
      await hint(tx, { kind: 'job', id: job.id });
      return true;
    });
    if (!ours) return;
    this.logger.info({ job: job.id, version: job.ref, step: step.name, state: next.step, ...(settled ? { jobState: next.job, code: next.error?.code } : {}) }, 'step settled');
    if (!settled) await this.jobs.enqueue({ ...job, message }, next.waitMs > 0 ? next.waitMs + 50 : 0);
  }

  /** What a finished step means for the version. Also for cached ones, whose executors did not run. */
  private async show(job: Job, name: StepName, output: unknown, tx: Tx): Promise<void> {
    if (output === null) return;
    if (name === 'analyze') await this.registry.record(job.versionId, { analysis: (output as StepOutputs['analyze']).analysis }, tx);
    const parity = name === 'verify' ? (output as StepOutputs['verify']).parity : null;
    if (parity) await this.registry.record(job.versionId, { parity }, tx);
    if (name === 'bundle') await this.registry.publish(job.versionId, output as StepOutputs['bundle'], tx);
  }

  /** How long the step took of late for versions of this model: the median of ten runs. */
  private async typicalMs(model: string, name: StepName): Promise<number | null> {
    const [{ ms }] = (await this.db.query(`
      SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM took)) * 1000 AS ms FROM (
        SELECT s.ended_at - s.started_at AS took FROM job_steps s JOIN jobs j ON j.id = s.job_id
        WHERE j.model = $1 AND s.name = $2 AND s.state = 'SUCCEEDED' AND s.started_at IS NOT NULL AND s.ended_at IS NOT NULL ORDER BY s.ended_at DESC LIMIT 10) AS lately`, [model, name])) as [{ ms: number | null }];
    return ms === null ? null : Number(ms);
  }

  /** The output of an earlier run on the same inputs, if all it made is still stored. */
  private async earlierResult(key: string): Promise<{ output: unknown; jobId: string } | null> {
    const [found] = (await this.db.query("SELECT output, job_id AS \"jobId\" FROM job_steps WHERE key = $1 AND state IN ('SUCCEEDED', 'CACHED') AND output IS NOT NULL ORDER BY state = 'CACHED', ended_at DESC LIMIT 1", [key])) as { output: unknown; jobId: string }[];
    if (!found) return null;
    return (await this.registry.claim(objectsIn(found.output))).length === 0 ? found : null;
  }

  private async context(job: Job, steps: JobStep[], step: JobStep, workDir: string, signal: AbortSignal, report: RunReport): Promise<StepContext> {
    const version = await this.registry.versionById(job.versionId);
    const parent = await this.registry.predecessorOf(version);
    const outputs: StepContext['outputs'] = Object.fromEntries(steps.filter((one) => one.ordinal < step.ordinal).map((one) => [one.name, one.output]));
    return {
      jobId: job.id,
      version: { id: version.id, model: version.model, version: version.version, task: version.task, createdAt: version.createdAt, parent: parent && refOf(parent) },
      request: afterTraining(job.request, outputs.train),
      outputs,
      workDir, signal, objects: this.objects, attempts: new AttemptBook(this.db, this.clock, job.id, async (digests) => this.registry.claim(digests)),
      logger: this.logger.child({ job: job.id, step: step.name }),
      progress: (percent, message) => report.progress(percent, message),
      log: (text, stream = 'out') => report.log(text, stream),
      record: async (found) => this.registry.record(job.versionId, found),
      fetch: async (digest, filename) => {
        const path = join(workDir, filename);
        await mkdir(join(path, '..'), { recursive: true });
        await pipeline(await this.objects.read(digest), createWriteStream(path), { signal });
        return path;
      },
      keep: async (content, about) => this.registry.keep(typeof content === 'string' ? createReadStream(content) : content, about),
    };
  }
}

class Aborted extends Error {}

/** Whether storing the result would fail again: our own refusals, and values that PostgreSQL cannot hold (SQLSTATE class 22). */
function isFinal(thrown: unknown): boolean {
  if (thrown instanceof ReefError) return !thrown.retryable;
  return (thrown as { driverError?: { code?: string } }).driverError?.code?.startsWith('22') ?? false;
}

/** The run's result; on abort, whatever it says within the grace time, and then no longer waited for. */
async function untilAborted<K extends StepName>(run: Promise<StepResult<K>>, signal: AbortSignal): Promise<StepResult<K>> {
  return new Promise((resolve, reject) => {
    const give = () => setTimeout(() => reject(new Aborted()), graceMs);
    if (signal.aborted) give();
    else signal.addEventListener('abort', give, { once: true });
    run.then(resolve, reject);
  });
}
