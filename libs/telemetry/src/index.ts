import type { SchemaSlice } from '@reefkeeper/platform';
import { AlertRow, SilenceRow } from './alerts.entity.ts';
import { Capture } from './captures.entity.ts';
import { Alerts1764000004010, AlertsToldWithoutIndex1764000004011, Captures1764000004004, TelemetryExport1764000004020, TelemetryExtras1764000004002, TelemetryLost1764000004003, TelemetryWindows1764000004001 } from './migrations.ts';
import { TelemetryWindow } from './telemetry.entity.ts';

export { alertStates, type AlertKind, type AlertKinds, type AlertState, type Fact, type Severity } from './alert.ts';
export { alertKind, asTheyAre, deviceAlerts, type AlertSource } from './alert-sources.ts';
export { AlertWatch } from './alert-watch.ts';
export { AlertWebhook, type WebhookOptions } from './alert-webhook.ts';
export * from './alerts.entity.ts';
export * from './alerts.service.ts';
export * from './captures.entity.ts';
export * from './captures.service.ts';
export * from './silences.service.ts';
export * from './sweep.ts';
export * from './telemetry.entity.ts';
export * from './telemetry.module.ts';
export * from './telemetry.service.ts';
export * from './telemetry.views.ts';
export { openPubSubSink } from './pubsub-sink.ts';
export { WindowExport, type ExportedWindow, type WindowSink } from './window-export.ts';

export const telemetrySchema: SchemaSlice = { entities: [TelemetryWindow, Capture, AlertRow, SilenceRow], migrations: [TelemetryWindows1764000004001, TelemetryExtras1764000004002, TelemetryLost1764000004003, Captures1764000004004, Alerts1764000004010, AlertsToldWithoutIndex1764000004011, TelemetryExport1764000004020] };
