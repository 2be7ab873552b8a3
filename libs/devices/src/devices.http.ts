import { Body, Controller, Delete, Get, HttpCode, Inject, Optional, Param, Patch, Post, Put, Query } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { Actor, anId, Asker, type Caller, Roles, roles } from '@reefkeeper/platform/http';
import { agentConfig, commandKind, deviceId, learnArgs, workloadName } from '@reefkeeper/protocol';
import { DataSource } from 'typeorm';
import { z } from 'zod';
import { ApiTokens } from './api-tokens.service.ts';
import { Commands } from './commands.service.ts';
import { Desired } from './desired.service.ts';
import { AuditEntry, type ApiToken, type DeviceCommand } from './device.entity.ts';
import { Devices, type DeviceList, type DeviceView } from './devices.service.ts';
import { Enrolment } from './enrolment.service.ts';

const labels = z.record(z.string().max(63), z.string().max(63));
const limit = z.coerce.number().int().min(1).max(1_000).default(100);
const listQuery = z.object({ selector: z.string().max(2_000).optional(), online: z.enum(['true', 'false']).transform((text) => text === 'true').optional(), health: z.enum(['HEALTHY', 'DEGRADED']).optional(), bundle: z.string().regex(/^[0-9a-f]{64}$/).optional().describe('devices that run it'), id: z.string().trim().max(64).optional().describe('a part of the id'), limit, cursor: z.string().max(64).optional(), total: z.enum(['true', 'false']).transform((text) => text === 'true').optional().describe('also count those that match, on every page') });
// Written out: `agentConfig.partial()` would fill in the defaults of what was not named.
export const configChange = z.object({
  telemetryWindowS: agentConfig.shape.telemetryWindowS.unwrap().optional(), maxFps: agentConfig.shape.maxFps.unwrap().optional(), telemetryBytesPerHour: agentConfig.shape.telemetryBytesPerHour, capture: agentConfig.shape.capture,
  link: agentConfig.shape.link.unwrap().optional().describe('null = as the device says'), dataBudget: agentConfig.shape.dataBudget.unwrap().optional().describe('for downloads over a metered link; null = as the device says'),
});
const handBack = z.array(z.enum(Object.keys(configChange.shape) as [keyof typeof configChange.shape])).max(20).describe('settings that the device\'s own configuration says nothing of any more: rules decide, or the defaults');
const labelBody = z.object({ labels, config: configChange, handBack }).partial().meta({ id: 'ChangeDevice' });
const configureBody = z.object({ selector: z.string().max(2_000), config: configChange.prefault({}), handBack: handBack.default([]) }).meta({ id: 'ConfigureDevices' });
const retireQuery = z.object({ reason: z.string().max(500).default('retired by an operator') });
const pinBody = z.object({ workload: workloadName.optional().describe('every workload where absent'), reason: z.string().trim().min(1).max(500) }).meta({ id: 'PinDevice' });
const unpinQuery = z.object({ workload: workloadName.optional() });
const commandBody = z.object({ kind: commandKind, args: z.record(z.string(), z.unknown()).default({}), ttlS: z.number().int().min(1).max(86_400).default(300) }).superRefine(({ kind, args }, context) => {
  // A device would refuse it, too, but later.
  const wrong = kind === 'learn' ? learnArgs.safeParse(args).error : undefined;
  for (const { path, message } of wrong?.issues ?? []) context.addIssue({ code: 'custom', path: ['args', ...path], message });
}).meta({ id: 'SendCommand' });
const tokenBody = z.object({ deviceId: deviceId.optional(), labels: labels.optional(), uses: z.number().int().min(1).max(10_000).optional(), ttlS: z.number().int().min(60).max(30 * 86_400).optional() }).meta({ id: 'CreateEnrolmentToken' });
const apiTokenBody = z.object({ name: z.string().min(1).max(100), role: z.enum(roles) }).meta({ id: 'CreateApiToken' });
const auditQuery = z.object({ subject: z.string().max(200).optional(), limit, cursor: z.coerce.number().int().positive().optional() });

@ApiTags('devices')
@Controller('devices')
export class DevicesController {
  constructor(@Inject(Devices) private readonly devices: Devices, @Inject(Commands) private readonly commands: Commands, @Inject(Desired) private readonly desired: Desired) {}

  @Get()
  list(@Query({ schema: listQuery }) query: z.output<typeof listQuery>): Promise<DeviceList> {
    return this.devices.list(query);
  }

  @Get(':id')
  one(@Param('id', { schema: deviceId }) id: string): Promise<DeviceView> {
    return this.devices.get(id);
  }

  @Patch(':id')
  @Roles('operator')
  async change(@Param('id', { schema: deviceId }) id: string, @Body({ schema: labelBody }) body: z.output<typeof labelBody>, @Actor() actor: string): Promise<DeviceView> {
    if (body.labels) await this.devices.label(id, body.labels, actor);
    if (body.config || body.handBack) await this.desired.configure([id], body.config ?? {}, actor, body.handBack);
    return this.devices.get(id);
  }

  /** The own configuration of every device in service that matches now; what is not named stays. For those that come later: a rule. */
  @Post('configure')
  @HttpCode(200)
  @Roles('operator')
  async configure(@Body({ schema: configureBody }) body: z.output<typeof configureBody>, @Actor() actor: string): Promise<{ devices: number }> {
    return { devices: await this.desired.configure(await this.devices.select(body.selector), body.config, actor, body.handBack) };
  }

  @Delete(':id')
  @HttpCode(204)
  @Roles('operator')
  async retire(@Param('id', { schema: deviceId }) id: string, @Query({ schema: retireQuery }) query: z.output<typeof retireQuery>, @Actor() actor: string): Promise<void> {
    await this.devices.retire(id, query.reason, actor);
  }

  @Put(':id/pin')
  @Roles('operator')
  pin(@Param('id', { schema: deviceId }) id: string, @Body({ schema: pinBody }) body: z.output<typeof pinBody>, @Actor() actor: string): Promise<DeviceView> {
    return this.devices.pin(id, body, actor);
  }

  @Delete(':id/pin')
  @Roles('operator')
  unpin(@Param('id', { schema: deviceId }) id: string, @Query({ schema: unpinQuery }) query: z.output<typeof unpinQuery>, @Actor() actor: string): Promise<DeviceView> {
    return this.devices.unpin(id, query.workload, actor);
  }

  @Post(':id/commands')
  @HttpCode(202)
  @Roles('operator')
  send(@Param('id', { schema: deviceId }) id: string, @Body({ schema: commandBody }) body: z.output<typeof commandBody>, @Actor() actor: string): Promise<DeviceCommand> {
    return this.commands.send(id, body, actor);
  }

  @Get(':id/commands/:command')
  command(@Param('id', { schema: deviceId }) id: string, @Param('command', { schema: anId }) command: string): Promise<DeviceCommand> {
    return this.commands.get(id, command);
  }
}

/** How a device that has nothing yet comes in; the app that serves devices knows. */
export interface DeviceDoor {
  gatewayUrl: string;
  /** The line to run on the device; null where there is nothing to install from here. */
  install(token: string, deviceId?: string): Promise<string | null>;
}

@ApiTags('devices')
@Controller('enrolment-tokens')
export class EnrolmentTokensController {
  constructor(@Inject(Enrolment) private readonly enrolment: Enrolment, @Optional() @Inject('DEVICE_DOOR') private readonly door?: DeviceDoor) {}

  /** `install` is the line to run on the device; null where this controller has no packages for devices. */
  @Post()
  @Roles('operator')
  async create(@Body({ schema: tokenBody }) body: z.output<typeof tokenBody>, @Actor() actor: string): Promise<{ token: string; expiresAt: Date; gatewayUrl?: string; install?: string | null }> {
    const made = await this.enrolment.createToken(body, actor);
    return { ...made, ...(this.door ? { gatewayUrl: this.door.gatewayUrl, install: await this.door.install(made.token, body.deviceId) } : {}) };
  }
}

/** Who a token is, and what it may do. */
@ApiTags('access')
@Controller('me')
export class MeController {
  @Get()
  me(@Asker() { name, role }: Caller): Caller {
    return { name, role };
  }
}

@ApiTags('access')
@Controller('tokens')
@Roles('admin')
export class ApiTokensController {
  constructor(@Inject(ApiTokens) private readonly tokens: ApiTokens) {}

  @Get()
  async list(): Promise<{ items: ApiToken[]; nextCursor: null }> {
    return { items: await this.tokens.list(), nextCursor: null };
  }

  @Post()
  create(@Body({ schema: apiTokenBody }) body: z.output<typeof apiTokenBody>, @Actor() actor: string) {
    return this.tokens.create(body.name, body.role, actor);
  }

  @Delete(':id')
  @HttpCode(204)
  async revoke(@Param('id', { schema: anId }) id: string, @Actor() actor: string): Promise<void> {
    await this.tokens.revoke(id, actor);
  }
}

@ApiTags('access')
@Controller('audit')
@Roles('admin')
export class AuditController {
  constructor(@Inject(DataSource) private readonly db: DataSource) {}

  /** Newest first. */
  @Get()
  async list(@Query({ schema: auditQuery }) query: z.output<typeof auditQuery>): Promise<{ items: AuditEntry[]; nextCursor: string | null }> {
    const found = this.db.manager.createQueryBuilder(AuditEntry, 'a').orderBy('a.id', 'DESC').limit(query.limit + 1);
    if (query.subject) found.andWhere('a.subject = :subject', { subject: query.subject });
    if (query.cursor) found.andWhere('a.id < :cursor', { cursor: query.cursor });
    const rows = await found.getMany();
    const items = rows.slice(0, query.limit);
    return { items, nextCursor: rows.length > query.limit ? String(items.at(-1)!.id) : null };
  }
}
