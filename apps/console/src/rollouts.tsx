import { useState } from 'react';
import { Link } from 'wouter';
import { Act } from './act.tsx';
import { api, type Freeze, type Rollout } from './api.ts';
import { useLive } from './live.ts';
import { usePages } from './pages.tsx';
import { Ago, counted, Empty, Loaded, Sentence, Stack, State, StateFilter, Table, useTitle, When, wordsOf } from './parts.tsx';
import { countsOf, nowOf, sharesOf, waveOf } from './progress.ts';

const changed = 'subscription { rolloutChanged { id } }';
const states = ['AWAITING_APPROVAL', 'PAUSED', 'RUNNING', 'SCHEDULED', 'ROLLING_BACK', 'SUCCEEDED', 'ROLLED_BACK', 'ABORTED', 'DRAFT'];

export function RolloutsPage() {
  useTitle('Rollouts');
  const [state, setState] = useState('');
  const { live, turn } = usePages<Rollout>('/rollouts', { query: { state }, size: 50, subscription: changed, what: 'rollouts' });
  return (
    <>
      <h1>Rollouts</h1>
      <Freezes />
      <p className="filters"><StateFilter states={states} value={state} set={setState} /></p>
      <Loaded live={live}>
        {({ items }) => items.length === 0 ? <Empty>{state ? `No rollout is ${wordsOf(state)}.` : <>No rollout yet. <code>reef rollout create MODEL@N --workload NAME</code> starts one.</>}</Empty> : (
          <Table label="Rollouts" head={['Rollout', 'State', 'Devices', 'Now', 'Created']}>
            {items.map((rollout) => {
              const now = nowOf(rollout);
              return (
                <tr key={rollout.id}>
                  <th scope="row" className="words"><Link href={`/rollouts/${rollout.id}`}>{rollout.name}</Link><div className="faint">{rollout.version} to {rollout.workload}</div></th>
                  <td><State of={rollout.state} /><div className="faint">{waveOf(rollout)}</div></td>
                  <td className="progress"><Stack of={sharesOf(countsOf(rollout))} words={false} /></td>
                  <td className="words">{now && <Sentence of={now.message} />}</td>
                  <td className="faint"><Ago at={rollout.createdAt} /> by {rollout.createdBy}</td>
                </tr>
              );
            })}
          </Table>
        )}
      </Loaded>
      {turn}
    </>
  );
}

/** Those that hold now: no rollout tells these devices anything new. */
function Freezes() {
  const live = useLive<{ items: Freeze[] }>('/freezes', changed);
  return (
    <Loaded live={live}>
      {({ items }) => items.map((one) => (
        <div className="notice warn" key={one.id}>
          <p>{counted(one.devices, 'device')} ({one.selector ? <code>{one.selector}</code> : 'all'}) frozen until <When at={one.until} />: {one.reason} <span className="faint">by {one.createdBy}</span></p>
          <Act text="End the freeze" ask={<p>Rollouts that wait for it go on at once. {counted(one.devices, 'device')} may be told something new.</p>} run={async () => { await api(`/freezes/${one.id}`, { method: 'DELETE' }); live.reload(); }} />
        </div>
      ))}
    </Loaded>
  );
}
