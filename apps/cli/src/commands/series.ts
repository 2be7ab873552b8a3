import type { Command } from 'commander';
import type { Client } from '../client.ts';
import { action } from '../context.ts';
import { numberWithin } from '../options.ts';
import { percent, table } from '../output.ts';

export interface SeriesPoint { at: string; group: string; bundle: string; inferences: number; errors: number; p50Ms: number | null; p95Ms: number | null; labelled: number; accuracy: number | null; temperatureC: number | null; drift: { psi: number; scores: number } | null }
interface Series { points: SeriesPoint[] }
interface SeriesOptions { workload?: string; minutes: string; step?: string; perDevice?: boolean }

/** What devices measured, step by step: of one device, or of those of a rollout. */
export function registerSeries(parent: Command, of: 'device' | 'rollout'): void {
  const command = parent.command('series <id>').description(`what ${of === 'device' ? 'it' : 'its devices'} measured, step by step: counts, latency, accuracy on labelled frames, score drift, temperature`)
    .option('--minutes <n>', 'so far back', '60').option('--step <seconds>', 'one line each; twenty lines where absent');
  if (of === 'device') command.option('-w, --workload <name>', 'only this one');
  else command.option('--per-device', 'a line per device instead of per version');
  command.addHelpText('after', `\nExample:\n  reef ${of} series ${of === 'device' ? 'coral-1 --workload classifier --minutes 600' : 'ROLLOUT --step 60'}\n\nDrift is the population stability index (PSI) of the top-1 scores against the first 500 after the commit: below 0.1 is calm, above 0.25 has moved.`)
    .action(action(async ({ output, client }, id: string, { workload, minutes, step, perDevice }: SeriesOptions) => {
      const api = await client();
      const backS = numberWithin('--minutes', minutes, [1, 60 * 24 * 90]) * 60;
      const stepS = step === undefined ? Math.max(1, Math.ceil(backS / 20)) : numberWithin('--step', step, [1, 86_400], { whole: true });
      // Of a thing that is not there the series would be empty: say so instead.
      await api.get(`/${of}s/${encodeURIComponent(id)}`);
      const found = await api.get<Series>('/telemetry/series', { [of]: id, workload, stepS, by: perDevice ? 'device' : 'bundle', from: new Date(Date.now() - backS * 1_000).toISOString(), to: new Date().toISOString() });
      const names = await versionsOf(api, output.json ? [] : found.points.map(({ bundle }) => bundle));
      output.show(found, () => (found.points.length === 0 ? `no telemetry in the last ${minutes} minutes` : seriesTable(found.points, names, perDevice ?? false)));
    }));
}

export function seriesTable(points: readonly SeriesPoint[], names: ReadonlyMap<string, string>, perDevice: boolean): string {
  const warm = points.some(({ temperatureC }) => temperatureC !== null);
  return table(['at', ...(perDevice ? ['device'] : []), 'version', 'count', 'errors', 'p50', 'p95', 'right', 'drift', ...(warm ? ['temperature'] : [])], points.map((one) => [
    `${one.at.slice(5, 19)}Z`, ...(perDevice ? [one.group] : []), nameOf(names, one.bundle), one.inferences, one.errors, ms(one.p50Ms), ms(one.p95Ms), percent(one.accuracy),
    one.drift && `${Math.max(0, one.drift.psi).toFixed(2)} PSI`, ...(warm ? [one.temperatureC === null ? null : `${one.temperatureC.toFixed(1)} °C`] : []),
  ]));
}

const ms = (value: number | null): string | null => (value === null ? null : `${value.toFixed(1)} ms`);

/** What people call each of these bundles; one that is no version's is not in it. */
export async function versionsOf(api: Client, bundles: readonly (string | null | undefined)[]): Promise<Map<string, string>> {
  const asked = [...new Set(bundles)].filter((bundle) => typeof bundle === 'string');
  const found = new Map<string, string>();
  for (let at = 0; at < asked.length; at += 100) {
    const { items } = await api.get<{ items: { bundle: string; version: string }[] }>('/bundles', { digest: asked.slice(at, at + 100).join(',') });
    for (const { bundle, version } of items) found.set(bundle, version);
  }
  return found;
}

/** The version, or the head of a bundle that has none. */
export const nameOf = (names: ReadonlyMap<string, string>, bundle: string | null | undefined): string | undefined => (bundle ? names.get(bundle) ?? bundle.slice(0, 12) : undefined);
