import { randomUUID } from 'node:crypto';
import { command, commandResult, desired, parseTopic, presence, reported, Sketch, telemetry, type Capabilities, type Desired, type Telemetry } from '@reefkeeper/protocol';
import type { IPublishPacket } from 'mqtt-packet';
import { Comeback, type ComebackOptions } from '../../../apps/agent/src/comeback.ts';
import { plan, type Actual, type InstalledBundle, type Step } from '../../../apps/agent/src/plan.ts';
import { ReportPace } from '../../../apps/agent/src/report-pace.ts';
import { quiet, reportOf } from '../../../apps/agent/src/report.ts';
import { activated, begun, closed, committed, did, emptyWorkload, entered, failed, left, refetched, removed, returned, type WorkloadState } from '../../../apps/agent/src/workload.ts';
import { Line } from './line.ts';

export interface Behaviour {
  host: string;
  port: number;
  comeback: ComebackOptions;
  /** How long download, verify, install, golden and the like take, least and most. */
  stepMs: [number, number];
  /** From serving a bundle to its first window. */
  firstWindowMs: number;
  /** From window to window, each device in a step of its own, as agents do it. */
  windowMs: number;
  inferences: number;
  /** Bundles whose golden self-test fails. */
  bad: string[];
}

export interface DeviceState {
  id: string;
  connected: boolean;
  running: string | null;
  observed: number | null;
  execution: { revision: number; state: string } | null;
  /** When the wanted state of this revision arrived first, epoch milliseconds. */
  heardAt: Record<number, number>;
  /** How often each revision was carried out: an effect is keyed by it. */
  installs: Record<number, number>;
  /** Windows that the broker has acknowledged, as (boot, seq). */
  windows: [string, number][];
  waiting: number;
  commands: number;
}

const capabilities: Capabilities = { agentVersion: 'simulated', tfliteVersion: '2.9.0', edgetpuRuntime: null, edgetpus: [], hostClass: 'simulated', arch: 'x64', memoryBytes: 1e9 };
const installed: InstalledBundle = { variants: [{ name: 'cpu-int8', minRuntime: null }] };

/**
 * What an agent is towards the fleet: its connection, its order of messages, its planner (`apps/agent/src/plan.ts`), its moves and its report are the agent's own code. What
 * takes its place is what costs a real machine: steps are waits instead of downloads and inferences, and the disk is memory that outlives `reboot()`.
 */
export class SimulatedDevice {
  private line: Line | undefined;
  private readonly comeback: Comeback;
  private upAt = 0;
  private bootId: string = randomUUID();
  private reportSeq = 0;
  private windowSeq = 0;
  private running = false;
  private reporting: NodeJS.Timeout | undefined;
  private readonly pace = new ReportPace();
  private stopped = false;
  private generation = 0;
  // On disk.
  private session = 0;
  private wanted: Desired | null = null;
  private readonly workloads: Record<string, WorkloadState> = {};
  private readonly store = new Map<string, InstalledBundle>();
  private readonly outbox: Telemetry[] = [];
  private readonly journal = new Map<string, Buffer>();
  // For the books.
  private readonly heardAt: Record<number, number> = {};
  private readonly installs: Record<number, number> = {};
  private readonly acknowledged: [string, number][] = [];

  constructor(readonly id: string, private readonly behaviour: Behaviour, private readonly random: () => number, private readonly latency: { total: string; invoke: string } = latencyOf(random)) {
    this.comeback = new Comeback(behaviour.comeback, performance.now(), random);
  }

  get connected(): boolean {
    return this.line?.connected === true;
  }

  connect(): void {
    if (this.stopped) return;
    this.session += 1;
    const { session } = this;
    const line: Line = new Line({ host: this.behaviour.host, port: this.behaviour.port, name: this.id, will: { topic: presence.topicFor(this.id), payload: presence.encode({ online: false, session }) } }, {
      up: () => {
        this.upAt = performance.now();
        line.publish(presence.topicFor(this.id), presence.encode({ online: true, session }), presence, () => {
          line.subscribe([desired.topicFor(this.id), command.topicFor(this.id)], () => {
            this.report(true);
            this.drain();
          });
        });
      },
      message: (packet) => this.take(line, packet),
      down: () => {
        const now = performance.now();
        const lastedMs = this.upAt > 0 ? now - this.upAt : 0;
        this.upAt = 0;
        if (this.line === line && !this.stopped) setTimeout(() => this.connect(), this.comeback.waitMs(lastedMs, now));
      },
    });
    this.line = line;
  }

  cut(): void {
    this.line?.cut();
  }

  /** Power cut and a new start: what was on disk is still there, whatever it did is planned anew. */
  reboot(): void {
    this.generation += 1;
    this.running = false;
    this.bootId = randomUUID();
    this.reportSeq = 0;
    this.windowSeq = 0;
    this.cut();
    this.poke();
    this.serve();
  }

  stop(): void {
    this.stopped = true;
    this.generation += 1;
    this.cut();
  }

  state(): DeviceState {
    const [workload] = Object.values(this.workloads);
    const execution = workload?.execution ?? null;
    return {
      id: this.id, connected: this.connected, running: workload?.running?.bundle ?? null, observed: this.wanted?.revision ?? null, execution: execution && { revision: execution.revision, state: execution.state },
      heardAt: this.heardAt, installs: this.installs, windows: this.acknowledged, waiting: this.outbox.length, commands: this.journal.size,
    };
  }

  private take(line: Line, packet: IPublishPacket): void {
    const address = parseTopic(packet.topic);
    if (address?.path === 'desired') {
      const decoded = desired.decode(packet.payload as Buffer);
      if (decoded.ok) this.want(decoded.body, !packet.retain);
    } else if (address?.path === 'cmd/{id}') {
      const decoded = command.decode(packet.payload as Buffer);
      if (decoded.ok) {
        const { id, kind } = decoded.body;
        const answer = this.journal.get(id) ?? commandResult.encode({ id, ok: true, result: { kind, bootId: this.bootId } });
        this.journal.set(id, answer);
        line.publish(commandResult.topicFor(this.id, id), answer, commandResult);
      }
    }
    line.acknowledge(packet);
  }

  private want(wanted: Desired, asked: boolean): void {
    const known = this.wanted?.revision ?? 0;
    if (wanted.revision < known) this.reportSoon();
    if (wanted.revision === known && asked) this.report(true);
    if (wanted.revision <= known) return;
    this.heardAt[wanted.revision] ??= Date.now();
    this.wanted = wanted;
    this.poke();
  }

  private poke(): void {
    if (this.running) return;
    this.running = true;
    const { generation } = this;
    const next = (): void => {
      if (generation !== this.generation) return;
      const step = plan(this.wanted, this.actual()).find(({ kind }) => kind !== 'wait');
      if (!step) {
        this.running = false;
        return;
      }
      this.execute(step, next);
    };
    next();
  }

  private actual(): Actual {
    return { workloads: this.workloads, installed: this.store, stored: new Set(this.store.keys()), accelerator: { present: false }, unfit: new Set() };
  }

  private execute(step: Step, next: () => void): void {
    if (step.kind === 'collect') {
      for (const bundle of this.store.keys()) if (!step.keep.includes(bundle)) this.store.delete(bundle);
      return next();
    }
    const { workload } = step;
    const move = (to: (now: WorkloadState) => WorkloadState): void => {
      this.workloads[workload] = to(this.workloads[workload] ?? emptyWorkload);
      this.reportSoon();
    };
    const { generation } = this;
    const after = (ms: number, effect: () => void): void => {
      setTimeout(() => {
        if (generation !== this.generation) return;
        effect();
        next();
      }, ms);
    };
    const [least, most] = this.behaviour.stepMs;
    const ms = least + this.random() * (most - least);
    switch (step.kind) {
      case 'begin': move((now) => begun(now, step.revision, step.wanted)); return next();
      case 'download': case 'verify': case 'install': case 'golden': case 'observe':
        move((now) => entered(now, step.kind));
        return after(step.kind === 'observe' ? Math.max(ms, step.wanted.policy.observeS * 1_000) : ms, () => {
          if (step.kind === 'golden' && this.behaviour.bad.includes(step.bundle)) return move((now) => failed(now, { code: 'golden.mismatch', message: 'The self-test gave other answers.' }));
          if (step.kind === 'install') this.store.set(step.bundle, installed);
          move((now) => did(now, step.kind));
        });
      case 'activate':
        move((now) => entered(now, step.wanted.rollback ? 'rollback' : 'activate'));
        return after(ms, () => {
          const { revision } = this.workloads[workload]!.execution!;
          this.installs[revision] = (this.installs[revision] ?? 0) + 1;
          move((now) => activated(now, step.slot));
          this.serve();
        });
      case 'commit': move((now) => committed(now)); return next();
      case 'refetch': move(refetched); return next();
      case 'fail': move((now) => failed(now, { code: step.code, message: step.message })); return next();
      case 'leave': move((now) => left(now, step.to)); this.serve(); return next();
      case 'rollback': move((now) => returned(entered(now, 'rollback'), step.to)); this.serve(); return next();
      case 'close': move((now) => closed(now, step.state)); return next();
      case 'remove': move((now) => removed(now, step.revision)); return next();
      case 'reseat': case 'repair': case 'wait': return next();
    }
  }

  /** Changes close together become one report, as the agent does it. */
  private reportSoon(): void {
    const delayMs = this.pace.delayMs(this.said(), performance.now());
    if (this.reporting && delayMs > 0) return;
    clearTimeout(this.reporting);
    this.reporting = setTimeout(() => this.report(false), delayMs);
  }

  private said(): ReturnType<typeof reportOf> {
    return reportOf({ desired: this.wanted, workloads: this.workloads } as never, quiet);
  }

  private report(birth: boolean): void {
    clearTimeout(this.reporting);
    this.reporting = undefined;
    if (!this.connected) return;
    const said = this.said();
    this.pace.sent(said, performance.now());
    this.line!.publish(reported.topicFor(this.id), reported.encode({ bootId: this.bootId, seq: this.reportSeq++, session: this.session, ...said, ...(birth ? { capabilities } : {}) }), reported);
  }

  private serve(): void {
    const { generation } = this;
    const [workload, state] = Object.entries(this.workloads)[0] ?? [];
    const slot = state?.running;
    if (!workload || !slot) return;
    const { firstWindowMs, windowMs } = this.behaviour;
    const close = (ms: number, nextMs: number): void => {
      setTimeout(() => {
        if (generation !== this.generation || this.workloads[workload]?.running !== slot) return;
        this.close(workload, slot);
        close(nextMs, windowMs);
      }, ms);
    };
    close(firstWindowMs * (0.75 + this.random() / 2), windowMs * this.random());
  }

  private close(workload: string, slot: { bundle: string; variant: string; backend: 'edgetpu' | 'cpu' }): void {
    const { inferences, windowMs } = this.behaviour;
    this.outbox.push({
      bootId: this.bootId, seq: this.windowSeq++, workload, ...slot, startedAt: new Date(Date.now() - windowMs).toISOString(), durationMs: windowMs,
      inferences, errors: {}, latency: this.latency, labelled: inferences, correct: inferences - Math.round(this.random() * 0.05 * inferences), temperatureC: null,
    });
    if (this.connected) this.sendWindow(this.outbox.at(-1)!);
  }

  private drain(): void {
    for (const window of this.outbox) this.sendWindow(window);
  }

  private sendWindow(window: Telemetry): void {
    this.line!.publish(telemetry.topicFor(this.id), telemetry.encode(window), telemetry, () => {
      const at = this.outbox.indexOf(window);
      if (at < 0) return;
      this.outbox.splice(at, 1);
      this.acknowledged.push([window.bootId, window.seq]);
    });
  }
}

/** A device is as fast as it is: between its windows only the counts change. */
function latencyOf(random: () => number): { total: string; invoke: string } {
  const ms = 5 + 5 * random();
  const sketch = (scale: number) => Sketch.of(Array.from({ length: 100 }, (_, at) => ms * scale * 1_000 * (at % 20 === 19 ? 1.3 : 0.95 + (at % 10) / 100))).toBase64();
  return { total: sketch(1), invoke: sketch(0.8) };
}
