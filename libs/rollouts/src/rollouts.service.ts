import { randomUUID } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { matches, parseSelector, selectorHints } from '@reefkeeper/devices';
import { hint, ReefError, type Clock, type Logger, type Tx } from '@reefkeeper/platform';
import type { LatencyFeatures } from '@reefkeeper/edgetpu';
import { agentWorkload } from '@reefkeeper/protocol';
import { Registry, refOf, Version } from '@reefkeeper/registry';
import { Telemetry } from '@reefkeeper/telemetry';
import { DataSource, In } from 'typeorm';
import { moveWave, RolloutEngine } from './engine.ts';
import { explain, type Explanation } from './explain.ts';
import { answeringSql, waitingSql } from './follow.ts';
import { forecastOf, type Forecast } from './forecast.ts';
import { holdersOf, refuseHeld } from './holders.ts';
import type { Fleet } from './fleet.ts';
import { bytesOf, candidateOf } from './candidates.ts';
import { activeFreezes } from './freezes.service.ts';
import { freezeFinder } from './pace-facts.ts';
import { noPace } from './pacing.ts';
import { siteLimitsOf } from './site-budgets.ts';
import { limitFor } from './site-shares.ts';
import { timingOf, type Timing } from './timing.ts';
import { planWaves, type Excluded, type Plan, type PlanFault } from './plan.ts';
import { RolloutRow, WaveRow } from './rollout.entity.ts';
import { devicesIn, endedStates, forAgents, mayMove, reason, settingsFor, strata, type AbortMode, type AdvanceRollout, type CreateRollout, type Reason, type RolloutState, type Settings } from './rollout.ts';
import { viewOf, type RolloutView } from './views.ts';

export type RolloutPreview = Plan & { settings: Settings; version: string; bundle: string; forecast: Forecast[]; timing: Timing };

/** Devices that a forecast looks at: more say nothing new. */
const mostForecast = 2_000;
const forecastWindowS = 1_800;

/** What people do with rollouts. Each verb checks the move and writes it with its event in one transaction; the engine does the rest. */
@Injectable()
export class Rollouts {
  constructor(
    @Inject(DataSource) private readonly db: DataSource, @Inject('CLOCK') private readonly clock: Clock, @Inject('LOG') private readonly log: Logger,
    @Inject('FLEET') private readonly fleet: Fleet, @Inject(Registry) private readonly registry: Registry, @Inject(RolloutEngine) private readonly engine: RolloutEngine, @Inject(Telemetry) private readonly telemetry: Telemetry,
  ) {}

  /** Who would get it, when, how fast it will be there, and what is at stake. Changes nothing. @throws as `create` */
  async preview(body: CreateRollout): Promise<RolloutPreview> {
    const version = await this.ready(body.version);
    const { plan, settings, timing } = await this.plan(this.db.manager, body, version);
    return { ...plan, settings, timing, version: refOf(version), bundle: version.bundleDigest!, forecast: await this.forecast(plan, body, version) };
  }

  /** Why it is where it is, what it waits for, what would move it. @throws ReefError `rollout.missing` */
  async explain(id: string): Promise<Explanation> {
    const view = await viewOf(this.db, id);
    const rows = await this.db.query<{ device: string; at: Date | null; open: string; waiting: string; untold: string; timedOut: string }[]>(`
      SELECT device_id AS device, min(coalesce(timeout_from, assigned_at)) FILTER (WHERE answers) OVER () AS at, count(*) FILTER (WHERE answers) OVER () AS open,
        count(*) FILTER (WHERE waits) OVER () AS waiting,
        count(*) FILTER (WHERE state = 'PENDING') OVER () AS untold, count(*) FILTER (WHERE state = 'TIMED_OUT') OVER () AS "timedOut"
      FROM (SELECT *, ${waitingSql()} AS waits, ${answeringSql()} AS answers FROM rollout_executions WHERE rollout_id = $1 AND wave = $2 AND NOT skipped AND state IN ('PENDING', 'QUEUED', 'IN_PROGRESS', 'TIMED_OUT')) e
      ORDER BY waits, array_position(ARRAY['IN_PROGRESS', 'QUEUED', 'TIMED_OUT', 'PENDING'], state), device_id LIMIT 5`, [id, view.wave]);
    const [first] = rows;
    if (!first || view.waves[view.wave]?.state === 'PENDING') return explain(view, { open: 0, waiting: 0, untold: 0, timedOut: 0, devices: [], nextTimeoutAt: null });
    return explain(view, {
      open: Number(first.open), waiting: Number(first.waiting), untold: Number(first.untold), timedOut: Number(first.timedOut), devices: rows.map(({ device }) => device),
      nextTimeoutAt: first.at && new Date(first.at.getTime() + view.settings.installTimeoutS * 1_000),
    });
  }

  private async forecast(plan: Plan, { selector, workload }: CreateRollout, version: Version): Promise<Forecast[]> {
    const variants = new Map(plan.waves.flatMap(({ devices }) => devices.map(({ id, variant }) => [id, variant] as const)).slice(0, mostForecast));
    const devices = (await this.fleet.select(this.db.manager, selector, workload)).filter(({ id }) => variants.has(id));
    const health = await this.telemetry.healthOfEach(this.db, workload, devices.flatMap(({ id, running }) => (running ? [{ device: id, bundle: running, lastS: forecastWindowS }] : [])), 'invoke');
    const known = await this.db.getRepository(Version).find({ where: { bundleDigest: In([...new Set(devices.flatMap(({ running }) => running ?? []))]) }, relations: { variants: true } });
    return forecastOf(devices.map(({ id, capabilities, running, variant }) => {
      const us = health.get(id)?.latency.quantile(0.5);
      return {
        hostClass: capabilities?.hostClass ?? 'unknown', variant: variants.get(id)!, features: featuresOf(version, variants.get(id)!),
        now: us === undefined ? null : { ms: us / 1_000, features: variant ? featuresOf(known.find(({ bundleDigest }) => bundleDigest === running), variant) : null },
      };
    }));
  }

  /**
   * @throws ReefError `version.missing`, `rollout.version_not_ready`, `rollout.version_unconfirmed`, `selector.*`, `rollout.no_device`, `rollout.no_healthy_canary`, `rollout.wave_empty`, `rollout.empty_plan`, `rollout.overlaps`
   */
  async create(body: CreateRollout, actor: string): Promise<RolloutView> {
    const version = await this.ready(body.version);
    if (version.hold && !version.confirmedAt) {
      throw new ReefError('rollout.version_unconfirmed', 'conflict', `${refOf(version)} is not rolled out before somebody has confirmed it. ${version.hold.message} Look at it, then: reef model confirm ${refOf(version)}`, { detail: { version: refOf(version), hold: version.hold } });
    }
    const id = await this.db.transaction(async (tx) => {
      await lockWorkload(tx, body.workload);
      const { plan, settings } = await this.plan(tx, body, version);
      const now = this.clock.now();
      const row = tx.create(RolloutRow, {
        id: randomUUID(), name: body.name ?? `${refOf(version)} for ${body.workload}`, versionRef: refOf(version), versionId: version.id, bundle: version.bundleDigest!, workload: body.workload, selector: body.selector,
        state: 'DRAFT', stateReason: reason('created', 'Created, not started.'), wave: 0, settings, supersede: body.supersede, waitUntil: null, startAt: body.startAt ? new Date(body.startAt) : null, stopAt: body.stopAt ? new Date(body.stopAt) : null, waiting: null, lateStopped: null,
        plan: { ...plan, waves: plan.waves.map(({ devices: _devices, ...wave }) => wave) },
        createdAt: now, createdBy: actor, startedAt: null, endedAt: null,
      });
      await tx.insert(RolloutRow, row as object);
      await tx.insert(WaveRow, plan.waves.map(({ index, size }) => ({ rolloutId: row.id, index, size, state: 'PENDING', verdicts: [], startedAt: null, analysingAt: null, deadlineAt: null, endedAt: null })) as object[]);
      const bytes = bytesOf(version, body.policy);
      const planned = plan.waves.flatMap(({ index, devices }) => devices.map((device) => ({ index, ...device })));
      await tx.query(`INSERT INTO rollout_executions (rollout_id, device_id, wave, variant, bytes, state) SELECT $1, *, 'PENDING' FROM unnest($2::text[], $3::int[], $4::text[], $5::bigint[])`,
        [row.id, planned.map(({ id }) => id), planned.map(({ index }) => index), planned.map(({ variant }) => variant), planned.map(({ variant }) => bytes(variant))]);
      await this.engine.event(tx, row, [{ kind: 'created', wave: null, actor, reason: reason('created', `${devicesIn(plan.eligible)} in ${plan.waves.length} ${plan.waves.length === 1 ? 'wave' : 'waves'}, ${plan.excluded.length} left out. ${plan.blastRadius.statement}`, { eligible: plan.eligible, excluded: plan.excluded.length, blastRadius: plan.blastRadius }) }]);
      if (body.requireApproval) await this.enter(tx, row, 'AWAITING_APPROVAL', reason('approval_required', 'Waits for an approver.'), actor);
      else if (body.start) await this.launch(tx, row, actor);
      await hint(tx, { kind: 'rollout', id: row.id });
      return row.id;
    });
    this.log.info({ rollout: id, actor, version: refOf(version), workload: body.workload }, 'rollout created');
    return viewOf(this.db, id);
  }

  async start(id: string, actor: string): Promise<RolloutView> {
    return this.verb(id, async (tx, row) => {
      if (row.state === 'AWAITING_APPROVAL') throw new ReefError('rollout.not_approved', 'conflict', 'This rollout waits for an approver; it starts once approved.');
      if (row.state !== 'DRAFT') throw illegal(row, 'started', 'Only a draft is started; a paused rollout is resumed.');
      await this.launch(tx, row, actor);
    });
  }

  /** Four eyes: whoever created it cannot approve it. */
  async approve(id: string, actor: string): Promise<RolloutView> {
    return this.verb(id, async (tx, row) => {
      if (row.state !== 'AWAITING_APPROVAL') throw illegal(row, 'approved', 'Only a rollout that awaits approval can be.');
      if (row.createdBy === actor) throw new ReefError('rollout.own_approval', 'forbidden', 'A rollout is approved by somebody other than who created it.');
      await this.engine.event(tx, row, [{ kind: 'approved', wave: null, actor, reason: reason('approved', `Approved by ${actor}.`) }]);
      await this.launch(tx, row, actor);
    });
  }

  async pause(id: string, actor: string): Promise<RolloutView> {
    return this.verb(id, async (tx, row) => {
      if (row.state !== 'RUNNING') throw illegal(row, 'paused', 'Only a running rollout is paused.');
      await this.enter(tx, row, 'PAUSED', reason('paused_by_person', `Paused by ${actor}.`), actor);
      row.waitUntil = this.clock.now();
    });
  }

  /** The same wave is judged again, with every sample that came since and a new deadline. */
  async resume(id: string, actor: string): Promise<RolloutView> {
    return this.verb(id, async (tx, row, waves) => {
      if (row.state !== 'PAUSED') throw illegal(row, 'resumed', 'Only a paused rollout is resumed.');
      const now = this.clock.now();
      const wave = waves[row.wave];
      // The stop time has done its work; a person goes on.
      if (row.stopAt && row.stopAt <= now) row.stopAt = null;
      if (wave?.deadlineAt) wave.deadlineAt = deadlineFrom(now, wave.deadlineAt, row.settings);
      await this.enter(tx, row, 'RUNNING', reason('resumed', `Resumed by ${actor}.`), actor);
      row.waitUntil = now;
    });
  }

  /**
   * `stop-new`: nobody else is told; devices keep what they were told. `recall`: devices that were told go back to their own previous bundle.
   */
  async abort(id: string, mode: AbortMode | undefined, actor: string): Promise<RolloutView> {
    return this.verb(id, async (tx, row, waves) => {
      const chosen = mode ?? row.settings.abortMode;
      const told = row.state === 'RUNNING' || row.state === 'PAUSED';
      if (chosen === 'recall' && told) return this.back(tx, row, waves, reason('recalled', `Recalled by ${actor}.`), actor);
      if (!mayMove(row.state, 'ABORTED')) throw illegal(row, 'aborted', 'It has ended or is on its way back already.');
      await this.stop(tx, row, waves, reason('aborted', `Aborted by ${actor}: nobody else is told, devices keep what they were told.`), actor);
    });
  }

  /** Every device that was told goes back. Also takes back a success, on devices that no newer rollout has taken over. */
  async rollback(id: string, actor: string): Promise<RolloutView> {
    return this.verb(id, async (tx, row, waves) => {
      if (!mayMove(row.state, 'ROLLING_BACK')) throw illegal(row, 'rolled back', 'No device has been told by it, or it has gone back already.');
      if (endedStates.has(row.state)) await refuseHeld(tx, this.fleet, row);
      await this.back(tx, row, waves, reason('rollback_by_person', `Rolled back by ${actor}.`), actor);
    });
  }

  /** Past the current wave without its verdict: a person answers for it. Devices that have not answered keep what they were told. */
  async advance(id: string, actor: string, { skipPending = false }: Partial<AdvanceRollout> = {}): Promise<RolloutView> {
    if (skipPending) return this.skipPending(id, actor);
    return this.verb(id, async (tx, row, waves) => {
      if (row.state !== 'RUNNING' && row.state !== 'PAUSED') throw illegal(row, 'advanced', 'Only a running or paused rollout has a wave to pass.');
      const now = this.clock.now();
      const wave = waves[row.wave];
      if (wave && wave.state !== 'PASSED' && wave.state !== 'SKIPPED') {
        await tx.query(`UPDATE rollout_executions SET state = 'CANCELED', settled_at = $3, failure = '{"code":"execution.skipped","message":"An operator went past the wave before this device had answered."}'
          WHERE rollout_id = $1 AND wave = $2 AND state IN ('PENDING', 'QUEUED', 'IN_PROGRESS')`, [row.id, row.wave, now]);
        moveWave({ waves }, row.wave, 'SKIPPED', now);
      }
      const why = reason('advanced_by_person', `${actor} went past wave ${row.wave + 1} without its verdict.`, { wave: row.wave });
      await this.goOn(tx, row, why, actor);
      row.waitUntil = now;
    });
  }

  /** The devices of the wave that have not answered are left out, the others judged: the same wave, a smaller group. */
  private async skipPending(id: string, actor: string): Promise<RolloutView> {
    return this.verb(id, async (tx, row, waves) => {
      if (row.state !== 'RUNNING' && row.state !== 'PAUSED') throw illegal(row, 'advanced', 'Only a running or paused rollout has a wave to pass.');
      const now = this.clock.now();
      const left = await tx.query<{ device: string }[]>(`
        WITH left_out AS (
          UPDATE rollout_executions SET skipped = true, state = CASE WHEN state = 'TIMED_OUT' THEN state ELSE 'CANCELED' END, settled_at = coalesce(settled_at, $3),
            failure = coalesce(failure, '{"code":"execution.skipped","message":"An operator left it out of the wave before it had answered."}')
          WHERE rollout_id = $1 AND wave = $2 AND NOT skipped AND state IN ('PENDING', 'QUEUED', 'IN_PROGRESS', 'TIMED_OUT') RETURNING device_id
        ) SELECT device_id AS device FROM left_out ORDER BY device_id`, [row.id, row.wave, now]);
      const wave = waves[row.wave];
      if (left.length === 0 || !wave || wave.state === 'PENDING') {
        throw new ReefError('rollout.nothing_pending', 'conflict', `Every device of wave ${row.wave + 1} of "${row.name}" has answered, so there is none to leave out. \`resume\` judges the wave again, \`advance\` goes past it without a verdict.`, { detail: { rollout: row.id, wave: row.wave } });
      }
      if (wave.deadlineAt) wave.deadlineAt = deadlineFrom(now, wave.deadlineAt, row.settings);
      const why = reason('pending_skipped', `${actor} left ${devicesIn(left.length)} of wave ${row.wave + 1} out that had not answered; the others are judged.`, { wave: row.wave, devices: left.map(({ device }) => device) });
      await this.goOn(tx, row, why, actor);
      row.waitUntil = now;
    });
  }

  /** It runs on, for another reason than before. */
  private async goOn(tx: Tx, row: RolloutRow, why: Reason, actor: string): Promise<void> {
    if (row.state === 'PAUSED') return this.enter(tx, row, 'RUNNING', why, actor);
    row.stateReason = why;
    await this.engine.event(tx, row, [{ kind: 'advanced', wave: row.wave, actor, reason: why }]);
  }

  private async verb(id: string, act: (tx: Tx, row: RolloutRow, waves: WaveRow[]) => Promise<void>): Promise<RolloutView> {
    await this.db.transaction(async (tx) => {
      // The workload's lock comes before the row's, as in `create`; else two verbs could wait for each other.
      const [found] = /^[0-9a-f-]{36}$/i.test(id) ? await tx.query<{ workload: string }[]>('SELECT workload FROM rollouts WHERE id = $1', [id]) : [];
      if (!found) throw new ReefError('rollout.missing', 'not_found', `There is no rollout ${id}.`, { detail: { rollout: id } });
      await lockWorkload(tx, found.workload);
      const { row, waves } = await this.engine.hold(tx, id);
      await act(tx, row, waves);
      await tx.save(RolloutRow, row, { reload: false });
      await tx.save(WaveRow, waves, { reload: false });
      await hint(tx, { kind: 'rollout', id });
    });
    return viewOf(this.db, id);
  }

  /** Takes the devices and lets the engine have it. */
  private async launch(tx: Tx, row: RolloutRow, actor: string): Promise<void> {
    await this.claim(tx, row, actor);
    const now = this.clock.now();
    const later = row.startAt && row.startAt > now;
    await this.enter(tx, row, later ? 'SCHEDULED' : 'RUNNING', later ? reason('scheduled', `Starts at ${row.startAt!.toISOString()}.`) : reason('started', `Started by ${actor}.`), actor);
    row.waitUntil = later ? row.startAt : now;
    await tx.save(RolloutRow, row, { reload: false });
  }

  /**
   * Two rollouts never hold the same workload of a device. The newer is refused, or stops the older where its creator said `supersede`;
   * one on its way back is always let finish, since cutting it short would leave devices on the bad version.
   */
  private async claim(tx: Tx, row: RolloutRow, actor: string): Promise<void> {
    const overlapping = await holdersOf(tx, row);
    if (overlapping.length === 0) return;
    const returning = overlapping.filter(({ state }) => state === 'ROLLING_BACK');
    if (!row.supersede || returning.length > 0) {
      const [first] = returning.length > 0 ? returning : overlapping;
      throw new ReefError('rollout.overlaps', 'conflict', `Rollout "${first!.name}" (${first!.state}) holds ${first!.devices.length} of these devices for ${row.workload}. ${returning.length > 0 ? 'Wait until it has gone back.' : 'Wait for it, abort it, or create this one with "supersede": true.'}`, { detail: { rollouts: overlapping.map(({ id, state, devices }) => ({ id, state, devices: devices.length })) } });
    }
    for (const { id } of overlapping) {
      const { row: older, waves } = await this.engine.hold(tx, id);
      await this.stop(tx, older, waves, reason('superseded', `Superseded by "${row.name}".`, { by: row.id }), actor);
      await tx.save(RolloutRow, older, { reload: false });
      await tx.save(WaveRow, waves, { reload: false });
      await hint(tx, { kind: 'rollout', id });
    }
  }

  private async stop(tx: Tx, row: RolloutRow, waves: WaveRow[], why: Reason, actor: string): Promise<void> {
    const now = this.clock.now();
    await tx.query(`UPDATE rollout_executions SET state = 'CANCELED', settled_at = $2, failure = jsonb_build_object('code', 'rollout.' || $3::text, 'message', $4::text) WHERE rollout_id = $1 AND state IN ('PENDING', 'QUEUED', 'IN_PROGRESS')`, [row.id, now, why.code, why.message]);
    for (const wave of waves) if (wave.state === 'PENDING' || wave.state === 'RUNNING' || wave.state === 'ANALYSING') moveWave({ waves }, wave.index, 'SKIPPED', now);
    await this.enter(tx, row, 'ABORTED', why, actor);
  }

  private async back(tx: Tx, row: RolloutRow, waves: WaveRow[], why: Reason, actor: string): Promise<void> {
    await this.engine.startRollback(tx, { row, waves, changed: true }, why, actor);
    row.waitUntil = this.clock.now();
  }

  private async enter(tx: Tx, row: RolloutRow, to: RolloutState, why: Reason, actor: string): Promise<void> {
    this.engine.move({ row, waves: [], changed: true }, to, why, this.clock.now());
    row.waitUntil = null;
    row.waiting = null;
    await this.engine.event(tx, row, [{ kind: to.toLowerCase(), wave: row.wave, actor, reason: why }]);
    await tx.save(RolloutRow, row, { reload: false });
  }

  private async ready(ref: string): Promise<Version> {
    const version = await this.registry.versionByRef(ref);
    if (version.state !== 'READY' || !version.bundleDigest) throw new ReefError('rollout.version_not_ready', 'conflict', `${refOf(version)} is ${version.state}; only a READY version is rolled out.`, { detail: { version: refOf(version), state: version.state } });
    return version;
  }

  private async plan(tx: Tx, body: CreateRollout, version: Version): Promise<{ plan: Plan; settings: Settings; timing: Timing }> {
    if ((version.task === 'agent') !== (body.workload === agentWorkload)) {
      throw new ReefError('rollout.workload_reserved', 'invalid', version.task === 'agent' ? `${refOf(version)} is a release of the agent: roll it out to the workload ${agentWorkload}.` : `The workload ${agentWorkload} is the agent itself; ${refOf(version)} is a model. Choose another workload.`);
    }
    const now = this.clock.now();
    const parsed = new Map((body.waves ?? []).flatMap(({ selector }) => (selector === undefined ? [] : [[selector, parseSelector(selector)]])));
    const named = body.devices && new Set(body.devices);
    const devices = (await this.fleet.select(tx, body.selector, body.workload)).filter(({ id }) => !named || named.has(id)).map(candidateOf(version, body));
    const result = planWaves(devices, body.waves, version.bundleDigest!, (eligible) => settingsFor(version.task === 'agent' ? forAgents(body) : body, eligible), (selector, labels) => matches(parsed.get(selector)!, labels));
    if (!result.ok) throw await this.refusal(tx, body, devices.length, result);
    const { plan, settings } = result;
    for (const [at, { selector }] of (body.waves ?? []).entries()) {
      const [only, ...more] = parsed.get(selector ?? '') ?? [];
      if (only?.operator === 'exists' && more.length === 0 && strata.some((one) => one === only.key)) plan.notes.push(`Wave ${at + 1} ("${selector}") takes every device that has the label ${only.key}. A wave for each ${only.key} would be {"by": "${only.key}"}.`);
    }
    const spared = body.exclude.selector ? parseSelector(body.exclude.selector) : null;
    if (spared && !devices.some(({ labels }) => matches(spared, labels))) plan.notes.push(`The selector "${body.exclude.selector}" excludes nobody.`);
    if (body.stopAt && new Date(body.stopAt) <= now) throw new ReefError('rollout.stop_time_past', 'invalid', `stopAt ${body.stopAt} is past: nobody would be told.`);
    const freezeOf = freezeFinder(await activeFreezes(tx, now));
    const bytes = bytesOf(version, body.policy);
    const known = new Map(devices.map((one) => [one.id, one]));
    const groups = plan.waves.map((wave) => [...Map.groupBy(wave.devices, ({ id, variant }) => {
      const { zone, strata, labels } = known.get(id)!;
      return JSON.stringify([strata.site, zone, bytes(variant), freezeOf(labels)]);
    }).values()].map((group) => {
      const one = known.get(group[0]!.id)!;
      return { site: one.strata.site, zone: one.zone, freeze: freezeOf(one.labels), devices: group.length, bytes: bytes(group[0]!.variant) };
    }));
    const limits = await siteLimitsOf(tx);
    const frozen = groups.flat().filter(({ freeze }) => freeze);
    for (const [until, some] of Map.groupBy(frozen, ({ freeze }) => freeze!.until.toISOString())) plan.notes.push(`${devicesIn(some.reduce((sum, one) => sum + one.devices, 0))} frozen until ${until}: ${some[0]!.freeze!.reason}`);
    if (body.windows.length > 0) {
      const invalid = devices.filter(({ invalidZone, spared }) => invalidZone !== null && !spared);
      for (const [zone, some] of Map.groupBy(invalid, ({ invalidZone }) => invalidZone!)) plan.notes.push(`"${zone}" is no time zone; UTC counts for ${devicesIn(some.length)} (${some.slice(0, 3).map(({ id }) => id).join(', ')}${some.length > 3 ? ', ...' : ''}). Set the label timezone to an IANA name such as Europe/Paris.`);
    }
    const start = body.startAt && new Date(body.startAt) > now ? new Date(body.startAt) : now;
    return { plan, settings, timing: timingOf(groups, settings.pace ?? noPace, settings, start, (site) => limitFor(site, limits)) };
  }

  /** What no device has is the usual reason why a selector chooses nobody, and then there is something to suggest. */
  private async refusal(tx: Tx, { selector }: CreateRollout, matching: number, { fault, excluded }: { fault: PlanFault; excluded: Excluded[] }): Promise<ReefError> {
    const unmatched = fault.code === 'rollout.wave_empty' ? fault.selector : fault.code === 'rollout.no_device' && matching === 0 ? selector : '';
    const hints = unmatched.trim() === '' ? [] : selectorHints(parseSelector(unmatched), await this.fleet.labels(tx));
    if (fault.code === 'rollout.wave_empty') {
      const word = strata.find((one) => one.toLowerCase() === unmatched.trim().toLowerCase());
      if (word) hints.push(`A wave for each ${word} is {"by": "${word}"}.`);
      if (/^\d/.test(unmatched.trim())) hints.push('A number of devices is {"count": 3}, a share of them {"percent": 3}.');
    }
    return new ReefError(fault.code, 'conflict', [fault.message, ...hints].join(' '), { detail: { excluded, ...(fault.code === 'rollout.wave_empty' ? { wave: fault.wave, selector: fault.selector } : {}) } });
  }
}

/** What the latency model needs to know of a compiled variant; kept with it when it was inspected. */
function featuresOf(version: Version | undefined, variant: string): LatencyFeatures | null {
  return (version?.variants.find(({ name }) => name === variant)?.details?.features as LatencyFeatures | null | undefined) ?? null;
}

/** A wave that is judged again has its whole time again. */
const deadlineFrom = (now: Date, before: Date, { deadlineS }: Settings): Date => new Date(Math.max(before.getTime(), now.getTime() + deadlineS * 1_000));

function illegal(row: RolloutRow, done: string, hint: string): ReefError {
  return new ReefError('rollout.state_wrong', 'conflict', `Rollout "${row.name}" is ${row.state} and cannot be ${done}. ${hint}`, { detail: { rollout: row.id, state: row.state } });
}

/** Claims of one workload happen one after another, or two rollouts created at once could both find the devices free. */
async function lockWorkload(tx: Tx, workload: string): Promise<void> {
  await tx.query("SELECT pg_advisory_xact_lock(hashtext('reef.rollouts'), hashtext($1))", [workload]);
}
