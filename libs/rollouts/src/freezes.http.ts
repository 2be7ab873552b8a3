import { Body, Controller, Delete, Get, Inject, Param, Post, Query } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { Actor, anId, Roles } from '@reefkeeper/platform/http';
import { z } from 'zod';
import { Freezes, type FreezeView } from './freezes.service.ts';

const freezeBody = z.object({ selector: z.string().max(1_000).describe('which devices; empty = every one'), until: z.iso.datetime({ offset: true }), reason: z.string().trim().min(1).max(500) }).meta({ id: 'CreateFreeze' });
const listQuery = z.object({ all: z.enum(['true', 'false']).transform((text) => text === 'true').default(false) });

@ApiTags('rollouts')
@Controller('freezes')
export class FreezesController {
  constructor(@Inject(Freezes) private readonly freezes: Freezes) {}

  @Get()
  async list(@Query({ schema: listQuery }) query: z.output<typeof listQuery>): Promise<{ items: FreezeView[]; nextCursor: null }> {
    return { items: await this.freezes.list(query.all), nextCursor: null };
  }

  @Post()
  @Roles('operator')
  create(@Body({ schema: freezeBody }) { selector, until, reason }: z.output<typeof freezeBody>, @Actor() actor: string): Promise<FreezeView> {
    return this.freezes.create({ selector, until: new Date(until), reason }, actor);
  }

  @Delete(':id')
  @Roles('operator')
  lift(@Param('id', { schema: anId }) freeze: string, @Actor() actor: string): Promise<FreezeView> {
    return this.freezes.lift(freeze, actor);
  }
}
