import { randomUUID } from 'node:crypto';
import type { Capabilities, Desired, Reported, ReportedWorkload, Telemetry as Window, Transfer } from '@reefkeeper/protocol';
import { Sketch } from '@reefkeeper/protocol';
import type { Telemetry } from '@reefkeeper/telemetry';

/** What a device is told, and where its reports go: real services behind it. */
export interface FleetWorld {
  telemetry: Telemetry;
  enrol(id: string, labels: Record<string, string>): Promise<void>;
  online(id: string, online: boolean, session: number): Promise<void>;
  /** By device; absent where nothing is wanted. */
  desiredOf(ids: readonly string[]): Promise<Map<string, Desired>>;
  report(id: string, reported: Reported): Promise<void>;
}

/** How a model does on a device. */
export interface Behaviour { inferences: number; errors: number; p50Us: number; labelled: number; correct: number; /** Fails at this step instead of running. */ failsWith?: { code: string; message: string }; /** What newer agents send besides. */ besides?: Partial<Pick<Window, 'temperatureC' | 'metrics' | 'drift' | 'shadow'>> }
export const steady: Behaviour = { inferences: 100, errors: 0, p50Us: 8_000, labelled: 50, correct: 45 };

export const capabilities = (some: Partial<Capabilities> = {}): Capabilities => ({ agentVersion: '0.1.0', tfliteVersion: '2.9.0', edgetpuRuntime: 14, edgetpus: [{ type: 'usb', path: '/dev/bus/usb/1' }], hostClass: 'dev-board', arch: 'arm64', memoryBytes: 1e9, ...some });

/**
 * Devices in memory that do what an agent does: take in the wanted state by revision, install once, report, serve, send windows.
 * Nothing moves by itself: `tick()` is one round of all of them.
 */
export class FakeFleet {
  readonly devices = new Map<string, FakeDevice>();
  /** By bundle; anything else is steady. */
  readonly behaviours = new Map<string, Partial<Behaviour>>();

  constructor(readonly world: FleetWorld, readonly workload: string) {}

  async add(count: number, options: { prefix?: string; labels?: Record<string, string>; capabilities?: Partial<Capabilities> | null } = {}): Promise<FakeDevice[]> {
    const made: FakeDevice[] = [];
    for (let i = 0; i < count; i++) {
      const id = `${options.prefix ?? 'coral'}-${String(this.devices.size + 1).padStart(2, '0')}`;
      await this.world.enrol(id, options.labels ?? {});
      const device = new FakeDevice(id, this, options.capabilities === null ? null : capabilities(options.capabilities));
      this.devices.set(id, device);
      await device.birth();
      made.push(device);
    }
    return made;
  }

  async tick(): Promise<void> {
    // One question and one batch of windows for all of them, as the broker and the inbox would make of it.
    const reachable = [...this.devices.values()].filter((device) => device.reachable);
    const desired = await this.world.desiredOf(reachable.map(({ id }) => id));
    const windows: { device: string; window: Window }[] = [];
    for (const device of reachable) {
      await device.takeIn(desired.get(device.id) ?? null);
      if (device.running && !device.silent) windows.push({ device: device.id, window: device.window() });
    }
    if (windows.length > 0) await this.world.telemetry.ingest(windows);
  }
}

export class FakeDevice {
  reachable = true;
  /** Takes a few rounds to install. */
  slow = false;
  private rounds = 0;
  /** Serves but sends no windows. */
  silent = false;
  /** Takes what is wanted in, and does not begin before this is null again. */
  /** What its files take, as it will say. */
  transfer: Transfer | null = null;
  waitsFor: { code: string; message: string } | null = null;
  /** Found wrong with a bundle after its success: it runs the one before again. */
  fault: { bundle: string; failure: { code: string; message: string } } | null = null;
  /** Cannot switch to anything. */
  refuses: { code: string; message: string } | null = null;
  /** What serves in place of the variant that is wanted, as where an Edge TPU is away. */
  standIn: string | null = null;
  running: string | null = null;
  installs: { revision: number; bundle: string }[] = [];
  private variant: string | null = null;
  private previous: string | null = null;
  private bootId: string = randomUUID();
  private seq = 0;
  private session = 1;
  private windowSeq = 0;
  private observed: number | null = null;
  private execution: ReportedWorkload['execution'] = null;

  constructor(readonly id: string, private readonly fleet: FakeFleet, private readonly capabilities: Capabilities | null) {}

  async birth(): Promise<void> {
    await this.fleet.world.online(this.id, true, this.session);
    await this.report(true);
  }

  async leave(): Promise<void> {
    this.reachable = false;
    await this.fleet.world.online(this.id, false, this.session);
  }

  async comeBack(): Promise<void> {
    this.reachable = true;
    this.bootId = randomUUID();
    this.session++;
    this.seq = 0;
    await this.birth();
  }

  async round(): Promise<void> {
    await this.takeIn((await this.fleet.world.desiredOf([this.id])).get(this.id) ?? null);
    if (this.running && !this.silent) await this.fleet.world.telemetry.ingest([{ device: this.id, window: this.window() }]);
  }

  async takeIn(desired: Desired | null): Promise<void> {
    if (this.slow && desired && (this.observed ?? 0) < desired.revision && (this.rounds = (this.rounds + 1) % 4) !== 0) return;
    if (desired && (this.observed ?? 0) < desired.revision) {
      this.observed = desired.revision;
      const wanted = desired.workloads[this.fleet.workload];
      if (wanted && wanted.bundle !== this.running) this.install(desired.revision, wanted);
      else if (wanted) this.execution = { revision: desired.revision, bundle: wanted.bundle, state: 'SUCCEEDED', step: 'commit', percent: 100, failure: null };
      else Object.assign(this, { running: null, variant: null, execution: null });
      await this.report();
    }
    else if (this.execution?.state === 'QUEUED' && !this.waitsFor) {
      this.install(this.execution.revision, desired!.workloads[this.fleet.workload]!);
      await this.report();
    }
  }

  private install(revision: number, wanted: { bundle: string; variant: string }): void {
    if (this.waitsFor) {
      this.execution = { revision, bundle: wanted.bundle, state: 'QUEUED', step: 'download', percent: null, failure: this.waitsFor };
      return;
    }
    this.installs.push({ revision, bundle: wanted.bundle });
    const failure = this.refuses ?? this.fleet.behaviours.get(wanted.bundle)?.failsWith ?? null;
    if (!failure) {
      this.previous = this.running;
      this.running = wanted.bundle;
      this.variant = wanted.variant;
    }
    this.execution = { revision, bundle: wanted.bundle, state: failure ? 'FAILED' : 'SUCCEEDED', step: failure ? 'golden' : 'commit', percent: 100, failure, ...(this.transfer ? { transfer: this.transfer } : {}) };
  }

  /** What runs is left for what ran before, as on probation. */
  async leaveVersion(failure: { code: string; message: string } | null): Promise<void> {
    if (failure) this.fault = { bundle: this.running!, failure };
    this.running = this.previous;
    await this.report();
  }

  async report(withCapabilities = false): Promise<void> {
    await this.fleet.world.report(this.id, {
      bootId: this.bootId, seq: this.seq++, session: this.session, observedRevision: this.observed, health: 'HEALTHY', conditions: [],
      workloads: this.running || this.execution ? { [this.fleet.workload]: { running: this.running, variant: this.running && (this.standIn ?? this.variant), backend: 'cpu', previous: this.previous, execution: this.execution, fault: this.fault } } : {},
      ...(withCapabilities && this.capabilities ? { capabilities: this.capabilities } : {}),
    });
  }

  /** The next one that is due. */
  window(): Window {
    const does = { ...steady, ...this.fleet.behaviours.get(this.running!) };
    const latency = Sketch.of(Array.from({ length: does.inferences }, (_, i) => does.p50Us * (i % 20 === 19 ? 1.3 : 0.95 + (i % 10) / 100)));
    return {
      bootId: this.bootId, seq: this.windowSeq++, workload: this.fleet.workload, bundle: this.running!, variant: this.variant!, backend: 'cpu', startedAt: new Date().toISOString(), durationMs: 5_000,
      inferences: does.inferences, errors: does.errors > 0 ? { 'inference.failed': does.errors } : {}, latency: { total: latency.toBase64() }, labelled: does.labelled, correct: does.correct, temperatureC: null, ...does.besides,
    };
  }
}
