import { Fragment, useMemo } from 'react';
import type { Device, SeriesPoint } from './api.ts';
import { useLive } from './live.ts';
import { Ago, bytes, Digest, Labels, Loaded, State } from './parts.tsx';
import { LatencyPlot, AccuracyPlot } from './series.tsx';

export function DevicePage({ id }: { id: string }) {
  const live = useLive<Device>(`/devices/${id}`, `subscription { deviceChanged(id: ${JSON.stringify(id)}) { id } }`);
  return (
    <>
      <h1>{id}</h1>
      <Loaded live={live}>
        {(device) => (
          <>
            <dl className="facts">
              <dt>Presence</dt><dd><State of={device.online ? 'online' : 'offline'} /> <Ago at={device.lastSeenAt} /></dd>
              <dt>Health</dt><dd>{device.reported ? <><State of={device.reported.health} /> {device.reported.conditions.join(', ')}</> : 'no report yet'}</dd>
              <dt>Labels</dt><dd><Labels of={device.labels} /></dd>
              {device.pins.map((pin) => <Fragment key={pin.workload}><dt>Pinned</dt><dd>{pin.workload || 'every workload'}: {pin.reason} <span className="faint">{pin.pinnedBy} <Ago at={pin.pinnedAt} /></span></dd></Fragment>)}
              <dt>Revision</dt><dd>{device.desired?.revision ?? '-'} wanted, {device.reported?.observedRevision ?? '-'} taken in</dd>
              {device.capabilities && (
                <>
                  <dt>Host</dt><dd>{device.capabilities.hostClass}, {bytes(device.capabilities.memoryBytes)} memory</dd>
                  <dt>Edge TPU</dt><dd>{device.capabilities.edgetpus.length || 'none'}{device.capabilities.edgetpuRuntime !== null && `, runtime ${device.capabilities.edgetpuRuntime}`}</dd>
                  <dt>Software</dt><dd>agent {device.capabilities.agentVersion}, TFLite {device.capabilities.tfliteVersion ?? 'not loaded'}</dd>
                </>
              )}
            </dl>
            <h2>Workloads</h2>
            <table>
              <thead><tr><th>Workload</th><th>Wanted</th><th>Runs</th><th>Variant</th><th>Kept for return</th><th>Last execution</th></tr></thead>
              <tbody>
                {Object.keys({ ...device.desired?.workloads, ...device.reported?.workloads }).map((name) => {
                  const runs = device.reported?.workloads[name];
                  return (
                    <tr key={name}>
                      <td>{name}</td><td><Digest of={device.desired?.workloads[name]?.bundle} /></td><td><Digest of={runs?.running} /></td>
                      <td>{runs?.variant ?? '-'} {runs?.backend && <span className="faint">on {runs.device ?? runs.backend}</span>}</td><td><Digest of={runs?.previous} /></td>
                      <td>{runs?.execution && <><State of={runs.execution.state} /> {runs.execution.step} {runs.execution.failure?.message} {runs.execution.notes?.map(({ message }) => message).join(' ')}</>}{runs?.fault && <> <State of="FAULT" /> {runs.fault.failure.message}</>}{runs?.learning && <> learning: {runs.learning.step} {runs.learning.percent} %</>}</td>
                    </tr>
                  );
                })}
              </tbody>
            </table>
          </>
        )}
      </Loaded>
      <DeviceTelemetry id={id} />
    </>
  );
}

function DeviceTelemetry({ id }: { id: string }) {
  const from = useMemo(() => new Date(Date.now() - 3_600_000).toISOString(), []);
  const live = useLive<{ points: SeriesPoint[] }>(`/telemetry/series?device=${id}&from=${from}&stepS=10`, `subscription { telemetryReceived(device: ${JSON.stringify(id)}) { deviceId } }`);
  return (
    <Loaded live={live}>
      {({ points }) => points.length === 0 ? <p className="faint">No telemetry in the last hour.</p> : (
        <>
          <h2>Latency, last hour</h2><LatencyPlot points={points} />
          <h2>Accuracy on labelled frames</h2><AccuracyPlot points={points} />
        </>
      )}
    </Loaded>
  );
}
