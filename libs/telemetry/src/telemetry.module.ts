import { Module } from '@nestjs/common';
import { Telemetry } from './telemetry.service.ts';

@Module({ providers: [Telemetry], exports: [Telemetry] })
export class TelemetryModule {}
