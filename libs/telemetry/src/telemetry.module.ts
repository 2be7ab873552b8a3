import { Module } from '@nestjs/common';
import { TelemetrySweep } from './sweep.ts';
import { Telemetry } from './telemetry.service.ts';

@Module({ providers: [Telemetry, TelemetrySweep], exports: [Telemetry] })
export class TelemetryModule {}
