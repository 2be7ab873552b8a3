import { Fragment, useMemo } from 'react';
import { Link } from 'wouter';
import { Act } from './act.tsx';
import { DeviceAlerts } from './alerts.tsx';
import { addressOf, api, type Device, type DeviceExecution, type Page, type SeriesPoint } from './api.ts';
import { Bundle, versionPage } from './bundles.tsx';
import { configText } from './config.ts';
import { useLive } from './live.ts';
import { Ago, counted, ExecutionState, Labels, Loaded, memory, Said, State, Table, useTitle } from './parts.tsx';
import { SeriesPlots } from './series.tsx';

export function DevicePage({ id }: { id: string }) {
  useTitle(id);
  const changed = `subscription { deviceChanged(id: ${JSON.stringify(id)}) { id } }`;
  const live = useLive<Device>(`/devices/${encodeURIComponent(id)}`, changed);
  return (
    <>
      <h1>{id}</h1>
      <Loaded live={live}>
        {(device) => (
          <>
            <Facts device={device} />
            <DeviceAlerts id={id} />
            <Actions device={device} reload={live.reload} />
            <Workloads device={device} />
            {workloadsOf(device).map((workload, at) => <Telemetry key={workload} id={id} workload={workload} first={at === 0} />)}
            <History id={id} changed={changed} />
          </>
        )}
      </Loaded>
    </>
  );
}

const workloadsOf = ({ desired, reported }: Device): string[] => Object.keys({ ...desired?.workloads, ...reported?.workloads }).sort();

function Facts({ device: { online, lastSeenAt, retiredAt, reported, labels, pins, desired, capabilities } }: { device: Device }) {
  return (
    <dl className="facts">
      <dt>Presence</dt><dd><State of={online ? 'online' : 'offline'} /> last heard of <Ago at={lastSeenAt} />{retiredAt && <> <State of="retired" /> <Ago at={retiredAt} /></>}</dd>
      <dt>Health</dt><dd>{reported ? <><State of={reported.health} /> {reported.conditions.join(', ')}</> : 'no report yet'}</dd>
      <dt>Labels</dt><dd><Labels of={labels} /></dd>
      {pins.map((pin) => <Fragment key={pin.workload}><dt>Pinned</dt><dd>{pin.workload || 'every workload'}: {pin.reason} <span className="faint">by {pin.pinnedBy}, <Ago at={pin.pinnedAt} /></span></dd></Fragment>)}
      {desired && Object.keys(desired.config).length > 0 && <><dt>Configured to</dt><dd>{configText(desired.config)} <span className="faint"><ConfiguredBy desired={desired} /></span></dd></>}
      <dt>Revision</dt><dd>{desired?.revision ?? '-'} wanted, {reported?.observedRevision ?? '-'} taken in</dd>
      {capabilities && (
        <>
          <dt>Host</dt><dd>{capabilities.hostClass}, {memory(capabilities.memoryBytes)} memory</dd>
          <dt>Edge TPU</dt><dd>{capabilities.edgetpus.length || 'none'}{capabilities.edgetpuRuntime !== null && `, runtime ${capabilities.edgetpuRuntime}`}</dd>
          <dt>Software</dt><dd>agent {capabilities.agentVersion}, TFLite {capabilities.tfliteVersion ?? 'not loaded'}</dd>
        </>
      )}
    </dl>
  );
}

/** Its own settings go before those of the rules. */
function ConfiguredBy({ desired: { own, rules } }: { desired: NonNullable<Device['desired']> }) {
  const itself = Object.keys(own).length > 0;
  if (rules.length === 0) return <>told by itself</>;
  return <>by <Link href="/config">{rules.join(', ')}</Link>{itself && <>; of its own: {configText(own)}</>}</>;
}

function Actions({ device: { id, pins, retiredAt, desired, reported }, reload }: { device: Device; reload: () => void }) {
  if (retiredAt) return null;
  const act = async (path: string, method: string, body?: unknown) => { await api(`/devices/${encodeURIComponent(id)}${path}`, { method, body }); reload(); };
  return (
    <p className="buttons">
      <Act text="Pin" ask={<p>Rollouts leave the device alone until it is unpinned; what it was told before goes on, and so does the way back.</p>} run={(form) => act('/pin', 'PUT', { workload: String(form.get('workload')) || undefined, reason: String(form.get('reason')) })}>
        <label>Workload <select name="workload"><option value="">every one</option>{Object.keys({ ...desired?.workloads, ...reported?.workloads }).map((name) => <option key={name}>{name}</option>)}</select></label>
        <label>Reason, for whoever plans a rollout <input name="reason" required maxLength={500} /></label>
      </Act>
      {pins.map(({ workload, reason }) => <Act key={workload} text={workload ? `Unpin ${workload}` : 'Unpin'} ask={<p>Rollouts may have it again. It was pinned because: {reason}</p>} run={() => act(`/pin${workload ? `?workload=${encodeURIComponent(workload)}` : ''}`, 'DELETE')} />)}
      <Act text="Retire" tone="bad" ask={<p>{id} goes out of service for good: its certificate stops working at once, and it has to be enrolled anew to come back.</p>} run={(form) => act(`?reason=${encodeURIComponent(String(form.get('reason')))}`, 'DELETE')}>
        <label>Reason, for the audit log <input name="reason" required maxLength={500} /></label>
      </Act>
    </p>
  );
}

function Workloads({ device }: { device: Device }) {
  const names = workloadsOf(device);
  return (
    <>
      <h2>Workloads</h2>
      {names.length === 0 ? <p className="faint">Nothing is wanted of this device yet. <code>reef rollout create MODEL@N --workload NAME</code> brings it a version.</p> : (
        <Table label="Workloads" head={['Workload', 'Wanted', 'Runs', 'Variant', 'Kept for return', 'Last execution']}>
          {names.map((name) => {
            const runs = device.reported?.workloads[name];
            return (
              <tr key={name}>
                <th scope="row">{name}</th><td><Bundle of={device.desired?.workloads[name]?.bundle} /></td><td><Bundle of={runs?.running} /></td>
                <td>{runs?.variant ?? '-'} {runs?.backend && <span className="faint">on {runs.device ?? runs.backend}</span>}</td><td><Bundle of={runs?.previous} /></td>
                <td>
                  {runs?.execution && <><State of={runs.execution.state} /> {runs.execution.step}{runs.execution.state === 'IN_PROGRESS' && runs.execution.percent !== null && ` ${Math.round(runs.execution.percent)} %`} {runs.execution.failure && <Said of={runs.execution.failure} />}{runs.execution.notes?.map((note) => <div key={note.code}><Said of={note} /></div>)}</>}
                  {runs?.fault && <div><State of="FAULT" /> {runs.fault.failure.message} <code>{runs.fault.failure.code}</code></div>}
                  {runs?.learning && <div>learning: {runs.learning.step} {runs.learning.percent} %</div>}
                </td>
              </tr>
            );
          })}
        </Table>
      )}
    </>
  );
}

function Telemetry({ id, workload, first }: { id: string; workload: string; first: boolean }) {
  const from = useMemo(() => new Date(Date.now() - 3_600_000).toISOString(), []);
  const live = useLive<{ points: SeriesPoint[] }>(addressOf('/telemetry/series', { device: id, workload, from, stepS: '30' }), `subscription { telemetryReceived(device: ${JSON.stringify(id)}) { deviceId } }`);
  return (
    <details className="card" open={first}>
      <summary><h2>{workload}, last hour</h2>{live.data && <span className="faint">{counted(live.data.points.reduce((sum, { inferences }) => sum + inferences, 0), 'inference')}, {counted(live.data.points.reduce((sum, { errors }) => sum + errors, 0), 'error')}</span>}</summary>
      <Loaded live={live}>{({ points }) => <SeriesPlots points={points} empty="No telemetry in the last hour." />}</Loaded>
    </details>
  );
}

function History({ id, changed }: { id: string; changed: string }) {
  const live = useLive<Page<DeviceExecution>>(`/devices/${encodeURIComponent(id)}/executions?limit=20`, changed);
  return (
    <section>
      <h2>What came to it</h2>
      <Loaded live={live}>
        {({ items }) => items.length === 0 ? <p className="faint">No rollout has told it anything yet.</p> : (
          <Table label="Rollouts that told this device something" head={['Told', 'Version', 'Workload', 'Rollout', 'State', 'Failure']}>
            {items.map((one) => (
              <tr key={one.rollout}>
                <td><Ago at={one.assignedAt} /></td><td><Link href={versionPage(one.version)}>{one.version}</Link></td><td>{one.workload}</td>
                <td><Link href={`/rollouts/${one.rollout}`}>wave {one.wave + 1}</Link></td><td><ExecutionState of={one} /></td>
                <td>{one.failure && <Said of={one.failure} />}</td>
              </tr>
            ))}
          </Table>
        )}
      </Loaded>
    </section>
  );
}
