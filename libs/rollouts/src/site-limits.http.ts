import { Body, Controller, Delete, Get, HttpCode, Inject, Param, Put } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { Actor, Roles } from '@reefkeeper/platform/http';
import { z } from 'zod';
import { siteLimitBody, SiteLimits, type SiteView } from './site-limits.service.ts';

export const siteName = z.string().min(1).max(63).describe('a value of the label site, or * for every site that has no limit of its own');

@ApiTags('rollouts')
@Controller('sites')
export class SitesController {
  constructor(@Inject(SiteLimits) private readonly limits: SiteLimits) {}

  @Get()
  async list(): Promise<{ items: SiteView[]; nextCursor: null }> {
    return { items: await this.limits.list(), nextCursor: null };
  }

  @Put(':site/limit')
  @Roles('operator')
  limit(@Param('site', { schema: siteName }) name: string, @Body({ schema: siteLimitBody }) body: z.output<typeof siteLimitBody>, @Actor() actor: string): Promise<SiteView> {
    return this.limits.set(name, body, actor);
  }

  @Delete(':site/limit')
  @HttpCode(204)
  @Roles('operator')
  unlimit(@Param('site', { schema: siteName }) name: string, @Actor() actor: string): Promise<void> {
    return this.limits.remove(name, actor);
  }
}
