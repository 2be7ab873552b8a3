import type { SchemaSlice } from '@reefkeeper/platform';
import { Capture } from './captures.entity.ts';
import { Captures1764000004004, TelemetryExtras1764000004002, TelemetryLost1764000004003, TelemetryWindows1764000004001 } from './migrations.ts';
import { TelemetryWindow } from './telemetry.entity.ts';

export * from './captures.entity.ts';
export * from './captures.service.ts';
export * from './sweep.ts';
export * from './telemetry.entity.ts';
export * from './telemetry.module.ts';
export * from './telemetry.service.ts';
export * from './telemetry.views.ts';

export const telemetrySchema: SchemaSlice = { entities: [TelemetryWindow, Capture], migrations: [TelemetryWindows1764000004001, TelemetryExtras1764000004002, TelemetryLost1764000004003, Captures1764000004004] };
