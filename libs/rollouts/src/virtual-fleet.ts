import { randomOf } from '@reefkeeper/platform/random';
import type { Execution } from '@reefkeeper/protocol';
import { normal } from './normal.ts';
import type { Candidate } from './plan.ts';
import type { DeviceSample, Sample } from './rollout.ts';
import { newBundle, oldBundle, type Report, type SimulatedDevice, type SimulatedFleet } from './simulated-fleet.ts';

/** Shares of the fleet, in percent, that have something wrong with them. */
export interface Faults {
  /** Not reachable when the rollout starts; half of them come back after some hours, half never. */
  offlinePercent: number;
  /** Come and go, so that reports arrive minutes late, out of order and twice. */
  flappingPercent: number;
  /** Behind a slow link: downloads take twenty times as long. */
  slowPercent: number;
  /** Throttle in the heat, whatever they run: 40 % slower from some moment on. */
  hotPercent: number;
  /** The delta does not apply, so that the full file is fetched after it. */
  brokenDeltaPercent: number;
  /** Clocks that are years off. Nothing is ordered by a device's clock, so that this must change nothing. */
  lyingClockPercent: number;
}

/** What the version does that the one before did not. */
export interface VersionBehaviour {
  /** Devices on which it cannot be installed (a golden case that fails, for example), percent. */
  installFailurePercent: number;
  /** Invocation time against the version before: 1.2 is 20 % slower. */
  latencyFactor: number;
  /** Inferences that fail, percent. */
  errorPercent: number;
  /** Points of accuracy lost. */
  accuracyDropPoints: number;
}

export const noFaults: Faults = { offlinePercent: 0, flappingPercent: 0, slowPercent: 0, hotPercent: 0, brokenDeltaPercent: 0, lyingClockPercent: 0 };
/** A fleet as they are. */
export const usualFaults: Faults = { offlinePercent: 3, flappingPercent: 2, slowPercent: 5, hotPercent: 2, brokenDeltaPercent: 1, lyingClockPercent: 1 };
export const sameAsBefore: VersionBehaviour = { installFailurePercent: 0, latencyFactor: 1, errorPercent: 0, accuracyDropPoints: 0 };

const hosts = [
  { hostClass: 'dev-board', p95Us: 9_000, share: 0.5 },
  { hostClass: 'raspberry-pi-4', p95Us: 12_000, share: 0.3 },
  { hostClass: 'x86-64', p95Us: 7_000, share: 0.2 },
];
/** Sites are around the world, in turn. */
const zones = ['Europe/Paris', 'America/New_York', 'Asia/Tokyo', 'America/Sao_Paulo', 'Asia/Kolkata', 'Australia/Sydney', 'Africa/Lagos', 'America/Los_Angeles'];
/** Of the version, on every device. */
export const bundleBytes = 4_000_000;
const hour = 3_600_000;
/** A head-only retrain against a whole MobileNet, seconds on an ordinary link. */
const deltaS = 2;
const fullS = 25;
/** Before a wave opens, each device has served this many frames; labelled ones come from a reference set. */
const baselineFrames = 5_400;
const framesPerS = 3;
const labelledShare = 0.1;


/** A device in memory that takes in wanted states and reports on them as an agent does, in virtual time. */
export interface VirtualDevice extends SimulatedDevice {
  hostClass: string;
  online: boolean;
  hot: boolean;
  flapping: boolean;
  clockSkewMs: number;
  installMs: number;
  p95Us: number;
  accuracy: number;
  /** What its telemetry says, as it was asked for last: one object for all looks, since a big wave told over days is looked at hundreds of times. */
  kept: { sample: DeviceSample; heat: 0 | 1 | 1.4 } | null;
  /** Standard normal numbers of its own: how its measurements deviate. */
  noise: { base: number; now: number; correct: number; errors: number };
}

const placeOf = (site: number): Pick<VirtualDevice, 'site' | 'zone' | 'bytes'> => ({ bytes: bundleBytes, site: `site-${site}`, zone: zones[site % zones.length]! });

/** Seeded: the same seed and shares give the same fleet and the same reports. */
export class VirtualFleet implements SimulatedFleet {
  readonly devices: VirtualDevice[];
  private readonly next: () => number;

  constructor(seed: number, count: number, sites: number, private readonly faults: Faults, private readonly version: VersionBehaviour, private readonly start: number) {
    const next = randomOf(seed);
    const z = normal(next);
    this.next = randomOf(seed ^ 0x5eed);
    const hit = (percent: number): boolean => next() * 100 < percent;
    this.devices = Array.from({ length: count }, (_, at) => {
      const pick = next();
      const host = pick < hosts[0]!.share ? hosts[0]! : pick < hosts[0]!.share + hosts[1]!.share ? hosts[1]! : hosts[2]!;
      const offline = hit(faults.offlinePercent);
      const returnsAt = next() < 0.5 ? start + next() * 8 * hour : Infinity;
      const download = (hit(faults.brokenDeltaPercent) ? deltaS + fullS : deltaS) * (hit(faults.slowPercent) ? 20 : 1) * Math.exp(0.3 * z());
      return {
        id: `virtual-${String(at).padStart(6, '0')}`, ...placeOf(Math.floor(next() * sites)), hostClass: host.hostClass,
        online: !offline, reachableAt: offline ? returnsAt : start, hot: hit(faults.hotPercent), flapping: hit(faults.flappingPercent),
        clockSkewMs: hit(faults.lyingClockPercent) ? (next() - 0.5) * 50 * 365 * 24 * hour : 0,
        installMs: 1_000 * (download + 3 + 2 * next()), failsInstall: hit(version.installFailurePercent),
        p95Us: host.p95Us * Math.exp(0.1 * z()), accuracy: Math.min(0.99, Math.max(0.3, 0.86 + 0.05 * z())), noise: { base: z(), now: z(), correct: z(), errors: z() },
        revision: 1, wanted: oldBundle, running: oldBundle, since: start, execution: null, observed: 1, kept: null,
      };
    });
  }

  candidates(): Candidate[] {
    return this.devices.map(({ id, site, zone, hostClass, online }) => ({ id, labels: { site, host: hostClass, timezone: zone }, online, health: online ? 'HEALTHY' : 'UNKNOWN', strata: { hostClass, runtime: '14', site }, zone, invalidZone: null, spared: null, fit: { ok: true, variant: 'edgetpu-14' }, current: false }));
  }

  /** The device is wanted to run the version (or the one before again); returns the reports it will send, some late, some twice. */
  tell(device: VirtualDevice, to: typeof newBundle | typeof oldBundle, now: number, observeS: number): Report[] {
    device.revision += 1;
    device.wanted = to;
    if (device.reachableAt === Infinity) return [];
    const heard = Math.max(now, device.reachableAt) + this.wait(device);
    const done = heard + (to === oldBundle ? 500 : device.installMs + (device.failsInstall ? 0 : observeS * 1_000));
    const { revision } = device;
    const execution = (state: Execution['state'], step: Execution['step'], failure: Execution['failure'] = null): Execution => ({ revision, bundle: to, state, step, percent: null, failure });
    const fails = to === newBundle && device.failsInstall;
    const last: Report = { at: done + this.wait(device), device, revision, running: fails ? device.running : to, execution: fails ? execution('FAILED', 'golden', { code: 'golden.mismatch', message: 'Two golden cases came out differently.' }) : execution('SUCCEEDED', 'commit') };
    const reports = [{ at: heard, device, revision, running: device.running, execution: execution('IN_PROGRESS', 'download') }, last];
    if (device.flapping) reports.push({ ...last, at: last.at + 60_000 * this.next() });
    return reports;
  }

  /** Health before and since, as the telemetry of a device that serves three frames a second would say. Holds until the next call for the same device. */
  sample(device: VirtualDevice, now: number): DeviceSample {
    const kept = device.kept ??= {
      sample: { device: device.id, first: false, baseline: this.baseline(device), current: { inferences: 0, errors: 0, p50Us: null, p95Us: null, p99Us: null, temperatureC: 55 + device.noise.now, labelled: 0, correct: 0 } },
      heat: 0,
    };
    const frames = Math.max(0, Math.floor(((now - device.since) / 1_000) * framesPerS));
    const heat = frames === 0 ? 0 : device.hot && now > this.start + hour ? 1.4 : 1;
    const labelled = Math.floor(frames * labelledShare);
    const p = Math.max(0.01, device.accuracy - this.version.accuracyDropPoints / 100);
    const errors = frames * this.version.errorPercent / 100;
    const { current } = kept.sample;
    current.inferences = frames;
    current.errors = errors === 0 ? 0 : Math.max(0, Math.round(errors + Math.sqrt(errors) * device.noise.errors));
    if (kept.heat !== heat) {
      const p95Us = device.p95Us * this.version.latencyFactor * heat * Math.exp(0.04 * device.noise.now);
      Object.assign(current, heat === 0 ? { p50Us: null, p95Us: null, p99Us: null } : { p50Us: p95Us / 1.25, p95Us, p99Us: p95Us * 1.15 });
      current.temperatureC = 55 + (heat > 1 ? 30 : 0) + device.noise.now;
      kept.heat = heat;
    }
    current.labelled = labelled;
    current.correct = Math.min(labelled, Math.max(0, Math.round(labelled * p + Math.sqrt(labelled * p * (1 - p)) * device.noise.correct)));
    return kept.sample;
  }

  private baseline(device: VirtualDevice): Sample {
    const labelled = Math.floor(baselineFrames * labelledShare);
    const p95Us = device.p95Us * Math.exp(0.04 * device.noise.base);
    return { inferences: baselineFrames, errors: 0, p50Us: p95Us / 1.25, p95Us, p99Us: p95Us * 1.15, temperatureC: 55 + device.noise.base, labelled, correct: Math.round(labelled * device.accuracy) };
  }

  private wait(device: VirtualDevice): number {
    return device.flapping ? 120_000 * this.next() : 50 + 450 * this.next();
  }
}
