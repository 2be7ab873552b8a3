import { addMoments, driftBins, Sketch, type DriftWindow, type Execution, type MetricMoments } from '@reefkeeper/protocol';
import type { Sample, DeviceSample } from './rollout.ts';
import type { Frozen, Report, SimulatedDevice, SimulatedFleet } from './simulated-fleet.ts';
import { newBundle, oldBundle } from './simulated-fleet.ts';

/** One window of a device on the version, counted from its assignment. */
export interface RecordedWindow {
  afterMs: number;
  inferences: number;
  errors: number;
  labelled: number;
  correct: number;
  /** Base64, of the whole where it is told apart. */
  latency: string | null;
  temperatureC: number | null;
  metrics: Record<string, MetricMoments> | null;
  drift: DriftWindow | null;
  shadow: { frames: number; agreed: number } | null;
}

/** What is known of one device's part in a rollout that really was. */
export interface RecordedDevice {
  device: string;
  wave: number;
  /** Its end, and how long after the assignment; null where it was never told, or never gave one. */
  end: { state: 'SUCCEEDED' | 'FAILED' | 'REJECTED'; code: string | null; afterMs: number } | null;
  told: boolean;
  site: string;
  zone: string;
  bytes: number;
  /** It waited by its own word, at the end until so long after the assignment; null = for as long as the rollout knows. */
  waits: { code: string; untilMs: number | null } | null;
  /** It left the version, so long after the assignment; null = not as far as is known. */
  leftAfterMs: number | null;
  first: boolean;
  baseline: Sample | null;
  /** How long it took on the way back; null where it did not go or did not come. */
  backAfterMs: number | null;
  windows: readonly RecordedWindow[];
  freezes: readonly Frozen[];
}

/** Devices do not go back in an instant, where none has shown how long it takes. */
const usualBackMs = 1_000;

interface Played extends SimulatedDevice { known: RecordedDevice; toldAt: number | null; seen: Sample; at: number; latency: Sketch; temperatures: [sum: number, n: number] }

/** The devices of a real rollout, on the virtual clock: told at another time, each answers as it did, as long after, and serves as it did. */
export class RecordedFleet implements SimulatedFleet {
  readonly devices: readonly Played[];
  /** When the first device was told of which nothing is known. What is decided from then on is made up. */
  beyondAt: number | null = null;

  constructor(known: readonly RecordedDevice[], start: number) {
    this.devices = known.map((one) => ({
      id: one.device, site: one.site, zone: one.zone, bytes: one.bytes, freezes: one.freezes, reachableAt: one.end === null ? Infinity : start, failsInstall: one.end !== null && one.end.state !== 'SUCCEEDED', revision: 1, wanted: oldBundle, running: oldBundle, since: start, execution: null, observed: 1,
      known: one, toldAt: null, at: 0, latency: new Sketch(), temperatures: [0, 0], seen: nothingSeen(),
    }));
  }

  tell(given: SimulatedDevice, to: typeof newBundle | typeof oldBundle, now: number): Report[] {
    const device = given as Played;
    const { end, told, backAfterMs } = device.known;
    device.revision += 1;
    device.wanted = to;
    if (to === newBundle) {
      device.toldAt = now;
      if (!told) this.beyondAt ??= now;
    }
    const waits = to === newBundle ? device.known.waits : null;
    const said = (state: 'QUEUED' | 'IN_PROGRESS'): Execution => ({ revision: device.revision, bundle: to, state, step: 'download', percent: null, failure: state === 'QUEUED' ? { code: waits!.code, message: 'As it did in the rollout that is replayed.' } : null });
    const report = (after: number, execution: Execution): Report => ({ at: now + after, device, revision: device.revision, running: device.running, execution });
    // When a wait began is not known: it is taken to have said so at once.
    const waiting = waits ? [report(0, said('QUEUED')), ...(waits.untilMs === null ? [] : [report(waits.untilMs, said('IN_PROGRESS'))])] : [];
    if (end === null) return waiting;
    const succeeds = to === oldBundle || end.state === 'SUCCEEDED';
    const execution: Execution = {
      revision: device.revision, bundle: to, state: succeeds ? 'SUCCEEDED' : end.state, step: null, percent: null,
      failure: succeeds ? null : { code: end.code ?? 'execution.unexplained', message: 'As it did in the rollout that is replayed.' },
    };
    const at = now + (to === newBundle ? end.afterMs : backAfterMs ?? usualBackMs);
    return [...waiting, { at, device, revision: device.revision, running: succeeds ? to : device.running, execution }];
  }

  hasLeft(given: SimulatedDevice, now: number): boolean {
    const { toldAt, known: { leftAfterMs } } = given as Played;
    return leftAfterMs !== null && toldAt !== null && now >= toldAt + leftAfterMs;
  }

  /** Health since the assignment, from the windows that had come so long after it. */
  sample(given: SimulatedDevice, now: number): DeviceSample {
    const device = given as Played;
    const { windows, baseline, first } = device.known;
    const elapsed = now - device.toldAt!;
    for (; device.at < windows.length && windows[device.at]!.afterMs <= elapsed; device.at += 1) add(device, windows[device.at]!);
    const quantile = (q: number): number | null => device.latency.quantile(q) ?? null;
    const [sum, n] = device.temperatures;
    const current: Sample = { ...device.seen, metrics: { ...device.seen.metrics }, p50Us: quantile(0.5), p95Us: quantile(0.95), p99Us: quantile(0.99), temperatureC: n > 0 ? sum / n : null };
    return { device: device.id, first, baseline, current };
  }
}

const nothingSeen = (): Sample => ({ inferences: 0, errors: 0, p50Us: null, p95Us: null, labelled: 0, correct: 0, drift: null, metrics: {}, shadow: null });

function add(device: Played, window: RecordedWindow): void {
  const { seen } = device;
  seen.inferences += window.inferences;
  seen.errors += window.errors;
  seen.labelled += window.labelled;
  seen.correct += window.correct;
  if (window.latency) device.latency.merge(Sketch.fromBase64(window.latency));
  if (window.temperatureC !== null) { device.temperatures[0] += window.temperatureC; device.temperatures[1] += 1; }
  if (window.shadow) seen.shadow = { frames: (seen.shadow?.frames ?? 0) + window.shadow.frames, agreed: (seen.shadow?.agreed ?? 0) + window.shadow.agreed };
  for (const [name, moments] of Object.entries(window.metrics ?? {})) seen.metrics![name] = addMoments(seen.metrics![name], moments);
  if (window.drift) {
    // As the telemetry slice does it: weighed by its scores, cleared of what chance alone adds.
    const { psi, current, reference } = window.drift;
    const scores = (seen.drift?.scores ?? 0) + current;
    seen.drift = { scores, psi: ((seen.drift?.psi ?? 0) * (scores - current) + current * (psi - (driftBins - 1) * (1 / reference + 1 / current))) / scores };
  }
}
