import { Body, Controller, Delete, Get, HttpCode, Inject, Param, Put } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { Actor, Roles } from '@reefkeeper/platform/http';
import { z } from 'zod';
import { ConfigRules, type ChangedConfigRule, type ConfigRuleView } from './config-rules.service.ts';
import { configChange } from './devices.http.ts';

export const ruleName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/, 'a name of 1 to 63 letters, digits, _ . -');
export const ruleBody = z.object({
  selector: z.string().max(2_000).describe('which devices, now and later; empty = every one'), config: configChange,
  priority: z.number().int().min(-1_000).max(1_000).default(0).describe('of several rules that match, the higher one wins, setting by setting; of equals the one whose name comes first'),
}).refine(({ config }) => Object.keys(config).length > 0, { path: ['config'], message: 'a rule configures something: name at least one setting' }).meta({ id: 'SetConfigRule' });

/** Configuration by selector that is kept: it holds for devices that come to match later, too. */
@ApiTags('devices')
@Controller('config-rules')
export class ConfigRulesController {
  constructor(@Inject(ConfigRules) private readonly rules: ConfigRules) {}

  @Get()
  async list(): Promise<{ items: ConfigRuleView[]; nextCursor: null }> {
    return { items: await this.rules.list(), nextCursor: null };
  }

  @Put(':name')
  @Roles('operator')
  set(@Param('name', { schema: ruleName }) rule: string, @Body({ schema: ruleBody }) body: z.output<typeof ruleBody>, @Actor() actor: string): Promise<ChangedConfigRule> {
    return this.rules.set(rule, body, actor);
  }

  @Delete(':name')
  @HttpCode(200)
  @Roles('operator')
  async remove(@Param('name', { schema: ruleName }) rule: string, @Actor() actor: string): Promise<{ changed: number }> {
    return { changed: await this.rules.remove(rule, actor) };
  }
}
