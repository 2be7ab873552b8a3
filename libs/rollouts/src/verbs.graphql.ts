import { Inject } from '@nestjs/common';
import { Args, ID, Mutation, Query, Resolver } from '@nestjs/graphql';
import { ReefError } from '@reefkeeper/platform';
import { Actor, JsonScalar, Roles } from '@reefkeeper/platform/http';
import type { Explanation } from './explain.ts';
import { abortMode } from './rollout.ts';
import { RolloutType } from './rollouts.graphql.ts';
import { Rollouts } from './rollouts.service.ts';
import type { RolloutView } from './views.ts';

const rolloutId = () => Args('id', { type: () => ID });

/** What people do with a rollout that is there; the same verbs as in REST. */
@Resolver(() => RolloutType)
export class RolloutVerbsResolver {
  constructor(@Inject(Rollouts) private readonly rollouts: Rollouts) {}

  @Query(() => JsonScalar, { description: 'why it is in its state, what it waits for, and what would move it' })
  @Roles('viewer')
  rolloutExplanation(@rolloutId() id: string): Promise<Explanation> {
    return this.rollouts.explain(id);
  }

  @Mutation(() => RolloutType)
  @Roles('operator')
  startRollout(@rolloutId() id: string, @Actor() actor: string): Promise<RolloutView> {
    return this.rollouts.start(id, actor);
  }

  @Mutation(() => RolloutType)
  @Roles('approver')
  approveRollout(@rolloutId() id: string, @Actor() actor: string): Promise<RolloutView> {
    return this.rollouts.approve(id, actor);
  }

  @Mutation(() => RolloutType)
  @Roles('operator')
  pauseRollout(@rolloutId() id: string, @Actor() actor: string): Promise<RolloutView> {
    return this.rollouts.pause(id, actor);
  }

  @Mutation(() => RolloutType)
  @Roles('operator')
  resumeRollout(@rolloutId() id: string, @Actor() actor: string): Promise<RolloutView> {
    return this.rollouts.resume(id, actor);
  }

  @Mutation(() => RolloutType)
  @Roles('operator')
  abortRollout(@rolloutId() id: string, @Args('mode', { type: () => String, nullable: true, description: 'stop-new or recall' }) mode: string | null, @Actor() actor: string): Promise<RolloutView> {
    const chosen = abortMode.optional().safeParse(mode ?? undefined);
    if (!chosen.success) throw new ReefError('request.invalid', 'invalid', `mode is stop-new or recall, not "${mode}".`);
    return this.rollouts.abort(id, chosen.data, actor);
  }

  @Mutation(() => RolloutType)
  @Roles('operator')
  rollbackRollout(@rolloutId() id: string, @Actor() actor: string): Promise<RolloutView> {
    return this.rollouts.rollback(id, actor);
  }

  @Mutation(() => RolloutType)
  @Roles('operator')
  advanceRollout(@rolloutId() id: string, @Args('skipPending', { type: () => Boolean, nullable: true, description: 'leave out the devices that have not answered and judge the rest' }) skipPending: boolean | null, @Actor() actor: string): Promise<RolloutView> {
    return this.rollouts.advance(id, actor, { skipPending: skipPending ?? false });
  }
}
