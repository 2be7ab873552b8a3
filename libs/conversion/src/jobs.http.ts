import { Body, Controller, Get, HttpCode, Inject, Param, Post, Query } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { z } from 'zod';
import { modelName } from '@reefkeeper/bundle';
import { Actor, anId } from '@reefkeeper/platform/http';
import { versionView, type VersionView } from '@reefkeeper/registry';
import { buildRequest, jobStates, type BuildRequest } from './job.ts';
import { Jobs } from './jobs.service.ts';
import { trainingRequest, Trainings, type TrainingRequest } from './trainings.service.ts';
import { attemptView, jobView, type AttemptView, type JobView } from './views.ts';

const listQuery = z.object({
  model: modelName.optional(), state: z.enum(jobStates).optional(),
  limit: z.coerce.number().int().min(1).max(500).optional(), cursor: z.string().max(200).optional(),
});
const cocompile = z.object({ versions: z.array(z.string().min(1).max(100)).min(2).max(8), runtime: z.number().int().min(10).max(30).optional() }).meta({ id: 'Cocompile' });
const retryBody = z.object({ force: z.boolean().default(false) }).prefault({}).meta({ id: 'RetryJob' });
const logQuery = z.object({ after: z.coerce.number().int().min(0).optional(), limit: z.coerce.number().int().min(1).max(10_000).optional() });

export interface LogLineView {
  n: number;
  at: Date;
  step: string;
  stream: string;
  text: string;
}

/** Building a version: what is asked for becomes a version and a job. */
@ApiTags('models')
@Controller('models')
export class BuildsController {
  constructor(@Inject(Jobs) private readonly jobs: Jobs, @Inject(Trainings) private readonly trainings: Trainings) {}

  /** A new last layer on a known network, learnt from labelled images, and the version that comes of it. */
  @Post(':name/trainings')
  @HttpCode(202)
  async train(@Param('name', { schema: modelName }) name: string, @Body({ schema: trainingRequest }) body: TrainingRequest, @Actor() actor: string): Promise<{ version: VersionView; job: JobView }> {
    const { version, job } = await this.trainings.create(name, body, actor);
    return { version: versionView(version), job: jobView(job) };
  }

  @Post(':name/versions')
  @HttpCode(202)
  async create(@Param('name', { schema: modelName }) name: string, @Body({ schema: buildRequest }) body: BuildRequest, @Actor() actor: string): Promise<{ version: VersionView; job: JobView }> {
    const { version, job } = await this.jobs.create(name, body, actor);
    return { version: versionView(version), job: jobView(job) };
  }
}

@ApiTags('models')
@Controller('cocompile')
export class CocompileController {
  constructor(@Inject(Jobs) private readonly jobs: Jobs) {}

  /** A new version of each model, whose Edge TPU files stay on the chip together. */
  @Post()
  @HttpCode(202)
  async create(@Body({ schema: cocompile }) { versions, runtime }: z.output<typeof cocompile>, @Actor() actor: string): Promise<{ items: { version: VersionView; job: JobView }[] }> {
    const made = await this.jobs.cocompile(versions, { runtime }, actor);
    return { items: made.map(({ version, job }) => ({ version: versionView(version), job: jobView(job) })) };
  }
}

@ApiTags('jobs')
@Controller('jobs')
export class JobsController {
  constructor(@Inject(Jobs) private readonly jobs: Jobs) {}

  @Get()
  async list(@Query({ schema: listQuery }) query: z.output<typeof listQuery>): Promise<{ items: JobView[]; nextCursor: string | null }> {
    const { items, nextCursor } = await this.jobs.list(query);
    return { items: items.map(jobView), nextCursor };
  }

  @Get(':id')
  async one(@Param('id', { schema: anId }) job: string): Promise<JobView> {
    return jobView(await this.jobs.find(job));
  }

  @Post(':id/cancel')
  @HttpCode(200)
  async cancel(@Param('id', { schema: anId }) job: string): Promise<JobView> {
    return jobView(await this.jobs.cancel(job));
  }

  @Post(':id/retry')
  @HttpCode(200)
  async retry(@Param('id', { schema: anId }) job: string, @Body({ schema: retryBody }) body: z.output<typeof retryBody>): Promise<JobView> {
    return jobView(await this.jobs.retry(job, body));
  }

  /** Every run of edgetpu_compiler; what each printed is the artifact `logDigest`. */
  @Get(':id/attempts')
  async attempts(@Param('id', { schema: anId }) job: string): Promise<{ items: AttemptView[]; nextCursor: null }> {
    return { items: (await this.jobs.attempts(job)).map(attemptView), nextCursor: null };
  }

  @Get(':id/log')
  async log(@Param('id', { schema: anId }) job: string, @Query({ schema: logQuery }) query: z.output<typeof logQuery>): Promise<{ lines: LogLineView[] }> {
    const lines = await this.jobs.logAfter(job, query.after, query.limit);
    return { lines: lines.map(({ n, at, step, stream, text }) => ({ n, at, step, stream, text })) };
  }
}
