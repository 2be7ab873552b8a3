import { Inject } from '@nestjs/common';
import { Args, Field, Float, ID, Int, ObjectType, Query, Resolver, Subscription } from '@nestjs/graphql';
import type { ChangeFeed } from '@reefkeeper/platform';
import { JsonScalar, Roles } from '@reefkeeper/platform/http';
import { DataSource } from 'typeorm';
import type { KeptPlan } from './rollout.entity.ts';
import type { PlannedWave } from './plan.ts';
import type { Reason, RolloutState, Settings, WaveState } from './rollout.ts';
import type { Counts, Verdict, VerdictView } from './verdict.ts';
import { listEvents, listExecutions, listRollouts, viewOf, type RolloutView, type WaveView } from './views.ts';

@ObjectType('RolloutReason')
class ReasonType implements Reason {
  @Field(() => String) code!: string;
  @Field(() => String) message!: string;
  @Field(() => JsonScalar) numbers!: Record<string, unknown>;
}

@ObjectType('RolloutVerdict')
class VerdictType implements VerdictView {
  @Field(() => String) gate!: Verdict['gate'];
  @Field(() => String) verdict!: Verdict['verdict'];
  @Field(() => Float, { nullable: true }) value!: number | null;
  @Field(() => Float, { nullable: true }) baseline!: number | null;
  @Field(() => Float, { nullable: true }) limit!: number | null;
  @Field(() => String) unit!: Verdict['unit'];
  @Field(() => String) basis!: string;
  @Field(() => String, { description: 'threshold (small waves) or sequential (anytime-valid interval)' }) method!: Verdict['method'];
  @Field(() => [Float], { nullable: true }) interval!: Verdict['interval'];
  @Field(() => JsonScalar) sample!: Verdict['sample'];
  @Field(() => JsonScalar, { nullable: true }) needed!: Verdict['needed'];
  @Field(() => String, { nullable: true, description: 'what an undecided gate waits for, in words' }) stillNeeded!: string | null;
  @Field(() => String) message!: string;
}

@ObjectType('RolloutWave')
class WaveType implements WaveView {
  @Field(() => Int) index!: number;
  @Field(() => String) state!: WaveState;
  @Field(() => Int) size!: number;
  @Field(() => Boolean) canary!: boolean;
  @Field(() => JsonScalar, { nullable: true, description: 'the one kind of device it is made of: { by, value }' }) of!: PlannedWave['of'];
  @Field(() => JsonScalar) counts!: Counts;
  @Field(() => Int, { description: 'of the QUEUED, those that will not begin yet by their own word' }) waiting!: number;
  @Field(() => Int, { description: 'of the SUCCEEDED, those that left the version since' }) faults!: number;
  @Field(() => [VerdictType]) verdicts!: VerdictView[];
  @Field(() => Date, { nullable: true }) startedAt!: Date | null;
  @Field(() => Date, { nullable: true }) analysingAt!: Date | null;
  @Field(() => Date, { nullable: true }) deadlineAt!: Date | null;
  @Field(() => Date, { nullable: true }) endedAt!: Date | null;
}

@ObjectType('Rollout')
export class RolloutType implements RolloutView {
  @Field(() => ID) id!: string;
  @Field(() => String) name!: string;
  @Field(() => String) version!: string;
  @Field(() => ID) versionId!: string;
  @Field(() => String) bundle!: string;
  @Field(() => String) workload!: string;
  @Field(() => String) selector!: string;
  @Field(() => String) state!: RolloutState;
  @Field(() => ReasonType) stateReason!: Reason;
  @Field(() => Int) wave!: number;
  @Field(() => [WaveType]) waves!: WaveView[];
  @Field(() => JsonScalar, { nullable: true }) transfer!: RolloutView['transfer'];
  @Field(() => JsonScalar) waitingDevices!: RolloutView['waitingDevices'];
  @Field(() => JsonScalar, { nullable: true }) rollback!: RolloutView['rollback'];
  @Field(() => JsonScalar) settings!: Settings;
  @Field(() => JsonScalar) plan!: KeptPlan;
  @Field(() => Date) createdAt!: Date;
  @Field(() => String) createdBy!: string;
  @Field(() => Date, { nullable: true }) startAt!: Date | null;
  @Field(() => Date, { nullable: true }) stopAt!: Date | null;
  @Field(() => JsonScalar, { nullable: true, description: 'of a dynamic rollout: devices that came after its success' }) late!: RolloutView['late'];
  @Field(() => ReasonType, { nullable: true, description: 'why nothing more happens now' }) waiting!: Reason | null;
  @Field(() => Date, { nullable: true }) startedAt!: Date | null;
  @Field(() => Date, { nullable: true }) endedAt!: Date | null;
}

@ObjectType('RolloutExecution')
class ExecutionType {
  @Field(() => ID) device!: string;
  @Field(() => Int) wave!: number;
  @Field(() => String) variant!: string;
  @Field(() => String) state!: string;
  @Field(() => String, { nullable: true }) step!: string | null;
  @Field(() => Float, { nullable: true }) percent!: number | null;
  @Field(() => JsonScalar, { nullable: true }) failure!: { code: string; message: string } | null;
  @Field(() => JsonScalar, { nullable: true, description: 'why the device left the version after its success' }) fault!: { code: string; message: string } | null;
  @Field(() => Float, { nullable: true }) revision!: number | null;
  @Field(() => String, { nullable: true }) previousBundle!: string | null;
  @Field(() => JsonScalar, { nullable: true }) baseline!: object | null;
  @Field(() => Float, { description: 'what the device fetches at most' }) bytes!: number;
  @Field(() => Date, { nullable: true }) assignedAt!: Date | null;
  @Field(() => Date, { nullable: true, description: 'since when the time for the installation runs, where the device has waited by its own word' }) timeoutFrom!: Date | null;
  @Field(() => Date, { nullable: true }) settledAt!: Date | null;
  @Field(() => String, { nullable: true }) rollbackState!: string | null;
  @Field(() => JsonScalar, { nullable: true }) transfer!: object | null;
  @Field(() => JsonScalar, { nullable: true }) rollbackFailure!: { code: string; message: string } | null;
}

@ObjectType('RolloutEvent')
class EventType {
  @Field(() => ID) id!: number;
  @Field(() => Date) at!: Date;
  @Field(() => String) kind!: string;
  @Field(() => Int, { nullable: true }) wave!: number | null;
  @Field(() => String) code!: string;
  @Field(() => String) message!: string;
  @Field(() => JsonScalar) numbers!: Record<string, unknown>;
  @Field(() => String) actor!: string;
}

@ObjectType('RolloutPage')
class RolloutPageType {
  @Field(() => [RolloutType]) items!: RolloutView[];
  @Field(() => String, { nullable: true }) nextCursor!: string | null;
}

@ObjectType('RolloutExecutionPage')
class ExecutionPageType {
  @Field(() => [ExecutionType]) items!: ExecutionType[];
  @Field(() => String, { nullable: true }) nextCursor!: string | null;
}

@ObjectType('RolloutEventPage')
class EventPageType {
  @Field(() => [EventType]) items!: EventType[];
  @Field(() => String, { nullable: true }) nextCursor!: string | null;
}

const atMost = (limit: number | null | undefined): number | undefined => (limit ? Math.min(1_000, Math.max(1, limit)) : undefined);

@Resolver(() => RolloutType)
export class RolloutsResolver {
  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject('FEED') private readonly feed: ChangeFeed) {}

  @Query(() => RolloutPageType)
  @Roles('viewer')
  rollouts(
    @Args('state', { type: () => String, nullable: true }) state?: string, @Args('workload', { type: () => String, nullable: true }) workload?: string,
    @Args('limit', { type: () => Int, nullable: true }) limit?: number, @Args('cursor', { type: () => String, nullable: true }) cursor?: string,
  ): Promise<RolloutPageType> {
    return listRollouts(this.db, { states: state ? [state] : undefined, workload: workload ?? undefined, limit: atMost(limit), cursor: cursor ?? undefined });
  }

  @Query(() => RolloutType)
  @Roles('viewer')
  rollout(@Args('id', { type: () => ID }) id: string): Promise<RolloutView> {
    return viewOf(this.db, id);
  }

  @Query(() => ExecutionPageType)
  @Roles('viewer')
  rolloutExecutions(
    @Args('id', { type: () => ID }) id: string, @Args('state', { type: () => String, nullable: true }) state?: string, @Args('wave', { type: () => Int, nullable: true }) wave?: number,
    @Args('limit', { type: () => Int, nullable: true }) limit?: number, @Args('cursor', { type: () => String, nullable: true }) cursor?: string,
  ): Promise<ExecutionPageType> {
    return listExecutions(this.db, id, { state: state ?? undefined, wave: wave ?? undefined, limit: atMost(limit), cursor: cursor ?? undefined });
  }

  @Query(() => EventPageType)
  @Roles('viewer')
  rolloutEvents(@Args('id', { type: () => ID }) id: string, @Args('limit', { type: () => Int, nullable: true }) limit?: number, @Args('cursor', { type: () => String, nullable: true }) cursor?: string): Promise<EventPageType> {
    return listEvents(this.db, id, { limit: atMost(limit), cursor: cursor ?? undefined });
  }

  /** The rollout as it is now, then again after every change. */
  @Subscription(() => RolloutType)
  @Roles('viewer')
  rolloutChanged(@Args('id', { type: () => ID, nullable: true }) id?: string): AsyncIterator<{ rolloutChanged: RolloutView }> {
    return this.feed.read(({ kind, id: changed }) => kind === 'rollout' && (!id || changed === id), async (change) => ({ rolloutChanged: await viewOf(this.db, change.id) }), id ? [{ kind: 'rollout', id }] : []);
  }
}
