import { Link } from 'wouter';
import type { Job, Model, Page, Version } from './api.ts';
import { useLive } from './live.ts';
import { Ago, Digest, Empty, Loaded, percent, Problems, State } from './parts.tsx';
import { Hold, Variants } from './version.tsx';

export function ModelsPage() {
  const models = useLive<Page<Model>>('/models?limit=200');
  const jobs = useLive<Page<Job>>('/jobs?limit=20', 'subscription { jobChanged { id } }');
  return (
    <>
      <h1>Models</h1>
      <Loaded live={models}>
        {({ items }) => items.length === 0 ? <Empty>No model yet. <code>reef model push PATH</code> brings one in.</Empty> : (
          <table>
            <thead><tr><th>Model</th><th>Latest version</th><th>Description</th><th>Created</th></tr></thead>
            <tbody>
              {items.map((model) => (
                <tr key={model.name}><td><Link href={`/models/${model.name}`}>{model.name}</Link></td><td>{model.latestVersion ?? '-'}</td><td>{model.description}</td><td><Ago at={model.createdAt} /></td></tr>
              ))}
            </tbody>
          </table>
        )}
      </Loaded>
      <h2>Recent jobs</h2>
      <Loaded live={jobs}>
        {({ items }) => items.length === 0 ? <p className="faint">None.</p> : (
          <table>
            <thead><tr><th>Job</th><th>Version</th><th>State</th><th>Step</th><th>Started</th></tr></thead>
            <tbody>
              {items.map((job) => {
                const step = job.steps?.find((one) => one.state === 'RUNNING');
                return <tr key={job.id}><td><Link href={`/jobs/${job.id}`}>{job.id.slice(0, 8)}</Link></td><td>{job.version}</td><td><State of={job.state} /></td><td>{step && `${step.name} ${step.percent === null ? '' : `${Math.round(step.percent)} %`}`}{job.error && <span className="faint">{job.error.code}</span>}</td><td><Ago at={job.createdAt} /></td></tr>;
              })}
            </tbody>
          </table>
        )}
      </Loaded>
    </>
  );
}

export function ModelPage({ name }: { name: string }) {
  const live = useLive<Page<Version>>(`/models/${name}/versions?limit=100`, 'subscription { jobChanged { id } }');
  return (
    <>
      <h1>{name}</h1>
      <Loaded live={live}>{({ items }) => items.length === 0 ? <Empty>No version yet.</Empty> : <>{items.map((version) => <VersionCard key={version.version} name={name} version={version} />)}</>}</Loaded>
    </>
  );
}

function VersionCard({ name, version }: { name: string; version: Version }) {
  return (
    <section className="card">
      <h2><Link href={`/models/${name}/${version.version}`}>{name}@{version.version}</Link> <State of={version.state} /></h2>
      <Problems of={version.error} />
      {version.hold && <Hold version={version} />}
      <dl className="facts">
        <dt>Created</dt><dd><Ago at={version.createdAt} /></dd>
        <dt>Bundle</dt><dd><Digest of={version.bundleDigest} /></dd>
        {version.analysis && <><dt>Edge TPU</dt><dd><State of={version.analysis.verdict} /> {version.analysis.summary}</dd></>}
      </dl>
      <Variants of={version} />
      {version.parity && <p>{percent(version.parity.agreement)} agreement with the original on {version.parity.samples} samples. <Link href={`/models/${name}/${version.version}`}>Report</Link></p>}
    </section>
  );
}
