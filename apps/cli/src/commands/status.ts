import type { Command } from 'commander';
import { action } from '../context.ts';
import { facts, table, tone } from '../output.ts';
import { alertTable, type AlertView } from './alerts.ts';
import type { JobView } from './jobs.ts';
import type { RolloutView } from './rollouts.ts';

interface Page<T> { items: T[]; nextCursor: string | null }
interface Overview {
  devices: { all: number; online: number; degraded: number; behind: number; edgeTpu: number; updating: number; pinned: number };
  running: { workload: string; bundle: string | null; version: string | null; backend: string | null; devices: number }[];
  rollouts: RolloutView[]; held: { version: string; message: string }[];
}

export function registerStatus(program: Command): void {
  program.command('status').description('the fleet at a glance: who is there, what runs, what moves, what waits for a person').action(action(async ({ output, client }) => {
    const api = await client();
    const [{ devices, running, rollouts, held }, jobs, alerts] = await Promise.all([api.get<Overview>('/overview'), api.get<Page<JobView>>('/jobs', { limit: 50 }), api.get<Page<AlertView>>('/alerts', { limit: 20 })]);
    const building = jobs.items.filter(({ state }) => state === 'QUEUED' || state === 'RUNNING');
    const summary = {
      controller: api.url, devices, workloads: running,
      rollouts: rollouts.map(({ id, name, version, state, stateReason, wave, waves }) => ({ id, name, version, state, why: stateReason.message, wave: wave + 1, waves: waves.length })),
      alerts: alerts.items.map(({ id, kind, subject, state, summary, since }) => ({ id, kind, subject, state, summary, since })),
      held, jobs: building.map(({ id, version, state }) => ({ id, version, state })),
    };
    const waiting = summary.rollouts.filter(({ state }) => state === 'PAUSED' || state === 'AWAITING_APPROVAL');
    const decisions = [...waiting.map((one) => [tone(one.state), one.version, one.why, `reef rollout explain ${one.id}`]), ...held.map((one) => [tone('HELD'), one.version, one.message, `reef model confirm ${one.version}`])];
    const extras = [[devices.degraded, 'degraded'], [devices.updating, 'updating'], [devices.pinned, 'pinned'], [devices.behind, 'not yet as wanted']].flatMap(([n, what]) => (Number(n) > 0 ? [`, ${n} ${what}`] : []));
    output.show(summary, () => [
      facts([['controller', summary.controller], ['devices', `${devices.online} of ${devices.all} online${extras.join('')}`]]),
      ...(decisions.length > 0 ? [`Needs a decision\n${table(['state', 'version', 'why', 'see'], decisions)}`] : []),
      ...(alerts.items.length > 0 ? [`${alertTable(alerts.items)}${alerts.nextCursor ? '\nand more: reef alert ls' : ''}`] : []),
      ...(running.length > 0 ? [table(['workload', 'version', 'on', 'devices'], running.map((one) => [one.workload, one.version ?? one.bundle?.slice(0, 12) ?? 'nothing', one.backend, one.devices]))] : []),
      ...(summary.rollouts.length > 0 ? [table(['rollout', 'version', 'state', 'wave'], summary.rollouts.map((one) => [one.id, one.version, tone(one.state), `${one.wave} of ${one.waves}`]))] : []),
      ...(building.length > 0 ? [table(['job', 'version', 'state'], summary.jobs.map((one) => [one.id, one.version, tone(one.state)]))] : []),
    ].join('\n\n'));
  }));
}
