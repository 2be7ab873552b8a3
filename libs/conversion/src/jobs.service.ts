import { randomUUID } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { DataSource, In } from 'typeorm';
import { hint, ReefError, type ChangeFeed, type ChangeHint, type Clock, type Queue, type QueueHost, type Tx } from '@reefkeeper/platform';
import { Registry, refOf, type Version } from '@reefkeeper/registry';
import { CompileAttempt } from './attempts.ts';
import { buildRequest, isDone, isSettled, objectsIn, stepsOf, type LearningOrigin, type BuildRequest, type BuildRequestInput, type JobState, type SourceOrigin } from './job.ts';
import { Job, JobLogLine, JobStep } from './job.entity.ts';

/** A run that has not been heard of for this long is dead: another worker may take its job. */
export const leaseS = 10;
export const pipelineQueue = 'pipeline';
const queueWaitMs = 2_000;

export interface JobWithSteps extends Job {
  steps: JobStep[];
}

/** What the server itself adds to a job. */
export interface JobExtras {
  origin?: SourceOrigin;
  learning?: LearningOrigin;
  /** First lines of the job's log. */
  log?: string[];
  /** Done in the transaction that makes the job; what it throws undoes both. */
  within?: (tx: Tx, made: { job: string }) => Promise<void>;
}

/** What users do with pipeline runs. Running them is `Pipeline`. */
@Injectable()
export class Jobs {
  private readonly queue: Queue<{ jobId: string }>;

  constructor(
    @Inject(DataSource) private readonly db: DataSource,
    @Inject('CLOCK') private readonly clock: Clock,
    @Inject('QUEUES') queues: QueueHost,
    @Inject('FEED') private readonly feed: ChangeFeed,
    @Inject(Registry) private readonly registry: Registry,
  ) {
    this.queue = queues.queue(pipelineQueue);
  }

  /**
   * A new version of a model (created if absent) and the job that builds it.
   * @throws ReefError `source.missing` (a digest was never uploaded), `model.name_invalid`
   */
  async create(model: string, input: BuildRequestInput, createdBy = 'system', { origin, learning, log = [], within }: JobExtras = {}): Promise<{ version: Version; job: JobWithSteps }> {
    const parsed = buildRequest.parse(input);
    const request: BuildRequest = { ...parsed, source: { ...parsed.source, ...(origin ? { origin } : {}) }, ...(learning ? { learning } : {}) };
    const id = randomUUID();
    const version = await this.db.transaction(async (tx) => {
      await this.claimSources(request, tx);
      const made = await this.registry.createVersion(model, { task: request.task, labels: request.labels, notes: request.notes ?? null, createdBy }, tx);
      await this.registry.move(made.id, 'BUILDING', tx);
      await tx.query('INSERT INTO jobs (id, version_id, model, ref, state, request, created_at, created_by, priority) VALUES ($1, $2, $3, $4, \'QUEUED\', $5, $6, $7, $8)',
        [id, made.id, model, refOf(made), JSON.stringify(request), this.clock.now(), createdBy, request.priority]);
      await tx.query('INSERT INTO job_steps (job_id, ordinal, name, state) SELECT $1, at - 1, name, \'PENDING\' FROM unnest($2::text[]) WITH ORDINALITY AS step (name, at)', [id, stepsOf(request)]);
      if (log.length > 0) await tx.query('INSERT INTO job_log (job_id, at, step, stream, text) SELECT $1, $2, $3, \'out\', line FROM unnest($4::text[]) WITH ORDINALITY AS said (line, n) ORDER BY n', [id, this.clock.now(), stepsOf(request)[0], log]);
      await within?.(tx, { job: id });
      await hint(tx, { kind: 'job', id });
      return made;
    });
    await this.enqueue({ id, message: 1, priority: request.priority });
    return { version: await this.registry.versionById(version.id), job: await this.find(id) };
  }

  /**
   * Models that share an Edge TPU: a new version of each, with the same source and options, whose Edge TPU files come from one command line. Versions that are
   * ready never change, so the ones named here stay as they are.
   * @throws ReefError `version.missing`, `cocompile.version_unusable`, `source.missing`
   */
  async cocompile(refs: readonly string[], { runtime }: { runtime?: number | undefined } = {}, createdBy = 'system'): Promise<{ version: Version; job: JobWithSteps }[]> {
    const chosen: { version: Version; digest: string; request: BuildRequest }[] = [];
    for (const ref of refs) {
      const version = await this.registry.versionByRef(ref);
      const unusable = (why: string) => new ReefError('cocompile.version_unusable', 'conflict', `${refOf(version)} ${why}`, { detail: { version: refOf(version), state: version.state } });
      if (version.state !== 'READY') throw unusable(`is ${version.state}; only READY versions are compiled together.`);
      const int8 = version.variants.find(({ kind }) => kind === 'cpu-int8');
      if (!int8 || !version.lineage?.job) throw unusable('has no int8 file of ours: it was compiled elsewhere. Compile it together with the others there.');
      if (version.lineage.learning) throw unusable('has a head that was learnt on a device; what is compiled is its parent.');
      if (chosen.some((one) => one.version.model === version.model)) throw unusable('is of a model that is named already; two versions of one model do not run side by side.');
      chosen.push({ version, digest: int8.digest, request: (await this.find(version.lineage.job)).request });
    }
    // All there now, and for a day: the jobs are then made one by one.
    for (const { request } of chosen) await this.claimSources(request, this.db.manager);
    const together = chosen.map(({ version, digest }) => ({ ref: refOf(version), digest }));
    const made = [];
    for (const { version, request } of chosen) {
      const { numSegments: _segments, intermediateTensors: _tensors, ...flags } = request.compile ?? {};
      const notes = `${refOf(version)}, compiled together with ${together.filter(({ ref }) => ref !== refOf(version)).map(({ ref }) => ref).join(', ')}`;
      made.push(await this.create(version.model, { ...request, ...(runtime === undefined ? {} : { runtimes: [runtime] }), notes, compile: { ...flags, force: false, together } }, createdBy, request.source.origin ? { origin: request.source.origin } : {}));
    }
    return made;
  }

  /** @throws ReefError `job.missing` */
  async find(id: string, tx: Tx = this.db.manager): Promise<JobWithSteps> {
    const job = /^[0-9a-f-]{36}$/.test(id) ? await tx.findOneBy(Job, { id }) : null;
    if (!job) throw new ReefError('job.missing', 'not_found', `There is no job ${id}.`, { detail: { job: id } });
    return Object.assign(job, { steps: await tx.find(JobStep, { where: { jobId: id }, order: { ordinal: 'ASC' } }) });
  }

  /** Newest first. */
  async list(filter: { model?: string | undefined; state?: JobState | undefined; limit?: number | undefined; cursor?: string | undefined } = {}): Promise<{ items: JobWithSteps[]; nextCursor: string | null }> {
    const limit = filter.limit ?? 50;
    const query = this.db.getRepository(Job).createQueryBuilder('job').orderBy('job.created_at', 'DESC').addOrderBy('job.id').limit(limit + 1);
    if (filter.model) query.andWhere('job.model = :model', filter);
    if (filter.state) query.andWhere('job.state = :state', filter);
    if (filter.cursor) {
      const [at, id] = Buffer.from(filter.cursor, 'base64url').toString().split(' ');
      if (!id || Number.isNaN(Date.parse(at!))) throw new ReefError('request.invalid', 'invalid', 'The cursor is not one that a list answered with.');
      query.andWhere('(job.created_at < :at OR (job.created_at = :at AND job.id > :id))', { at, id });
    }
    const jobs = await query.getMany();
    const shown = jobs.slice(0, limit);
    const steps = shown.length > 0 ? await this.db.getRepository(JobStep).find({ where: { jobId: In(shown.map((job) => job.id)) }, order: { ordinal: 'ASC' } }) : [];
    const last = shown.at(-1);
    return {
      items: shown.map((job) => Object.assign(job, { steps: steps.filter((step) => step.jobId === job.id) })),
      nextCursor: jobs.length > limit && last ? Buffer.from(`${last.createdAt.toISOString()} ${last.id}`).toString('base64url') : null,
    };
  }

  /** Lines after number `after`, oldest first. @throws ReefError `job.missing` */
  async logAfter(id: string, after = 0, limit = 2_000): Promise<JobLogLine[]> {
    await this.find(id);
    return this.db.getRepository(JobLogLine).createQueryBuilder('line').where('line.job_id = :id AND line.n > :after', { id, after }).orderBy('line.n').limit(limit).getMany();
  }

  /**
   * Asks the worker to stop (it looks every half second); settles at once what no worker has. Asking twice changes nothing.
   * @throws ReefError `job.missing`, `job.settled`
   */
  async cancel(id: string): Promise<JobWithSteps> {
    return this.db.transaction(async (tx) => {
      const job = await this.lock(id, tx);
      if (job.state === 'CANCELED') return this.find(id, tx);
      if (isSettled(job.state)) throw new ReefError('job.settled', 'conflict', `The job has ended already (${job.state}); there is nothing to cancel.`, { detail: { job: id, state: job.state } });
      if (job.alive) await tx.query('UPDATE jobs SET cancel_requested_at = coalesce(cancel_requested_at, now()) WHERE id = $1', [id]);
      else await this.settleCanceled(job, tx);
      await hint(tx, { kind: 'job', id });
      return this.find(id, tx);
    });
  }

  /** Every run of the compiler that the job made, oldest first. @throws ReefError `job.missing` */
  async attempts(id: string): Promise<CompileAttempt[]> {
    await this.find(id);
    return this.db.getRepository(CompileAttempt).find({ where: { jobId: id }, order: { id: 'ASC' } });
  }

  /**
   * Runs a job again that did not succeed, from the step that failed; what was done stays done. `force`: the compiler runs although it is
   * known to fail on these bytes. Where files of finished steps have been collected meanwhile, it starts again from the first step.
   * @throws ReefError `job.missing`, `job.not_retryable`, `source.missing`
   */
  async retry(id: string, { force = false }: { force?: boolean } = {}): Promise<JobWithSteps> {
    const due = await this.db.transaction(async (tx) => {
      const job = await this.lock(id, tx);
      if (!isSettled(job.state) || job.state === 'SUCCEEDED') throw new ReefError('job.not_retryable', 'conflict', `The job is ${job.state}; only one that failed, timed out or was canceled can be tried again.`, { detail: { job: id, state: job.state } });
      const { steps } = await this.find(id, tx);
      await this.claimSources(job.request, tx);
      const lost = await this.registry.claim(objectsIn(steps.map(({ output }) => output)), tx);
      const from = lost.length > 0 ? 0 : steps.find((step) => !isDone(step.state))?.ordinal ?? 0;
      await tx.query("UPDATE job_steps SET state = 'PENDING', percent = NULL, eta_s = NULL, message = NULL, tries = 0, losses = 0, key = NULL, output = NULL, error = NULL, started_at = NULL, ended_at = NULL WHERE job_id = $1 AND ordinal >= $2", [id, from]);
      const next = job.message + 1;
      await tx.query("UPDATE jobs SET request = jsonb_set(request, '{compile}', coalesce(request->'compile', '{}') || jsonb_build_object('force', $3::boolean)), state = 'QUEUED', error = NULL, ended_at = NULL, cancel_requested_at = NULL, owner = NULL, heartbeat_at = NULL, run_after = NULL, changed_at = now(), message = $2 WHERE id = $1", [id, next, force]);
      await this.registry.move(job.versionId, 'BUILDING', tx);
      await hint(tx, { kind: 'job', id });
      return { id, message: next, priority: job.priority };
    });
    await this.enqueue(due);
    return this.find(id);
  }

  /** The job now and after each change, until it has ended. */
  async *watch(id: string): AsyncGenerator<JobWithSteps, void, void> {
    const ear = this.listen((change) => change.kind === 'job' && change.id === id);
    try {
      for (let before = ''; ;) {
        const job = await this.find(id);
        const now = JSON.stringify(job, (key, value: unknown) => (key === 'heartbeatAt' ? undefined : value));
        if (now !== before) yield job;
        if (isSettled(job.state)) return;
        before = now;
        await ear.next();
      }
    } finally {
      ear.close();
    }
  }

  /** Log lines after number `after` as they are written, until the job has ended. */
  async *watchLog(id: string, after = 0): AsyncGenerator<JobLogLine, void, void> {
    const ear = this.listen((change) => change.id === id);
    try {
      for (let last = after; ;) {
        // Read before the lines: what a job wrote before it ended is then seen in any case.
        const ended = isSettled((await this.find(id)).state);
        const lines = await this.logAfter(id, last);
        yield* lines;
        last = lines.at(-1)?.n ?? last;
        if (ended && lines.length === 0) return;
        if (lines.length === 0) await ear.next();
      }
    } finally {
      ear.close();
    }
  }

  /** Calls `look` whenever the job may have changed; until the returned function is called. */
  heed(id: string, look: () => void): () => void {
    return this.feed.onChange((change) => { if (change.kind === 'job' && change.id === id) look(); });
  }

  /** `next` ends at the next wanted hint, or after 2 s: hints may be lost with their connection. */
  private listen(wanted: (change: ChangeHint) => boolean): { next(): Promise<void>; close(): void } {
    let heard = false;
    let wake = () => {};
    const close = this.feed.onChange((change) => {
      if (!wanted(change)) return;
      heard = true;
      wake();
    });
    return {
      close,
      async next() {
        if (!heard) {
          await new Promise<void>((resolve) => {
            const timer = setTimeout(resolve, 2_000).unref();
            wake = () => { clearTimeout(timer); resolve(); };
          });
        }
        heard = false;
      },
    };
  }

  /**
   * Puts the job's due message into the queue; the id makes a second one for the same stage fall away. Never fails and never waits
   * long: the rows say what is due, so what a queue that is away misses now, the sweep brings later.
   */
  async enqueue({ id, message, priority }: Pick<Job, 'id' | 'message' | 'priority'>, delayMs = 0): Promise<void> {
    // BullMQ takes the lowest number first, but 0 before all others: ours are never 0.
    const added = this.queue.add('step', { jobId: id }, { jobId: `${id}-${message}`, priority: 101 - priority, removeOnComplete: true, removeOnFail: true, ...(delayMs > 0 ? { delay: delayMs } : {}) });
    await Promise.race([added.catch(() => {}), new Promise((resolve) => { setTimeout(resolve, queueWaitMs).unref(); })]);
  }

  /** Queues again every job that should be moving and is not: its message or its worker was lost. */
  async sweep(): Promise<number> {
    const due = (await this.db.query(`
      SELECT id, message, priority FROM jobs
      WHERE state IN ('QUEUED', 'RUNNING') AND (run_after IS NULL OR run_after < now())
        AND CASE WHEN owner IS NULL THEN changed_at < now() - interval '3 seconds' ELSE heartbeat_at < now() - make_interval(secs => $1) END
      ORDER BY priority DESC, changed_at LIMIT 500`, [leaseS])) as Pick<Job, 'id' | 'message' | 'priority'>[];
    for (const job of due) await this.enqueue(job);
    return due.length;
  }

  /** A job that no worker holds: CANCELED here and now. */
  async settleCanceled(job: Pick<Job, 'id' | 'versionId'>, tx: Tx): Promise<void> {
    const error = { code: 'job.canceled', kind: 'conflict', message: 'Canceled.' };
    await tx.query("UPDATE job_steps SET state = 'CANCELED', eta_s = NULL, ended_at = $2 WHERE job_id = $1 AND state IN ('PENDING', 'RUNNING')", [job.id, this.clock.now()]);
    await tx.query("UPDATE jobs SET state = 'CANCELED', error = $2, ended_at = $3, owner = NULL, heartbeat_at = NULL, cancel_requested_at = coalesce(cancel_requested_at, now()), changed_at = now() WHERE id = $1", [job.id, JSON.stringify(error), this.clock.now()]);
    await this.registry.move(job.versionId, 'CANCELED', tx, { code: error.code, message: error.message });
  }

  private async claimSources({ source, calibration, evaluation, training, learning }: BuildRequest, tx: Tx): Promise<void> {
    const files = Object.entries({ source, calibration, evaluation, base: training?.base }).flatMap(([what, file]) => (file ? [{ what, ...file }] : []));
    if (learning) files.push(...[learning.envelope, ...learning.files].map((digest) => ({ what: 'parent\'s file', digest, filename: learning.parent })));
    const lost = await this.registry.claim(files.map(({ digest }) => digest), tx);
    const file = files.find(({ digest }) => lost.includes(digest));
    if (file) throw new ReefError('source.missing', 'not_found', `The ${file.what} ${file.filename} (${file.digest}) is not stored. Upload it first with POST /api/v1/uploads.`, { detail: file });
  }

  private async lock(id: string, tx: Tx): Promise<Job & { alive: boolean }> {
    await this.find(id, tx);
    const job = await tx.findOneOrFail(Job, { where: { id }, lock: { mode: 'pessimistic_write' } });
    const [{ alive }] = (await tx.query('SELECT owner IS NOT NULL AND heartbeat_at >= now() - make_interval(secs => $2) AS alive FROM jobs WHERE id = $1', [id, leaseS])) as [{ alive: boolean }];
    return Object.assign(job, { alive });
  }
}
