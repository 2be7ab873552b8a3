import { Body, Controller, Get, HttpCode, Inject, Param, Post, Query } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { Clock } from '@reefkeeper/platform';
import { Actor, anId, Roles } from '@reefkeeper/platform/http';
import { Telemetry } from '@reefkeeper/telemetry';
import { DataSource } from 'typeorm';
import { z } from 'zod';
import type { Explanation } from './explain.ts';
import { listFreezesOf, type FreezeRecord } from './recorded-freezes.ts';
import { listWindows, type DeviceWindows } from './recorded-windows.ts';
import type { RolloutEvent } from './rollout.entity.ts';
import { abortMode, advanceRollout, createRollout, rolloutStates, type AdvanceRollout, type CreateRollout } from './rollout.ts';
import { Rollouts, type RolloutPreview } from './rollouts.service.ts';
import { listEvents, listExecutions, listRollouts, viewOf, type ExecutionView, type Page, type RolloutView } from './views.ts';

const page = { limit: z.coerce.number().int().min(1).max(1_000).optional(), cursor: z.string().max(400).optional() };
const listQuery = z.object({ ...page, state: z.enum(rolloutStates).optional(), workload: z.string().max(63).optional() });
const executionsQuery = z.object({ ...page, state: z.string().max(20).optional(), wave: z.coerce.number().int().min(0).optional() });
const eventsQuery = z.object({ ...page, order: z.enum(['oldest', 'newest']).optional().describe('first; oldest when absent') });
const windowsQuery = z.object({ limit: z.coerce.number().int().min(1).max(200).default(50).describe('devices'), cursor: z.string().max(100).optional() });
const abortBody = z.object({ mode: abortMode.optional() }).nullish().meta({ id: 'AbortRollout' });

const advanceBody = advanceRollout.nullish();

@ApiTags('rollouts')
@Controller('rollouts')
export class RolloutsController {
  constructor(
    @Inject(Rollouts) private readonly rollouts: Rollouts, @Inject(DataSource) private readonly db: DataSource, @Inject(Telemetry) private readonly telemetry: Telemetry, @Inject('CLOCK') private readonly clock: Clock,
  ) {}

  @Post()
  @Roles('operator')
  create(@Body({ schema: createRollout }) body: CreateRollout, @Actor() actor: string): Promise<RolloutView> {
    return this.rollouts.create(body, actor);
  }

  @Post('preview')
  @HttpCode(200)
  @Roles('viewer')
  preview(@Body({ schema: createRollout }) body: CreateRollout): Promise<RolloutPreview> {
    return this.rollouts.preview(body);
  }

  @Get()
  list(@Query({ schema: listQuery }) { state, ...query }: z.output<typeof listQuery>): Promise<Page<RolloutView>> {
    return listRollouts(this.db, { ...query, states: state && [state] });
  }

  @Get(':id')
  one(@Param('id', { schema: anId }) rollout: string): Promise<RolloutView> {
    return viewOf(this.db, rollout);
  }

  @Get(':id/executions')
  executions(@Param('id', { schema: anId }) rollout: string, @Query({ schema: executionsQuery }) query: z.output<typeof executionsQuery>): Promise<Page<ExecutionView>> {
    return listExecutions(this.db, rollout, query);
  }

  @Get(':id/events')
  events(@Param('id', { schema: anId }) rollout: string, @Query({ schema: eventsQuery }) query: z.output<typeof eventsQuery>): Promise<Page<RolloutEvent>> {
    return listEvents(this.db, rollout, query);
  }

  @Get(':id/windows')
  windows(@Param('id', { schema: anId }) rollout: string, @Query({ schema: windowsQuery }) query: z.output<typeof windowsQuery>): Promise<Page<DeviceWindows>> {
    return listWindows(this.db, this.telemetry, this.clock, rollout, query);
  }

  /** Freezes that held while it was on its way, with the devices of it that were frozen. */
  @Get(':id/freezes')
  async freezes(@Param('id', { schema: anId }) rollout: string): Promise<{ items: FreezeRecord[]; nextCursor: null }> {
    return { items: await listFreezesOf(this.db, this.clock, rollout), nextCursor: null };
  }

  @Get(':id/explanation')
  async explanation(@Param('id', { schema: anId }) rollout: string): Promise<Explanation> {
    return this.rollouts.explain(rollout);
  }

  @Post(':id/start')
  @HttpCode(200)
  @Roles('operator')
  start(@Param('id', { schema: anId }) rollout: string, @Actor() actor: string): Promise<RolloutView> {
    return this.rollouts.start(rollout, actor);
  }

  @Post(':id/approve')
  @HttpCode(200)
  @Roles('approver')
  approve(@Param('id', { schema: anId }) rollout: string, @Actor() actor: string): Promise<RolloutView> {
    return this.rollouts.approve(rollout, actor);
  }

  @Post(':id/pause')
  @HttpCode(200)
  @Roles('operator')
  pause(@Param('id', { schema: anId }) rollout: string, @Actor() actor: string): Promise<RolloutView> {
    return this.rollouts.pause(rollout, actor);
  }

  @Post(':id/resume')
  @HttpCode(200)
  @Roles('operator')
  resume(@Param('id', { schema: anId }) rollout: string, @Actor() actor: string): Promise<RolloutView> {
    return this.rollouts.resume(rollout, actor);
  }

  @Post(':id/abort')
  @HttpCode(200)
  @Roles('operator')
  abort(@Param('id', { schema: anId }) rollout: string, @Body({ schema: abortBody }) body: z.output<typeof abortBody>, @Actor() actor: string): Promise<RolloutView> {
    return this.rollouts.abort(rollout, body?.mode, actor);
  }

  @Post(':id/rollback')
  @HttpCode(200)
  @Roles('operator')
  rollback(@Param('id', { schema: anId }) rollout: string, @Actor() actor: string): Promise<RolloutView> {
    return this.rollouts.rollback(rollout, actor);
  }

  @Post(':id/advance')
  @HttpCode(200)
  @Roles('operator')
  advance(@Param('id', { schema: anId }) rollout: string, @Body({ schema: advanceBody }) body: AdvanceRollout | null | undefined, @Actor() actor: string): Promise<RolloutView> {
    return this.rollouts.advance(rollout, actor, body ?? {});
  }
}
