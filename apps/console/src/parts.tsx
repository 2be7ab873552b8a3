import { useEffect, useState, type ReactNode } from 'react';
import type { Live } from './live.ts';
import { Sentence } from './time.tsx';

export { Ago, Sentence, When } from './time.tsx';

const tones: Record<string, string> = {
  SUCCEEDED: 'good', PASSED: 'good', READY: 'good', HEALTHY: 'good', online: 'good', CACHED: 'good', fully_mapped: 'good',
  RUNNING: 'busy', IN_PROGRESS: 'busy', ANALYSING: 'busy', BUILDING: 'busy', QUEUED: 'busy', SCHEDULED: 'busy', PENDING: 'idle',
  FAILED: 'bad', ROLLED_BACK: 'bad', ROLLING_BACK: 'bad', TIMED_OUT: 'bad', ABORTED: 'bad', REJECTED: 'bad', will_not_compile: 'bad',
  OPEN: 'warn', ACKNOWLEDGED: 'busy', CLOSED: 'good', critical: 'bad', warning: 'warn', info: 'idle',
  PAUSED: 'warn', held: 'warn', pinned: 'warn', FAULT: 'warn', INCONCLUSIVE: 'warn', DEGRADED: 'warn', AWAITING_APPROVAL: 'warn', partly_mapped: 'warn', not_verified: 'warn', SKIPPED: 'idle', NOT_APPLICABLE: 'idle', offline: 'idle',
};

export const wordsOf = (state: string): string => state.replaceAll('_', ' ').toLowerCase();

export function State({ of, title }: { of: string; title?: string }) {
  return <span className={`state ${tones[of] ?? 'idle'}`} title={title}>{wordsOf(of)}</span>;
}

export function Bar({ percent, label }: { percent: number | null; label: string }) {
  return <div className="bar busy" role="progressbar" aria-label={label} aria-valuenow={percent ?? undefined}><div style={{ width: `${percent ?? 0}%` }} /></div>;
}

export interface Share { key: string; words: string; tone: string; count: number }

/** Parts of a whole side by side, each with its count; the words are below, and what a screen reader says. */
export function Stack({ of, words = true }: { of: readonly Share[]; words?: boolean }) {
  const parts = of.filter(({ count }) => count > 0);
  const text = parts.map(({ count, words: what }) => `${number(count)} ${what}`).join(', ') || 'none';
  return (
    <>
      <div className="stack" role="img" aria-label={text} title={text}>{parts.map(({ key, tone, count }) => <div key={key} className={tone} style={{ flexGrow: count }}>{number(count)}</div>)}</div>
      {words && <p className="key-line">{parts.map(({ key, tone, count, words: what }) => <span key={key} className={`swatch ${tone}`}>{number(count)} {what}</span>)}</p>}
    </>
  );
}

/** A digest is recognised by its head; the whole one is in the tooltip. */
export function Digest({ of }: { of: string | null | undefined }) {
  return of ? <code title={of}>{of.slice(0, 12)}</code> : <span className="faint">none</span>;
}

export function bytes(n: number): string {
  if (n < 1_000) return `${n} B`;
  if (n < 1_000_000) return `${(n / 1_000).toFixed(1)} kB`;
  return n < 1_000_000_000 ? `${(n / 1_000_000).toFixed(1)} MB` : `${(n / 1_000_000_000).toFixed(1)} GB`;
}

/** Memory comes in powers of two. */
export function memory(n: number): string {
  return n < 1_073_741_824 ? `${Math.round(n / 1_048_576)} MiB` : `${(n / 1_073_741_824).toFixed(1)} GiB`;
}

export function percent(share: number | null | undefined): string {
  return share === null || share === undefined ? '-' : `${(share * 100).toFixed(1)} %`;
}

/** `1 device`, `2 devices` */
export function counted(n: number, one: string): string {
  return `${number(n)} ${one}${n === 1 ? '' : 's'}`;
}

/** 12 345: thousands apart by what no language takes for a decimal point. */
export function number(n: number): string {
  return n < 10_000 ? `${n}` : `${n}`.replaceAll(/\B(?=(?:\d{3})+$)/g, '\u202f');
}

export function Labels({ of }: { of: Record<string, string> }) {
  const entries = Object.entries(of);
  return entries.length === 0 ? <span className="faint">none</span> : <>{entries.map(([key, value]) => <span className="label" key={key}>{key}={value}</span>)}</>;
}

/** A wide table moves inside itself, by keys too, not the page. */
export function Table({ label, head, children }: { label: string; head: readonly string[]; children: ReactNode }) {
  return (
    <div className="scroll" role="region" aria-label={label} tabIndex={0}>
      <table style={{ '--columns': head.length } as React.CSSProperties}><thead><tr>{head.map((name) => <th key={name} scope="col">{name}</th>)}</tr></thead><tbody>{children}</tbody></table>
    </div>
  );
}

/** The three faces of a live resource: not here yet, in trouble, here. A page that is nothing but it has its heading at once. */
export function Loaded<T>({ live, heading, children }: { live: Live<T>; heading?: string; children: (data: T) => ReactNode }) {
  return (
    <>
      {heading && live.data === undefined && <h1>{heading}</h1>}
      {live.error && <p className="notice bad" role="alert">{live.error.message} <code>{live.error.code}</code></p>}
      {live.data === undefined ? (live.error ? null : <p className="faint" aria-busy="true">Loading…</p>) : children(live.data)}
    </>
  );
}

export function Empty({ children }: { children: ReactNode }) {
  return <div className="empty">{children}</div>;
}

/** What happened, and the code by which it is looked up. */
export function Said({ of: { code, message } }: { of: { code: string; message: string } }) {
  return <><Sentence of={message} /> <code>{code}</code></>;
}

/** How far a device is with its part of a rollout. */
export function ExecutionState({ of: { state, rollbackState } }: { of: { state: string; rollbackState: string | null } }) {
  return <><State of={state} />{rollbackState && <div className="faint">way back: {wordsOf(rollbackState)}</div>}</>;
}

export function StateFilter({ states, value, set }: { states: readonly string[]; value: string; set: (state: string) => void }) {
  return <label>State <select value={value} onChange={(event) => set(event.target.value)}><option value="">any</option>{states.map((one) => <option key={one} value={one}>{wordsOf(one)}</option>)}</select></label>;
}

export function Problems({ of }: { of: { code: string; message: string } | null | undefined }) {
  return of ? <p className="notice bad" role="alert"><Said of={of} /></p> : null;
}

/** Of the tab, so that several are told apart. */
export function useTitle(title: string): void {
  useEffect(() => { document.title = `${title} - Reefkeeper`; }, [title]);
}

/** What was typed, once nothing more comes: half a selector is not asked for. */
export function useTyped(initial = ''): [string, (text: string) => void] {
  const [typed, setTyped] = useState(initial);
  const [quiet, setQuiet] = useState(initial);
  useEffect(() => { const timer = setTimeout(() => setQuiet(typed.trim()), 400); return () => clearTimeout(timer); }, [typed]);
  return [quiet, setTyped];
}
