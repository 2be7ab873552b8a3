import { Fragment } from 'react';
import { Link } from 'wouter';
import { Act } from './act.tsx';
import { addressOf, api, type Analysis, type CompiledDetails, type Job, type Learning, type Page, type Version } from './api.ts';
import { versionPage } from './bundles.tsx';
import { useLive } from './live.ts';
import { ParityReport } from './parity.tsx';
import { Ago, bytes, counted, Digest, Loaded, percent, Problems, State, Table, useTitle } from './parts.tsx';

/** One version whole: what the analyzer said of every operator, what the compiler made, how close it is to the original, where it came from. */
export function VersionPage({ name, number }: { name: string; number: string }) {
  useTitle(`${name}@${number}`);
  const live = useLive<Version>(`/models/${encodeURIComponent(name)}/versions/${encodeURIComponent(number)}`, 'subscription { jobChanged { id } }');
  return (
    <Loaded live={live} heading={`${name}@${number}`}>
      {(version) => (
        <>
          <h1><Link href={`/models/${name}`}>{name}</Link>@{version.version} <State of={version.state} /></h1>
          <Problems of={version.error} />
          {version.hold && <Hold version={version} reload={live.reload} />}
          <dl className="facts">
            <dt>Created</dt><dd><Ago at={version.createdAt} /></dd>
            {version.notes && <><dt>Notes</dt><dd>{version.notes}</dd></>}
            <dt>Task</dt><dd>{version.task}</dd>
            <dt>Bundle</dt><dd><Digest of={version.bundleDigest} /></dd>
            {version.labels && <><dt>Labels</dt><dd>{version.labels.length}: {version.labels.slice(0, 8).join(', ')}{version.labels.length > 8 && ', …'}</dd></>}
          </dl>
          <Variants of={version} />
          {version.lineage?.learning && <Learnt learning={version.lineage.learning} />}
          {version.parity && <ParityReport parity={version.parity} learnt={version.lineage?.learning !== undefined} />}
          {version.analysis?.ops && <Operators analysis={version.analysis} />}
          {version.lineage ? <Lineage of={version.lineage} /> : <Jobs of={version} />}
        </>
      )}
    </Loaded>
  );
}

export function Hold({ version: { hold, ref, model, version, confirmedBy }, reload }: { version: Version; reload: () => void }) {
  if (confirmedBy) return <p className="notice">{hold!.message} Confirmed by {confirmedBy}.</p>;
  return (
    <div className="notice warn">
      <p>{hold!.message} No rollout of it can be created before somebody confirms it. <code>{hold!.code}</code></p>
      <Act text="Confirm" ask={<p>You have looked at {ref}: it may be rolled out.</p>} run={async () => { await api(`/models/${model}/versions/${version}/confirm`, { method: 'POST' }); reload(); }} />
    </div>
  );
}

/** What a device was taught, and how well it does by its own test. */
function Learnt({ learning: { device, workload, method, parent, classes, selfTest, unreadable, backend } }: { learning: Learning }) {
  return (
    <>
      <h2>Learnt on a device</h2>
      <p><Link href={`/devices/${device}`}>{device}</Link> learnt it for {workload}, on <Link href={versionPage(parent)}>{parent}</Link>, by {method.replaceAll('-', ' ')}{backend && `, on ${backend}`}.</p>
      <ul className="figures">
        {selfTest && <li><strong>{percent(selfTest.accuracy)}</strong> right of {counted(selfTest.images, selfTest.heldOut ? 'held-out image' : 'image that it learnt from')}</li>}
        {(unreadable ?? 0) > 0 && <li><strong>{unreadable}</strong> could not be read</li>}
      </ul>
      <Table label="Classes" head={['Class', 'Images before', 'Learnt from', 'Held out']}>{classes.map((one) => <tr key={one.label}><th scope="row">{one.label}</th><td>{one.before}</td><td>{one.learnt}</td><td>{one.heldOut}</td></tr>)}</Table>
    </>
  );
}

/** Of a version that was never built: its jobs say why. */
function Jobs({ of: { model, ref } }: { of: Version }) {
  const live = useLive<Page<Job>>(addressOf('/jobs', { model, limit: '100' }));
  const own = live.data?.items.filter(({ version }) => version === ref) ?? [];
  return own.length === 0 ? null : <p>{own.map(({ id, state }) => <span key={id}><Link href={`/jobs/${id}`}>Job {id.slice(0, 8)}</Link> <State of={state} /> </span>)}</p>;
}

/** The files devices can be given; of compiled ones what the inspector found in them. */
export function Variants({ of: { variants, ref } }: { of: Version }) {
  if (variants.length === 0) return null;
  const compiled = variants.some(({ details }) => details?.onChipBytes !== undefined);
  return (
    <Table label={`Variants of ${ref}`} head={['Variant', 'Needs runtime', 'Size', ...(compiled ? ['On the chip', 'Streamed', 'On the CPU', 'Predicted, USB 3 or PCIe', 'Predicted, USB 2'] : []), 'File']}>
        {variants.map(({ name, minRuntime, totalBytes, segments, digest, details }) => (
          <tr key={name}>
            <td>{name}</td><td>{minRuntime ?? '-'}</td><td>{bytes(totalBytes)}{segments > 1 && <span className="faint"> in {counted(segments, 'segment')}</span>}</td>
            {compiled && <><td>{sizeOf(details?.onChipBytes)}</td><td>{sizeOf(details?.streamedBytes)}</td><td>{cpuOps(details)}</td><td>{range(details?.latency?.usb3)}</td><td>{range(details?.latency?.usb2)}</td></>}
            <td>{[digest, ...(details?.moreSegments ?? []).map((one) => one.digest)].map((one, at) => <Fragment key={one}>{at > 0 && ', '}<Digest of={one} /></Fragment>)}</td>
          </tr>
        ))}
    </Table>
  );
}

function sizeOf(size: number | undefined): string {
  return size === undefined ? '-' : bytes(size);
}

function cpuOps(details: CompiledDetails | null): string {
  return Object.entries(details?.cpuOps ?? {}).map(([op, count]) => `${count} ${op}`).join(', ') || (details ? 'nothing' : '-');
}

function range(prediction: { lowMs: number; highMs: number } | undefined): string {
  return prediction ? `${prediction.lowMs.toFixed(1)} to ${prediction.highMs.toFixed(1)} ms` : '-';
}

function Operators({ analysis }: { analysis: Analysis }) {
  const groups = [...Map.groupBy(analysis.ops!, ({ op, version, status }) => `${op}@${version} ${status}`).values()].sort((a, b) => Number(a[0]!.mapped) - Number(b[0]!.mapped) || b.length - a.length);
  return (
    <>
      <h2>Operators <State of={analysis.verdict} /></h2>
      <p className="faint">{analysis.summary}</p>
      {analysis.faults?.map((fault) => <p key={fault.message} className={`notice ${fault.severity === 'error' ? 'bad' : 'warn'}`}>{fault.message} <code>{fault.code}</code></p>)}
      <Table label="Operators" head={['Operator', 'Count', 'Edge TPU', 'What to change']}>
          {groups.map(([first, ...rest]) => (
            <tr key={`${first!.op} ${first!.version} ${first!.status}`}><td>{first!.op} <span className="faint">version {first!.version}</span></td><td>{rest.length + 1}</td><td>{first!.mapped ? first!.status : <strong>{first!.status}</strong>}</td><td>{first!.advice}</td></tr>
          ))}
      </Table>
    </>
  );
}

function Lineage({ of: lineage }: { of: NonNullable<Version['lineage']> }) {
  const file = (one: { filename: string; digest: string } | null | undefined) => (one ? <>{one.filename} <Digest of={one.digest} /></> : <span className="faint">none</span>);
  return (
    <>
      <h2>Where it came from</h2>
      <dl className="facts">
        <dt>Source</dt><dd>{file(lineage.source)}</dd>
        <dt>Calibration</dt><dd>{file(lineage.calibration)}</dd>
        <dt>Evaluation</dt><dd>{file(lineage.evaluation)}</dd>
        {lineage.parent && <><dt>Follows</dt><dd><Link href={versionPage(lineage.parent)}>{lineage.parent}</Link></dd></>}
        {lineage.job && <><dt>Job</dt><dd><Link href={`/jobs/${lineage.job}`}>{lineage.job.slice(0, 8)}</Link></dd></>}
        {Object.keys(lineage.tools).length > 0 && <><dt>Tools</dt><dd>{Object.entries(lineage.tools).map(([tool, version]) => `${tool} ${version}`).join(', ')}</dd></>}
      </dl>
    </>
  );
}
