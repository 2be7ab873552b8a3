import { Link } from 'wouter';
import { Act } from './act.tsx';
import { api, type Attempt, type Job } from './api.ts';
import { versionPage } from './bundles.tsx';
import { useLive } from './live.ts';
import { TrainingReport } from './training.tsx';
import { Ago, Bar, Loaded, Problems, State, Table, useTitle } from './parts.tsx';
import { clockOf, duration } from './time.tsx';

export function JobPage({ id }: { id: string }) {
  const live = useLive<Job>(`/jobs/${id}`, `subscription { jobChanged(id: ${JSON.stringify(id)}) { id } }`);
  const log = useLive<{ lines: { n: number; at: string; step: string; stream: string; text: string }[] }>(`/jobs/${id}/log`, `subscription { jobLog(id: ${JSON.stringify(id)}) { n } }`);
  const attempts = useLive<{ items: Attempt[] }>(`/jobs/${id}/attempts`, `subscription { jobChanged(id: ${JSON.stringify(id)}) { id } }`);
  useTitle(live.data ? `Job of ${live.data.version}` : 'Job');
  const retry = async (body?: object) => { await api(`/jobs/${id}/retry`, { method: 'POST', body }); live.reload(); };
  return (
    <Loaded live={live} heading="Job">
      {(job) => (
        <>
          <h1>Job of <Link href={versionPage(job.version)}>{job.version}</Link> <State of={job.state} /></h1>
          <p className="faint">{job.id}, created <Ago at={job.createdAt} />{job.priority !== 0 && `, priority ${job.priority}`}</p>
          <Problems of={job.error} />
          <p className="buttons">
            {['QUEUED', 'RUNNING'].includes(job.state) && <Act text="Cancel" tone="bad" ask={<p>The step that runs is stopped, and nothing is published.</p>} run={async () => { await api(`/jobs/${id}/cancel`, { method: 'POST' }); live.reload(); }} />}
            {['FAILED', 'TIMED_OUT', 'CANCELED'].includes(job.state) && <Act text="Try again" run={() => retry()} />}
            {job.error?.detail?.known && <Act text="Run the compiler all the same" ask={<p>The same bytes, compiler and flags have failed before; it runs again with the same chance.</p>} run={() => retry({ force: true })} />}
          </p>
          <Steps job={job} />
          {job.training && <TrainingReport training={job.training} />}
          <Loaded live={attempts}>{({ items }) => items.length > 0 && <Attempts job={id} items={items} />}</Loaded>
          <h2>Log</h2>
          <Loaded live={log}>{({ lines }) => <pre className="log" tabIndex={0} aria-label="Log">{lines.map((line) => `${clockOf(line.at)} ${line.step.padEnd(8)} ${line.text}`).join('\n') || 'Nothing yet.'}</pre>}</Loaded>
        </>
      )}
    </Loaded>
  );
}

function Steps({ job }: { job: Job }) {
  return (
    <Table label="Steps" head={['Step', 'State', 'Progress', 'Took', 'What']}>
      {job.steps.map((step) => (
        <tr key={step.name}>
          <th scope="row">{step.name}</th><td><State of={step.state} /></td>
          <td>{step.state === 'RUNNING' && <Bar percent={step.percent} label={`Progress of ${step.name}`} />}{step.etaS !== null && step.state === 'RUNNING' && <span className="faint">about {Math.round(step.etaS)} s left</span>}</td>
          <td className="faint">{step.startedAt && step.endedAt && duration(Date.parse(step.endedAt) - Date.parse(step.startedAt))}</td>
          <td>{step.error ? `${step.error.message} (${step.error.code})` : step.message}</td>
        </tr>
      ))}
    </Table>
  );
}

function Attempts({ job, items }: { job: string; items: Attempt[] }) {
  return (
    <>
      <h2>Runs of the compiler</h2>
      <Table label="Runs of the compiler" head={['Run', 'Result', 'Exit', 'Took', 'Compiler', 'Flags']}>
        {items.map((one, at) => (
          <tr key={one.id}>
            <td>{at + 1}</td><td>{one.result ?? 'no answer'}{one.final && <span className="faint"> kept</span>}</td><td>{one.signal ?? one.exitCode ?? '-'}</td>
            <td>{one.durationMs === null ? '-' : `${(one.durationMs / 1_000).toFixed(1)} s`}</td><td>{one.compilerVersion ?? '-'}</td><td className="faint">{one.flags.join(' ')}</td>
          </tr>
        ))}
      </Table>
      <p className="faint">What a run printed: <code>reef job attempts {job} --output N</code></p>
    </>
  );
}
