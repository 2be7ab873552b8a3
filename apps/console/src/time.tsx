import { useEffect, useState } from 'react';

/** Every time on a page is in the browser's zone, and says so. */
const whole = new Intl.DateTimeFormat(undefined, { year: 'numeric', month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', timeZoneName: 'short' });
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit' });

export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

const exact = new Intl.DateTimeFormat(undefined, { year: 'numeric', month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit', timeZoneName: 'short' });

const timeOf = (at: string): string => whole.format(new Date(at));
/** Within a log, whose day and zone are known. */
export const clockOf = (at: string): string => clock.format(new Date(at));

export function When({ at, seconds = false }: { at: string; seconds?: boolean }) {
  return <time dateTime={at} title={at}>{seconds ? exact.format(new Date(at)) : timeOf(at)}</time>;
}

export function Ago({ at }: { at: string | null | undefined }) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => { const tick = setInterval(() => setNow(Date.now()), 1_000); return () => clearInterval(tick); }, []);
  if (!at) return <span className="faint">never</span>;
  return <time dateTime={at} title={timeOf(at)} className="ago">{ago(now - Date.parse(at))}</time>;
}

export function ago(ms: number): string {
  const text = duration(Math.max(0, ms));
  return text === '0 s' ? 'now' : `${text} ago`;
}

/** `42 s`, `12 min`, `3 h`, `2 d`: rounded down. */
export function duration(ms: number): string {
  const s = Math.round(ms / 1_000);
  if (s < 60) return `${s} s`;
  if (s < 3_600) return `${Math.floor(s / 60)} min`;
  return s < 86_400 ? `${Math.floor(s / 3_600)} h` : `${Math.floor(s / 86_400)} d`;
}

const stamp = /\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)/;

/** A sentence of the controller's, its times as the reader's clock has them. */
export function Sentence({ of }: { of: string }) {
  const [, before, at, after] = new RegExp(`^([^]*?)(${stamp.source})([^]*)$`).exec(of) ?? [];
  return at ? <>{before}<When at={at} /><Sentence of={after!} /></> : <>{of}</>;
}
