import { useEffect, useSyncExternalStore } from 'react';
import { Link } from 'wouter';
import { api } from './api.ts';

/** Which version a bundle is never changes, so each is asked for once; null where it is none of this registry's. */
const known = new Map<string, string | null>();
const waiting = new Set<string>();
const listeners = new Set<() => void>();
let asks: ReturnType<typeof setTimeout> | undefined;
let looks = 0;

function ask(bundle: string): void {
  if (known.has(bundle) || waiting.has(bundle)) return;
  waiting.add(bundle);
  asks ??= setTimeout(() => { asks = undefined; void read([...waiting]); });
}

/** Asked together: a page of devices shows the same few bundles again and again. */
async function read(bundles: string[]): Promise<void> {
  for (let at = 0; at < bundles.length; at += 100) {
    const some = bundles.slice(at, at + 100);
    try {
      const { items } = await api<{ items: { bundle: string; version: string }[] }>(`/bundles?digest=${some.join(',')}`);
      const names = new Map(items.map(({ bundle, version }) => [bundle, version]));
      for (const bundle of some) known.set(bundle, names.get(bundle) ?? null);
    } catch {
      // Asked again by whoever shows one next.
    }
    for (const bundle of some) waiting.delete(bundle);
  }
  looks += 1;
  for (const listener of listeners) listener();
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** What people call each of these; its head where it has no name. */
export function useBundleNames(bundles: readonly string[]): Record<string, string> {
  useSyncExternalStore(subscribe, () => looks);
  const all = bundles.join();
  useEffect(() => { for (const bundle of all.split(',')) if (bundle) ask(bundle); }, [all]);
  return Object.fromEntries(bundles.map((bundle) => [bundle, known.get(bundle) ?? bundle.slice(0, 12)]));
}

export const versionPage = (ref: string): string => `/models/${ref.replace('@', '/')}`;

/** The version, as a link; the digest is in the tooltip. */
export function Bundle({ of }: { of: string | null | undefined }) {
  const names = useBundleNames(of ? [of] : []);
  if (!of) return <span className="faint">none</span>;
  const name = names[of]!;
  return name.includes('@') ? <Link href={versionPage(name)} title={`bundle ${of}`}>{name}</Link> : <code title={of}>{name}</code>;
}
