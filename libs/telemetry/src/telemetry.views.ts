import { Sketch } from '@reefkeeper/protocol';
import type { TelemetryWindow } from './telemetry.entity.ts';

/** A window with its sketches read: what plots and people want. */
export interface WindowView {
  deviceId: string;
  bootId: string;
  seq: number;
  workload: string;
  bundle: string;
  variant: string;
  backend: string;
  startedAt: Date;
  receivedAt: Date;
  durationMs: number;
  inferences: number;
  errors: Record<string, number>;
  latency: Record<string, { count: number; p50Ms: number | null; p95Ms: number | null; p99Ms: number | null }>;
  labelled: number;
  correct: number;
  accuracy: number | null;
  temperatureC: number | null;
}

export function windowViewOf(window: TelemetryWindow): WindowView {
  const { latency, scores: _, errorCount: __, ...rest } = window;
  return {
    ...rest,
    latency: Object.fromEntries(Object.entries(latency).map(([stage, encoded]) => [stage, quantilesOf(Sketch.fromBase64(encoded))])),
    accuracy: window.labelled > 0 ? window.correct / window.labelled : null,
  };
}

export function inMs(latency: Sketch, q: number): number | null {
  const us = latency.quantile(q);
  return us === undefined ? null : Number((us / 1_000).toFixed(3));
}

function quantilesOf(sketch: Sketch): WindowView['latency'][string] {
  return { count: sketch.count, p50Ms: inMs(sketch, 0.5), p95Ms: inMs(sketch, 0.95), p99Ms: inMs(sketch, 0.99) };
}
