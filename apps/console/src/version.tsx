import { Link } from 'wouter';
import type { Analysis, CompiledDetails, Version } from './api.ts';
import { useLive } from './live.ts';
import { ParityReport } from './parity.tsx';
import { Ago, bytes, Digest, Loaded, Problems, State } from './parts.tsx';

/** One version whole: what the analyzer said of every operator, what the compiler made, how close it is to the original, where it came from. */
export function VersionPage({ name, number }: { name: string; number: string }) {
  const live = useLive<Version>(`/models/${name}/versions/${number}`, 'subscription { jobChanged { id } }');
  return (
    <Loaded live={live}>
      {(version) => (
        <>
          <h1><Link href={`/models/${name}`}>{name}</Link>@{version.version} <State of={version.state} /></h1>
          <Problems of={version.error} />
          {version.hold && <Hold version={version} />}
          <dl className="facts">
            <dt>Created</dt><dd><Ago at={version.createdAt} /></dd>
            <dt>Bundle</dt><dd><Digest of={version.bundleDigest} /></dd>
            {version.labels && <><dt>Labels</dt><dd>{version.labels.length}: {version.labels.slice(0, 8).join(', ')}{version.labels.length > 8 && ', …'}</dd></>}
          </dl>
          <Variants of={version} />
          {version.parity && <ParityReport parity={version.parity} />}
          {version.analysis?.ops && <Operators analysis={version.analysis} />}
          {version.lineage && <Lineage of={version.lineage} />}
        </>
      )}
    </Loaded>
  );
}

export function Hold({ version }: { version: Version }) {
  return <p className="notice warn">{version.hold!.message} {version.confirmedBy ? `Confirmed by ${version.confirmedBy}.` : <>It is not rolled out before <code>reef model confirm {version.model}@{version.version}</code>.</>}</p>;
}

/** The files devices can be given; of compiled ones what the inspector found in them. */
export function Variants({ of: { variants } }: { of: Version }) {
  if (variants.length === 0) return null;
  const compiled = variants.some(({ details }) => details?.onChipBytes !== undefined);
  return (
    <table>
      <thead><tr><th>Variant</th><th>Needs runtime</th><th>Size</th>{compiled && <><th>On the chip</th><th>Streamed</th><th>On the CPU</th><th>Predicted, USB 3 or PCIe</th><th>Predicted, USB 2</th></>}<th>File</th></tr></thead>
      <tbody>
        {variants.map(({ name, minRuntime, bytes: size, digest, details }) => (
          <tr key={name}>
            <td>{name}</td><td>{minRuntime ?? '-'}</td><td>{bytes(size)}</td>
            {compiled && <><td>{sizeOf(details?.onChipBytes)}</td><td>{sizeOf(details?.streamedBytes)}</td><td>{cpuOps(details)}</td><td>{range(details?.latency?.usb3)}</td><td>{range(details?.latency?.usb2)}</td></>}
            <td><Digest of={digest} /></td>
          </tr>
        ))}
      </tbody>
    </table>
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
      <table>
        <thead><tr><th>Operator</th><th>Count</th><th>Edge TPU</th><th>What to change</th></tr></thead>
        <tbody>
          {groups.map(([first, ...rest]) => (
            <tr key={`${first!.op} ${first!.version} ${first!.status}`}><td>{first!.op} <span className="faint">version {first!.version}</span></td><td>{rest.length + 1}</td><td>{first!.mapped ? first!.status : <strong>{first!.status}</strong>}</td><td>{first!.advice}</td></tr>
          ))}
        </tbody>
      </table>
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
        {lineage.parent && <><dt>Follows</dt><dd>{lineage.parent}</dd></>}
        {lineage.job && <><dt>Job</dt><dd><Link href={`/jobs/${lineage.job}`}>{lineage.job.slice(0, 8)}</Link></dd></>}
        <dt>Tools</dt><dd>{Object.entries(lineage.tools).map(([tool, version]) => `${tool} ${version}`).join(', ')}</dd>
      </dl>
    </>
  );
}
