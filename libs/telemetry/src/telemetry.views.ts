import { Sketch, type DriftWindow, type MetricMoments, type ShadowWindow } from '@reefkeeper/protocol';
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
  latency: Record<string, StageView>;
  labelled: number;
  correct: number;
  accuracy: number | null;
  temperatureC: number | null;
  shadow: (Omit<ShadowWindow, 'latency' | 'active'> & { latency: StageView; active: StageView }) | null;
  metrics: Record<string, MetricMoments> | null;
  drift: DriftWindow | null;
  lost: { windows: number; inferences: number } | null;
}

export interface StageView { count: number; p50Ms: number | null; p95Ms: number | null; p99Ms: number | null }

export function windowViewOf(window: TelemetryWindow): WindowView {
  const { latency, shadow, scores: _, errorCount: __, ...rest } = window;
  return {
    ...rest,
    latency: Object.fromEntries(Object.entries(latency).map(([stage, encoded]) => [stage, quantilesOf(Sketch.fromBase64(encoded))])),
    accuracy: window.labelled > 0 ? window.correct / window.labelled : null,
    shadow: shadow && { ...shadow, latency: quantilesOf(Sketch.fromBase64(shadow.latency)), active: quantilesOf(Sketch.fromBase64(shadow.active)) },
  };
}

export function inMs(latency: Sketch, q: number): number | null {
  const us = latency.quantile(q);
  return us === undefined ? null : Number((us / 1_000).toFixed(3));
}

/** Of all of them together. */
export function merged(sketches: readonly (string | null | undefined)[]): Sketch {
  const whole = new Sketch();
  for (const encoded of sketches) if (encoded) whole.merge(Sketch.fromBase64(encoded));
  return whole;
}

export function quantilesOf(sketch: Sketch): StageView {
  return { count: sketch.count, p50Ms: inMs(sketch, 0.5), p95Ms: inMs(sketch, 0.95), p99Ms: inMs(sketch, 0.99) };
}
