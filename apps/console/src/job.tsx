import { api, type Attempt, type Job } from './api.ts';
import { useLive } from './live.ts';
import { TrainingReport } from './training.tsx';
import { Ago, Bar, Loaded, Problems, State } from './parts.tsx';

export function JobPage({ id }: { id: string }) {
  const live = useLive<Job>(`/jobs/${id}`, `subscription { jobChanged(id: ${JSON.stringify(id)}) { id } }`);
  const log = useLive<{ lines: { n: number; at: string; step: string; stream: string; text: string }[] }>(`/jobs/${id}/log`, `subscription { jobLog(id: ${JSON.stringify(id)}) { n } }`);
  const attempts = useLive<{ items: Attempt[] }>(`/jobs/${id}/attempts`, `subscription { jobChanged(id: ${JSON.stringify(id)}) { id } }`);
  return (
    <>
      <Loaded live={live}>
        {(job) => (
          <>
            <h1>{job.version} <State of={job.state} /></h1>
            <p className="faint">Job {job.id}, started <Ago at={job.createdAt} />{job.priority !== 0 && `, priority ${job.priority}`}</p>
            <Problems of={job.error} />
            {['QUEUED', 'RUNNING'].includes(job.state) && <button type="button" onClick={() => void api(`/jobs/${id}/cancel`, { method: 'POST' }).then(live.reload)}>Cancel</button>}
            {['FAILED', 'TIMED_OUT', 'CANCELED'].includes(job.state) && <button type="button" onClick={() => void api(`/jobs/${id}/retry`, { method: 'POST' }).then(live.reload)}>Try again</button>}
            {job.error?.detail?.known && <button type="button" onClick={() => void api(`/jobs/${id}/retry`, { method: 'POST', body: { force: true } }).then(live.reload)}>Run the compiler all the same</button>}
            <table>
              <thead><tr><th>Step</th><th>State</th><th>Progress</th><th>What</th></tr></thead>
              <tbody>
                {job.steps.map((step) => (
                  <tr key={step.name}>
                    <td>{step.name}</td><td><State of={step.state} /></td>
                    <td>{step.state === 'RUNNING' && <Bar percent={step.percent} />}{step.etaS !== null && step.state === 'RUNNING' && <span className="faint">about {Math.round(step.etaS)} s left</span>}</td>
                    <td>{step.error ? `${step.error.message} (${step.error.code})` : step.message}</td>
                  </tr>
                ))}
              </tbody>
            </table>
            {job.training && <TrainingReport training={job.training} />}
          </>
        )}
      </Loaded>
      <Loaded live={attempts}>
        {({ items }) => items.length > 0 && (
          <>
            <h2>Runs of the compiler</h2>
            <table>
              <thead><tr><th>Run</th><th>Result</th><th>Exit</th><th>Took</th><th>Compiler</th><th>Flags</th></tr></thead>
              <tbody>
                {items.map((one, at) => (
                  <tr key={one.id}>
                    <td>{at + 1}</td><td>{one.result ?? 'no answer'}{one.final && <span className="faint"> kept</span>}</td><td>{one.signal ?? one.exitCode ?? '-'}</td>
                    <td>{one.durationMs === null ? '-' : `${(one.durationMs / 1_000).toFixed(1)} s`}</td><td>{one.compilerVersion ?? '-'}</td><td className="faint">{one.flags.join(' ')}</td>
                  </tr>
                ))}
              </tbody>
            </table>
            <p className="faint">What a run printed: <code>reef job attempts {id} --output N</code></p>
          </>
        )}
      </Loaded>
      <h2>Log</h2>
      <Loaded live={log}>{({ lines }) => <pre className="log">{lines.map((line) => `${line.at.slice(11, 19)} ${line.step.padEnd(8)} ${line.text}`).join('\n') || 'Nothing yet.'}</pre>}</Loaded>
    </>
  );
}
