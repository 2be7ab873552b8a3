import { createHash } from 'node:crypto';
import { matches, parseSelector } from '@reefkeeper/devices/selector';
import { decide, readsSamples, type Decision, type Facts } from './decide.ts';
import { follow, isWaiting, rollbackOpen, type RollbackState } from './follow.ts';
import { lookbackS, noPace, noPaceFacts, type Freeze, type PaceFacts, type Queue } from './pacing.ts';
import { planWaves, type Plan } from './plan.ts';
import { ReportQueue } from './report-queue.ts';
import { defaultRollback } from './rollback.ts';
import { isSettled, mayMove, settingsFor, type CreateRollout, type DeviceSample, type Rollout, type RolloutExecutionState, type RolloutState, type Settings, type Wave } from './rollout.ts';
import { noCounts, openCount, verdictViewOf, type Verdict, type VerdictView } from './verdict.ts';
import { newBundle, oldBundle, receive, seenOf, type Frozen, type Report, type SimulatedDevice, type SimulatedFleet } from './simulated-fleet.ts';
import { VirtualFleet, type Faults, type VersionBehaviour } from './virtual-fleet.ts';

export * from './virtual-fleet.ts';
export { createRollout, type CreateRollout } from './rollout.ts';
export * from './replay.ts';

export interface Simulation {
  seed: number;
  devices: number;
  sites: number;
  faults: Faults;
  version: VersionBehaviour;
  body: CreateRollout;
  /** Given up after this much virtual time, seconds. */
  limitS?: number;
}

export interface Simulated {
  state: RolloutState;
  /** Why, in the engine's words. */
  reason: { code: string; message: string };
  /** Virtual time from start to end, seconds. */
  tookS: number;
  plan: Plan;
  waves: { index: number; size: number; state: string; tookS: number | null; updated: number; failed: number; unanswered: number; verdicts: VerdictView[] }[];
  /** The most devices at once on the version while their wave had no verdict, and the limit that was stated before. */
  unproven: { most: number; stated: number };
  /** Devices that ran the version at any time. */
  exposed: number;
  /** At the end: devices that can be reached and do not run what they are wanted to. */
  wrong: number;
  /** Every decision, in order. */
  transcript: string[];
  /** SHA-256 of the transcript: equal runs have equal ones. */
  digest: string;
}

/** A decision as it is told, counted from the start. */
export interface Move { afterS: number; wave: number | null; code: string; message: string }

type FrozenQueue = Queue & { devices: string[]; freezes: readonly Frozen[] };
interface Execution { device: SimulatedDevice; wave: number; queue: FrozenQueue; state: RolloutExecutionState; /** What it waits for by its own word, while it is QUEUED. */ failure: { code: string; message: string } | null; assignedAt: number | null; timeoutFrom: number | null; settledAt: number | null; revision: number | null; rollback: RollbackState | null; rollbackAt: number | null; rollbackRevision: number | null }

export const simulationStart = Date.parse('2026-01-01T00:00:00Z');
const epoch = simulationStart;
const date = (ms: number | null): Date | null => (ms === null ? null : new Date(ms));

/**
 * A rollout over virtual devices: the engine's own plan, decisions, verdicts and following of reports, with an in-memory shell in place of rows
 * and a virtual clock in place of time. Nothing is random but the seed.
 * @throws ReefError `selector.invalid`; Error when the engine breaks its own rules: an illegal move, or more unproven devices than stated
 */
export function simulate({ seed, devices, sites, faults, version, body, limitS = 60 * 86_400 }: Simulation): Simulated | { fault: string } {
  const fleet = new VirtualFleet(seed, devices, sites, faults, version, epoch);
  const parsed = new Map((body.waves ?? []).flatMap(({ selector }) => (selector === undefined ? [] : [[selector, parseSelector(selector)]])));
  const planned = planWaves(fleet.candidates(), body.waves, `seed ${seed}`, (eligible) => settingsFor(body, eligible), (selector, labels) => matches(parsed.get(selector)!, labels));
  if (!planned.ok) return { fault: planned.fault.message };
  return new Shell(fleet, planned.plan, planned.settings, limitS).run();
}

/** Runs a plan over any devices, on a clock that begins at `start`. @throws as `simulate` */
export function playRollout(fleet: SimulatedFleet, plan: Plan, settings: Settings, { limitS, start, stopAt }: { limitS: number; start: number; stopAt: Date | null }): Simulated & { moves: Move[] } {
  const shell = new Shell(fleet, plan, settings, limitS, start, stopAt);
  return { ...shell.run(), moves: shell.moves };
}

export const digestOf = (transcript: readonly string[]): string => createHash('sha256').update(transcript.join('\n')).digest('hex');

const isOpen = (state: RolloutExecutionState): boolean => state === 'QUEUED' || state === 'IN_PROGRESS';

function freezeAt(longestFirst: readonly Frozen[], now: number): Freeze | null {
  const found = longestFirst.find(({ from, endedAt }) => from <= now && now < endedAt);
  return found ? { until: new Date(found.until), reason: found.reason } : null;
}

class Shell {
  private now: number;
  private readonly rollout: Rollout;
  private readonly byWave: Execution[][];
  private readonly byDevice = new Map<string, Execution>();
  /** Per wave, those yet to be told. */
  private readonly queues: Map<string, FrozenQueue>[];
  /** Moments at which a freeze begins or ends, in order: the engine is woken by either. */
  private readonly thaws: number[];
  private readonly mostBytes: number;
  /** In the order in which their time began; `told.slice(overdue)` may still time out. */
  private readonly told: { execution: Execution; from: number }[] = [];
  private overdue = 0;
  private readonly openBySite = new Map<string, number>();
  /** What was told lately, one entry per moment and site. */
  private recent: PaceFacts['told'][number][] = [];
  private readonly counts;
  private readonly reports = new ReportQueue();
  /** The transcript for programs, line by line. */
  readonly moves: Move[] = [];
  private readonly transcript: string[] = [];
  private readonly verdicts = new Map<number, Verdict[]>();
  private lookedAt = -Infinity;
  private saidAt = -Infinity;
  private waitUntil: number;
  /** Per wave, those that wait by their own word. */
  private readonly waiting: number[];
  private readonly exposed = new Set<string>();
  private unproven = 0;
  private mostUnproven = 0;
  private returning = 0;
  private everWaited = false;
  private reason = { code: 'created', message: '' };

  constructor(private readonly fleet: SimulatedFleet, private readonly plan: Plan, settings: Settings, private readonly limitS: number, private readonly start = epoch, stopAt: Date | null = null) {
    this.now = this.waitUntil = start;
    const device = new Map(fleet.devices.map((one) => [one.id, one]));
    this.queues = plan.waves.map(() => new Map());
    const numbered = new Map([...new Set(fleet.devices.flatMap(({ freezes = [] }) => freezes))].map((freeze, at) => [freeze, at]));
    this.thaws = [...numbered.keys()].flatMap(({ from, endedAt }) => [from, endedAt]).filter((at) => at > start).sort((a, b) => a - b);
    this.byWave = plan.waves.map((wave) => wave.devices.map(({ id }): Execution => {
      const one = device.get(id)!;
      const freezes = one.freezes ?? [];
      const key = `${one.site}\n${one.zone}\n${one.bytes}\n${freezes.map((freeze) => numbered.get(freeze)).join()}`;
      const queue = this.queues[wave.index]!.get(key) ?? { site: one.site, zone: one.zone, bytes: one.bytes, freeze: null, freezes: freezes.toSorted((a, b) => b.until - a.until), devices: [] };
      this.queues[wave.index]!.set(key, queue);
      queue.devices.push(id);
      return { device: one, wave: wave.index, queue, state: 'PENDING', failure: null, assignedAt: null, timeoutFrom: null, settledAt: null, revision: null, rollback: null, rollbackAt: null, rollbackRevision: null };
    }));
    for (const one of this.byWave.flat()) this.byDevice.set(one.device.id, one);
    this.waiting = this.byWave.map(() => 0);
    this.mostBytes = fleet.devices.reduce((most, { bytes }) => Math.max(most, bytes), 0);
    this.counts = this.byWave.map((wave) => ({ ...noCounts(), PENDING: wave.length }));
    const waves = plan.waves.map(({ index, size }): Wave => ({ index, state: 'PENDING', size, startedAt: null, analysingAt: null, deadlineAt: null, endedAt: null }));
    this.rollout = { id: 'simulated', state: 'SCHEDULED', wave: 0, settings, waves, startAt: null, stopAt, waiting: null };
  }

  run(): Simulated {
    const { rollout } = this;
    while (['SCHEDULED', 'RUNNING', 'ROLLING_BACK'].includes(rollout.state) && this.now - this.start < this.limitS * 1_000) {
      this.now = Math.max(this.now, this.waitUntil);
      for (let report = this.reports.until(this.now); report; report = this.reports.until(this.now)) this.take(report);
      this.pass();
    }
    const ended = this.now;
    // What is still on its way arrives: late reports must change nothing any more but what devices run.
    const before = JSON.stringify([rollout.state, this.counts]);
    for (let report = this.reports.until(Infinity); report; report = this.reports.until(Infinity)) this.take(report);
    if (JSON.stringify([rollout.state, this.counts]) !== before) throw new Error('a late report has reopened an execution');
    const settled = this.byWave.flat().filter(({ device, assignedAt }) => assignedAt !== null && device.reachableAt !== Infinity);
    return {
      state: rollout.state, reason: this.reason, tookS: (ended - this.start) / 1_000, plan: this.plan,
      waves: rollout.waves.map(({ index, size, state, startedAt, endedAt }) => ({
        index, size, state, tookS: startedAt && endedAt ? (endedAt.getTime() - startedAt.getTime()) / 1_000 : null,
        updated: this.counts[index]!.SUCCEEDED, failed: this.counts[index]!.FAILED, unanswered: this.counts[index]!.TIMED_OUT, verdicts: (this.verdicts.get(index) ?? []).map(verdictViewOf),
      })),
      unproven: { most: this.mostUnproven, stated: this.plan.blastRadius.unprovenDevices }, exposed: this.exposed.size,
      // A device that could not install it keeps what it had; that is not wrong but said.
      wrong: settled.filter(({ device }) => device.running !== device.wanted && !device.failsInstall).length,
      transcript: this.transcript, digest: digestOf(this.transcript),
    };
  }

  /** As the engine's pass: decide and apply until there is something to wait for. */
  private pass(): void {
    this.waitUntil = this.now + 1_000;
    for (let round = 0; round < 4 * this.rollout.waves.length + 8; round += 1) {
      this.timeOut();
      const { facts, looked } = this.observe();
      const decisions = decide(this.rollout, facts, new Date(this.now));
      for (const decision of decisions) this.apply(decision, looked);
      if (decisions.length === 0 || decisions.some(({ kind }) => kind === 'wait')) return;
    }
  }

  private observe(): { facts: Facts; looked: boolean } {
    const { rollout } = this;
    const { settings } = rollout;
    const wave = rollout.waves[rollout.wave];
    const own = this.byWave[rollout.wave] ?? [];
    const counts = this.counts[rollout.wave] ?? noCounts();
    const waiting = this.waiting[rollout.wave] ?? 0;
    const open = openCount(counts) - waiting;
    const looked = readsSamples(rollout, counts, waiting, this.lookedAt, this.now);
    if (looked) this.lookedAt = this.now;
    const samples: DeviceSample[] = [];
    if (looked) for (const { state, device } of own) if (state === 'SUCCEEDED' && !this.fleet.hasLeft?.(device, this.now)) samples.push(this.fleet.sample(device, this.now));
    const rollback: Facts['rollback'] = { pending: 0, open: 0, done: 0, failed: 0, unanswered: 0, nextTimeoutAt: null, lost: [] };
    if (rollout.state === 'ROLLING_BACK') {
      let oldest = Infinity;
      for (const { rollback: state, rollbackAt, device } of this.byDevice.values()) {
        if (state === 'PENDING') rollback.pending += 1;
        if (state === 'QUEUED' || state === 'IN_PROGRESS') { rollback.open += 1; oldest = Math.min(oldest, rollbackAt!); }
        if ((state === 'FAILED' || state === 'TIMED_OUT') && rollback.lost.length < 20) rollback.lost.push(device.id);
        if (state === 'SUCCEEDED') rollback.done += 1;
        if (state === 'FAILED') rollback.failed += 1;
        if (state === 'TIMED_OUT') rollback.unanswered += 1;
      }
      if (rollback.open > 0) rollback.nextTimeoutAt = date(oldest + settings.rollbackTimeoutS * 1_000);
    }
    return {
      looked,
      facts: {
        counts, samples, rollback,
        pinned: [], pace: rollout.state === 'RUNNING' && counts.PENDING > 0 && wave?.state === 'RUNNING' ? this.pace() : noPaceFacts,
        nextTimeoutAt: open > counts.PENDING ? date(this.told[this.overdue]!.from + settings.installTimeoutS * 1_000) : null, ...this.apart(own, waiting),
        skipped: this.counts.reduce((sum, one) => sum + one.TIMED_OUT + one.CANCELED, 0),
      },
    };
  }

  /** What the counts do not tell apart, where there is any of it. */
  private apart(own: readonly Execution[], waiting: number): Pick<Facts, 'waiting' | 'answeredSince' | 'faults' | 'before'> {
    const { wave, waves, settings } = this.rollout;
    const analysingAt = waves[wave]?.analysingAt?.getTime() ?? Infinity;
    const hasLeft = (execution: Execution): boolean => execution.state === 'SUCCEEDED' && this.fleet.hasLeft!(execution.device, this.now);
    const earlier = this.fleet.hasLeft ? this.byWave.slice(0, wave).flat().filter(({ state }) => state === 'SUCCEEDED') : [];
    return {
      ...(waiting > 0 ? { waiting: { devices: waiting, until: new Date(Math.max(...own.flatMap((one) => (isWaiting(one) ? [(one.timeoutFrom ?? one.assignedAt!) + settings.installTimeoutS * 1_000] : [])))) } } : {}),
      ...(this.everWaited ? { answeredSince: own.filter(({ state, settledAt }) => state === 'SUCCEEDED' && settledAt! > analysingAt).length } : {}),
      ...(this.fleet.hasLeft ? { faults: own.filter(hasLeft).length, before: { updated: earlier.length, faults: earlier.filter(hasLeft).length } } : {}),
    };
  }

  private pace(): PaceFacts {
    const back = lookbackS(this.rollout.settings.pace ?? noPace, this.mostBytes) * 1_000;
    this.recent = back > 0 ? this.recent.filter(({ at }) => this.now - at.getTime() <= back) : [];
    const queues = [...this.queues[this.rollout.wave]!.values()].filter(({ devices }) => devices.length > 0);
    if (this.thaws.length > 0) for (const queue of queues) queue.freeze = freezeAt(queue.freezes, this.now);
    return {
      queues, open: this.openBySite, told: this.recent,
      succeeded: this.counts.reduce((sum, { SUCCEEDED }) => sum + SUCCEEDED, 0),
    };
  }

  private apply(decision: Decision, looked: boolean): void {
    const { rollout } = this;
    const now = new Date(this.now);
    const wave = rollout.waves[rollout.wave];
    if (this.telling(decision)) this.say(decision);
    switch (decision.kind) {
      case 'wait': this.waitUntil = Math.min(decision.until.getTime(), this.thaws.find((at) => at > this.now) ?? Infinity); break;
      case 'judge': if (looked) this.verdicts.set(rollout.wave, decision.verdicts); break;
      case 'begin': this.move('RUNNING', decision); break;
      case 'openWave': rollout.wave = decision.wave; Object.assign(rollout.waves[decision.wave]!, { state: 'RUNNING', startedAt: now }); this.unproven = 0; break;
      case 'assign': this.tell(decision.devices.map((id) => this.byDevice.get(id)!)); break;
      case 'analyse': Object.assign(wave!, { state: 'ANALYSING', analysingAt: (decision.anew ? null : wave!.analysingAt) ?? now, deadlineAt: decision.until, endedAt: null }); break;
      case 'closeWave':
        Object.assign(wave!, { state: decision.as, endedAt: now });
        if (decision.as === 'PASSED' && this.waiting[rollout.wave]! > 0) for (const one of this.byWave[rollout.wave]!) if (isWaiting(one)) this.change(one, 'TIMED_OUT');
        this.verdicts.set(rollout.wave, decision.verdicts); break;
      case 'pause': this.move('PAUSED', decision); break;
      case 'rollBack': this.startRollback(decision); break;
      case 'tellBack': this.tellNext(decision.devices); break;
      case 'complete': this.move('SUCCEEDED', decision); break;
      case 'endRollback': this.move('ROLLED_BACK', { ...decision, reason: this.reason as Decision['reason'] }); break;
    }
  }

  /** As in the log: a wave that is told bit by bit says so once a minute. */
  private telling({ kind, reason }: Decision): boolean {
    if (kind === 'wait' || kind === 'judge' || reason.code === 'rollback_continues') return false;
    if (reason.code !== 'wave_assigning') return true;
    if (this.now - this.saidAt < 60_000) return false;
    this.saidAt = this.now;
    return true;
  }

  private tell(executions: readonly Execution[]): void {
    for (const [queue, own] of Map.groupBy(executions, (execution) => execution.queue)) {
      // The pace takes a queue from its front.
      queue.devices.splice(0, own.length);
      this.recent.push({ at: new Date(this.now), site: queue.site, devices: own.length, bytes: own.length * queue.bytes });
    }
    for (const execution of executions) this.assign(execution);
  }

  private assign(execution: Execution): void {
    this.change(execution, 'QUEUED');
    execution.assignedAt = this.now;
    this.told.push({ execution, from: this.now });
    this.send(this.fleet.tell(execution.device, newBundle, this.now, this.rollout.settings.policy.observeS));
    execution.revision = execution.device.revision;
  }

  private startRollback(decision: Decision): void {
    const told = [...this.byDevice.values()].filter(({ assignedAt }) => assignedAt !== null);
    for (const execution of told) execution.rollback = 'PENDING';
    // As in the engine: whoever has not got there yet is told at once and must not arrive; the others have their turn.
    for (const execution of this.byDevice.values()) {
      if (isSettled(execution.state)) continue;
      this.change(execution, 'CANCELED');
      if (execution.assignedAt !== null) this.tellBack(execution);
    }
    for (const wave of this.rollout.waves) if (['PENDING', 'RUNNING', 'ANALYSING'].includes(wave.state)) Object.assign(wave, { state: 'SKIPPED', endedAt: new Date(this.now) });
    this.move('ROLLING_BACK', decision);
  }

  private tellNext(count: number): void {
    const newest = (this.rollout.settings.rollback ?? defaultRollback).order === 'newest-first' ? -1 : 1;
    const inLine = [...this.byDevice.values()].filter(({ rollback }) => rollback === 'PENDING').sort((a, b) => newest * (a.assignedAt! - b.assignedAt!) || (a.device.id < b.device.id ? -1 : 1));
    for (const execution of inLine.slice(0, count)) this.tellBack(execution);
    const { maxInProgress } = this.rollout.settings.rollback ?? defaultRollback;
    if (this.returning > maxInProgress) throw new Error(`${this.returning} devices are on their way back; ${maxInProgress} may be`);
  }

  private tellBack(execution: Execution): void {
    this.send(this.fleet.tell(execution.device, oldBundle, this.now, 0));
    Object.assign(execution, { rollback: 'QUEUED', rollbackAt: this.now, rollbackRevision: execution.device.revision });
    this.returning += 1;
  }

  private take(report: Report): void {
    const was = report.device.running;
    const execution = this.byDevice.get(report.device.id)!;
    receive(report);
    if (was !== newBundle && report.device.running === newBundle) {
      this.exposed.add(report.device.id);
      // One of an earlier wave that comes back late takes a version that its wave has proven.
      if (this.rollout.waves[execution.wave]!.state !== 'PASSED') this.unproven += 1;
      this.mostUnproven = Math.max(this.mostUnproven, this.unproven);
      if (this.unproven > this.plan.blastRadius.unprovenDevices) throw new Error(`${this.unproven} devices are on an unproven version; ${this.plan.blastRadius.unprovenDevices} were stated`);
    }
    if (execution.assignedAt !== null) this.follow(execution, report.at);
  }

  private timeOut(): void {
    const { installTimeoutS, rollbackTimeoutS } = this.rollout.settings;
    for (; this.overdue < this.told.length; this.overdue += 1) {
      const { execution: one, from } = this.told[this.overdue]!;
      // Who waits, or has gone on since, is in line again or will be.
      if (isSettled(one.state) || isWaiting(one) || from !== (one.timeoutFrom ?? one.assignedAt)) continue;
      if (this.now < from + installTimeoutS * 1_000) break;
      this.follow(one, this.now);
    }
    if (this.rollout.state === 'ROLLING_BACK') for (const one of this.byDevice.values()) if (one.rollbackAt !== null && this.now >= one.rollbackAt + rollbackTimeoutS * 1_000) this.follow(one, this.now);
  }

  private follow(execution: Execution, now: number): void {
    const { device, assignedAt, revision, rollback, rollbackRevision, rollbackAt } = execution;
    const to = follow(
      { device: device.id, state: execution.state, step: null, percent: null, failure: execution.failure, revision, bundle: newBundle, assignedAt: date(assignedAt), timeoutFrom: date(execution.timeoutFrom), rollbackState: rollback, rollbackRevision, rollbackAssignedAt: date(rollbackAt), previousBundle: oldBundle },
      seenOf(device), this.rollout.settings, new Date(now),
    );
    if (!to) return;
    const waits = to.state === 'QUEUED' ? to.failure : null;
    if (to.state !== execution.state || Boolean(waits) !== isWaiting(execution)) this.change(execution, to.state, waits);
    if (rollbackOpen(execution.rollback) && !rollbackOpen(to.rollbackState)) this.returning -= 1;
    execution.rollback = to.rollbackState;
  }

  private change(execution: Execution, to: RolloutExecutionState, waits: Execution['failure'] = null): void {
    const counts = this.counts[execution.wave]!;
    counts[execution.state] -= 1;
    counts[to] += 1;
    const open = Number(isOpen(to) && !waits) - Number(isOpen(execution.state) && !isWaiting(execution));
    if (open !== 0) this.openBySite.set(execution.device.site, (this.openBySite.get(execution.device.site) ?? 0) + open);
    if (waits || isWaiting(execution)) this.wait(execution, waits !== null, isOpen(to));
    if (to === 'SUCCEEDED') execution.settledAt = this.now;
    execution.state = to;
    execution.failure = waits;
  }

  /** It begins to wait, or waits no more; then its time begins anew. */
  private wait(execution: Execution, waits: boolean, goesOn: boolean): void {
    this.everWaited = true;
    this.waiting[execution.wave]! += Number(waits) - Number(isWaiting(execution));
    if (waits || !goesOn) return;
    execution.timeoutFrom = this.now;
    this.told.push({ execution, from: this.now });
  }

  private send(reports: readonly Report[]): void {
    for (const report of reports) this.reports.push(report);
  }

  private move(to: RolloutState, { reason }: Pick<Decision, 'reason'>): void {
    if (!mayMove(this.rollout.state, to)) throw new Error(`a rollout does not move from ${this.rollout.state} to ${to}`);
    this.rollout.state = to;
    this.reason = { code: reason.code, message: reason.message };
  }

  private say({ kind, reason }: Decision): void {
    const s = Math.round((this.now - this.start) / 1_000);
    const clock = [Math.floor(s / 3_600), Math.floor(s / 60) % 60, s % 60].map((part) => String(part).padStart(2, '0')).join(':');
    this.moves.push({ afterS: (this.now - this.start) / 1_000, wave: this.rollout.wave, code: reason.code, message: reason.message });
    this.transcript.push(`${clock} ${kind} ${reason.code}: ${reason.message}`);
  }
}
