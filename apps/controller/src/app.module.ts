import { ApolloDriver, type ApolloDriverConfig } from '@nestjs/apollo';
import { Module, StandardSchemaValidationPipe, type DynamicModule } from '@nestjs/common';
import { APP_GUARD, APP_PIPE } from '@nestjs/core';
import { GraphQLModule } from '@nestjs/graphql';
import type { SigningKey } from '@reefkeeper/bundle';
import { ConversionModule, jobRoots } from '@reefkeeper/conversion';
import * as conversionDoor from '@reefkeeper/conversion/http';
import { bundlesOnDevices, DevicesModule, type Authority } from '@reefkeeper/devices';
import { ApiTokensController, AuditController, ConfigRulesController, ConfigRulesResolver, DevicesController, DevicesResolver, EnrolmentTokensController, MeController, type DeviceDoor } from '@reefkeeper/devices/http';
import { PlatformModule, type PlatformParts } from '@reefkeeper/platform';
import { AgentReleases, RegistryModule, RetentionModule } from '@reefkeeper/registry';
import * as registryDoor from '@reefkeeper/registry/http';
import { bundlesInRollouts, RolloutsModule } from '@reefkeeper/rollouts';
import * as rolloutsDoor from '@reefkeeper/rollouts/http';
import { captureRoots, TelemetryModule } from '@reefkeeper/telemetry';
import * as telemetryDoor from '@reefkeeper/telemetry/http';
import { AlertMetrics } from './alert-metrics.ts';
import { AuthGuard } from './auth.guard.ts';
import { Authentication } from './authentication.ts';
import type { Config } from './config.ts';
import { DevicePackages, installLine, publicKeyPin } from './device-packages.ts';
import { DeviceLink, type BrokerIdentity } from './device-link.ts';
import { Gateway, type GatewayIdentity } from './gateway.ts';
import { graphqlOptions } from './graphql.ts';
import { HealthController } from './health.http.ts';
import { Revocations } from './revocations.ts';

export interface ControllerParts {
  config: Config;
  platform: PlatformParts;
  authority: Authority;
  broker: BrokerIdentity;
  gateway: GatewayIdentity;
  signingKey: SigningKey;
}

@Module({ imports: [DevicesModule], providers: [Authentication], exports: [Authentication] })
class AuthenticationModule {}

@Module({})
export class AppModule {
  static with({ config, platform, authority, broker, gateway, signingKey }: ControllerParts): DynamicModule {
    return {
      module: AppModule,
      imports: [
        PlatformModule.forRoot(platform), DevicesModule.withAuthority(authority), RegistryModule, RetentionModule.forRoot({ objects: [...jobRoots, ...captureRoots], bundles: [...bundlesOnDevices, ...bundlesInRollouts] }), ConversionModule, TelemetryModule, RolloutsModule,
        GraphQLModule.forRootAsync<ApolloDriverConfig>({ driver: ApolloDriver, imports: [AuthenticationModule], inject: [Authentication], useFactory: graphqlOptions }),
        AuthenticationModule,
      ],
      controllers: [HealthController, DevicesController, ConfigRulesController, EnrolmentTokensController, MeController, ApiTokensController, AuditController, ...controllersOf(registryDoor), ...controllersOf(conversionDoor), ...controllersOf(telemetryDoor), ...controllersOf(rolloutsDoor)],
      providers: [
        { provide: 'CONFIG', useValue: config }, { provide: 'BROKER_IDENTITY', useValue: broker }, { provide: 'GATEWAY_IDENTITY', useValue: gateway }, { provide: 'SIGNING_KEY', useValue: signingKey }, AgentReleases, { provide: 'DEVICE_DOOR', useValue: doorOf(config, gateway.certificate) },
        { provide: APP_PIPE, useClass: StandardSchemaValidationPipe }, { provide: APP_GUARD, useClass: AuthGuard },
        AlertMetrics, Revocations, DeviceLink, Gateway, DevicesResolver, ConfigRulesResolver, ...resolversOf(registryDoor), ...resolversOf(conversionDoor), ...resolversOf(telemetryDoor), ...resolversOf(rolloutsDoor),
      ],
    };
  }
}

function doorOf({ PUBLIC_GATEWAY_URL, AGENT_PACKAGES_DIR }: Config, certificate: string): DeviceDoor {
  const packages = new DevicePackages(AGENT_PACKAGES_DIR);
  return { gatewayUrl: PUBLIC_GATEWAY_URL, install: async (token, id) => ((await packages.any()) ? installLine(PUBLIC_GATEWAY_URL, publicKeyPin(certificate), token, id) : null) };
}

type Door = Record<string, unknown>;
type Class = new (...args: never[]) => object;

function controllersOf(door: Door): Class[] {
  return Object.entries(door).filter(([name]) => name.endsWith('Controller')).map(([, made]) => made as Class);
}

function resolversOf(door: Door): Class[] {
  return Object.entries(door).filter(([name]) => name.endsWith('Resolver')).map(([, made]) => made as Class);
}
