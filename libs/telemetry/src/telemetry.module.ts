import { Module } from '@nestjs/common';
import { Captures } from './captures.service.ts';
import { TelemetrySweep } from './sweep.ts';
import { Telemetry } from './telemetry.service.ts';

@Module({ providers: [Telemetry, Captures, TelemetrySweep], exports: [Telemetry, Captures] })
export class TelemetryModule {}
