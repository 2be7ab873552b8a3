import { Controller, Get, Inject, Query } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { ReefError, type Clock } from '@reefkeeper/platform';
import { anId } from '@reefkeeper/platform/http';
import { workloadName } from '@reefkeeper/protocol';
import { Telemetry, type SeriesPoint } from '@reefkeeper/telemetry';
import { DataSource } from 'typeorm';
import { z } from 'zod';
import { stretchOf } from './views.ts';

const seriesQuery = z.object({
  device: z.string().max(4_000).optional().describe('one id, or several with commas'),
  workload: workloadName.optional(),
  rollout: anId.optional().describe('the devices, workload and time of a rollout'),
  from: z.iso.datetime().optional().describe('an hour before `to` when absent'),
  to: z.iso.datetime().optional().describe('now when absent'),
  stepS: z.coerce.number().int().min(1).max(86_400).optional().describe('about 120 points when absent'),
  by: z.enum(['device', 'bundle']).default('bundle').describe('one line per device, or one per bundle over all of them'),
});

/** A plot has some hundred points; more than this is a mistake in the step. */
const maxSteps = 5_000;

@ApiTags('telemetry')
@Controller('telemetry/series')
export class SeriesController {
  constructor(@Inject(Telemetry) private readonly telemetry: Telemetry, @Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock) {}

  @Get()
  async series(@Query({ schema: seriesQuery }) query: z.output<typeof seriesQuery>): Promise<{ points: SeriesPoint[]; from: Date; to: Date; stepS: number }> {
    const stretch = query.rollout ? await stretchOf(this.db, query.rollout) : undefined;
    const to = query.to ? new Date(query.to) : stretch?.to ?? this.clock.now();
    const from = query.from ? new Date(query.from) : stretch?.from ?? new Date(to.getTime() - 3_600_000);
    if (from >= to) throw new ReefError('request.invalid', 'invalid', '`from` must be before `to`.');
    const seconds = (to.getTime() - from.getTime()) / 1_000;
    const stepS = query.stepS ?? Math.max(1, Math.ceil(seconds / 120));
    if (seconds / stepS > maxSteps) throw new ReefError('request.invalid', 'invalid', `${Math.ceil(seconds / stepS)} steps are too many to plot; raise stepS to ${Math.ceil(seconds / maxSteps)} or more.`);
    const devices = query.device?.split(',') ?? stretch?.devices;
    return { points: await this.telemetry.series({ devices, workload: query.workload ?? stretch?.workload, from, to, stepS, by: query.by }), from, to, stepS };
  }
}
