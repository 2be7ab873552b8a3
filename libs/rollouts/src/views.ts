import { ReefError } from '@reefkeeper/platform';
import type { Transfer } from '@reefkeeper/protocol';
import type { DataSource } from 'typeorm';
import { ExecutionRow, RolloutEvent, RolloutRow, WaveRow, type KeptPlan } from './rollout.entity.ts';
import { waitingSql, waitWords } from './follow.ts';
import type { PlannedWave } from './plan.ts';
import { zoneOf } from './windows.ts';
import type { Reason, RolloutExecutionState, RolloutState, Settings, WaveState } from './rollout.ts';
import { noCounts, verdictViewOf, type Counts, type VerdictView } from './verdict.ts';

const transferParts = ['fullBytes', 'deltaBytes', 'peerBytes', 'savedBytes'] as const;

/** A rollout as the outside sees it. */
export interface RolloutView {
  id: string;
  name: string;
  version: string;
  versionId: string;
  bundle: string;
  workload: string;
  selector: string;
  state: RolloutState;
  stateReason: Reason;
  wave: number;
  waves: WaveView[];
  /** Devices that will not begin yet, by what they say they wait for. */
  waitingDevices: Waiting[];
  /** Of every device that has said; null before the first. */
  transfer: Transfer | null;
  rollback: Record<'PENDING' | 'QUEUED' | 'IN_PROGRESS' | 'SUCCEEDED' | 'FAILED' | 'TIMED_OUT' | 'CANCELED', number> | null;
  settings: Settings;
  plan: KeptPlan;
  createdAt: Date;
  createdBy: string;
  startAt: Date | null;
  stopAt: Date | null;
  /** Why nothing more happens now, while it is under way. */
  waiting: Reason | null;
  /** Devices that came to match a dynamic rollout after its success; null where it is not. `stopped`: why no more are taken in. */
  late: { counts: Counts; stopped: Reason | null } | null;
  startedAt: Date | null;
  endedAt: Date | null;
}

/** `devices` names the first few. */
export interface Waiting { code: string; /** In words: `its data budget`. */ what: string; message: string; count: number; devices: string[] }

export interface WaveView { index: number; state: WaveState; size: number; canary: boolean; of: PlannedWave['of']; counts: Counts; /** Of the QUEUED, those that will not begin yet by their own word. */ waiting: number; /** Of the SUCCEEDED, those that left the version since. */ faults: number; verdicts: VerdictView[]; startedAt: Date | null; analysingAt: Date | null; deadlineAt: Date | null; endedAt: Date | null }

export interface Page<T> { items: T[]; nextCursor: string | null }

/** @throws ReefError `rollout.missing` */
export async function viewOf(db: DataSource, id: string): Promise<RolloutView> {
  const row = await rowOf(db, id);
  return (await viewsOf(db, [row]))[0]!;
}

/** @throws ReefError `rollout.missing` */
export async function rowOf(db: DataSource, id: string): Promise<RolloutRow> {
  const row = /^[0-9a-f-]{36}$/i.test(id) ? await db.getRepository(RolloutRow).findOneBy({ id }) : null;
  if (!row) throw missing(id);
  return row;
}

/** A page of a big rollout must not cost counting all of it. @throws ReefError `rollout.missing` */
async function mustExist(db: DataSource, id: string): Promise<void> {
  if (!/^[0-9a-f-]{36}$/i.test(id) || !(await db.getRepository(RolloutRow).existsBy({ id }))) throw missing(id);
}

const missing = (id: string): ReefError => new ReefError('rollout.missing', 'not_found', `There is no rollout ${id}.`, { detail: { rollout: id } });

/** Newest first. */
export async function listRollouts(db: DataSource, { limit = 50, cursor, states, workload }: { limit?: number | undefined; cursor?: string | undefined; states?: readonly string[] | undefined; workload?: string | undefined } = {}): Promise<Page<RolloutView>> {
  const [at, id] = cursor ? cursorOf(cursor) : [null, null];
  const rows = await db.getRepository(RolloutRow).createQueryBuilder('r')
    .where(at === null ? 'true' : '(r.created_at, r.id) < (:at::timestamptz, :id::uuid)', { at, id })
    .andWhere(states ? 'r.state = ANY(:states)' : 'true', { states }).andWhere(workload ? 'r.workload = :workload' : 'true', { workload })
    .orderBy('r.createdAt', 'DESC').addOrderBy('r.id', 'DESC').take(limit + 1).getMany();
  const shown = rows.slice(0, limit);
  const last = shown.at(-1);
  return { items: await viewsOf(db, shown), nextCursor: rows.length > limit && last ? Buffer.from(JSON.stringify([last.createdAt.toISOString(), last.id])).toString('base64url') : null };
}

async function viewsOf(db: DataSource, rows: RolloutRow[]): Promise<RolloutView[]> {
  const ids = rows.map(({ id }) => id);
  const waves = await db.getRepository(WaveRow).createQueryBuilder('w').where('w.rollout_id = ANY(:ids)', { ids }).orderBy('w.index').getMany();
  // One scan for what is counted and what is added up.
  const groups = await db.query<({ id: string; wave: number; state: RolloutExecutionState; rollback: string | null; n: string; waiting: boolean; faulty: boolean } & { [part in keyof Transfer]: number | null })[]>(`
    SELECT rollout_id AS id, wave, state, rollback_state AS rollback, count(*) AS n, ${waitingSql()} AS waiting, fault IS NOT NULL AS faulty, ${transferParts.map((part) => `sum((transfer ->> '${part}')::bigint)::float8 AS "${part}"`).join(', ')}
    FROM rollout_executions WHERE rollout_id = ANY($1) GROUP BY 1, 2, 3, 4, 6, 7`, [ids]);
  const waiting = await db.query<(Omit<Waiting, 'what'> & { id: string })[]>(`
    SELECT rollout_id AS id, failure ->> 'code' AS code, min(failure ->> 'message') AS message, count(*)::int AS count, (array_agg(device_id ORDER BY device_id))[:5] AS devices
    FROM rollout_executions WHERE rollout_id = ANY($1) AND ${waitingSql()} GROUP BY 1, 2 ORDER BY 2`, [ids]);
  return rows.map((row) => {
    const own = groups.filter(({ id }) => id === row.id);
    const back = own.filter(({ rollback }) => rollback !== null);
    const rollback = { PENDING: 0, QUEUED: 0, IN_PROGRESS: 0, SUCCEEDED: 0, FAILED: 0, TIMED_OUT: 0, CANCELED: 0 };
    for (const { rollback: state, n } of back) rollback[state as keyof typeof rollback] += Number(n);
    return {
      id: row.id, name: row.name, version: row.versionRef, versionId: row.versionId, bundle: row.bundle, workload: row.workload, selector: row.selector, state: row.state, stateReason: row.stateReason, wave: row.wave,
      waves: waves.filter(({ rolloutId }) => rolloutId === row.id).map((wave) => {
        const counts = countsOf(own, wave.index);
        const { index, state, size, verdicts, startedAt, analysingAt, deadlineAt, endedAt } = wave;
        return { index, state, size, canary: row.plan.waves[index]?.canary ?? false, of: row.plan.waves[index]?.of ?? null, counts, ...apartOf(own, wave.index), verdicts: verdicts.map(verdictViewOf), startedAt, analysingAt, deadlineAt, endedAt };
      }),
      transfer: transferOf(own),
      waitingDevices: waiting.filter(({ id }) => id === row.id).map(({ code, message, count, devices }) => ({ code, what: waitWords[code] ?? code.replaceAll('_', ' '), message, count, devices })),
      rollback: back.length > 0 ? rollback : null,
      settings: row.settings, plan: row.plan, createdAt: row.createdAt, createdBy: row.createdBy, startAt: row.startAt, stopAt: row.stopAt, waiting: row.waiting, late: row.settings.dynamic ? { counts: countsOf(own, row.plan.waves.length), stopped: row.lateStopped } : null, startedAt: row.startedAt, endedAt: row.endedAt,
    };
  });
}

function countsOf(groups: readonly { wave: number; state: RolloutExecutionState; n: string }[], wave: number): Counts {
  const counts = noCounts();
  for (const group of groups) if (group.wave === wave) counts[group.state] += Number(group.n);
  return counts;
}

function apartOf(groups: readonly { wave: number; n: string; waiting: boolean; faulty: boolean }[], wave: number): Pick<WaveView, 'waiting' | 'faults'> {
  const own = groups.filter((group) => group.wave === wave);
  const sum = (some: typeof own): number => some.reduce((all, { n }) => all + Number(n), 0);
  return { waiting: sum(own.filter(({ waiting }) => waiting)), faults: sum(own.filter(({ faulty }) => faulty)) };
}

function transferOf(groups: readonly { [part in keyof Transfer]: number | null }[]): Transfer | null {
  const said = groups.filter((group) => group.fullBytes !== null);
  return said.length === 0 ? null : Object.fromEntries(transferParts.map((part) => [part, said.reduce((sum, group) => sum + group[part]!, 0)])) as unknown as Transfer;
}

/** One device's part as the outside sees it. */
export type ExecutionView = Omit<ExecutionRow, 'deviceId' | 'rolloutId'> & { rollout: string; device: string };

const executionViewOf = ({ deviceId, rolloutId, ...rest }: ExecutionRow): ExecutionView => ({ rollout: rolloutId, device: deviceId, ...rest });

/** By wave, then device; each with where it is now. */
export async function listExecutions(db: DataSource, rollout: string, { limit = 100, cursor, state, wave }: { limit?: number | undefined; cursor?: string | undefined; state?: string | undefined; wave?: number | undefined } = {}): Promise<Page<ExecutionView & { site: string; timeZone: string }>> {
  await mustExist(db, rollout);
  const [afterWave, afterDevice] = cursor ? cursorOf(cursor) : [-1, ''];
  const rows = await db.getRepository(ExecutionRow).createQueryBuilder('e')
    .where('e.rollout_id = :rollout AND (e.wave, e.device_id) > (:afterWave, :afterDevice)', { rollout, afterWave: Number(afterWave), afterDevice })
    .andWhere(state ? 'e.state = :state' : 'true', { state }).andWhere(wave === undefined ? 'true' : 'e.wave = :wave', { wave })
    .orderBy('e.wave').addOrderBy('e.deviceId').take(limit + 1).getMany();
  const items = rows.slice(0, limit);
  const last = items.at(-1);
  const places = new Map((await db.query<{ id: string; labels: Record<string, string>; said: string | null }[]>("SELECT id, labels, capabilities ->> 'timeZone' AS said FROM devices WHERE id = ANY($1)", [items.map(({ deviceId }) => deviceId)])).map((one) => [one.id, one]));
  const placeOf = (id: string): { site: string; timeZone: string } => { const { labels = {}, said = null } = places.get(id) ?? {}; return { site: labels.site ?? '', timeZone: zoneOf(labels, said).zone }; };
  return { items: items.map((row) => ({ ...executionViewOf(row), ...placeOf(row.deviceId) })), nextCursor: rows.length > limit && last ? Buffer.from(JSON.stringify([String(last.wave), last.deviceId])).toString('base64url') : null };
}

/** A device's parts in rollouts, newest first. */
export async function executionsOfDevice(db: DataSource, device: string, limit = 20): Promise<(ExecutionView & { version: string; workload: string })[]> {
  const rows = await db.getRepository(ExecutionRow).createQueryBuilder('e').where('e.device_id = :device AND e.assigned_at IS NOT NULL', { device }).orderBy('e.assignedAt', 'DESC').take(limit).getMany();
  const rollouts = await db.getRepository(RolloutRow).createQueryBuilder('r').where('r.id = ANY(:ids)', { ids: rows.map(({ rolloutId }) => rolloutId) }).getMany();
  const byId = new Map(rollouts.map((row) => [row.id, row]));
  return rows.map((row) => ({ ...executionViewOf(row), version: byId.get(row.rolloutId)!.versionRef, workload: byId.get(row.rolloutId)!.workload }));
}

/** The decision log; `cursor` is the id of the last one read. */
export async function listEvents(db: DataSource, rollout: string, { limit = 200, cursor, order = 'oldest' }: { limit?: number | undefined; cursor?: string | undefined; order?: 'oldest' | 'newest' | undefined } = {}): Promise<Page<RolloutEvent>> {
  await mustExist(db, rollout);
  const found = db.getRepository(RolloutEvent).createQueryBuilder('e').where('e.rollout_id = :rollout', { rollout }).orderBy('e.id', order === 'oldest' ? 'ASC' : 'DESC').take(limit + 1);
  if (cursor) found.andWhere(order === 'oldest' ? 'e.id > :cursor' : 'e.id < :cursor', { cursor: Number(cursor) || 0 });
  const rows = await found.getMany();
  const items = rows.slice(0, limit);
  return { items, nextCursor: rows.length > limit ? String(items.at(-1)!.id) : null };
}

function cursorOf(text: string): [string, string] {
  try {
    const parsed: unknown = JSON.parse(Buffer.from(text, 'base64url').toString('utf8'));
    if (Array.isArray(parsed) && parsed.length === 2 && parsed.every((part) => typeof part === 'string')) return parsed as [string, string];
  } catch {
    // answered below
  }
  throw new ReefError('request.cursor_invalid', 'invalid', 'The cursor is not one this list gave out; start again without it.');
}

/** For plots of a rollout: its devices, and a stretch of time that starts early enough to show what they did before. */
export async function stretchOf(db: DataSource, rollout: string): Promise<{ devices: string[]; workload: string; from: Date; to: Date | null }> {
  const row = await viewOf(db, rollout);
  const devices = await db.query<{ id: string }[]>('SELECT device_id AS id FROM rollout_executions WHERE rollout_id = $1', [rollout]);
  return { devices: devices.map(({ id }) => id), workload: row.workload, from: new Date((row.startedAt ?? row.createdAt).getTime() - 300_000), to: row.endedAt && new Date(row.endedAt.getTime() + 120_000) };
}
