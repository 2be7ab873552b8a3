import { Module, type DynamicModule } from '@nestjs/common';
import type { SchemaSlice } from '@reefkeeper/platform';
import { ApiTokens } from './api-tokens.service.ts';
import { Authority } from './authority.ts';
import { Commands } from './commands.service.ts';
import { Desired } from './desired.service.ts';
import { deviceEntities } from './device.entity.ts';
import { Devices } from './devices.service.ts';
import { Enrolment } from './enrolment.service.ts';
import { ConfigRules } from './config-rules.service.ts';
import { ConfigRules1764000001050, DevicePeers1764000001030, DevicesNotWell1764000001040, DevicePins1764000001010, Devices1764000001001, RoomForUpdates1764000001020 } from './migrations.ts';
import { Reports } from './reports.service.ts';

export const devicesSchema: SchemaSlice = { entities: deviceEntities, migrations: [Devices1764000001001, DevicePins1764000001010, RoomForUpdates1764000001020, DevicePeers1764000001030, DevicesNotWell1764000001040, ConfigRules1764000001050] };

const services = [Devices, Desired, ConfigRules, Reports, ApiTokens, Commands];

@Module({ providers: services, exports: services })
export class DevicesModule {
  /** With the authority, enrolment too: only the controller has the CA's key. A module of its own over the one that is, or there would be two of every service. */
  static withAuthority(authority: Authority): DynamicModule {
    const providers = [{ provide: Authority, useValue: authority }, Enrolment];
    return { module: EnrolmentModule, imports: [DevicesModule], providers, exports: [...providers, DevicesModule] };
  }
}

@Module({})
class EnrolmentModule {}
