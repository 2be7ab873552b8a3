import { useMemo, useState } from 'react';
import { Link } from 'wouter';
import { api, Problem, type Explanation, type Page, type Rollout, type RolloutEvent, type RolloutExecution, type SeriesPoint, type Verdict, type Wave } from './api.ts';
import { useLive } from './live.ts';
import { Ago, bytes, Loaded, State } from './parts.tsx';
import { AccuracyPlot, LatencyPlot } from './series.tsx';

const verbs: Record<string, { verb: string; text: string; body?: unknown; ask?: string }[]> = {
  DRAFT: [{ verb: 'start', text: 'Start' }],
  RUNNING: [{ verb: 'pause', text: 'Pause' }, { verb: 'abort', text: 'Stop new', body: { mode: 'stop-new' }, ask: 'Open no further wave, and leave updated devices as they are?' }, { verb: 'rollback', text: 'Roll back', ask: 'Send every updated device back to its previous version?' }],
  PAUSED: [{ verb: 'resume', text: 'Resume' }, { verb: 'advance', text: 'Skip those without an answer', body: { skipPending: true }, ask: 'Leave out the devices of this wave that have not answered, and judge the rest?' }, { verb: 'advance', text: 'Open the next wave', ask: 'Go on without a verdict on this wave?' }, { verb: 'rollback', text: 'Roll back', ask: 'Send every updated device back to its previous version?' }],
};

export function RolloutPage({ id }: { id: string }) {
  const changed = `subscription { rolloutChanged(id: ${JSON.stringify(id)}) { id } }`;
  const live = useLive<Rollout>(`/rollouts/${id}`, changed);
  const events = useLive<Page<RolloutEvent>>(`/rollouts/${id}/events?limit=200`, changed);
  const executions = useLive<Page<RolloutExecution>>(`/rollouts/${id}/executions?limit=500`, changed);
  return (
    <>
      <Loaded live={live}>{(rollout) => <Head rollout={rollout} reload={live.reload} />}</Loaded>
      <Waits id={id} changed={changed} />
      {live.data && <Telemetry rollout={live.data} />}
      <h2>Devices</h2>
      <Loaded live={executions}>
        {({ items }) => (
          <table>
            <thead><tr><th>Wave</th><th>Device</th><th>State</th><th>Step</th><th>Failure</th></tr></thead>
            <tbody>{items.map((one) => <tr key={one.device}><td>{live.data && one.wave >= live.data.waves.length ? 'late' : one.wave + 1}</td><td><Link href={`/devices/${one.device}`}>{one.device}</Link></td><td><State of={one.state} /></td><td>{one.step}</td><td>{one.failure && <>{one.failure.message} <code>{one.failure.code}</code></>}</td></tr>)}</tbody>
          </table>
        )}
      </Loaded>
      <h2>Decisions</h2>
      <Loaded live={events}>
        {({ items }) => <ol className="events">{items.map((event) => <li key={event.id}><span className="faint"><Ago at={event.at} /></span> {event.message} <code>{event.code}</code> <span className="faint">{event.actor}</span></li>)}</ol>}
      </Loaded>
    </>
  );
}

function Waits({ id, changed }: { id: string; changed: string }) {
  const live = useLive<Explanation>(`/rollouts/${id}/explanation`, changed);
  const waits = live.data?.waitsFor ?? [];
  if (waits.length === 0) return null;
  return <p className="notice">It waits for {waits.map(({ what, until }, at) => <span key={what}>{at > 0 && '; '}{what}{until && <> ({new Date(until).toLocaleTimeString()})</>}</span>)}.</p>;
}

function Head({ rollout, reload }: { rollout: Rollout; reload: () => void }) {
  const [problem, setProblem] = useState<string>();
  const act = async (verb: string, body: unknown, ask?: string) => {
    if (ask && !confirm(ask)) return;
    try {
      await api(`/rollouts/${rollout.id}/${verb}`, { method: 'POST', body: body ?? {} });
      setProblem(undefined);
      reload();
    } catch (error) {
      setProblem(error instanceof Problem ? error.message : 'The controller does not answer.');
    }
  };
  return (
    <>
      <h1>{rollout.name} <State of={rollout.state} /></h1>
      <p>{rollout.version} to workload <strong>{rollout.workload}</strong> on {rollout.selector ? <code>{rollout.selector}</code> : 'every device'}, by {rollout.createdBy} <Ago at={rollout.createdAt} /></p>
      {rollout.stateReason && <p className={`notice ${['ROLLED_BACK', 'ROLLING_BACK', 'ABORTED'].includes(rollout.state) ? 'bad' : rollout.state === 'PAUSED' ? 'warn' : ''}`}>{rollout.stateReason.message} <code>{rollout.stateReason.code}</code></p>}
      {rollout.waiting && <p className={`notice ${rollout.waiting.code.startsWith('waits_for_') ? 'warn' : ''}`}>{rollout.waiting.message} <code>{rollout.waiting.code}</code></p>}
      {rollout.stopAt && <p className="faint">Nobody new is told after <time dateTime={rollout.stopAt}>{new Date(rollout.stopAt).toLocaleString()}</time>.</p>}
      {rollout.waitingDevices.map((some) => <p className="notice warn" key={some.code}>Waiting for {some.what}: {some.count} {some.count === 1 ? 'device' : 'devices'} ({some.devices.join(', ')}{some.count > some.devices.length && ', ...'}): {some.message} <code>{some.code}</code></p>)}
      {rollout.transfer && <Transferred {...rollout.transfer} />}
      <p>{verbs[rollout.state]?.map(({ verb, text, body, ask }) => <button type="button" key={text} onClick={() => void act(verb, body, ask)}>{text}</button>)}</p>
      {problem && <p className="notice bad" role="alert">{problem}</p>}
      {rollout.rollback && <WayBack counts={rollout.rollback} />}
      <div className="waves">{rollout.waves.map((wave) => <WaveCard key={wave.index} wave={wave} current={wave.index === rollout.wave} />)}{rollout.late && <LateCard late={rollout.late} />}</div>
    </>
  );
}

function Transferred({ fullBytes, deltaBytes, peerBytes, savedBytes }: NonNullable<Rollout['transfer']>) {
  return <p className="faint">Transferred {bytes(fullBytes + deltaBytes)}{savedBytes > 0 && `, saved ${bytes(savedBytes)} by deltas`}{peerBytes > 0 && `, ${bytes(peerBytes)} more between devices of one site`}.</p>;
}

const segments: [string, string][] = [['SUCCEEDED', 'good'], ['IN_PROGRESS', 'busy'], ['QUEUED', 'idle'], ['TIMED_OUT', 'warn'], ['CANCELED', 'warn'], ['REMOVED', 'warn'], ['REJECTED', 'bad'], ['FAILED', 'bad']];

const backSegments: [string, string, string][] = [['SUCCEEDED', 'good', 'back'], ['IN_PROGRESS', 'busy', 'on the way'], ['QUEUED', 'busy', 'told'], ['PENDING', 'idle', 'in line'], ['CANCELED', 'idle', 'taken over or retired'], ['TIMED_OUT', 'warn', 'without an answer'], ['FAILED', 'bad', 'could not go back']];

function WayBack({ counts }: { counts: Record<string, number> }) {
  const parts = backSegments.flatMap(([state, tone, words]) => ((counts[state] ?? 0) > 0 ? [{ state, tone, words, count: counts[state]! }] : []));
  return (
    <section className="card">
      <h3>Way back</h3>
      <div className="stack">{parts.map(({ state, tone, count }) => <div key={state} className={tone} style={{ flexGrow: count }}>{count}</div>)}</div>
      <p className="faint">{parts.map(({ count, words }) => `${count} ${words}`).join(', ')}</p>
    </section>
  );
}

function WaveCard({ wave, current }: { wave: Wave; current: boolean }) {
  return (
    <section className={`card wave ${current ? 'current' : ''}`}>
      <h3>Wave {wave.index + 1}{wave.of && `, ${wave.of.by} ${wave.of.value || '(none)'}`} <State of={wave.state} /></h3>
      <div className="stack" title={Object.entries(wave.counts).map(([state, count]) => `${count} ${state.toLowerCase()}`).join(', ')}>
        {segments.map(([state, tone]) => (wave.counts[state] ?? 0) > 0 && <div key={state} className={tone} style={{ flexGrow: wave.counts[state] }}>{wave.counts[state]}</div>)}
      </div>
      <p className="faint">{wave.size} {wave.size === 1 ? 'device' : 'devices'}{Object.entries(wave.counts).filter(([, count]) => count > 0).map(([state, count]) => `, ${count} ${state.toLowerCase().replace('_', ' ')}`)}{wave.waiting > 0 && `, of these ${wave.waiting} waiting by their own word`}{wave.faults > 0 && <strong className="bad">{`, ${wave.faults} left it after their success`}</strong>}</p>
      {wave.verdicts?.length > 0 && (
        <table>
          <thead><tr><th>Gate</th><th>Verdict</th><th>Now</th><th>Before</th><th>Limit</th><th>Judged on</th></tr></thead>
          <tbody>{wave.verdicts.map((verdict) => <VerdictRow key={verdict.gate} verdict={verdict} />)}</tbody>
        </table>
      )}
    </section>
  );
}

const unitWords: Record<string, string> = { percent: ' %', celsius: ' °C', number: '', psi: ' PSI' };

function LateCard({ late }: { late: NonNullable<Rollout['late']> }) {
  const some = Object.entries(late.counts).filter(([, count]) => count > 0);
  return (
    <section className="card wave">
      <h3>Came late</h3>
      <p className="faint">{some.length === 0 ? 'Devices that come to match after the success take the version, too. None has yet.' : some.map(([state, count]) => `${count} ${state.toLowerCase().replace('_', ' ')}`).join(', ')}</p>
      {late.stopped && <p className="notice warn">{late.stopped.message} <code>{late.stopped.code}</code></p>}
    </section>
  );
}

function VerdictRow({ verdict }: { verdict: Verdict }) {
  const show = (value: number | null) => value === null ? '-' : `${Number(value.toPrecision(4))}${unitWords[verdict.unit] ?? ` ${verdict.unit}`}`;
  return (
    <tr title={verdict.message}>
      <td>{verdict.gate.replaceAll('_', ' ')}</td><td><State of={verdict.verdict} /></td><td>{show(verdict.value)}{verdict.interval && <span className="faint"> ({show(verdict.interval[0])} to {show(verdict.interval[1])})</span>}</td>
      <td>{show(verdict.baseline)}</td><td>{show(verdict.limit)}</td><td className="faint">{verdict.sample.devices} {verdict.sample.devices === 1 ? 'device' : 'devices'}, {verdict.sample.inferences} {verdict.unit === 'number' ? 'numbers' : 'inferences'}, {verdict.method}{verdict.verdict !== 'PASSED' && <div>{verdict.message}</div>}{verdict.stillNeeded && <div>Still needed: {verdict.stillNeeded}</div>}</td>
    </tr>
  );
}

function Telemetry({ rollout }: { rollout: Rollout }) {
  const from = useMemo(() => new Date(Date.parse(rollout.startedAt ?? rollout.createdAt) - 120_000).toISOString(), [rollout.startedAt, rollout.createdAt]);
  const names = useMemo(() => ({ [rollout.bundle]: rollout.version }), [rollout.bundle, rollout.version]);
  const live = useLive<{ points: SeriesPoint[] }>(`/telemetry/series?rollout=${rollout.id}&workload=${rollout.workload}&from=${from}&stepS=5`, 'subscription { telemetryReceived { deviceId } }');
  return (
    <Loaded live={live}>
      {({ points }) => points.length === 0 ? <p className="faint">No telemetry yet.</p> : (
        <div className="pair">
          <section><h2>Latency</h2><LatencyPlot points={points} names={names} /></section>
          <section><h2>Accuracy on labelled frames</h2><AccuracyPlot points={points} names={names} /></section>
        </div>
      )}
    </Loaded>
  );
}
