import type { Command } from 'commander';
import { action } from '../context.ts';
import { facts, table, tone } from '../output.ts';
import { alertTable, type AlertView } from './alerts.ts';
import type { DeviceView } from './devices.ts';
import type { JobView } from './jobs.ts';
import type { RolloutView } from './rollouts.ts';

interface Page<T> { items: T[]; nextCursor: string | null }

export function registerStatus(program: Command): void {
  program.command('status').description('the fleet at a glance: who is there, what runs, what moves').action(action(async ({ output, client }) => {
    const api = await client();
    const devices = await api.all<DeviceView>('/devices');
    const [rollouts, jobs, alerts] = await Promise.all([api.get<Page<RolloutView>>('/rollouts', { limit: 50 }), api.get<Page<JobView>>('/jobs', { limit: 50 }), api.get<Page<AlertView>>('/alerts', { limit: 20 })]);
    const moving = rollouts.items.filter(({ state }) => ['AWAITING_APPROVAL', 'SCHEDULED', 'RUNNING', 'PAUSED', 'ROLLING_BACK'].includes(state));
    const building = jobs.items.filter(({ state }) => state === 'QUEUED' || state === 'RUNNING');
    const running = tally(devices.flatMap((device) => Object.entries(device.reported?.workloads ?? {}).map(([workload, { running, backend }]) => `${workload}\t${running?.slice(0, 12) ?? 'nothing'}\t${backend ?? '-'}`)));
    const count = (wanted: (device: DeviceView) => boolean) => devices.filter(wanted).length;
    const summary = {
      controller: api.url,
      devices: { all: devices.length, online: count(({ online }) => online), degraded: count(({ online, reported }) => online && reported?.health === 'DEGRADED'), behind: count(({ desired, reported }) => desired.revision > (reported?.observedRevision ?? 0)) },
      workloads: [...running].map(([key, n]) => { const [workload, bundle, backend] = key.split('\t'); return { workload, bundle, backend, devices: n }; }),
      rollouts: moving.map(({ id, name, version, state, wave, waves }) => ({ id, name, version, state, wave: wave + 1, waves: waves.length })),
      alerts: alerts.items.map(({ id, kind, subject, state, summary, since }) => ({ id, kind, subject, state, summary, since })),
      jobs: building.map(({ id, version, state }) => ({ id, version, state })),
    };
    output.show(summary, () => [
      facts([['controller', summary.controller], ['devices', `${summary.devices.online} of ${summary.devices.all} online${summary.devices.degraded > 0 ? `, ${summary.devices.degraded} degraded` : ''}${summary.devices.behind > 0 ? `, ${summary.devices.behind} have not taken in what is wanted` : ''}`]]),
      ...(summary.workloads.length > 0 ? [table(['workload', 'bundle', 'on', 'devices'], summary.workloads.map((one) => [one.workload, one.bundle, one.backend, one.devices]))] : []),
      ...(summary.rollouts.length > 0 ? [table(['rollout', 'version', 'state', 'wave'], summary.rollouts.map((one) => [one.id, one.version, tone(one.state), `${one.wave} of ${one.waves}`]))] : []),
      ...(alerts.items.length > 0 ? [`${alertTable(alerts.items)}${alerts.nextCursor ? '\nand more: reef alert ls' : ''}`] : []),
      ...(summary.jobs.length > 0 ? [table(['job', 'version', 'state'], summary.jobs.map((one) => [one.id, one.version, tone(one.state)]))] : []),
    ].join('\n\n'));
  }));
}

function tally(words: string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const word of words.toSorted()) counts.set(word, (counts.get(word) ?? 0) + 1);
  return counts;
}
