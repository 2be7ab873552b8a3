import { addMoments, driftBins, maxErrorCodes, maxMetrics, Sketch, type Telemetry } from '@reefkeeper/protocol';

/** Windows that could become one: the same workload served the same way. */
export function mergeKey({ workload, bundle, variant, backend, shadow }: Telemetry): string {
  return [workload, bundle, variant, backend, shadow?.bundle ?? ''].join('/');
}

/**
 * Two windows as one longer one, under the name of the first; nothing that a gate looks at changes by it (counts, sketches and moments add up). Neither may
 * have been sent before: a receiver that has one of them would count it twice.
 * @returns undefined where they cannot be one
 */
export function mergeWindows(one: Telemetry, other: Telemetry): Telemetry | undefined {
  if (mergeKey(one) !== mergeKey(other)) return undefined;
  const metrics = added(one.metrics, other.metrics, addMoments);
  const errors = added(one.errors, other.errors, (a, b) => a + b) ?? {};
  if (Object.keys(metrics ?? {}).length > maxMetrics || Object.keys(errors).length > maxErrorCodes) return undefined;
  const latency = added(one.latency, other.latency, sketches) ?? {};
  const scores = one.scores && other.scores ? sketches(one.scores, other.scores) : one.scores ?? other.scores;
  const drift = driftOf(one.drift, other.drift);
  const lost = one.lost && other.lost ? { windows: one.lost.windows + other.lost.windows, inferences: one.lost.inferences + other.lost.inferences } : one.lost ?? other.lost;
  const shadow = one.shadow && other.shadow && {
    bundle: one.shadow.bundle, frames: one.shadow.frames + other.shadow.frames, agreed: one.shadow.agreed + other.shadow.agreed, errors: one.shadow.errors + other.shadow.errors,
    latency: sketches(one.shadow.latency, other.shadow.latency), active: sketches(one.shadow.active, other.shadow.active),
  };
  const warmest = [one.temperatureC, other.temperatureC].filter((value) => value !== null);
  const { metrics: _, drift: __, shadow: ___, scores: ____, lost: _____, ...rest } = one;
  return {
    ...rest, durationMs: one.durationMs + other.durationMs, inferences: one.inferences + other.inferences, errors, latency,
    labelled: one.labelled + other.labelled, correct: one.correct + other.correct, temperatureC: warmest.length > 0 ? Math.max(...warmest) : null,
    ...(scores ? { scores } : {}), ...(shadow ? { shadow } : {}), ...(metrics ? { metrics } : {}), ...(drift ? { drift } : {}), ...(lost ? { lost } : {}),
  };
}

/** The mean by scores. Each of the two has its own share of chance, (bins - 1) / current, and one of those goes with it. */
function driftOf(a: Telemetry['drift'], b: Telemetry['drift']): Telemetry['drift'] {
  if (!a || !b) return a ?? b;
  const current = a.current + b.current;
  return { psi: Math.max(0, (a.psi * a.current + b.psi * b.current - (driftBins - 1)) / current), reference: b.reference, current };
}

function sketches(a: string, b: string): string {
  return Sketch.fromBase64(a).merge(Sketch.fromBase64(b)).toBase64();
}

function added<T>(a: Record<string, T> | undefined, b: Record<string, T> | undefined, sum: (a: T, b: T) => T): Record<string, T> | undefined {
  if (!a || !b) return a ?? b;
  return { ...a, ...Object.fromEntries(Object.entries(b).map(([name, value]) => [name, name in a ? sum(a[name]!, value) : value])) };
}
