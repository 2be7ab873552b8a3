import { ApolloDriver, type ApolloDriverConfig } from '@nestjs/apollo';
import { Module, StandardSchemaValidationPipe, type DynamicModule } from '@nestjs/common';
import { APP_GUARD, APP_PIPE } from '@nestjs/core';
import { GraphQLModule } from '@nestjs/graphql';
import { ConversionModule } from '@reefkeeper/conversion';
import * as conversionDoor from '@reefkeeper/conversion/http';
import { DevicesModule, type Authority } from '@reefkeeper/devices';
import { ApiTokensController, AuditController, DevicesController, DevicesResolver, EnrolmentTokensController } from '@reefkeeper/devices/http';
import { PlatformModule, ReefError, type PlatformParts } from '@reefkeeper/platform';
import { fromHttp } from '@reefkeeper/platform/http';
import { RegistryModule } from '@reefkeeper/registry';
import * as registryDoor from '@reefkeeper/registry/http';
import { RolloutsModule } from '@reefkeeper/rollouts';
import * as rolloutsDoor from '@reefkeeper/rollouts/http';
import { TelemetryModule } from '@reefkeeper/telemetry';
import * as telemetryDoor from '@reefkeeper/telemetry/http';
import type { GraphQLFormattedError } from 'graphql';
import { AuthGuard } from './auth.guard.ts';
import type { Config } from './config.ts';
import { DeviceLink, type BrokerIdentity } from './device-link.ts';
import { Gateway, type GatewayIdentity } from './gateway.ts';
import { HealthController } from './health.http.ts';

export interface ControllerParts {
  config: Config;
  platform: PlatformParts;
  authority: Authority;
  broker: BrokerIdentity;
  gateway: GatewayIdentity;
}

@Module({})
export class AppModule {
  static with({ config, platform, authority, broker, gateway }: ControllerParts): DynamicModule {
    return {
      module: AppModule,
      imports: [
        PlatformModule.forRoot(platform), DevicesModule.withAuthority(authority), RegistryModule, ConversionModule, TelemetryModule, RolloutsModule,
        GraphQLModule.forRoot<ApolloDriverConfig>({
          driver: ApolloDriver, path: '/graphql', autoSchemaFile: true, sortSchema: true, introspection: true, playground: false,
          subscriptions: { 'graphql-ws': { path: '/graphql' } },
          // Over HTTP the request, over a websocket what the client said when it connected: the guard reads the token from either.
          context: (request: { connectionParams?: Record<string, unknown> }) => (request.connectionParams === undefined ? { req: request } : { req: { connectionParams: request.connectionParams } }),
          formatError: (formatted: GraphQLFormattedError, thrown: unknown) => errorOf(formatted, thrown),
        }),
      ],
      controllers: [HealthController, DevicesController, EnrolmentTokensController, ApiTokensController, AuditController, ...controllersOf(registryDoor), ...controllersOf(conversionDoor), ...controllersOf(telemetryDoor), ...controllersOf(rolloutsDoor)],
      providers: [
        { provide: 'CONFIG', useValue: config }, { provide: 'BROKER_IDENTITY', useValue: broker }, { provide: 'GATEWAY_IDENTITY', useValue: gateway },
        { provide: APP_PIPE, useClass: StandardSchemaValidationPipe }, { provide: APP_GUARD, useClass: AuthGuard },
        DeviceLink, Gateway, DevicesResolver, ...resolversOf(registryDoor), ...resolversOf(conversionDoor), ...resolversOf(telemetryDoor), ...resolversOf(rolloutsDoor),
      ],
    };
  }
}

type Door = Record<string, unknown>;
type Class = new (...args: never[]) => object;

function controllersOf(door: Door): Class[] {
  return Object.entries(door).filter(([name]) => name.endsWith('Controller')).map(([, made]) => made as Class);
}

function resolversOf(door: Door): Class[] {
  return Object.entries(door).filter(([name]) => name.endsWith('Resolver')).map(([, made]) => made as Class);
}

/** The stable code and kind in `extensions`; the cause of a bug stays in the log. */
function errorOf(formatted: GraphQLFormattedError, thrown: unknown): GraphQLFormattedError {
  const original = (thrown as { originalError?: unknown }).originalError;
  if (!original) return formatted;
  const error = fromHttp(original);
  const message = error instanceof ReefError && error.kind !== 'bug' ? error.message : 'Something broke on our side; the controller log has the cause.';
  return { ...formatted, message, extensions: { code: error.code, kind: error.kind, context: error.kind === 'bug' ? {} : error.detail } };
}
