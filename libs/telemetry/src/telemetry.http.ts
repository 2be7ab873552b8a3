import { Controller, Get, Inject, Param, Query } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { deviceId, workloadName } from '@reefkeeper/protocol';
import { z } from 'zod';
import { Telemetry } from './telemetry.service.ts';
import { windowViewOf, type WindowView } from './telemetry.views.ts';

const latestQuery = z.object({ workload: workloadName.optional(), limit: z.coerce.number().int().min(1).max(500).default(50) });

/** Series are served by the rollouts slice: they can be asked for by rollout, and this slice knows none. */
@ApiTags('telemetry')
@Controller('devices/:id/telemetry')
export class TelemetryController {
  constructor(@Inject(Telemetry) private readonly telemetry: Telemetry) {}

  @Get()
  async latest(@Param('id', { schema: deviceId }) id: string, @Query({ schema: latestQuery }) query: z.output<typeof latestQuery>): Promise<{ items: WindowView[]; nextCursor: null }> {
    return { items: (await this.telemetry.latest(id, query.limit, query.workload)).map(windowViewOf), nextCursor: null };
  }
}
