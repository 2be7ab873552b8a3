import { Inject } from '@nestjs/common';
import { Args, Field, Float, ID, Int, ObjectType, Parent, Query, ResolveField, Resolver, Subscription } from '@nestjs/graphql';
import type { ChangeFeed } from '@reefkeeper/platform';
import { JsonScalar, Roles } from '@reefkeeper/platform/http';
import type { JobState } from './job.ts';
import { Jobs } from './jobs.service.ts';
import type { LogLineView } from './jobs.http.ts';
import { attemptView, jobView, type AttemptView, type JobView, type StepView } from './views.ts';

@ObjectType('JobError')
class JobErrorType {
  @Field(() => String) code!: string;
  @Field(() => String) message!: string;
  @Field(() => String, { nullable: true }) step?: string;
  @Field(() => JsonScalar, { nullable: true }) detail?: Record<string, unknown>;
}

@ObjectType('JobStep')
class StepType implements Omit<StepView, 'error'> {
  @Field(() => String) name!: StepView['name'];
  @Field(() => String) state!: StepView['state'];
  @Field(() => Float, { nullable: true }) percent!: number | null;
  @Field(() => Int, { nullable: true, description: 'Seconds left, as far as can be told' }) etaS!: number | null;
  @Field(() => String, { nullable: true }) message!: string | null;
  @Field(() => Int) tries!: number;
  @Field(() => Date, { nullable: true }) startedAt!: Date | null;
  @Field(() => Date, { nullable: true }) endedAt!: Date | null;
  @Field(() => JobErrorType, { nullable: true }) error!: JobErrorType | null;
}

@ObjectType('Job')
export class JobType implements Omit<JobView, 'error' | 'steps'> {
  @Field(() => ID) id!: string;
  @Field(() => String) model!: string;
  @Field(() => String, { description: 'model@number' }) version!: string;
  @Field(() => ID) versionId!: string;
  @Field(() => String) state!: JobState;
  @Field(() => Int, { description: 'Higher goes first' }) priority!: number;
  @Field(() => Boolean) cancelRequested!: boolean;
  @Field(() => JobErrorType, { nullable: true }) error!: JobErrorType | null;
  @Field(() => JsonScalar) request!: JobView['request'];
  @Field(() => Date) createdAt!: Date;
  @Field(() => String) createdBy!: string;
  @Field(() => Date, { nullable: true }) startedAt!: Date | null;
  @Field(() => Date, { nullable: true }) endedAt!: Date | null;
  @Field(() => [StepType]) steps!: StepType[];
  @Field(() => JsonScalar, { nullable: true, description: 'Of a job that trained: labels, classes, epochs, best, heldOut { images, accuracy, loss, confusion[true][answered] }, issues' }) training!: JobView['training'];
}

@ObjectType('CompileAttempt', { description: 'One run of edgetpu_compiler' })
class AttemptType implements AttemptView {
  @Field(() => Float) id!: number;
  @Field(() => [String], { description: 'Digests of the models' }) inputs!: string[];
  @Field(() => String, { nullable: true }) compilerVersion!: string | null;
  @Field(() => [String]) flags!: string[];
  @Field(() => Date) startedAt!: Date;
  @Field(() => Int, { nullable: true }) durationMs!: number | null;
  @Field(() => Int, { nullable: true }) exitCode!: number | null;
  @Field(() => String, { nullable: true }) signal!: string | null;
  @Field(() => String, { nullable: true, description: 'ok, a failure code, or null: it runs, or its worker died' }) result!: string | null;
  @Field(() => String, { nullable: true }) message!: string | null;
  @Field(() => Boolean, { description: 'The same bytes and flags are not tried again unless forced' }) final!: boolean;
  @Field(() => [String], { description: 'Digests of what it made' }) outputs!: string[];
  @Field(() => String, { nullable: true, description: 'Artifact with all that it printed' }) logDigest!: string | null;
}

@ObjectType('JobPage')
class JobPageType {
  @Field(() => [JobType]) items!: JobType[];
  @Field(() => String, { nullable: true }) nextCursor!: string | null;
}

@ObjectType('JobLogLine')
class LogLineType implements LogLineView {
  @Field(() => Float, { description: 'Rises within a job, with gaps' }) n!: number;
  @Field(() => Date) at!: Date;
  @Field(() => String) step!: string;
  @Field(() => String, { description: 'out or err' }) stream!: string;
  @Field(() => String) text!: string;
}

const atMost = (limit: number | null | undefined): number | undefined => (limit ? Math.min(500, Math.max(1, limit)) : undefined);

@Resolver(() => JobType)
export class JobsResolver {
  constructor(@Inject(Jobs) private readonly jobs: Jobs, @Inject('FEED') private readonly feed: ChangeFeed) {}

  @Query(() => JobPageType, { name: 'jobs' })
  @Roles('viewer')
  async list(
    @Args('model', { type: () => String, nullable: true }) model?: string, @Args('state', { type: () => String, nullable: true }) state?: JobState,
    @Args('limit', { type: () => Int, nullable: true }) limit?: number, @Args('cursor', { type: () => String, nullable: true }) cursor?: string,
  ): Promise<JobPageType> {
    const { items, nextCursor } = await this.jobs.list({ model: model ?? undefined, state: state ?? undefined, limit: atMost(limit), cursor: cursor ?? undefined });
    return { items: items.map(jobView), nextCursor };
  }

  @Query(() => JobType)
  @Roles('viewer')
  async job(@Args('id', { type: () => ID }) id: string): Promise<JobType> {
    return jobView(await this.jobs.find(id));
  }

  @ResolveField('attempts', () => [AttemptType])
  async attemptsOf(@Parent() { id }: JobType): Promise<AttemptView[]> {
    return (await this.jobs.attempts(id)).map(attemptView);
  }

  /** The job as it is now and after every change, until it has ended; without an id, every job that changes. */
  @Subscription(() => JobType)
  @Roles('viewer')
  jobChanged(@Args('id', { type: () => ID, nullable: true }) id?: string): AsyncIterator<{ jobChanged: JobType }> {
    const { jobs } = this;
    if (!id) {
      return this.feed.read(({ kind }) => kind === 'job', async (change) => {
        const job = await jobs.find(change.id).catch(() => undefined);
        return job && { jobChanged: jobView(job) };
      });
    }
    return (async function* () {
      for await (const job of jobs.watch(id)) yield { jobChanged: jobView(job) };
    })();
  }

  /** Lines after number `after`, as they are written, until the job has ended. */
  @Subscription(() => LogLineType)
  @Roles('viewer')
  jobLog(@Args('id', { type: () => ID }) id: string, @Args('after', { type: () => Int, nullable: true }) after?: number): AsyncIterator<{ jobLog: LogLineType }> {
    const { jobs } = this;
    return (async function* () {
      for await (const { n, at, step, stream, text } of jobs.watchLog(id, after ?? 0)) yield { jobLog: { n, at, step, stream, text } };
    })();
  }
}
