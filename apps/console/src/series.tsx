import { useMemo } from 'react';
import type { SeriesPoint } from './api.ts';
import { useBundleNames } from './bundles.tsx';
import { TimePlot, type Line } from './plot.tsx';

interface Measure { name: string; of: (point: SeriesPoint) => number | null; dash?: boolean }
interface Plot { title: string; unit: string; measures: Measure[]; /** Said where nothing is known of it. */ none: string }

const plots: Plot[] = [
  { title: 'Latency', unit: 'ms', measures: [{ name: 'p50', of: ({ p50Ms }) => p50Ms, dash: true }, { name: 'p95', of: ({ p95Ms }) => p95Ms }], none: 'No latency in this time.' },
  { title: 'Accuracy on labelled frames', unit: '%', measures: [{ name: '', of: ({ accuracy }) => (accuracy === null ? null : accuracy * 100) }], none: 'No labelled frames in this time.' },
  { title: 'Score drift', unit: 'PSI', measures: [{ name: '', of: ({ drift }) => drift && Math.max(0, drift.psi) }], none: 'No drift is known in this time: a device compares windows of 50 scores or more with its first 500 after the commit.' },
  { title: 'Temperature', unit: '°C', measures: [{ name: '', of: ({ temperatureC }) => temperatureC }], none: '' },
];

/** One line per bundle and measure; what no device sends is said, or left out. */
export function SeriesPlots({ points, empty }: { points: SeriesPoint[]; empty: string }) {
  if (points.length === 0) return <p className="faint">{empty}</p>;
  return <div className="pair">{plots.map((plot) => <SeriesPlot key={plot.title} points={points} plot={plot} />)}</div>;
}

function SeriesPlot({ points, plot: { title, unit, measures, none } }: { points: SeriesPoint[]; plot: Plot }) {
  const bundles = useMemo(() => [...new Set(points.map((point) => point.bundle))].sort(), [points]);
  const names = useBundleNames(bundles);
  const said = JSON.stringify(names);
  const lines = useMemo((): Line[] => bundles.flatMap((bundle, colour) => measures.map(({ name, of, dash }) => ({
    colour, label: `${names[bundle]} ${name}`.trim(), dash: dash ?? false, points: points.filter((point) => point.bundle === bundle).map((point) => ({ at: Date.parse(point.at), value: of(point) })),
  }))), [points, bundles, measures, said]);
  const known = lines.some((line) => line.points.some(({ value }) => value !== null));
  if (!known && !none) return null;
  return <section><h2>{title}</h2>{known ? <TimePlot lines={lines} unit={unit} title={title} /> : <p className="faint">{none}</p>}</section>;
}
