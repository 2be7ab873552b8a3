import { useState, type ReactNode } from 'react';
import { Link } from 'wouter';
import { Act } from './act.tsx';
import { addressOf, api, type Alert, type AlertCounts, type Silence } from './api.ts';
import { useLive } from './live.ts';
import { usePages } from './pages.tsx';
import { Ago, counted, Empty, Loaded, number, Sentence, State, Table, useTitle, useTyped, When } from './parts.tsx';

const changed = 'subscription { alertChanged { id } }';
const which = { open: '', all: 'OPEN,ACKNOWLEDGED,CLOSED', closed: 'CLOSED' };

/** What somebody may have to look at, newest first. */
export function AlertsPage() {
  useTitle('Alerts');
  const [selector, setSelector] = useTyped();
  const [only, setOnly] = useState<keyof typeof which>('open');
  const [kind, setKind] = useState('');
  const counts = useLive<AlertCounts>('/alerts/counts', changed);
  const { live, turn } = usePages<Alert>('/alerts', { query: { selector, state: which[only], kind }, size: 50, subscription: changed, what: 'alerts' });
  const kinds = [...new Set([...(counts.data?.kinds.map((one) => one.kind) ?? []), ...(live.data?.items.map((one) => one.kind) ?? []), ...(kind ? [kind] : [])])].sort();
  return (
    <>
      <h1>Alerts</h1>
      <p className="faint">Conditions that somebody may have to look at. They open and close by themselves; acknowledging one tells the others that somebody does.</p>
      <Silences />
      <p className="filters">
        <input className="wide" placeholder="Select devices by labels, such as site=lyon" aria-label="Label selector" onChange={(event) => setSelector(event.target.value)} />
        <select aria-label="Which alerts" value={only} onChange={(event) => setOnly(event.target.value as keyof typeof which)}><option value="open">open</option><option value="closed">closed</option><option value="all">all</option></select>
        <select aria-label="Kind" value={kind} onChange={(event) => setKind(event.target.value)}><option value="">every kind</option>{kinds.map((one) => <option key={one}>{one}</option>)}</select>
      </p>
      <Loaded live={live}>
        {({ items }) => items.length === 0
          ? <Empty>{selector || kind || only !== 'open' ? 'No alert matches.' : 'Nothing is wrong that would need somebody.'}</Empty>
          : <AlertTable alerts={items} done={live.reload} />}
      </Loaded>
      {turn}
      {only !== 'closed' && live.data?.items.some(({ state }) => state === 'OPEN') && <AcknowledgeAll which={{ selector, kind }} newest={live.data.items[0]!.seq} done={live.reload} />}
    </>
  );
}

/** One alert, where messages of the webhook lead to. */
export function AlertPage({ id }: { id: string }) {
  useTitle('Alert');
  const live = useLive<Alert>(`/alerts/${encodeURIComponent(id)}`, changed);
  return (
    <Loaded live={live}>
      {(alert) => (
        <>
          <h1>{alert.kind} <Severity of={alert} /></h1>
          <p><Sentence of={alert.summary} /></p>
          <p><Advice of={alert} /></p>
          <dl className="facts">
            <dt>About</dt><dd><About of={alert} /></dd>
            <dt>State</dt><dd><Standing of={alert} /></dd>
            <dt>Since</dt><dd><When at={alert.since} seconds />, <Ago at={alert.since} />{alert.times > 1 && `, ${alert.times} times in a row`}</dd>
            <dt>Last seen</dt><dd><Ago at={alert.lastSeenAt} /></dd>
            {alert.goneSince && !alert.closedAt && <><dt>Gone</dt><dd>since <Ago at={alert.goneSince} />; it closes when that lasts</dd></>}
            {Object.entries(alert.numbers).filter(([, value]) => value !== null).map(([name, value]) => <Numbers key={name} name={name} value={value} />)}
          </dl>
          <p className="buttons"><Acknowledge alert={alert} done={live.reload} /></p>
        </>
      )}
    </Loaded>
  );
}

/** Of one device, on its page; nothing where nothing is wrong. */
export function DeviceAlerts({ id }: { id: string }) {
  const live = useLive<{ items: Alert[] }>(addressOf('/alerts', { device: id }), `subscription { alertChanged(device: ${JSON.stringify(id)}) { id } }`);
  if (!live.data || live.data.items.length === 0) return null;
  return (
    <section className="card attention" aria-label="Open alerts">
      <h2>{counted(live.data.items.length, 'open alert')}</h2>
      <ul className="plain">
        {live.data.items.map((alert) => (
          <li key={alert.id}>
            <Severity of={alert} /> <Link href={`/alerts/${alert.id}`}>{alert.kind}</Link> <Sentence of={alert.summary} /> <span className="faint"><Ago at={alert.since} /></span> <Standing of={alert} quiet /> <Acknowledge alert={alert} done={live.reload} />
            <div className="faint"><Advice of={alert} /></div>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** How many nobody has taken up, beside the name of the page. */
export function AlertsCount() {
  const { data } = useLive<AlertCounts>('/alerts/counts', changed);
  if (!data || data.open === 0) return null;
  return <span role="img" className={`count ${data.kinds.some(({ severity, open }) => severity === 'critical' && open > 0) ? 'bad' : 'warn'}`} aria-label={`${data.open} open`}>{number(data.open)}</span>;
}

function AlertTable({ alerts, done }: { alerts: Alert[]; done: () => void }) {
  return (
    <Table label="Alerts" head={['Alert', 'About', 'What', 'Since', 'State']}>
      {alerts.map((alert) => (
        <tr key={alert.id}>
          <th scope="row"><Link href={`/alerts/${alert.id}`}>{alert.kind}</Link><div><Severity of={alert} /></div></th>
          <td><About of={alert} /></td>
          <td><Sentence of={alert.summary} />{!alert.closedAt && <div className="faint"><Advice of={alert} /></div>}</td>
          <td><Ago at={alert.since} />{alert.times > 1 && <div className="faint">{alert.times} times in a row</div>}</td>
          <td><Standing of={alert} /> <Acknowledge alert={alert} done={done} /></td>
        </tr>
      ))}
    </Table>
  );
}

const Severity = ({ of: { severity } }: { of: Alert }) => <State of={severity} />;

/** Commands stand in backticks. */
const Advice = ({ of: { advice } }: { of: Alert }) => <>{advice.split('`').map((part, at) => (at % 2 === 1 ? <code key={at}>{part}</code> : part))}</>;

function About({ of: { subject, device, workload, rollout, numbers } }: { of: Alert }) {
  if (rollout) return <Link href={`/rollouts/${rollout}`}>{String(numbers.name ?? rollout)}</Link>;
  if (!device) return <>{subject}</>;
  return <><Link href={`/devices/${device}`}>{device}</Link>{workload && <span className="faint"> {workload}</span>}</>;
}

/** `quiet`: an open one says nothing. */
function Standing({ of: { state, silenced, closedAt, goneSince, acknowledgedBy, acknowledgedAt, note }, quiet = false }: { of: Alert; quiet?: boolean }) {
  return (
    <>
      {!(quiet && state === 'OPEN') && <State of={state} />}{silenced && <> <State of="silenced" title="Nobody is told of it just now" /></>}
      {closedAt && <div className="faint"><Ago at={closedAt} /></div>}
      {goneSince && !closedAt && <div className="faint">gone, closes when that lasts</div>}
      {acknowledgedBy && <div className="faint">{note && <>{note}, </>}{acknowledgedBy} <Ago at={acknowledgedAt} /></div>}
    </>
  );
}

function Acknowledge({ alert: { id, state, subject }, done }: { alert: Alert; done: () => void }) {
  if (state !== 'OPEN') return null;
  return (
    <Act text="Acknowledge" ask={<p>Tells the others that you look after {subject}. It closes by itself when the condition is gone, and a new alert opens should it come back after that.</p>} run={async (form) => { await api(`/alerts/${id}/acknowledge`, { method: 'POST', body: { note: String(form.get('note')) } }); done(); }}>
      <label>What is being done <input name="note" maxLength={1_000} /></label>
    </Act>
  );
}

/** What has come since the page was drawn stays open; on a later page, what is newer than its first line. */
function AcknowledgeAll({ which: { selector, kind }, newest, done }: { which: { selector: string; kind: string }; newest: number; done: () => void }) {
  const some = { ...(selector && { selector }), ...(kind && { kind }) };
  return (
    <p className="buttons">
      <Act text="Acknowledge all shown" ask={<p>Every open alert of this list, from the newest on this page to the oldest, its further pages included{(selector || kind) && <>: {[kind, selector].filter(Boolean).join(', ')}</>}. They close by themselves when their conditions are gone.</p>}
        run={async (form) => { await api('/alerts/acknowledge', { method: 'POST', body: { note: String(form.get('note')), throughSeq: newest, ...(selector || kind ? some : { all: true }) } }); done(); }}>
        <label>What is being done <input name="note" maxLength={1_000} /></label>
      </Act>
    </p>
  );
}

function Numbers({ name, value }: { name: string; value: unknown }) {
  const text: ReactNode = typeof value === 'number' ? Number(value.toPrecision(4)) : Array.isArray(value) ? value.join(', ') : typeof value === 'object' ? Object.entries(value as object).map(([key, n]) => `${key} ${String(n)}`).join(', ') : <Sentence of={String(value)} />;
  return <><dt>{name.replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)}</dt><dd>{text}</dd></>;
}

function Silences() {
  const { data, reload } = useLive<{ items: Silence[] }>('/silences', changed);
  return (
    <>
      {data?.items.map(({ id, selector, kinds, until, reason, createdBy, alerts }) => (
        <div className="notice warn" key={id}>
          Nobody is told of {kinds.length > 0 ? kinds.join(', ') : 'alerts'} about {selector ? <code>{selector}</code> : 'any device'} until <When at={until} />: {reason} <span className="faint">by {createdBy}; keeps {number(alerts)} quiet now</span>{' '}
          <Act text="End it" ask={<p>What is still open is told then.</p>} run={async () => { await api(`/silences/${id}`, { method: 'DELETE' }); reload(); }} />
        </div>
      ))}
      <p className="buttons">
        <Act text="Silence devices" ask={<p>For maintenance: alerts about them open and close as ever, and nobody is told before it is over.</p>}
          run={async (form) => {
            const hours = Number(form.get('hours'));
            await api('/silences', { method: 'POST', body: { selector: String(form.get('selector')).trim(), until: new Date(Date.now() + hours * 3_600_000).toISOString(), reason: String(form.get('reason')) } });
            reload();
          }}>
          <label>Labels of the devices <input name="selector" required placeholder="site=lyon" maxLength={1_000} /></label>
          <label>For so many hours <input name="hours" type="number" required min={0.25} max={720} step={0.25} defaultValue={2} /></label>
          <label>Reason, for the others <input name="reason" required maxLength={500} /></label>
        </Act>
      </p>
    </>
  );
}
