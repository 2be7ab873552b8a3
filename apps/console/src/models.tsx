import { Link } from 'wouter';
import type { Job, Model, Version } from './api.ts';
import { versionPage } from './bundles.tsx';
import { usePages } from './pages.tsx';
import { Ago, counted, Digest, Empty, Loaded, percent, Problems, State, Table, useTitle } from './parts.tsx';
import { Hold, Variants } from './version.tsx';

export function ModelsPage() {
  useTitle('Models');
  const models = usePages<Model>('/models', { size: 100, what: 'models' });
  const jobs = usePages<Job>('/jobs', { size: 20, subscription: 'subscription { jobChanged { id } }', what: 'jobs' });
  return (
    <>
      <h1>Models</h1>
      <Loaded live={models.live}>
        {({ items }) => items.length === 0 ? <Empty>No model yet. <code>reef model push PATH</code> brings one in.</Empty> : (
          <Table label="Models" head={['Model', 'Latest', 'Versions', 'Description', 'Created']}>
            {items.map((model) => (
              <tr key={model.name}><th scope="row"><Link href={`/models/${model.name}`}>{model.name}</Link></th><td>{model.latestVersion === null ? '-' : <Link href={`/models/${model.name}/${model.latestVersion}`}>{model.name}@{model.latestVersion}</Link>}</td><td>{model.versions ?? '-'}</td><td>{model.description ?? <span className="faint">none</span>}</td><td className="faint"><Ago at={model.createdAt} /></td></tr>
            ))}
          </Table>
        )}
      </Loaded>
      {models.turn}
      <h2>Jobs</h2>
      <Loaded live={jobs.live}>
        {({ items }) => items.length === 0 ? <p className="faint">None yet.</p> : (
          <Table label="Jobs" head={['Version', 'State', 'Now', 'Created', 'Job']}>
            {items.map((job) => {
              const step = job.steps?.find((one) => one.state === 'RUNNING');
              return <tr key={job.id}><th scope="row"><Link href={versionPage(job.version)}>{job.version}</Link></th><td><State of={job.state} /></td><td>{step && `${step.name} ${step.percent === null ? '' : `${Math.round(step.percent)} %`}`}{job.error && <>{job.error.message} <code>{job.error.code}</code></>}</td><td className="faint nowrap"><Ago at={job.createdAt} /></td><td><Link href={`/jobs/${job.id}`} aria-label={`Job of ${job.version}, ${job.id}`}>{job.id.slice(0, 8)}</Link></td></tr>;
            })}
          </Table>
        )}
      </Loaded>
      {jobs.turn}
    </>
  );
}

export function ModelPage({ name }: { name: string }) {
  useTitle(name);
  const { live, turn } = usePages<Version>(`/models/${encodeURIComponent(name)}/versions`, { size: 20, subscription: 'subscription { jobChanged { id } }', what: 'versions' });
  return (
    <>
      <h1>{name}</h1>
      <Loaded live={live}>{({ items }) => items.length === 0 ? <Empty>No version yet.</Empty> : <>{items.map((version) => <VersionCard key={version.version} name={name} version={version} reload={live.reload} />)}</>}</Loaded>
      {turn}
    </>
  );
}

function VersionCard({ name, version, reload }: { name: string; version: Version; reload: () => void }) {
  return (
    <section className="card">
      <h2><Link href={`/models/${name}/${version.version}`}>{name}@{version.version}</Link> <State of={version.state} /></h2>
      <Problems of={version.error} />
      {version.hold && <Hold version={version} reload={reload} />}
      <dl className="facts">
        <dt>Created</dt><dd><Ago at={version.createdAt} /></dd>
        <dt>Bundle</dt><dd><Digest of={version.bundleDigest} /></dd>
        {version.analysis && <><dt>Edge TPU</dt><dd><State of={version.analysis.verdict} /> {version.analysis.summary}</dd></>}
      </dl>
      <Variants of={version} />
      {version.parity && <p>{version.parity.agreement === null ? version.parity.accuracy && `${percent(version.parity.accuracy.int8)} right` : `${percent(version.parity.agreement)} agreement with the original`} on {counted(version.parity.samples, 'sample')}. <Link href={`/models/${name}/${version.version}`} aria-label={`Report of ${name}@${version.version}`}>Report</Link></p>}
    </section>
  );
}
