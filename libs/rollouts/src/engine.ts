import { Inject, Injectable } from '@nestjs/common';
import { databaseGone, hint, prepared, type Clock, type Logger, type Tx } from '@reefkeeper/platform';
import type { Health } from '@reefkeeper/telemetry';
import { Telemetry } from '@reefkeeper/telemetry';
import { DataSource } from 'typeorm';
import { decide, lookMs, readsSamples, type Decision, type Facts } from './decide.ts';
import type { Fleet } from './fleet.ts';
import { follow, waitingSql, type Followup } from './follow.ts';
import { ExecutionRow, RolloutRow, WaveRow } from './rollout.entity.ts';
import { mayMove, reason, type DeviceSample, type Reason, type Rollout, type RolloutState, type Sample, type WaveState } from './rollout.ts';
import { tryLockWorkload } from './holders.ts';
import { joinMs } from './late.ts';
import { join, lateTaken, newcomersOf, supersededBy, type Newcomer } from './newcomers.ts';
import { holdCodes, noPaceFacts } from './pacing.ts';
import { observePace } from './pace-facts.ts';
import { tallyOf, type Tally } from './tally.ts';
import { lineUp, lostOnTheWay, tellNext } from './way-back.ts';

/** One locked rollout during a pass. */
interface Held { row: RolloutRow; waves: WaveRow[]; changed: boolean; /** What it waited for before this pass, and in which wave. */ waited?: Reason | null; wave?: number; newcomers?: Map<string, Newcomer> }

/** Devices that wait by their own word may do so for weeks; what they report is heard at once all the same. */
const waitingMs = 30_000;
/** How late a device that has left the version is noticed, unless its wave is about to pass. */
const askMs = 10_000;

/** Waits that people plan with; the others are part of every wave and would fill the log. */
const tellingWaits = new Set(['waits_for_freeze', 'waits_for_window']);

const executionColumns = `device_id AS "deviceId", wave, variant, state, step, percent, failure, revision::float8 AS revision, previous_bundle AS "previousBundle", previous_version_id AS "previousVersionId", previous_variant AS "previousVariant",
  baseline, assigned_at AS "assignedAt", timeout_from AS "timeoutFrom", rollback_state AS "rollbackState", rollback_revision::float8 AS "rollbackRevision", rollback_assigned_at AS "rollbackAssignedAt"`;

/** Rollouts `r` that are due at $1, that wait for one of the devices $2, or that are among $3. */
const awaited = `wait_until IS NOT NULL AND state IN ('SCHEDULED', 'RUNNING', 'PAUSED', 'ROLLING_BACK', 'SUCCEEDED')
  AND (wait_until <= $1 OR id = ANY($3::uuid[]) OR ($2::text[] <> '{}' AND EXISTS (SELECT 1 FROM rollout_executions e WHERE e.rollout_id = r.id AND e.device_id = ANY($2)
    AND (e.state IN ('QUEUED', 'IN_PROGRESS') OR e.rollback_state IN ('QUEUED', 'IN_PROGRESS')))))`;

const allAwaited = prepared(`SELECT id FROM rollouts r WHERE ${awaited} ORDER BY wait_until`);

const lockAwaited = prepared(`SELECT wait_until <= $1 AS due FROM rollouts r WHERE id = $4 AND ${awaited} FOR UPDATE SKIP LOCKED`);

/**
 * The shell around `decide`: lock, observe, decide, apply, all in one transaction per rollout. Invariants: only the holder of the row's lock
 * writes a rollout's waves and executions; a device is assigned at most once per rollout; nothing is remembered between passes but rows.
 */
@Injectable()
export class RolloutEngine {
  /** When a wave's telemetry was last read, and how long that took. A cache: losing it costs one look. */
  private readonly looks = new Map<string, { at: number; tookMs: number }>();
  /** Rollouts whose wave has soaked and only lacks samples: a window may move them. A cache, too; `wait_until` comes anyway. */
  private readonly thirsty = new Map<string, { sinceMs: number; lookMs: number }>();
  /** When a wave's telling was last written down. A cache, too: losing it costs one line of the log. */
  private readonly saidAt = new Map<string, number>();
  /** When a dynamic rollout last looked for devices that came to match. A cache, too: losing it costs one look. */
  private readonly joinedAt = new Map<string, number>();
  /** When devices were last asked whether they have left the version. A cache, too: losing it costs one look. */
  private readonly askedAt = new Map<string, number>();

  constructor(
    @Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock, @Inject('LOG') private readonly log: Logger,
    @Inject('FLEET') private readonly fleet: Fleet, @Inject(Telemetry) private readonly telemetry: Telemetry,
  ) {}

  /**
   * One pass over every rollout that is due, and over those that wait for one of `heardOf` or for telemetry. Any number of replicas may do this at once.
   * Returns how many rollouts were advanced.
   */
  async advanceDue(heardOf: readonly string[] = []): Promise<number> {
    const thirsty = this.thirstyNow();
    for (const id of thirsty) this.thirsty.delete(id);
    // Most looks find nothing: one statement without a transaction, which costs three.
    const candidates = await this.db.query<{ id: string }[]>(allAwaited, [this.clock.now(), heardOf, thirsty]);
    let advanced = 0;
    for (const { id } of candidates) {
      try {
        if (await this.db.transaction((tx) => this.advance(tx, id, heardOf, thirsty))) advanced += 1;
      } catch (error) {
        // One rollout that cannot be advanced must not hold up the others; it is tried again at the next pass.
        if (databaseGone(error)) throw error;
        this.log.error({ err: error, rollout: id }, 'rollout could not be advanced');
      }
    }
    return advanced;
  }

  /** @returns false when another replica holds it, or has advanced it meanwhile */
  private async advance(tx: Tx, id: string, heardOf: readonly string[], thirsty: readonly string[]): Promise<boolean> {
    const [taken] = await tx.query<{ due: boolean }[]>(lockAwaited, [this.clock.now(), heardOf, thirsty, id]);
    if (taken) await this.pass(tx, id, taken.due ? undefined : heardOf);
    return taken !== undefined;
  }

  /** Whether a window could move a rollout on. */
  get awaitsSamples(): boolean {
    return this.thirsty.size > 0;
  }

  /** Those that are worth a look: reading a wave's telemetry may take a fifth of the time, however often windows come. */
  private thirstyNow(): string[] {
    const now = performance.now();
    return [...this.thirsty].filter(([id, { sinceMs, lookMs }]) => now - sinceMs >= Math.min(lookMs, Math.max(100, 4 * (this.looks.get(id)?.tookMs ?? 0)))).map(([id]) => id);
  }

  /**
   * Advances one rollout whose row the caller has locked.
   * @param only the devices that were heard of, where the pass is not due yet: one in a wave of thousands is followed without reading the others
   */
  async pass(tx: Tx, id: string, only?: readonly string[]): Promise<void> {
    const held = await this.hold(tx, id);
    const before = JSON.stringify([held.row, held.waves]);
    const now = this.clock.now();
    const dueAt = held.row.waitUntil;
    Object.assign(held, { waited: held.row.waiting, wave: held.row.wave });
    held.row.waitUntil = null;
    held.row.waiting = null;
    // Each round either ends in a wait or moves a wave or the rollout on; a wave takes three rounds at most.
    for (let round = 0; round < 4 * held.waves.length + 8; round++) {
      const { facts, looked, open } = await this.observe(tx, held, now, only);
      const decisions = decide(domainOf(held), facts, now);
      for (const decision of decisions) await this.apply(tx, held, decision, looked, now);
      if (decisions.length === 0 || held.row.waitUntil) {
        // Paused by a person or a verdict: nothing moves, but what devices report is still taken in.
        if (held.row.state === 'PAUSED' && open) held.row.waitUntil = new Date(now.getTime() + (open === 'waiting' ? waitingMs : 1_000));
        break;
      }
    }
    if (!held.row.waitUntil && ['SCHEDULED', 'RUNNING', 'ROLLING_BACK'].includes(held.row.state)) held.row.waitUntil = new Date(now.getTime() + 1_000);
    // A look between does not put the whole one off, or devices whose hints are lost would wait for as long as others talk.
    if (only && dueAt && held.row.waitUntil && dueAt < held.row.waitUntil) held.row.waitUntil = dueAt;
    if (JSON.stringify([held.row, held.waves]) !== before) {
      await tx.save(RolloutRow, held.row, { reload: false });
      await tx.save(WaveRow, held.waves, { reload: false });
    }
    if (held.changed) await hint(tx, { kind: 'rollout', id });
  }

  async hold(tx: Tx, id: string): Promise<Held> {
    return {
      row: await tx.findOneOrFail(RolloutRow, { where: { id }, lock: { mode: 'pessimistic_write' } }),
      waves: await tx.find(WaveRow, { where: { rolloutId: id }, order: { index: 'ASC' } }),
      changed: false,
    };
  }

  /** Takes in what devices say, then counts. Terminal states are sticky, so a count never goes down. */
  private async observe(tx: Tx, held: Held, now: Date, only?: readonly string[]): Promise<{ facts: Facts; looked: boolean; open: false | 'waiting' | 'answering' }> {
    const { row } = held;
    await this.followOpen(tx, held, now, only);
    let tally = await tallyOf(tx, row, held.waves);
    const looked = readsSamples(domainOf(held), tally.counts, tally.waiting?.devices ?? 0, this.looks.get(row.id)?.at ?? 0, now.getTime());
    if ((looked || (row.state === 'SUCCEEDED' && tally.late.counts.SUCCEEDED > 0)) && await this.noteFaults(tx, held, now)) tally = await tallyOf(tx, row, held.waves);
    const { counts, late, open, rollback, ...rest } = tally;
    if (row.state === 'ROLLING_BACK' && rollback.failed + rollback.unanswered > 0) rollback.lost = await lostOnTheWay(tx, row.id);
    const telling = row.state === 'RUNNING' && counts.PENDING > 0 && held.waves[row.wave]?.state === 'RUNNING';
    // Reports come by the hundred; whom a big wave tells next is looked at when that is due.
    const later = telling && only !== undefined && row.wave === held.wave && holdCodes.has(held.waited?.code ?? '');
    const { pace, pinned } = later ? { pace: null, pinned: [] } : telling ? await observePace(tx, this.fleet, row, row.wave, now) : { pace: noPaceFacts, pinned: [] };
    const began = performance.now();
    const samples = looked ? await this.samples(tx, row) : [];
    if (looked) this.looks.set(row.id, { at: now.getTime(), tookMs: performance.now() - began });
    return { facts: { counts, pace, pinned, rollback, samples, ...rest, ...await this.observeJoining(tx, held, late, now) }, looked, open };
  }

  /** A success is one for good; that its device has left the version since is noted beside it. Returns whether any has. */
  private async noteFaults(tx: Tx, { row, waves }: Held, now: Date): Promise<boolean> {
    const askedAt = this.askedAt.get(row.id) ?? -Infinity;
    const soakedAt = (waves[row.wave]?.analysingAt?.getTime() ?? Infinity) + row.settings.soakS * 1_000;
    // Once more before the wave can pass.
    if (now.getTime() - askedAt < askMs && !(now.getTime() >= soakedAt && askedAt < soakedAt)) return false;
    const left = await this.fleet.left(tx, row, row.state === 'SUCCEEDED' ? waves.length : null);
    this.askedAt.set(row.id, now.getTime());
    if (left.size === 0) return false;
    const noted = await tx.query<[{ device: string; wave: number }[]]>(`
      UPDATE rollout_executions e SET fault = l.fault FROM unnest($2::text[], $3::jsonb[]) AS l(device_id, fault)
      WHERE e.rollout_id = $1 AND e.device_id = l.device_id AND e.fault IS NULL RETURNING e.device_id AS device, e.wave`, [row.id, [...left.keys()], [...left.values()].map((fault) => JSON.stringify(fault))]);
    await this.event(tx, row, noted[0].map(({ device, wave }) => {
      const { code, message } = left.get(device)!;
      return { kind: 'device', wave: wave < waves.length ? wave : null, actor: 'engine', reason: reason(code.replaceAll('.', '_'), `${device} has left the version after its success: ${message}`, { device, state: 'SUCCEEDED', fault: code }) };
    }));
    return true;
  }

  private async observeJoining(tx: Tx, held: Held, { counts, waiting, faults }: Tally['late'], now: Date): Promise<Pick<Facts, 'newcomers' | 'late'>> {
    const { row } = held;
    const succeeded = row.state === 'SUCCEEDED';
    if (!row.settings.dynamic || !(succeeded || row.state === 'RUNNING')) return {};
    const open = succeeded ? !row.lateStopped : held.waves.at(-1)!.state === 'PENDING';
    const due = open && now.getTime() - (this.joinedAt.get(row.id) ?? -Infinity) >= joinMs;
    const telling = succeeded && open && counts.PENDING > 0;
    // Nobody else may plan with these devices meanwhile; where somebody does, the next look sees what came of it.
    const ours = (due || telling) && await tryLockWorkload(tx, row.workload);
    held.newcomers = due && ours ? await newcomersOf(tx, this.fleet, row) : new Map();
    if (due && ours) this.joinedAt.set(row.id, now.getTime());
    const newcomers = [...held.newcomers.keys()];
    if (!succeeded) return { newcomers };
    const wave = held.waves.length;
    const { pace, pinned } = telling && ours ? await observePace(tx, this.fleet, row, wave, now) : { pace: noPaceFacts, pinned: [] };
    return { newcomers, late: { counts, waiting, faults, pace, pinned, taken: telling && ours ? await lateTaken(tx, row, wave) : [], superseded: open && await supersededBy(tx, row) } };
  }

  private async followOpen(tx: Tx, held: Held, now: Date, only?: readonly string[]): Promise<void> {
    const { row } = held;
    const executions = await tx.query<ExecutionRow[]>(`SELECT ${executionColumns} FROM rollout_executions WHERE rollout_id = $1 AND (state IN ('QUEUED', 'IN_PROGRESS') OR rollback_state IN ('QUEUED', 'IN_PROGRESS')) AND ($2::text[] IS NULL OR device_id = ANY($2))`, [row.id, only ?? null]);
    if (executions.length === 0) return;
    const seen = await this.fleet.seen(tx, executions.map(({ deviceId }) => deviceId), row.workload);
    const gone = { retired: true, wantedBundle: null, observedRevision: null, running: null, execution: null };
    const moved = executions.flatMap((execution) => {
      const to = follow({ ...execution, device: execution.deviceId, bundle: row.bundle }, seen.get(execution.deviceId) ?? gone, row.settings, now);
      return to ? [{ execution, to }] : [];
    });
    if (moved.length === 0) return;
    await this.write(tx, row.id, moved.map(({ execution, to }) => ({ device: execution.deviceId, to })), now);
    held.changed = true;
    const told = moved.filter(({ execution, to }) => to.failure && (to.state !== execution.state || to.failure.code !== execution.failure?.code));
    await this.event(tx, row, told.map(({ execution, to }) => ({ kind: 'device', wave: execution.wave, actor: 'engine', reason: reason(to.failure!.code.replaceAll('.', '_'), `${execution.deviceId}: ${to.failure!.message}`, { device: execution.deviceId, state: to.state }) })));
    const lost = moved.filter(({ execution, to }) => to.rollbackState !== execution.rollbackState && to.rollbackFailure);
    await this.event(tx, row, lost.map(({ execution, to }) => ({ kind: 'device', wave: execution.wave, actor: 'engine', reason: reason(`rollback_${to.rollbackFailure!.code.replaceAll('.', '_')}`, `${execution.deviceId}, on the way back: ${to.rollbackFailure!.message}`, { device: execution.deviceId, rollback: to.rollbackState }) })));
  }

  private async write(tx: Tx, id: string, moved: { device: string; to: Followup }[], now: Date): Promise<void> {
    await tx.query(`
      UPDATE rollout_executions e SET state = m.state, step = m.step, percent = m.percent, failure = CASE WHEN e.state IN ('QUEUED', 'IN_PROGRESS') THEN m.failure ELSE coalesce(m.failure, e.failure) END, transfer = coalesce(m.transfer, e.transfer),
        timeout_from = CASE WHEN ${waitingSql('e.')} AND (m.state <> 'QUEUED' OR m.failure IS NULL) THEN $9::timestamptz ELSE e.timeout_from END, rollback_state = m.rollback_state, rollback_failure = coalesce(m.rollback_failure, e.rollback_failure),
        settled_at = CASE WHEN e.settled_at IS NULL AND m.state NOT IN ('PENDING', 'QUEUED', 'IN_PROGRESS') THEN $9::timestamptz ELSE e.settled_at END,
        rollback_settled_at = CASE WHEN m.rollback_state NOT IN ('QUEUED', 'IN_PROGRESS') THEN $9::timestamptz ELSE e.rollback_settled_at END
      FROM unnest($2::text[], $3::text[], $4::text[], $5::real[], $6::jsonb[], $7::text[], $8::jsonb[], $10::jsonb[]) AS m(device_id, state, step, percent, failure, rollback_state, rollback_failure, transfer)
      WHERE e.rollout_id = $1 AND e.device_id = m.device_id`,
      [id, moved.map(({ device }) => device), moved.map(({ to }) => to.state), moved.map(({ to }) => to.step), moved.map(({ to }) => to.percent), moved.map(({ to }) => to.failure && JSON.stringify(to.failure)),
        moved.map(({ to }) => to.rollbackState), moved.map(({ to }) => to.rollbackFailure && JSON.stringify(to.rollbackFailure)), now, moved.map(({ to }) => to.transfer && JSON.stringify(to.transfer))]);
  }

  private async samples(tx: Tx, row: RolloutRow): Promise<DeviceSample[]> {
    const updated = await tx.query<ExecutionRow[]>(`SELECT ${executionColumns} FROM rollout_executions WHERE rollout_id = $1 AND wave = $2 AND state = 'SUCCEEDED' AND fault IS NULL`, [row.id, row.wave]);
    const health = await this.telemetry.healthOfEach(tx, row.workload, updated.map(({ deviceId, assignedAt }) => ({ device: deviceId, bundle: row.bundle, from: assignedAt! })));
    const shadow = row.settings.gates.shadowAgreement ? await this.telemetry.shadowOfEach(tx, row.workload, updated.map(({ deviceId, assignedAt }) => ({ device: deviceId, bundle: row.bundle, from: assignedAt! }))) : undefined;
    return updated.map(({ deviceId, baseline, previousBundle }) => ({ device: deviceId, baseline, first: previousBundle === null, current: sampleOf(health.get(deviceId), shadow?.get(deviceId)) }));
  }

  private async apply(tx: Tx, held: Held, decision: Decision, looked: boolean, now: Date): Promise<void> {
    const { row } = held;
    const wave = held.waves[row.wave];
    // Whoever came after the success is in no wave.
    const say = (kind: string, at: number | null = row.state === 'SUCCEEDED' ? null : row.wave) => this.event(tx, row, [{ kind, wave: at, reason: decision.reason, actor: 'engine' }]);
    switch (decision.kind) {
      case 'wait': {
        row.waitUntil = decision.until;
        row.waiting = decision.reason;
        if (decision.reason.code === 'awaiting_samples') this.thirsty.set(row.id, { sinceMs: performance.now(), lookMs: lookMs(row.settings.soakS) });
        if (held.waited?.code === decision.reason.code) return;
        if (tellingWaits.has(decision.reason.code)) await say('waiting');
        held.changed = true;
        return;
      }
      case 'judge': if (looked && wave) { held.changed ||= JSON.stringify(wave.verdicts) !== JSON.stringify(decision.verdicts); wave.verdicts = decision.verdicts; } return;
      case 'begin': this.move(held, 'RUNNING', decision.reason, now); await say('started', null); break;
      case 'openWave': row.wave = decision.wave; moveWave(held, decision.wave, 'RUNNING', now); await say('wave_opened'); break;
      case 'assign': {
        await this.assign(tx, row, decision.devices, now);
        // A wave that is told bit by bit says so once a minute, and at its end.
        const saidAt = this.saidAt.get(row.id) ?? -Infinity;
        if (decision.reason.code === 'wave_assigned' || now.getTime() - saidAt >= 60_000) { await say('assigned'); this.saidAt.set(row.id, now.getTime()); }
        break;
      }
      case 'join': await join(tx, held, decision.wave, new Map(decision.devices.map((id) => [id, held.newcomers!.get(id)!]))); await say('joined', decision.wave < held.waves.length ? decision.wave : null); break;
      case 'stopJoining': {
        row.lateStopped = decision.reason;
        await tx.query("UPDATE rollout_executions SET state = 'CANCELED', settled_at = $2, failure = jsonb_build_object('code', 'rollout.' || $3::text, 'message', $4::text) WHERE rollout_id = $1 AND state = 'PENDING'", [row.id, now, decision.reason.code, decision.reason.message]);
        await say('joining_stopped', null);
        break;
      }
      case 'leaveOut': await this.leaveOut(tx, row, decision.devices, decision.reason.code === 'devices_taken' ? { code: 'execution.superseded', message: 'Another rollout had the device before it was told.' } : { code: 'device.pinned', message: 'The device was pinned before it was told.' }, now); await say('left_out'); break;
      case 'analyse': moveWave(held, row.wave, 'ANALYSING', now); if (decision.anew) wave!.analysingAt = now; wave!.deadlineAt = decision.until; wave!.endedAt = null; await say('wave_analysing'); break;
      case 'closeWave': wave!.verdicts = decision.verdicts; moveWave(held, row.wave, decision.as, now); if (decision.as === 'PASSED') await this.endWaits(tx, row, now); await say(`wave_${decision.as.toLowerCase()}`); break;
      case 'pause': this.move(held, 'PAUSED', decision.reason, now); await say('paused'); break;
      case 'rollBack': await this.startRollback(tx, held, decision.reason, 'engine'); break;
      case 'tellBack': await tellNext(tx, this.fleet, row, decision.devices, now); if (decision.reason.code === 'rollback_wave') await say('telling_back', null); break;
      case 'complete': this.move(held, 'SUCCEEDED', decision.reason, now); await say('succeeded', null); break;
      case 'endRollback': {
        // Why it went back stays the reason of the state; how the way back went is added to it.
        const why = { ...row.stateReason, numbers: { ...row.stateReason.numbers, rollback: decision.reason.numbers } };
        this.move(held, 'ROLLED_BACK', why, now);
        await say('rolled_back', null);
        break;
      }
    }
    held.changed = true;
    if (decision.kind !== 'assign' && decision.kind !== 'tellBack') this.log.info({ rollout: row.id, decision: decision.kind, code: decision.reason.code, state: row.state }, decision.reason.message);
  }

  /** @throws never for a legal move; an illegal one is a bug in decide(), caught here before it is stored */
  move(held: Held, to: RolloutState, why: Reason, now: Date): void {
    const { row } = held;
    if (!mayMove(row.state, to)) throw new Error(`a rollout does not move from ${row.state} to ${to}`);
    row.state = to;
    row.stateReason = why;
    if (to === 'RUNNING') row.startedAt ??= now;
    row.endedAt = ['SUCCEEDED', 'ROLLED_BACK', 'ABORTED'].includes(to) ? now : null;
    held.changed = true;
  }

  private async assign(tx: Tx, row: RolloutRow, ids: readonly string[], now: Date): Promise<void> {
    const executions = await tx.query<ExecutionRow[]>(`SELECT ${executionColumns} FROM rollout_executions WHERE rollout_id = $1 AND device_id = ANY($2) AND state = 'PENDING'`, [row.id, ids]);
    const previous = await this.fleet.placed(tx, executions.map(({ deviceId }) => deviceId), row.workload);
    const questions = [...previous].flatMap(([device, before]) => (before ? [{ device, bundle: before.bundle, to: now, lastS: row.settings.baselineWindowS }] : []));
    const baseline = await this.telemetry.healthOfEach(tx, row.workload, questions);
    const revisions = await this.fleet.assign(tx, {
      workload: row.workload, policy: row.settings.policy, rollback: false,
      devices: new Map(executions.filter(({ deviceId }) => previous.has(deviceId)).map(({ deviceId, variant }) => [deviceId, { bundle: row.bundle, versionId: row.versionId, variant }])),
    });
    const column = <T>(pick: (execution: ExecutionRow) => T): T[] => executions.map(pick);
    await tx.query(`
      UPDATE rollout_executions e SET state = CASE WHEN a.revision IS NULL THEN 'REMOVED' ELSE 'QUEUED' END, revision = a.revision, assigned_at = $8::timestamptz, settled_at = CASE WHEN a.revision IS NULL THEN $8::timestamptz END,
        failure = CASE WHEN a.revision IS NULL THEN '{"code":"device.retired","message":"The device was retired."}'::jsonb END,
        previous_bundle = a.bundle, previous_version_id = a.version_id, previous_variant = a.variant, baseline = a.baseline
      FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::jsonb[]) AS a(device_id, revision, bundle, version_id, variant, baseline)
      WHERE e.rollout_id = $1 AND e.device_id = a.device_id`,
      [row.id, column(({ deviceId }) => deviceId), column(({ deviceId }) => revisions.get(deviceId) ?? null), column(({ deviceId }) => previous.get(deviceId)?.bundle ?? null), column(({ deviceId }) => previous.get(deviceId)?.versionId ?? null),
        column(({ deviceId }) => previous.get(deviceId)?.variant ?? null), column(({ deviceId }) => (baseline.has(deviceId) ? JSON.stringify(sampleOf(baseline.get(deviceId))) : null)), now]);
  }

  /** A wave that has passed is over for those that still wait, too: as for devices that never answered, what they do later counts nowhere. */
  private async endWaits(tx: Tx, row: RolloutRow, now: Date): Promise<void> {
    await tx.query(`UPDATE rollout_executions SET state = 'TIMED_OUT', settled_at = $3, failure = jsonb_build_object('code', failure ->> 'code', 'message', 'It was still waiting when its wave had passed, and takes the version when it may. ' || (failure ->> 'message')) WHERE rollout_id = $1 AND wave = $2 AND ${waitingSql()}`, [row.id, row.wave, now]);
  }

  private async leaveOut(tx: Tx, row: RolloutRow, ids: readonly string[], why: { code: string; message: string }, now: Date): Promise<void> {
    await tx.query("UPDATE rollout_executions SET state = 'CANCELED', settled_at = $3, failure = $4 WHERE rollout_id = $1 AND device_id = ANY($2) AND state = 'PENDING'", [row.id, ids, now, JSON.stringify(why)]);
  }

  /** Every device that was told goes back to its own previous bundle, from its own disk, in the waves of the way back; those not told yet never are. */
  async startRollback(tx: Tx, held: Held, why: Reason, actor: string): Promise<void> {
    const { row } = held;
    const now = this.clock.now();
    const devices = await lineUp(tx, this.fleet, row, now);
    for (const wave of held.waves) if (wave.state === 'PENDING' || wave.state === 'RUNNING' || wave.state === 'ANALYSING') moveWave(held, wave.index, 'SKIPPED', now);
    this.move(held, 'ROLLING_BACK', why, now);
    await this.event(tx, row, [{ kind: 'rolling_back', wave: row.wave, reason: { ...why, numbers: { ...why.numbers, devices } }, actor }]);
  }

  async event(tx: Tx, row: RolloutRow, events: readonly { kind: string; wave: number | null; reason: Reason; actor: string }[]): Promise<void> {
    if (events.length === 0) return;
    await tx.query(`
      INSERT INTO rollout_events (rollout_id, at, kind, wave, code, message, numbers, actor)
      SELECT $1, $2, * FROM unnest($3::text[], $4::int[], $5::text[], $6::text[], $7::jsonb[], $8::text[])`,
      [row.id, this.clock.now(), events.map(({ kind }) => kind), events.map(({ wave }) => wave), events.map(({ reason }) => reason.code), events.map(({ reason }) => reason.message), events.map(({ reason }) => JSON.stringify(reason.numbers)), events.map(({ actor }) => actor)]);
  }
}

export function moveWave(held: { waves: WaveRow[] }, index: number, to: WaveState, now: Date): void {
  const wave = held.waves[index]!;
  wave.state = to;
  if (to === 'RUNNING') wave.startedAt = now;
  if (to === 'ANALYSING') wave.analysingAt ??= now;
  if (to === 'PASSED' || to === 'FAILED' || to === 'INCONCLUSIVE' || to === 'SKIPPED') wave.endedAt = now;
}

function domainOf({ row, waves, waited = null }: Held): Rollout {
  return { id: row.id, state: row.state, wave: row.wave, settings: row.settings, waves, startAt: row.startAt, stopAt: row.stopAt, waiting: waited, lateStopped: row.lateStopped };
}

export function sampleOf(health: Health | undefined, shadow?: { frames: number; agreed: number }): Sample {
  const quantile = (q: number): number | null => health?.latency.quantile(q) ?? null;
  return {
    inferences: health?.inferences ?? 0, errors: health?.errors ?? 0, p50Us: quantile(0.5), p95Us: quantile(0.95), p99Us: quantile(0.99), labelled: health?.labelled ?? 0, correct: health?.correct ?? 0,
    temperatureC: health?.temperatureC ?? null, drift: health?.drift ?? null, metrics: health?.metrics ?? {}, shadow: shadow ? { frames: shadow.frames, agreed: shadow.agreed } : null,
  };
}
