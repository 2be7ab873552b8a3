import { useState } from 'react';
import { Link } from 'wouter';
import type { Device, Page } from './api.ts';
import { useLive } from './live.ts';
import { Ago, Digest, Empty, Labels, Loaded, State } from './parts.tsx';

export function FleetPage() {
  const [selector, setSelector] = useState('');
  const live = useLive<Page<Device>>(`/devices?limit=500${selector ? `&selector=${encodeURIComponent(selector)}` : ''}`, 'subscription { deviceChanged { id } }');
  return (
    <>
      <h1>Fleet</h1>
      <Loaded live={live}>{({ items }) => <Summary devices={items} />}</Loaded>
      <input className="wide" placeholder="Select by labels, such as site=lyon,line in (a,b)" aria-label="Label selector" onChange={(event) => setSelector(event.target.value.trim())} />
      <Loaded live={live}>
        {({ items }) => items.length === 0
          ? <Empty>{selector ? 'No device matches.' : <>No device has enrolled yet. <code>reef device token</code> prints the line to run on one.</>}</Empty>
          : (
            <table>
              <thead><tr><th>Device</th><th>Presence</th><th>Health</th><th>Labels</th><th>Host</th><th>Workload</th><th>Runs</th><th>Now</th></tr></thead>
              <tbody>{items.flatMap((device) => rowsOf(device))}</tbody>
            </table>
          )}
      </Loaded>
    </>
  );
}

function Summary({ devices }: { devices: Device[] }) {
  const count = (is: (device: Device) => boolean) => devices.filter(is).length;
  return (
    <ul className="figures">
      <li><strong>{devices.length}</strong> devices</li>
      <li><strong>{count((device) => device.online)}</strong> online</li>
      <li><strong>{count((device) => device.reported?.health === 'DEGRADED')}</strong> degraded</li>
      <li><strong>{count((device) => (device.capabilities?.edgetpus.length ?? 0) > 0)}</strong> with Edge TPU</li>
      <li><strong>{count((device) => Object.values(device.reported?.workloads ?? {}).some((workload) => workload.execution?.state === 'IN_PROGRESS'))}</strong> updating</li>
    </ul>
  );
}

function rowsOf(device: Device) {
  const workloads = Object.entries(device.reported?.workloads ?? {});
  const rows: [string, NonNullable<Device['reported']>['workloads'][string] | null][] = workloads.length > 0 ? workloads : [['', null]];
  return rows.map(([name, workload], index) => (
    <tr key={`${device.id}/${name}`}>
      <td>{index === 0 && <Link href={`/devices/${device.id}`}>{device.id}</Link>}</td>
      <td>{index === 0 && <><State of={device.online ? 'online' : 'offline'} /> <span className="faint"><Ago at={device.lastSeenAt} /></span></>}</td>
      <td>{index === 0 && device.reported && <State of={device.reported.health} title={device.reported.conditions.join(', ')} />}</td>
      <td>{index === 0 && <Labels of={device.labels} />}</td>
      <td>{index === 0 && (device.capabilities?.hostClass ?? <span className="faint">unknown</span>)}</td>
      <td>{name || <span className="faint">none</span>}</td>
      <td>{workload ? <><Digest of={workload.running} /> <span className="faint">{[workload.variant, workload.backend].filter(Boolean).join(' on ')}</span></> : null}</td>
      <td>{workload?.execution ? <><State of={workload.execution.state} title={workload.execution.failure?.message} /> <span className="faint">{workload.execution.state === 'IN_PROGRESS' ? workload.execution.step : workload.execution.failure?.code}</span></> : null}</td>
    </tr>
  ));
}
