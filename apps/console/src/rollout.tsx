import { useContext, useMemo, useState } from 'react';
import { Link } from 'wouter';
import { Act, MeContext } from './act.tsx';
import { addressOf, api, type Explanation, type Rollout, type RolloutEvent, type RolloutExecution, type SeriesPoint } from './api.ts';
import { versionPage } from './bundles.tsx';
import { useLive } from './live.ts';
import { usePages } from './pages.tsx';
import { Ago, bytes, counted, ExecutionState, Loaded, Said, Sentence, Stack, State, StateFilter, Table, useTitle, When } from './parts.tsx';
import { countsOf, nowOf, sharesOf, waveOf } from './progress.ts';
import { SeriesPlots } from './series.tsx';
import { Timeline, WaveCard } from './wave.tsx';

export function RolloutPage({ id }: { id: string }) {
  const changed = `subscription { rolloutChanged(id: ${JSON.stringify(id)}) { id } }`;
  const live = useLive<Rollout>(`/rollouts/${encodeURIComponent(id)}`, changed);
  useTitle(live.data?.name ?? 'Rollout');
  return (
    <Loaded live={live} heading="Rollout">
      {(rollout) => (
        <>
          <Head rollout={rollout} />
          <Now rollout={rollout} changed={changed} reload={live.reload} />
          <Timeline rollout={rollout} />
          {rollout.rollback && <WayBack counts={rollout.rollback} />}
          <div className="waves">{rollout.waves.map((wave) => <WaveCard key={wave.index} wave={wave} current={wave.index === rollout.wave && rollout.state !== 'SUCCEEDED'} />)}{rollout.late && <LateCard late={rollout.late} />}</div>
          <Telemetry rollout={rollout} />
          <Executions rollout={rollout} changed={changed} />
          <LeftOut rollout={rollout} />
          <Decisions id={id} changed={changed} />
          <Settings rollout={rollout} />
        </>
      )}
    </Loaded>
  );
}

function Head({ rollout }: { rollout: Rollout }) {
  return (
    <>
      <h1>{rollout.name} <State of={rollout.state} /></h1>
      <p><Link href={versionPage(rollout.version)}>{rollout.version}</Link> to workload <strong>{rollout.workload}</strong> on {rollout.selector ? <code>{rollout.selector}</code> : 'every device'}, {waveOf(rollout)}, by {rollout.createdBy} <Ago at={rollout.createdAt} />{rollout.endedAt && <>, ended <Ago at={rollout.endedAt} /></>}</p>
      <Stack of={sharesOf(countsOf(rollout))} />
    </>
  );
}

const texts: Record<string, string> = { start: 'Start', approve: 'Approve', pause: 'Pause', resume: 'Resume', rollback: 'Roll back', abort: 'Stop here', advance: 'Go past this wave', 'advance skipPending': 'Skip those without an answer' };
const grave = new Set(['rollback', 'abort']);
const tones: Record<string, string> = { ROLLED_BACK: 'bad', ROLLING_BACK: 'bad', ABORTED: 'bad', PAUSED: 'warn', AWAITING_APPROVAL: 'warn' };

/** Why it stands where it stands, what it waits for by itself, and what a person can do, each with what it would do. */
function Now({ rollout, changed, reload }: { rollout: Rollout; changed: string; reload: () => void }) {
  const me = useContext(MeContext);
  const live = useLive<Explanation>(`/rollouts/${rollout.id}/explanation`, changed);
  const now = nowOf(rollout);
  const waits = (live.data?.waitsFor ?? []).filter(({ what }) => what !== now?.message);
  const tone = tones[rollout.state] ?? (rollout.waiting?.code.startsWith('waits_for_') ? 'warn' : '');
  return (
    <section className={`notice ${tone}`} aria-label="Now">
      {now && <p><Said of={now} /></p>}
      {waits.length > 0 && <><p>It waits for</p><ul>{waits.map(({ what, until }) => <li key={what}><Sentence of={what} />{until && <> (<When at={until} />)</>}</li>)}</ul></>}
      {rollout.startAt && rollout.state === 'SCHEDULED' && <p>It starts on <When at={rollout.startAt} />.</p>}
      {rollout.stopAt && <p>Nobody new is told after <When at={rollout.stopAt} />.</p>}
      {rollout.waitingDevices.map((some) => <p key={some.code}>Waiting for {some.what}: {counted(some.count, 'device')} ({some.devices.join(', ')}{some.count > some.devices.length && ', ...'}): <Said of={some} /></p>)}
      {rollout.transfer && <Transferred {...rollout.transfer} />}
      <p className="buttons">
        {live.data?.moves.map(({ verb, does, body }) => {
          const key = [verb, ...(body.skipPending ? ['skipPending'] : [])].join(' ');
          if (verb === 'approve' && me?.name === rollout.createdBy) return <span key={key} className="faint">Somebody else has to approve it: you created it.</span>;
          return <Act key={key} text={texts[key] ?? verb} needs={verb === 'approve' ? 'approver' : 'operator'} {...(grave.has(verb) ? { tone: 'bad' as const } : {})} ask={<p>This {does}.</p>} run={async () => { await api(`/rollouts/${rollout.id}/${verb}`, { method: 'POST', body }); reload(); live.reload(); }} />;
        })}
      </p>
    </section>
  );
}

function Transferred({ fullBytes, deltaBytes, peerBytes, savedBytes }: NonNullable<Rollout['transfer']>) {
  if (fullBytes + deltaBytes + peerBytes + savedBytes === 0) return null;
  return <p className="faint">Transferred {bytes(fullBytes + deltaBytes)}{savedBytes > 0 && `, saved ${bytes(savedBytes)} by deltas`}{peerBytes > 0 && `, ${bytes(peerBytes)} more between devices of one site`}.</p>;
}

const back: [state: string, tone: string, words: string][] = [['SUCCEEDED', 'good', 'back'], ['IN_PROGRESS', 'busy', 'on the way'], ['QUEUED', 'soft', 'told'], ['CANCELED', 'idle', 'taken over or retired'], ['TIMED_OUT', 'warn', 'without an answer'], ['FAILED', 'bad', 'could not go back'], ['PENDING', 'none', 'in line']];

function WayBack({ counts }: { counts: Record<string, number> }) {
  return (
    <section className="card">
      <h2>Way back</h2>
      <Stack of={back.map(([key, tone, words]) => ({ key, tone, words, count: counts[key] ?? 0 }))} />
    </section>
  );
}

function LateCard({ late }: { late: NonNullable<Rollout['late']> }) {
  const some = sharesOf(late.counts);
  return (
    <section className="card wave">
      <h2>Came late</h2>
      {some.some(({ count }) => count > 0) ? <Stack of={some} /> : <p className="faint">Devices that come to match after the success take the version, too. None has yet.</p>}
      {late.stopped && <p className="notice warn"><Said of={late.stopped} /></p>}
    </section>
  );
}

function Telemetry({ rollout }: { rollout: Rollout }) {
  const from = useMemo(() => new Date(Date.parse(rollout.startedAt ?? rollout.createdAt) - 300_000).toISOString(), [rollout.startedAt, rollout.createdAt]);
  const live = useLive<{ points: SeriesPoint[] }>(addressOf('/telemetry/series', { rollout: rollout.id, workload: rollout.workload, from }), 'subscription { telemetryReceived { deviceId } }');
  return <Loaded live={live}>{({ points }) => <SeriesPlots points={points} empty="These devices have sent no telemetry of this workload." />}</Loaded>;
}

const executionStates = ['PENDING', 'QUEUED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'TIMED_OUT', 'REJECTED', 'CANCELED', 'REMOVED'];

function Executions({ rollout, changed }: { rollout: Rollout; changed: string }) {
  const [wave, setWave] = useState('');
  const [state, setState] = useState('');
  const { live, turn } = usePages<RolloutExecution>(`/rollouts/${rollout.id}/executions`, { query: { wave, state }, size: 100, subscription: changed, what: 'devices' });
  return (
    <section>
      <h2>Devices</h2>
      <p className="filters">
        <label>Wave <select value={wave} onChange={(event) => setWave(event.target.value)}><option value="">any</option>{rollout.waves.map(({ index }) => <option key={index} value={index}>{index + 1}</option>)}</select></label>
        <StateFilter states={executionStates} value={state} set={setState} />
      </p>
      <Loaded live={live}>
        {({ items }) => items.length === 0 ? <p className="faint">{wave || state ? 'None is like that.' : 'None.'}</p> : (
          <Table label="Devices of the rollout" head={['Device', 'Wave', 'State', 'Step', 'Answered', 'Failure']}>
            {items.map((one) => (
              <tr key={one.device}>
                <th scope="row"><Link href={`/devices/${one.device}`}>{one.device}</Link></th><td>{one.wave >= rollout.waves.length ? 'late' : one.wave + 1}</td>
                <td><ExecutionState of={one} /></td>
                <td>{one.state === 'IN_PROGRESS' && one.step}{one.state === 'IN_PROGRESS' && one.percent !== null && ` ${Math.round(one.percent)} %`}</td>
                <td className="faint">{one.settledAt && one.assignedAt ? <Ago at={one.settledAt} /> : one.assignedAt ? <>told <Ago at={one.assignedAt} /></> : '-'}</td>
                <td className="words">{one.failure && <Said of={one.failure} />}</td>
              </tr>
            ))}
          </Table>
        )}
      </Loaded>
      {turn}
    </section>
  );
}

function LeftOut({ rollout: { plan } }: { rollout: Rollout }) {
  const excluded = plan?.excluded ?? [];
  if (excluded.length === 0) return null;
  return (
    <details className="card">
      <summary><h2>{counted(excluded.length, 'device')} left out</h2></summary>
      {[...Map.groupBy(excluded, ({ code, reason }) => `${code}\n${reason}`).values()].map((some) => (
        <p key={some[0]!.code + some[0]!.reason}><State of={some[0]!.code} /> {some[0]!.reason} {some.slice(0, 20).map(({ device }, at) => <span key={device}>{at > 0 && ', '}<Link href={`/devices/${device}`}>{device}</Link></span>)}{some.length > 20 && ` and ${counted(some.length - 20, 'device')} more`}</p>
      ))}
    </details>
  );
}

function Decisions({ id, changed }: { id: string; changed: string }) {
  const { live, turn } = usePages<RolloutEvent>(`/rollouts/${id}/events`, { query: { order: 'newest' }, size: 50, subscription: changed, what: 'decisions' });
  return (
    <section>
      <h2>Decisions</h2>
      <p className="faint">Newest first.</p>
      <Loaded live={live}>
        {({ items }) => (
          <Table label="Decisions" head={['When', 'Wave', 'What', 'By']}>
            {items.map((event) => <tr key={event.id}><td className="nowrap"><When at={event.at} seconds /></td><td>{event.wave === null ? '' : event.wave + 1}</td><td className="words"><Said of={event} /></td><td>{event.actor}</td></tr>)}
          </Table>
        )}
      </Loaded>
      {turn}
    </section>
  );
}

function Settings({ rollout: { settings, plan } }: { rollout: Rollout }) {
  const { soakS, deadlineS, minSamples, minReportingPercent, installTimeoutS, alpha, onFailure, gates, exclude } = settings;
  return (
    <details className="card">
      <summary><h2>Settings</h2></summary>
      {plan?.blastRadius.statement && <p>{plan.blastRadius.statement}</p>}
      <dl className="facts">
        <dt>Soak</dt><dd>{duration(soakS)}</dd><dt>Deadline</dt><dd>{duration(deadlineS)} after the last answer of a wave</dd>
        <dt>Sample</dt><dd>{counted(minSamples, 'inference')} each from {minReportingPercent} % of the updated devices</dd>
        <dt>Without an answer</dt><dd>after {duration(installTimeoutS)}</dd><dt>Wrong verdicts</dt><dd>at most {alpha * 100} % per gate and wave</dd>
        <dt>When a gate fails</dt><dd>{onFailure === 'pause' ? 'pause' : 'roll back'}</dd>
        {exclude && (exclude.devices.length > 0 || exclude.selector) && <><dt>Leaves out</dt><dd>{[...exclude.devices, ...(exclude.selector ? [exclude.selector] : [])].join(', ')}</dd></>}
        <dt>Gates</dt><dd>{Object.entries(gates).filter(([, gate]) => gate !== null && !(Array.isArray(gate) && gate.length === 0)).map(([name, gate]) => <div key={name}><code>{name} {JSON.stringify(gate).replaceAll(/["{}]/g, '').replaceAll(':', ' ').replaceAll(',', ', ')}</code></div>)}</dd>
      </dl>
    </details>
  );
}

function duration(seconds: number): string {
  return seconds < 120 ? `${seconds} s` : seconds < 7_200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3_600).toFixed(1)} h`;
}
