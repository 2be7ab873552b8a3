import { busOf, calibrateHost, predictLatency, type LatencyFeatures } from '@reefkeeper/edgetpu';

/** One device that would get the version, with what is known of its speed. */
export interface ForecastDevice {
  hostClass: string;
  /** What it would run. */
  variant: string;
  /** Of that variant; null where it runs on the CPU or was never inspected. */
  features: LatencyFeatures | null;
  /** What it runs now: the median of its invocations in ms, and the features of what runs. */
  now: { ms: number; features: LatencyFeatures | null } | null;
}

/** Devices of one class that would run one variant. */
export interface Forecast {
  variant: string;
  hostClass: string;
  devices: number;
  /** Of these, how many were predicted from their own runs; the others have the range of their class (+-25 %). */
  calibrated: number;
  /** Invocation in ms, from the fastest device's low end to the slowest one's high end; null where nothing predicts it (CPU). */
  predictedMs: [low: number, high: number] | null;
  /** Median over the devices of what runs now, ms. */
  nowMs: number | null;
  notes: string[];
}

/** How long an invocation will take, before any device has run the version: the Edge TPU's latency model, with host terms from each device's own runs. */
export function forecastOf(devices: readonly ForecastDevice[]): Forecast[] {
  const groups = Map.groupBy(devices, ({ variant, hostClass }) => `${variant} ${hostClass}`);
  return [...groups.values()].map((group) => {
    const predictions = group.flatMap(({ features, hostClass, now }) => {
      if (!features) return [];
      const bus = busOf(hostClass);
      const own = now?.features ? calibrateHost([{ features: now.features, ms: now.ms }], bus) : null;
      return [predictLatency(features, own ?? bus)];
    });
    const times = group.flatMap(({ now }) => (now ? [now.ms] : [])).sort((a, b) => a - b);
    return {
      variant: group[0]!.variant, hostClass: group[0]!.hostClass, devices: group.length, calibrated: predictions.filter(({ calibrated }) => calibrated).length,
      predictedMs: predictions.length === 0 ? null : [rounded(Math.min(...predictions.map(({ lowMs }) => lowMs))), rounded(Math.max(...predictions.map(({ highMs }) => highMs)))] as [number, number],
      nowMs: times.length === 0 ? null : rounded(times[times.length >> 1]!),
      notes: [...new Set(predictions.flatMap(({ notes }) => notes))],
    };
  }).sort((a, b) => b.devices - a.devices);
}

function rounded(ms: number): number {
  return Number(ms.toPrecision(3));
}
