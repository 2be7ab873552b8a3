import { Inject } from '@nestjs/common';
import { Args, Field, ID, Int, Mutation, ObjectType, Query, registerEnumType, Resolver, Subscription } from '@nestjs/graphql';
import { ReefError, type ChangeFeed } from '@reefkeeper/platform';
import { Actor, JsonScalar, Roles } from '@reefkeeper/platform/http';
import { alertStates, severities, type AlertState, type Severity } from './alert.ts';
import { Alerts, type AlertView } from './alerts.service.ts';
import { Silences, type SilenceView } from './silences.service.ts';

const enumOf = <T extends string>(name: string, words: readonly T[]) => {
  const made = Object.fromEntries(words.map((word) => [word, word])) as Record<T, T>;
  registerEnumType(made, { name });
  return made;
};
const AlertStateEnum = enumOf('AlertState', alertStates);
const SeverityEnum = enumOf('AlertSeverity', severities);

@ObjectType('Alert', { description: 'A condition that somebody may have to look at; docs/alerts.md lists the kinds' })
class AlertType implements AlertView {
  @Field(() => ID) id!: string;
  @Field(() => Int, { description: 'in the order in which the conditions were first seen' }) seq!: number;
  @Field(() => String) kind!: string;
  @Field(() => String, { description: 'a device, device/workload, or a rollout' }) subject!: string;
  @Field(() => String, { nullable: true }) device!: string | null;
  @Field(() => String, { nullable: true }) workload!: string | null;
  @Field(() => ID, { nullable: true }) rollout!: string | null;
  @Field(() => SeverityEnum) severity!: Severity;
  @Field(() => AlertStateEnum) state!: AlertState;
  @Field(() => Date, { description: 'since when the condition holds' }) since!: Date;
  @Field(() => Date) openedAt!: Date;
  @Field(() => Date) lastSeenAt!: Date;
  @Field(() => Date, { nullable: true, description: 'the condition is gone since; it closes when that has lasted' }) goneSince!: Date | null;
  @Field(() => Date, { nullable: true }) closedAt!: Date | null;
  @Field(() => Int, { description: 'how often it has opened in a row, each within an hour of its last end' }) times!: number;
  @Field(() => JsonScalar) numbers!: Record<string, unknown>;
  @Field(() => String) summary!: string;
  @Field(() => String, { description: 'what to do' }) advice!: string;
  @Field(() => Date, { nullable: true }) acknowledgedAt!: Date | null;
  @Field(() => String, { nullable: true }) acknowledgedBy!: string | null;
  @Field(() => String, { nullable: true }) note!: string | null;
  @Field(() => Boolean, { description: 'nobody is told of it just now' }) silenced!: boolean;
}

@ObjectType('AlertPage')
class AlertPageType {
  @Field(() => [AlertType]) items!: AlertView[];
  @Field(() => String, { nullable: true }) nextCursor!: string | null;
}

@ObjectType('Silence', { description: 'While it lasts, nobody is told of alerts of devices that match' })
class SilenceType implements SilenceView {
  @Field(() => ID) id!: string;
  @Field(() => String, { description: 'empty = every device' }) selector!: string;
  @Field(() => [String], { description: 'empty = every kind' }) kinds!: string[];
  @Field(() => Date) until!: Date;
  @Field(() => String) reason!: string;
  @Field(() => Boolean) active!: boolean;
  @Field(() => Int, { description: 'alerts that are not closed and that it keeps quiet now' }) alerts!: number;
  @Field(() => Date) createdAt!: Date;
  @Field(() => String) createdBy!: string;
  @Field(() => Date, { nullable: true }) liftedAt!: Date | null;
  @Field(() => String, { nullable: true }) liftedBy!: string | null;
}

@Resolver(() => AlertType)
export class AlertsResolver {
  constructor(@Inject(Alerts) private readonly service: Alerts, @Inject(Silences) private readonly quiet: Silences, @Inject('FEED') private readonly feed: ChangeFeed) {}

  /** Newest first; those that are not closed where no state is asked for. */
  @Query(() => AlertPageType)
  @Roles('viewer')
  alerts(
    @Args('states', { type: () => [AlertStateEnum], nullable: true }) states?: AlertState[],
    @Args('kind', { type: () => String, nullable: true }) kind?: string,
    @Args('device', { type: () => String, nullable: true }) device?: string,
    @Args('selector', { type: () => String, nullable: true }) selector?: string,
    @Args('limit', { type: () => Int, defaultValue: 100 }) limit = 100,
    @Args('cursor', { type: () => String, nullable: true }) cursor?: string,
  ): Promise<{ items: AlertView[]; nextCursor: string | null }> {
    return this.service.list({ states: states ?? undefined, kind: kind ?? undefined, device: device ?? undefined, selector: selector ?? undefined, limit: Math.min(Math.max(limit, 1), 1_000), cursor: cursor ?? undefined });
  }

  @Query(() => AlertType)
  @Roles('viewer')
  alert(@Args('id', { type: () => ID }) id: string): Promise<AlertView> {
    return this.service.get(id);
  }

  @Query(() => [SilenceType])
  @Roles('viewer')
  silences(@Args('all', { type: () => Boolean, nullable: true, description: 'those that are over, too' }) all?: boolean): Promise<SilenceView[]> {
    return this.quiet.list(all ?? false);
  }

  @Mutation(() => AlertType)
  @Roles('operator')
  acknowledgeAlert(@Args('id', { type: () => ID }) id: string, @Actor() actor: string, @Args('note', { type: () => String, nullable: true }) note?: string): Promise<AlertView> {
    return this.service.acknowledge(id, note ?? '', actor);
  }

  /** @returns how many open ones were */
  @Mutation(() => Int, { description: 'acknowledges every open alert that matches; without any condition, all' })
  @Roles('operator')
  acknowledgeAlerts(
    @Actor() actor: string,
    @Args('kind', { type: () => String, nullable: true }) kind?: string,
    @Args('device', { type: () => String, nullable: true }) device?: string,
    @Args('selector', { type: () => String, nullable: true }) selector?: string,
    @Args('throughSeq', { type: () => Int, nullable: true, description: '`seq` of the newest alert that was seen; what has come since stays open' }) throughSeq?: number,
    @Args('note', { type: () => String, nullable: true }) note?: string,
  ): Promise<number> {
    return this.service.acknowledgeAll({ kind: kind ?? undefined, device: device ?? undefined, selector: selector ?? undefined, throughSeq: throughSeq ?? undefined }, note ?? '', actor);
  }

  /** An alert each time it opens, is acknowledged or closes. */
  @Subscription(() => AlertType)
  @Roles('viewer')
  alertChanged(@Args('device', { type: () => String, nullable: true }) device?: string): AsyncIterator<{ alertChanged: AlertView }> {
    return this.feed.read(({ kind }) => kind === 'alert', async ({ id }) => {
      // A silence changes what is said of alerts; it is none itself.
      const found = await this.service.get(id).catch((error: unknown) => {
        if (error instanceof ReefError && error.kind === 'not_found') return undefined;
        throw error;
      });
      return found && (!device || found.device === device) ? { alertChanged: found } : undefined;
    });
  }
}
