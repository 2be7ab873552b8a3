import { Controller, Get, Inject, Param, Query } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { deviceId } from '@reefkeeper/protocol';
import { DataSource } from 'typeorm';
import { z } from 'zod';
import { overviewOf, type Overview } from './overview.ts';
import { executionsOfDevice, type ExecutionView } from './views.ts';

const listQuery = z.object({ limit: z.coerce.number().int().min(1).max(200).default(20) });

@ApiTags('rollouts')
@Controller('overview')
export class OverviewController {
  constructor(@Inject(DataSource) private readonly db: DataSource) {}

  @Get()
  overview(): Promise<Overview> {
    return overviewOf(this.db);
  }
}

/** A device's parts in rollouts: what came to it, newest first. */
@ApiTags('devices')
@Controller('devices/:id/executions')
export class DeviceExecutionsController {
  constructor(@Inject(DataSource) private readonly db: DataSource) {}

  @Get()
  async list(@Param('id', { schema: deviceId }) id: string, @Query({ schema: listQuery }) { limit }: z.output<typeof listQuery>): Promise<{ items: (ExecutionView & { version: string; workload: string })[]; nextCursor: null }> {
    return { items: await executionsOfDevice(this.db, id, limit), nextCursor: null };
  }
}
