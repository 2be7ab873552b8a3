import { Inject } from '@nestjs/common';
import { Field, Int, ObjectType, Query, Resolver } from '@nestjs/graphql';
import { JsonScalar, Roles } from '@reefkeeper/platform/http';
import { ConfigRules, type ConfigRuleView } from './config-rules.service.ts';

@ObjectType('ConfigRule', { description: 'What devices that match are configured to, those that come to match later too' })
class ConfigRuleType implements ConfigRuleView {
  @Field(() => String) name!: string;
  @Field(() => String, { description: 'empty = every device' }) selector!: string;
  @Field(() => JsonScalar) config!: ConfigRuleView['config'];
  @Field(() => Int, { description: 'the higher one wins, setting by setting' }) priority!: number;
  @Field(() => Date) setAt!: Date;
  @Field(() => String) setBy!: string;
  @Field(() => Int, { description: 'that match now' }) devices!: number;
}

@Resolver(() => ConfigRuleType)
export class ConfigRulesResolver {
  constructor(@Inject(ConfigRules) private readonly service: ConfigRules) {}

  @Query(() => [ConfigRuleType], { description: 'in the order in which they win' })
  @Roles('viewer')
  configRules(): Promise<ConfigRuleView[]> {
    return this.service.list();
  }
}
