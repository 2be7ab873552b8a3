import { useState } from 'react';
import { Link, useSearch } from 'wouter';
import { Bundle, versionPage } from './bundles.tsx';
import type { Device, Overview, Query } from './api.ts';
import { useLive } from './live.ts';
import { usePages } from './pages.tsx';
import { Ago, counted, Digest, Empty, Labels, Loaded, number, Sentence, Stack, State, Table, useTitle, useTyped } from './parts.tsx';
import { countsOf, nowOf, sharesOf, waveOf } from './progress.ts';

type Only = '' | 'online' | 'offline' | 'degraded';
const filters: Record<Only, Query> = { '': {}, online: { online: 'true' }, offline: { online: 'false' }, degraded: { health: 'DEGRADED' } };

/** The start: is the fleet well, what needs a person, what moves, what runs where, and then each device. */
export function FleetPage() {
  useTitle('Fleet');
  // Rules and sites lead here, to the devices that they are about.
  const asked = new URLSearchParams(useSearch()).get('selector') ?? '';
  const live = useLive<Overview>('/overview', 'subscription { rolloutChanged { id } }');
  return (
    <>
      <h1>Fleet</h1>
      <Loaded live={live}>
        {(overview) => (
          <>
            <Health of={overview.devices} />
            <Decisions of={overview} />
            <Moving of={overview} />
            <Running of={overview.running} />
          </>
        )}
      </Loaded>
      <Devices key={asked} asked={asked} />
    </>
  );
}

function Health({ of: { all, online, degraded, behind, edgeTpu, updating, pinned } }: { of: Overview['devices'] }) {
  const figures: [number, string, string?][] = [[all, all === 1 ? 'device' : 'devices'], [online, 'online'], [all - online, 'offline', 'warn'], [degraded, 'degraded', 'bad'], [behind, 'not yet as wanted', 'warn'], [updating, 'updating'], [pinned, 'pinned'], [edgeTpu, 'with Edge TPU']];
  return <ul className="figures">{figures.map(([count, words, tone]) => <li key={words} className={count > 0 ? tone : undefined}><strong>{number(count)}</strong> {words}</li>)}</ul>;
}

/** Nothing of this goes on by itself. */
function Decisions({ of: { rollouts, held } }: { of: Overview }) {
  const waiting = rollouts.filter(({ state }) => state === 'AWAITING_APPROVAL' || state === 'PAUSED');
  if (waiting.length + held.length === 0) return null;
  return (
    <section className="card attention" aria-label="Needs a decision">
      <h2>Needs a decision</h2>
      <ul className="plain">
        {waiting.map((rollout) => <li key={rollout.id}><State of={rollout.state} /> <Link href={`/rollouts/${rollout.id}`}>{rollout.name}</Link>: {rollout.stateReason && <Sentence of={rollout.stateReason.message} />}</li>)}
        {held.map(({ version, message }) => <li key={version}><State of="held" /> <Link href={versionPage(version)}>{version}</Link>: {message}</li>)}
      </ul>
    </section>
  );
}

function Moving({ of: { rollouts } }: { of: Overview }) {
  const moving = rollouts.filter(({ state }) => ['RUNNING', 'SCHEDULED', 'ROLLING_BACK'].includes(state));
  if (moving.length === 0) return null;
  return (
    <section>
      <h2>Under way</h2>
      <div className="cards">
        {moving.map((rollout) => {
          const now = nowOf(rollout);
          return (
            <article className="card" key={rollout.id}>
              <h3><Link href={`/rollouts/${rollout.id}`}>{rollout.name}</Link> <State of={rollout.state} /></h3>
              <p className="faint">{rollout.version} to {rollout.workload}, {waveOf(rollout)}</p>
              <Stack of={sharesOf(countsOf(rollout))} />
              {now && <p className="faint"><Sentence of={now.message} /></p>}
            </article>
          );
        })}
      </div>
    </section>
  );
}

/** Versions over the devices, a bar per workload. */
function Running({ of }: { of: Overview['running'] }) {
  if (of.length === 0) return null;
  return (
    <section>
      <h2>What runs</h2>
      <div className="cards">
        {[...Map.groupBy(of, ({ workload }) => workload)].map(([workload, some]) => (
          <article className="card" key={workload}>
            <h3>{workload}</h3>
            <Stack words={false} of={some.map(({ bundle, version, backend, devices }, at) => ({ key: `${bundle} ${backend}`, words: `${version ?? bundle?.slice(0, 12) ?? 'nothing'}${backend ? ` on ${backend}` : ''}`, tone: bundle ? `c${at % 6}` : 'none', count: devices }))} />
            <ul className="plain">
              {some.map(({ bundle, version, backend, devices }, at) => (
                <li key={`${bundle} ${backend}`} className={`swatch ${bundle ? `c${at % 6}` : 'none'}`}>{version ? <Link href={versionPage(version)}>{version}</Link> : bundle ? <Digest of={bundle} /> : 'nothing'} <span className="faint">{backend && `on ${backend}, `}{counted(devices, 'device')}</span></li>
              ))}
            </ul>
          </article>
        ))}
      </div>
    </section>
  );
}

function Devices({ asked }: { asked: string }) {
  const [selector, setSelector] = useTyped(asked);
  const [id, setId] = useTyped();
  const [only, setOnly] = useState<Only>('');
  const { live, turn } = usePages<Device>('/devices', { query: { selector, id, ...filters[only] }, size: 100, subscription: 'subscription { deviceChanged { id } }', what: 'devices' });
  return (
    <section>
      <h2>Devices</h2>
      <p className="filters">
        <input className="wide" placeholder="Select by labels, such as site=lyon,line in (a,b)" aria-label="Label selector" defaultValue={asked} onChange={(event) => setSelector(event.target.value)} />
        <input placeholder="Part of the id" aria-label="Part of the device id" maxLength={64} onChange={(event) => setId(event.target.value)} />
        <select aria-label="Which devices" value={only} onChange={(event) => setOnly(event.target.value as Only)}><option value="">all</option><option value="online">online</option><option value="offline">offline</option><option value="degraded">degraded</option></select>
      </p>
      <Loaded live={live}>
        {({ items }) => items.length === 0
          ? <Empty>{selector || id || only ? 'No device matches.' : <>No device has enrolled yet. <code>reef device enroll</code> prints the line to run on one.</>}</Empty>
          : <Table label="Devices" head={['Device', 'Presence', 'Health', 'Runs', 'Labels', 'Host']}>{items.map((device) => <Row key={device.id} device={device} />)}</Table>}
      </Loaded>
      {turn}
    </section>
  );
}

function Row({ device }: { device: Device }) {
  const workloads = Object.entries(device.reported?.workloads ?? {});
  return (
    <tr>
      <th scope="row"><Link href={`/devices/${device.id}`}>{device.id}</Link>{device.pins.length > 0 && <> <State of="pinned" title={device.pins.map(({ reason }) => reason).join(', ')} /></>}</th>
      <td><State of={device.online ? 'online' : 'offline'} />{!device.online && <div className="faint">seen <Ago at={device.lastSeenAt} /></div>}</td>
      <td>{device.reported ? <State of={device.reported.health} title={device.reported.conditions.join(', ')} /> : <span className="faint">no report yet</span>}{device.reported && device.reported.conditions.length > 0 && <div className="faint">{device.reported.conditions.join(', ')}</div>}</td>
      <td className="runs">
        {workloads.length === 0 && <span className="faint">nothing</span>}
        {workloads.map(([name, { running, backend, execution }]) => (
          <div key={name}>{name}: <Bundle of={running} /> {backend && <span className="faint">on {backend}</span>} {execution && execution.state !== 'SUCCEEDED' && <><State of={execution.state} title={execution.failure?.message} /> <span className="faint">{execution.state === 'IN_PROGRESS' ? execution.step : execution.failure?.code}</span></>}</div>
        ))}
      </td>
      <td className="labels"><Labels of={device.labels} /></td>
      <td>{device.capabilities?.hostClass ?? <span className="faint">unknown</span>}</td>
    </tr>
  );
}
