import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';
import { moves, type RolloutState } from '../../libs/rollouts/src/rollout.ts';
import type { RolloutView } from '../../libs/rollouts/src/views.ts';
import type { DeviceState } from '../support/swarm/device.ts';
import type { Plant } from '../support/swarm/plant.ts';
import type { Swarm } from '../support/swarm/swarm.ts';

export const fleetSize = Number(process.env.FAULT_DEVICES ?? 1_000);
export const workload = 'classifier';
/** Seeded: the same faults come in the same order, though not at the same microsecond. */
export const seed = Number(process.env.FAULT_SEED ?? 1);

const ended = new Set<RolloutState>(['SUCCEEDED', 'ROLLED_BACK', 'ABORTED', 'PAUSED']);

export async function create(plant: Plant, body: Record<string, unknown>): Promise<string> {
  const { id } = await plant.patiently(() => plant.call<{ id: string }>('POST', '/rollouts', { workload, soakS: 0, deadlineS: 240, installTimeoutS: 240, rollbackTimeoutS: 240, policy: { observeS: 0 }, ...body }));
  return id;
}

/** @returns the rollout at its end, or where a person would have to decide */
export async function settled(plant: Plant, id: string, timeoutMs = 300_000): Promise<RolloutView> {
  for (const until = Date.now() + timeoutMs; ;) {
    const view = await plant.patiently(() => plant.call<RolloutView>('GET', `/rollouts/${id}`));
    if (ended.has(view.state)) return view;
    if (Date.now() > until) throw new Error(`the rollout is still ${view.state}: ${JSON.stringify(view.waves.map(({ state, counts }) => ({ state, counts })))}`);
    await sleep(500);
  }
}

/** Waits until every device says what it is wanted to run; then nothing is on its way any more. */
export async function quiet(plant: Plant, timeoutMs = 120_000): Promise<void> {
  let behind: string[] = [];
  for (const until = Date.now() + timeoutMs; Date.now() < until; await sleep(500)) {
    behind = await plant.patiently(async () => (await plant.pool.query<{ id: string }>(`
      SELECT d.id FROM devices d JOIN desired w ON w.device_id = d.id LEFT JOIN reported r ON r.device_id = d.id
      WHERE d.retired_at IS NULL AND (NOT d.online OR r.device_id IS NULL OR r.session <> d.session OR r.observed_revision IS DISTINCT FROM w.revision OR w.published_revision <> w.revision)`)).rows.map(({ id }) => id));
    if (behind.length === 0) return;
  }
  throw new Error(`${behind.length} devices have not come to rest in ${timeoutMs} ms: ${behind.slice(0, 5).join(', ')}`);
}

/** A broker that loses its state loses what it had acknowledged and not handed on yet: windows of telemetry, since anything else is said again. */
export interface Forgotten { mayForget: boolean; windows: Set<string> }

/** What must hold whatever happened: nothing is on a wrong version, nothing was counted or done twice, nothing acknowledged was lost. */
export async function balance(plant: Plant, swarm: Swarm, forgotten: Forgotten = { mayForget: false, windows: new Set() }): Promise<void> {
  const { rows: rollouts } = await plant.pool.query<{ id: string; state: RolloutState; eligible: number }>("SELECT id, state, (plan ->> 'eligible')::int AS eligible FROM rollouts");
  const devices = new Map((await swarm.dump()).map((device) => [device.id, device]));
  for (const { id, state, eligible } of rollouts) {
    expect(ended.has(state), `${id} is ${state}`).toBe(true);
    const { rows: executions } = await plant.pool.query<{ state: string; n: number }>('SELECT state, count(*)::int AS n FROM rollout_executions WHERE rollout_id = $1 GROUP BY 1', [id]);
    expect(executions.reduce((sum, { n }) => sum + n, 0)).toBe(eligible);
    expect(executions.filter((one) => ['PENDING', 'QUEUED', 'IN_PROGRESS'].includes(one.state))).toEqual([]);
    await consistentLog(plant, id);
  }
  const { rows: wanted } = await plant.pool.query<{ id: string; bundle: string; revision: number; said: string | null }>(`
    SELECT w.device_id AS id, w.bundle, d.revision::int AS revision, r.workloads -> w.workload ->> 'running' AS said FROM desired_workloads w JOIN desired d USING (device_id) LEFT JOIN reported r USING (device_id) WHERE w.workload = $1`, [workload]);
  for (const { id, bundle, revision, said } of wanted) {
    expect(said, `${id} says it runs`).toBe(bundle);
    const device = devices.get(id);
    if (!device) continue;
    expect({ id, running: device.running, observed: device.observed }).toEqual({ id, running: bundle, observed: revision });
    expect(Object.values(device.installs).every((times) => times === 1), `${id} installed ${JSON.stringify(device.installs)}`).toBe(true);
  }
  await everyWindowOnce(plant, [...devices.values()], forgotten);
  expect(plant.complaints.filter((line) => /cannot be stored|malformed|could not be advanced/.test(line) && !/database|terminat|ECONN/i.test(line))).toEqual([]);
}

/** One opening, one assignment and one end of each wave, and only legal moves of the rollout. */
async function consistentLog(plant: Plant, id: string): Promise<void> {
  const { rows: events } = await plant.pool.query<{ kind: string; wave: number | null }>('SELECT kind, wave FROM rollout_events WHERE rollout_id = $1 ORDER BY id', [id]);
  const once = ['wave_opened', 'assigned', 'wave_passed', 'wave_failed', 'rolling_back', 'rolled_back', 'succeeded'];
  const keys = events.filter(({ kind }) => once.includes(kind)).map(({ kind, wave }) => `${kind} ${wave}`);
  expect(keys.filter((key, at) => keys.indexOf(key) !== at), 'said twice').toEqual([]);
  const stateOf: Record<string, RolloutState> = { created: 'DRAFT', running: 'RUNNING', paused: 'PAUSED', rolling_back: 'ROLLING_BACK', rolled_back: 'ROLLED_BACK', succeeded: 'SUCCEEDED', aborted: 'ABORTED' };
  const states = events.flatMap(({ kind }) => stateOf[kind] ?? []);
  for (const [at, to] of states.slice(1).entries()) expect(moves[states[at]!], `${states[at]} -> ${to}`).toContain(to);
}

async function everyWindowOnce(plant: Plant, devices: DeviceState[], forgotten: Forgotten): Promise<void> {
  const acknowledged = devices.flatMap(({ id, windows }) => windows.map(([boot, seq]) => `${id} ${boot} ${seq}`)).filter((key) => !forgotten.windows.has(key));
  let lost: string[] = [];
  // What was acknowledged a moment ago is still on its way into the table.
  for (const until = Date.now() + 20_000; Date.now() < until; await sleep(1_000)) {
    const { rows } = await plant.pool.query<{ key: string }>("SELECT device_id || ' ' || boot_id || ' ' || seq AS key FROM telemetry_windows");
    const stored = new Set(rows.map(({ key }) => key));
    expect(stored.size).toBe(rows.length);
    lost = acknowledged.filter((key) => !stored.has(key));
    if (lost.length === 0) return;
  }
  if (!forgotten.mayForget) expect(lost.slice(0, 3), `${lost.length} windows that were acknowledged are not stored`).toEqual([]);
  for (const key of lost) forgotten.windows.add(key);
  process.stdout.write(`${lost.length} of ${acknowledged.length} windows went with the broker that forgot them\n`);
}

/** Processes that still name one of these folders. */
export async function orphans(...dirs: string[]): Promise<string[]> {
  const found: string[] = [];
  for (const pid of (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry) && Number(entry) !== process.pid)) {
    const command = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).replaceAll('\0', ' ');
    const environment = await readFile(`/proc/${pid}/environ`, 'utf8').catch(() => '');
    if (dirs.some((dir) => command.includes(dir) || environment.includes(dir))) found.push(`${pid} ${command.slice(0, 120)}`);
  }
  return found;
}
