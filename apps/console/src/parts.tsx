import { useEffect, useState, type ReactNode } from 'react';
import type { Live } from './live.ts';

const tones: Record<string, string> = {
  SUCCEEDED: 'good', PASSED: 'good', READY: 'good', HEALTHY: 'good', online: 'good', CACHED: 'good', fully_mapped: 'good',
  RUNNING: 'busy', IN_PROGRESS: 'busy', ANALYSING: 'busy', BUILDING: 'busy', QUEUED: 'busy', SCHEDULED: 'busy', PENDING: 'idle',
  FAILED: 'bad', ROLLED_BACK: 'bad', ROLLING_BACK: 'bad', TIMED_OUT: 'bad', ABORTED: 'bad', REJECTED: 'bad', will_not_compile: 'bad',
  PAUSED: 'warn', FAULT: 'warn', INCONCLUSIVE: 'warn', DEGRADED: 'warn', AWAITING_APPROVAL: 'warn', partly_mapped: 'warn', not_verified: 'warn', SKIPPED: 'idle', NOT_APPLICABLE: 'idle', offline: 'idle',
};

export function State({ of, title }: { of: string; title?: string }) {
  return <span className={`state ${tones[of] ?? 'idle'}`} title={title}>{of.replaceAll('_', ' ').toLowerCase()}</span>;
}

export function Bar({ percent, tone = 'busy' }: { percent: number | null; tone?: string }) {
  return <div className={`bar ${tone}`} role="progressbar" aria-valuenow={percent ?? undefined}><div style={{ width: `${percent ?? 0}%` }} /></div>;
}

export function Ago({ at }: { at: string | null | undefined }) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => { const tick = setInterval(() => setNow(Date.now()), 1_000); return () => clearInterval(tick); }, []);
  if (!at) return <span className="faint">never</span>;
  return <time dateTime={at} title={new Date(at).toLocaleString()}>{ago(now - Date.parse(at))}</time>;
}

export function ago(ms: number): string {
  const s = Math.max(0, Math.round(ms / 1_000));
  if (s < 60) return `${s} s ago`;
  if (s < 3_600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86_400) return `${Math.floor(s / 3_600)} h ago`;
  return `${Math.floor(s / 86_400)} d ago`;
}

/** A digest is recognised by its head; the whole one is in the tooltip. */
export function Digest({ of }: { of: string | null | undefined }) {
  return of ? <code title={of}>{of.slice(0, 12)}</code> : <span className="faint">none</span>;
}

export function bytes(n: number): string {
  if (n < 1_000) return `${n} B`;
  if (n < 1_000_000) return `${(n / 1_000).toFixed(1)} kB`;
  return `${(n / 1_000_000).toFixed(1)} MB`;
}

export function percent(share: number | null | undefined): string {
  return share === null || share === undefined ? '-' : `${(share * 100).toFixed(1)} %`;
}

export function Labels({ of }: { of: Record<string, string> }) {
  const entries = Object.entries(of);
  return entries.length === 0 ? <span className="faint">none</span> : <>{entries.map(([key, value]) => <span className="label" key={key}>{key}={value}</span>)}</>;
}

/** The three faces of a live resource: not here yet, in trouble, here. */
export function Loaded<T>({ live, children }: { live: Live<T>; children: (data: T) => ReactNode }) {
  return (
    <>
      {live.error && <p className="notice bad" role="alert">{live.error.message} <code>{live.error.code}</code></p>}
      {live.data === undefined ? (live.error ? null : <p className="faint">Loading…</p>) : children(live.data)}
    </>
  );
}

export function Empty({ children }: { children: ReactNode }) {
  return <div className="empty">{children}</div>;
}

export function Problems({ of }: { of: { code: string; message: string } | null | undefined }) {
  return of ? <p className="notice bad" role="alert">{of.message} <code>{of.code}</code></p> : null;
}
