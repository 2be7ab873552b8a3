import { Module } from '@nestjs/common';
import { DevicesModule } from '@reefkeeper/devices';
import { RegistryModule } from '@reefkeeper/registry';
import { TelemetryModule } from '@reefkeeper/telemetry';
import { DeviceFleet } from './device-fleet.ts';
import { RolloutEngine } from './engine.ts';
import { Freezes } from './freezes.service.ts';
import { RolloutLoop } from './loop.ts';
import { Rollouts } from './rollouts.service.ts';
import { SiteLimits } from './site-limits.service.ts';

/** Importing it starts the loop of this process. */
@Module({
  imports: [DevicesModule, RegistryModule, TelemetryModule],
  providers: [{ provide: 'FLEET', useClass: DeviceFleet }, RolloutEngine, Rollouts, Freezes, SiteLimits, RolloutLoop],
  exports: [Rollouts, Freezes, SiteLimits, RolloutEngine, TelemetryModule],
})
export class RolloutsModule {}
