import { Module } from '@nestjs/common';
import { Alerts } from './alerts.service.ts';
import { Captures } from './captures.service.ts';
import { Silences } from './silences.service.ts';
import { TelemetrySweep } from './sweep.ts';
import { Telemetry } from './telemetry.service.ts';

@Module({ providers: [Telemetry, Captures, Alerts, Silences, TelemetrySweep], exports: [Telemetry, Captures, Alerts, Silences] })
export class TelemetryModule {}
