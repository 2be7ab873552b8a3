import { Inject } from '@nestjs/common';
import { Args, Field, Int, Mutation, ObjectType, Query, Resolver } from '@nestjs/graphql';
import { Actor, checked, JsonScalar, Roles } from '@reefkeeper/platform/http';
import { ruleBody, ruleName } from './config-rules.http.ts';
import { ConfigRules, type ChangedConfigRule, type ConfigRuleView } from './config-rules.service.ts';

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

@ObjectType('ChangedConfigRule')
class ChangedConfigRuleType extends ConfigRuleType implements ChangedConfigRule {
  @Field(() => Int, { description: 'devices that are told something new' }) changed!: number;
}

@Resolver(() => ConfigRuleType)
export class ConfigRulesResolver {
  constructor(@Inject(ConfigRules) private readonly service: ConfigRules) {}

  @Query(() => [ConfigRuleType], { description: 'in the order in which they win' })
  @Roles('viewer')
  configRules(): Promise<ConfigRuleView[]> {
    return this.service.list();
  }

  @Mutation(() => ChangedConfigRuleType, { description: 'makes it, or replaces the one of that name' })
  @Roles('operator')
  setConfigRule(
    @Args('name') name: string, @Args('selector', { description: 'empty = every device' }) selector: string, @Args('config', { type: () => JsonScalar, description: 'as in REST' }) config: unknown, @Actor() actor: string,
    @Args('priority', { type: () => Int, nullable: true, description: '0 where absent' }) priority?: number | null,
  ): Promise<ChangedConfigRule> {
    return this.service.set(checked(ruleName, name, 'name'), checked(ruleBody, { selector, config, priority: priority ?? undefined }), actor);
  }

  @Mutation(() => Int, { description: 'for how many devices something changed' })
  @Roles('operator')
  removeConfigRule(@Args('name') name: string, @Actor() actor: string): Promise<number> {
    return this.service.remove(checked(ruleName, name, 'name'), actor);
  }
}
