import { Body, Controller, Delete, Get, HttpCode, Inject, Param, Post, Query } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { Actor, anId, Roles } from '@reefkeeper/platform/http';
import { deviceId } from '@reefkeeper/protocol';
import { z } from 'zod';
import { alertStates } from './alert.ts';
import { Alerts, type AlertCounts, type AlertView } from './alerts.service.ts';
import { Silences, type SilenceView } from './silences.service.ts';

const kind = z.string().max(80).regex(/^[a-z_.]+$/, 'a kind is as in docs/alerts.md: device.offline');
/** `OPEN,CLOSED` */
const states = z.string().transform((text) => text.split(',')).pipe(z.array(z.enum(alertStates)).min(1).max(alertStates.length));
const listQuery = z.object({
  state: states.optional().describe('OPEN, ACKNOWLEDGED, CLOSED, separated by commas; those that are not closed where absent'), kind: kind.optional(), device: deviceId.optional(), rollout: anId.optional(),
  selector: z.string().max(2_000).optional().describe('labels of the devices they are about'), limit: z.coerce.number().int().min(1).max(1_000).default(100), cursor: z.string().max(20).optional(),
});
const acknowledgeBody = z.object({ note: z.string().trim().max(1_000).default('').describe('what is being done about it') }).prefault({}).meta({ id: 'AcknowledgeAlert' });
const acknowledgeAllBody = z.object({
  note: z.string().trim().max(1_000).default('').describe('what is being done about it'), all: z.literal(true).optional().describe('instead of any of the following: every open alert'), kind: kind.optional(), device: deviceId.optional(), rollout: anId.optional(),
  selector: z.string().max(2_000).optional().describe('labels of the devices they are about'), throughSeq: z.number().int().min(0).max(1e15).optional().describe('`seq` of the newest alert that was seen; what has come since stays open'),
}).refine(({ all, kind: of, device, rollout, selector }) => all === true || [of, device, rollout, selector || undefined].some((one) => one !== undefined), 'say which: kind, device, rollout or selector, or all').meta({ id: 'AcknowledgeAlerts' });
const silenceBody = z.object({
  selector: z.string().max(1_000).describe('which devices; empty = every one'), kinds: z.array(kind).max(50).default([]).describe('empty = every kind'), until: z.iso.datetime({ offset: true }), reason: z.string().trim().min(1).max(500),
}).meta({ id: 'CreateSilence' });
const silencesQuery = z.object({ all: z.enum(['true', 'false']).transform((text) => text === 'true').default(false) });

@ApiTags('alerts')
@Controller('alerts')
export class AlertsController {
  constructor(@Inject(Alerts) private readonly alerts: Alerts) {}

  /** Newest first. */
  @Get()
  list(@Query({ schema: listQuery }) { state, ...query }: z.output<typeof listQuery>): Promise<{ items: AlertView[]; nextCursor: string | null }> {
    return this.alerts.list({ ...query, states: state });
  }

  /** How many are not closed, by kind. */
  @Get('counts')
  counts(): Promise<AlertCounts> {
    return this.alerts.counts();
  }

  @Get(':id')
  one(@Param('id', { schema: anId }) alert: string): Promise<AlertView> {
    return this.alerts.get(alert);
  }

  @Post('acknowledge')
  @HttpCode(200)
  @Roles('operator')
  async acknowledgeAll(@Body({ schema: acknowledgeAllBody }) { note, kind, device, rollout, selector, throughSeq }: z.output<typeof acknowledgeAllBody>, @Actor() actor: string): Promise<{ acknowledged: number }> {
    return { acknowledged: await this.alerts.acknowledgeAll({ kind, device, rollout, selector, throughSeq }, note, actor) };
  }

  @Post(':id/acknowledge')
  @HttpCode(200)
  @Roles('operator')
  acknowledge(@Param('id', { schema: anId }) alert: string, @Body({ schema: acknowledgeBody }) { note }: z.output<typeof acknowledgeBody>, @Actor() actor: string): Promise<AlertView> {
    return this.alerts.acknowledge(alert, note, actor);
  }
}

@ApiTags('alerts')
@Controller('silences')
export class SilencesController {
  constructor(@Inject(Silences) private readonly silences: Silences) {}

  @Get()
  async list(@Query({ schema: silencesQuery }) query: z.output<typeof silencesQuery>): Promise<{ items: SilenceView[]; nextCursor: null }> {
    return { items: await this.silences.list(query.all), nextCursor: null };
  }

  @Post()
  @Roles('operator')
  create(@Body({ schema: silenceBody }) { until, ...body }: z.output<typeof silenceBody>, @Actor() actor: string): Promise<SilenceView> {
    return this.silences.create({ ...body, until: new Date(until) }, actor);
  }

  @Delete(':id')
  @Roles('operator')
  lift(@Param('id', { schema: anId }) silence: string, @Actor() actor: string): Promise<SilenceView> {
    return this.silences.lift(silence, actor);
  }
}
