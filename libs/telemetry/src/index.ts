import type { SchemaSlice } from '@reefkeeper/platform';
import { TelemetryExtras1764000004002, TelemetryLost1764000004003, TelemetryWindows1764000004001 } from './migrations.ts';
import { TelemetryWindow } from './telemetry.entity.ts';

export * from './sweep.ts';
export * from './telemetry.entity.ts';
export * from './telemetry.module.ts';
export * from './telemetry.service.ts';
export * from './telemetry.views.ts';

export const telemetrySchema: SchemaSlice = { entities: [TelemetryWindow], migrations: [TelemetryWindows1764000004001, TelemetryExtras1764000004002, TelemetryLost1764000004003] };
