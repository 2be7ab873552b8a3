import { Inject } from '@nestjs/common';
import { Args, Field, ID, Int, Mutation, ObjectType, Query, Resolver } from '@nestjs/graphql';
import { Actor, Roles } from '@reefkeeper/platform/http';
import { Freezes, type FreezeView } from './freezes.service.ts';

@ObjectType('Freeze', { description: 'While it lasts no rollout tells devices that match anything new' })
class FreezeType implements FreezeView {
  @Field(() => ID) id!: string;
  @Field(() => String, { description: 'empty = every device' }) selector!: string;
  @Field(() => Date) until!: Date;
  @Field(() => String) reason!: string;
  @Field(() => Boolean) active!: boolean;
  @Field(() => Int, { description: 'devices that match now' }) devices!: number;
  @Field(() => Date) createdAt!: Date;
  @Field(() => String) createdBy!: string;
  @Field(() => Date, { nullable: true }) liftedAt!: Date | null;
  @Field(() => String, { nullable: true }) liftedBy!: string | null;
}

@Resolver(() => FreezeType)
export class FreezesResolver {
  constructor(@Inject(Freezes) private readonly service: Freezes) {}

  @Query(() => [FreezeType])
  @Roles('viewer')
  freezes(@Args('all', { type: () => Boolean, nullable: true, description: 'those that are over, too' }) all?: boolean): Promise<FreezeView[]> {
    return this.service.list(all ?? false);
  }

  @Mutation(() => FreezeType)
  @Roles('operator')
  liftFreeze(@Args('id', { type: () => ID }) id: string, @Actor() actor: string): Promise<FreezeView> {
    return this.service.lift(id, actor);
  }
}
