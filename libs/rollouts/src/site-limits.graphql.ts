import { Inject } from '@nestjs/common';
import { Args, Field, Float, Int, Mutation, ObjectType, Query, Resolver } from '@nestjs/graphql';
import { Actor, checked, Roles } from '@reefkeeper/platform/http';
import { siteName } from './site-limits.http.ts';
import { siteLimitBody, SiteLimits, type SiteView } from './site-limits.service.ts';

@ObjectType('Site', { description: 'A value of the label site; * stands for every site that has no limit of its own' })
class SiteType implements SiteView {
  @Field(() => String) site!: string;
  @Field(() => Int, { nullable: true, description: 'devices at once that were told and have not answered, of all rollouts together' }) maxInProgress!: number | null;
  @Field(() => Float, { nullable: true }) bytesPerSecond!: number | null;
  @Field(() => String, { nullable: true, description: 'whose limit it is' }) of!: SiteView['of'];
  @Field(() => Int) devices!: number;
  @Field(() => Int) inProgress!: number;
}

@Resolver(() => SiteType)
export class SitesResolver {
  constructor(@Inject(SiteLimits) private readonly service: SiteLimits) {}

  @Query(() => [SiteType])
  @Roles('viewer')
  sites(): Promise<SiteView[]> {
    return this.service.list();
  }

  @Mutation(() => SiteType)
  @Roles('operator')
  limitSite(@Args('site') site: string, @Actor() actor: string, @Args('maxInProgress', { type: () => Int, nullable: true }) maxInProgress?: number, @Args('bytesPerSecond', { type: () => Float, nullable: true }) bytesPerSecond?: number): Promise<SiteView> {
    return this.service.set(checked(siteName, site, 'site'), checked(siteLimitBody, { maxInProgress, bytesPerSecond }), actor);
  }

  @Mutation(() => SiteType, { nullable: true, description: 'what holds there then; null where no device is' })
  @Roles('operator')
  async unlimitSite(@Args('site') site: string, @Actor() actor: string): Promise<SiteView | null> {
    const name = checked(siteName, site, 'site');
    await this.service.remove(name, actor);
    return (await this.service.list()).find((one) => one.site === name) ?? null;
  }
}
