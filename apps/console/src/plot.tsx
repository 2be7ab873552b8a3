import { useEffect, useRef } from 'react';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';

/** Lines of one thing share a `colour`, counted from 0. */
export interface Line { label: string; colour: number; points: { at: number; value: number | null }[]; dash?: boolean }

const colours = ['#2f7fd8', '#ff6f59', '#2aa775', '#b07bd9', '#d99a2b', '#5b6b7b'];

/** Lines over time, or over a count. Points of different lines need not share their times; gaps stay gaps. */
export function TimePlot({ lines, unit, title, over = 'time', height = 220 }: { lines: Line[]; unit: string; /** What a screen reader says, before the last value of each line. */ title: string; over?: 'time' | 'count'; height?: number }) {
  const host = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const element = host.current;
    if (!element) return undefined;
    const times = [...new Set(lines.flatMap((line) => line.points.map((point) => point.at)))].sort((a, b) => a - b);
    const column = (line: Line) => {
      const byTime = new Map(line.points.map((point) => [point.at, point.value]));
      return times.map((at) => byTime.get(at) ?? null);
    };
    const ink = getComputedStyle(document.documentElement).getPropertyValue('--ink-soft').trim() || '#667';
    const grid = getComputedStyle(document.documentElement).getPropertyValue('--line').trim() || '#ddd';
    const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid } };
    const plot = new uPlot(
      {
        width: element.clientWidth || 600, height,
        scales: { x: { time: over === 'time' }, y: { range: (_u, low, high) => [Math.min(0, low ?? 0), (high ?? 1) * 1.1 || 1] } },
        axes: [axis, { ...axis, values: (_u, ticks) => ticks.map((tick) => `${tick} ${unit}`), size: 70 }],
        series: [{}, ...lines.map((line) => ({ label: line.label, stroke: colours[line.colour % colours.length]!, width: 2, spanGaps: true, points: { show: times.length < 60 }, ...(line.dash ? { dash: [6, 4] } : {}) }))],
      },
      [times.map((at) => (over === 'time' ? at / 1_000 : at)), ...lines.map(column)] as uPlot.AlignedData,
      element,
    );
    const resize = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height }));
    resize.observe(element);
    return () => { resize.disconnect(); plot.destroy(); };
  }, [lines, unit, over, height]);
  const last = lines.flatMap(({ label, points }) => {
    const value = points.findLast((point) => point.value !== null)?.value;
    return value === undefined || value === null ? [] : [`${label} ${Number(value.toPrecision(3))} ${unit}`];
  });
  return <div className="plot" ref={host} role="img" aria-label={`${title}; last: ${last.join(', ') || 'nothing'}`} />;
}
