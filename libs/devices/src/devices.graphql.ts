import { Inject } from '@nestjs/common';
import { Args, Field, Float, ID, Int, ObjectType, Query, Resolver, Subscription } from '@nestjs/graphql';
import { ReefError, type ChangeFeed } from '@reefkeeper/platform';
import { JsonScalar } from '@reefkeeper/platform/http';
import { Devices, type DeviceView } from './devices.service.ts';

@ObjectType('Reported')
class ReportedType {
  @Field(() => String) bootId!: string;
  @Field(() => Float) seq!: number;
  @Field(() => Float, { nullable: true }) observedRevision!: number | null;
  @Field(() => String) health!: string;
  @Field(() => [String]) conditions!: string[];
  @Field(() => JsonScalar) workloads!: unknown;
  @Field(() => Date) receivedAt!: Date;
}

@ObjectType('Desired')
class DesiredType {
  @Field(() => Float) revision!: number;
  @Field(() => Float) publishedRevision!: number;
  @Field(() => JsonScalar, { description: 'what the device is told: its own over that of the rules' }) config!: unknown;
  @Field(() => JsonScalar) own!: unknown;
  @Field(() => [String], { description: 'that match, in the order in which they win' }) rules!: string[];
  @Field(() => JsonScalar) workloads!: unknown;
}

@ObjectType('DevicePin', { description: 'Rollouts give the device nothing new' })
class PinType {
  @Field(() => String, { description: 'empty = every workload' }) workload!: string;
  @Field(() => String) reason!: string;
  @Field(() => String) pinnedBy!: string;
  @Field(() => Date) pinnedAt!: Date;
}

@ObjectType('Device')
export class DeviceType {
  @Field(() => ID) id!: string;
  @Field(() => JsonScalar) labels!: Record<string, string>;
  @Field(() => Boolean) online!: boolean;
  @Field(() => Date, { nullable: true }) lastSeenAt!: Date | null;
  @Field(() => Date) enrolledAt!: Date;
  @Field(() => Date, { nullable: true }) retiredAt!: Date | null;
  @Field(() => JsonScalar, { nullable: true }) capabilities!: unknown;
  @Field(() => DesiredType) desired!: DesiredType;
  @Field(() => ReportedType, { nullable: true }) reported!: ReportedType | null;
  @Field(() => [PinType]) pins!: PinType[];
}

@ObjectType('DevicePage')
class DevicePageType {
  @Field(() => [DeviceType]) items!: DeviceView[];
  @Field(() => String, { nullable: true }) nextCursor!: string | null;
}

@Resolver(() => DeviceType)
export class DevicesResolver {
  constructor(@Inject(Devices) private readonly service: Devices, @Inject('FEED') private readonly feed: ChangeFeed) {}

  @Query(() => DevicePageType)
  devices(
    @Args('selector', { type: () => String, nullable: true }) selector?: string,
    @Args('online', { type: () => Boolean, nullable: true }) online?: boolean,
    @Args('limit', { type: () => Int, defaultValue: 100 }) limit = 100,
    @Args('cursor', { type: () => String, nullable: true }) cursor?: string,
  ): Promise<{ items: DeviceView[]; nextCursor: string | null }> {
    return this.service.list({ selector, online: online ?? undefined, limit: Math.min(Math.max(limit, 1), 1_000), cursor: cursor ?? undefined });
  }

  @Query(() => DeviceType)
  device(@Args('id', { type: () => ID }) id: string): Promise<DeviceView> {
    return this.service.get(id);
  }

  /** A device each time it changes: presence, report, labels, commands. */
  @Subscription(() => DeviceType)
  deviceChanged(@Args('id', { type: () => ID, nullable: true }) id?: string): AsyncIterator<{ deviceChanged: DeviceView }> {
    return this.feed.read(({ kind, id: changed }) => kind === 'device' && (!id || changed === id), async (change) => {
      const found = await this.service.get(change.id).catch((error: unknown) => {
        if (error instanceof ReefError && error.kind === 'not_found') return undefined;
        throw error;
      });
      return found && { deviceChanged: found };
    });
  }
}
