import { Inject } from '@nestjs/common';
import { Args, Field, Float, Int, ObjectType, Query, Resolver, Subscription } from '@nestjs/graphql';
import { idsOf, type ChangeFeed } from '@reefkeeper/platform';
import { JsonScalar, Roles } from '@reefkeeper/platform/http';
import { Telemetry } from './telemetry.service.ts';
import { windowViewOf, type WindowView } from './telemetry.views.ts';

@ObjectType('TelemetryWindow')
export class WindowType implements WindowView {
  @Field(() => String) deviceId!: string;
  @Field(() => String) bootId!: string;
  @Field(() => Float) seq!: number;
  @Field(() => String) workload!: string;
  @Field(() => String) bundle!: string;
  @Field(() => String) variant!: string;
  @Field(() => String) backend!: string;
  @Field(() => Date) startedAt!: Date;
  @Field(() => Date) receivedAt!: Date;
  @Field(() => Int) durationMs!: number;
  @Field(() => Int) inferences!: number;
  @Field(() => JsonScalar) errors!: Record<string, number>;
  @Field(() => JsonScalar, { description: 'per stage: count, p50Ms, p95Ms, p99Ms' }) latency!: WindowView['latency'];
  @Field(() => Int) labelled!: number;
  @Field(() => Int) correct!: number;
  @Field(() => Float, { nullable: true }) accuracy!: number | null;
  @Field(() => Float, { nullable: true }) temperatureC!: number | null;
  @Field(() => JsonScalar, { nullable: true, description: 'a candidate beside the active model: bundle, frames, agreed, errors, latency and active as in latency' }) shadow!: WindowView['shadow'];
  @Field(() => JsonScalar, { nullable: true, description: "numbers of the site's own program, by name: count, sum, sumSquares" }) metrics!: WindowView['metrics'];
  @Field(() => JsonScalar, { nullable: true, description: 'population stability index of the top-1 scores: psi, reference, current' }) drift!: WindowView['drift'];
  @Field(() => JsonScalar, { nullable: true, description: 'what the device threw away before this window: windows, inferences' }) lost!: WindowView['lost'];
}

@Resolver(() => WindowType)
export class TelemetryResolver {
  constructor(@Inject(Telemetry) private readonly telemetry: Telemetry, @Inject('FEED') private readonly feed: ChangeFeed) {}

  /** The newest windows of a device, newest first. */
  @Query(() => [WindowType])
  @Roles('viewer')
  async telemetryOf(@Args('device', { type: () => String }) device: string, @Args('workload', { type: () => String, nullable: true }) workload?: string, @Args('limit', { type: () => Int, nullable: true }) limit?: number): Promise<WindowView[]> {
    return (await this.telemetry.latest(device, Math.min(500, Math.max(1, limit ?? 50)), workload ?? undefined)).map(windowViewOf);
  }

  /** The newest window of the device, as it comes; without a device, of one among those that sent some. A slow reader misses windows, never the newest. */
  @Subscription(() => WindowType)
  @Roles('viewer')
  telemetryReceived(@Args('device', { type: () => String, nullable: true }) device?: string, @Args('workload', { type: () => String, nullable: true }) workload?: string): AsyncIterator<{ telemetryReceived: WindowView }> {
    return this.feed.read((change) => change.kind === 'telemetry' && (!device || idsOf(change).includes(device)), async (change) => {
      const [window] = await this.telemetry.latest(device ?? idsOf(change)[0]!, 1, workload ?? undefined);
      return window && { telemetryReceived: windowViewOf(window) };
    });
  }
}
