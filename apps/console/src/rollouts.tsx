import { Link } from 'wouter';
import type { Freeze, Page, Rollout } from './api.ts';
import { useLive } from './live.ts';
import { Ago, Bar, Empty, Loaded, State } from './parts.tsx';

export function RolloutsPage() {
  const live = useLive<Page<Rollout>>('/rollouts?limit=100', 'subscription { rolloutChanged { id } }');
  const freezes = useLive<{ items: Freeze[] }>('/freezes', 'subscription { rolloutChanged { id } }');
  return (
    <>
      <h1>Rollouts</h1>
      {freezes.data?.items.map((one) => <p className="notice warn" key={one.id}>{one.devices} {one.devices === 1 ? 'device' : 'devices'} ({one.selector ? <code>{one.selector}</code> : 'all'}) frozen until {new Date(one.until).toLocaleString()}: {one.reason} <span className="faint">{one.createdBy}</span></p>)}
      <Loaded live={live}>
        {({ items }) => items.length === 0 ? <Empty>No rollout yet. <code>reef rollout create MODEL@N --workload NAME</code> starts one.</Empty> : (
          <table>
            <thead><tr><th>Rollout</th><th>Version</th><th>Workload</th><th>State</th><th>Done</th><th>Why</th><th>Created</th></tr></thead>
            <tbody>
              {items.map((rollout) => (
                <tr key={rollout.id}>
                  <td><Link href={`/rollouts/${rollout.id}`}>{rollout.name}</Link></td><td>{rollout.version}</td><td>{rollout.workload}</td><td><State of={rollout.state} /></td>
                  <td><Bar percent={doneOf(rollout)} tone={rollout.state === 'SUCCEEDED' ? 'good' : 'busy'} /></td><td className="faint">{rollout.waiting?.code.startsWith('waits_for_') ? rollout.waiting.message : rollout.stateReason?.message}</td><td><Ago at={rollout.createdAt} /> by {rollout.createdBy}</td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
      </Loaded>
    </>
  );
}

/** Share of the planned devices that have an end, percent. */
export function doneOf(rollout: Rollout): number {
  const size = rollout.waves.reduce((sum, wave) => sum + wave.size, 0);
  const ended = rollout.waves.reduce((sum, wave) => sum + Object.entries(wave.counts).reduce((n, [state, count]) => n + (state === 'QUEUED' || state === 'IN_PROGRESS' ? 0 : count), 0), 0);
  return size === 0 ? 0 : Math.round((100 * ended) / size);
}
