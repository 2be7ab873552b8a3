import { useMemo } from 'react';
import type { SeriesPoint } from './api.ts';
import { TimePlot, type Line } from './plot.tsx';

type Measure = 'p50Ms' | 'p95Ms' | 'accuracy';

/** One line per bundle and measure; names maps a bundle digest to what people call it. */
function linesOf(points: SeriesPoint[], measures: Measure[], names: Record<string, string>): Line[] {
  const bundles = [...new Set(points.map((point) => point.bundle))];
  return bundles.flatMap((bundle, colour) => measures.map((measure) => ({
    colour,
    label: `${names[bundle] ?? bundle.slice(0, 8)}${measures.length > 1 ? ` ${measure.replace('Ms', '')}` : ''}`,
    dash: measure === 'p50Ms',
    points: points.filter((point) => point.bundle === bundle).map((point) => ({
      at: Date.parse(point.at),
      value: point[measure] === null ? null : measure === 'accuracy' ? point[measure]! * 100 : point[measure],
    })),
  })));
}

const none = {};

export function LatencyPlot({ points, names = none }: { points: SeriesPoint[]; names?: Record<string, string> }) {
  const lines = useMemo(() => linesOf(points, ['p50Ms', 'p95Ms'], names), [points, names]);
  return <TimePlot lines={lines} unit="ms" />;
}

export function AccuracyPlot({ points, names = none }: { points: SeriesPoint[]; names?: Record<string, string> }) {
  const known = points.some((point) => point.accuracy !== null);
  const lines = useMemo(() => linesOf(points, ['accuracy'], names), [points, names]);
  return known ? <TimePlot lines={lines} unit="%" /> : <p className="faint">No labelled frames in this time.</p>;
}
