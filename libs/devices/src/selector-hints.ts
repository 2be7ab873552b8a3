import type { Requirement } from './selector.ts';

/** Label keys that devices have, with the values of each and on how many devices. */
export type KnownLabels = ReadonlyMap<string, ReadonlyMap<string, number>>;

const mostNamed = 8;

/** Why a selector may choose nobody: a sentence for each part that asks for what no device has, with what there is in its place. */
export function selectorHints(selector: readonly Requirement[], known: KnownLabels): string[] {
  return selector.flatMap((one): string[] => {
    // Both hold where the label is absent, so neither is why nobody is chosen.
    if (one.operator === 'absent' || one.operator === 'notin') return [];
    const values = known.get(one.key);
    if (!values) return [`No device has the label ${one.key}${insteadOf(one.key, known)}`];
    if (!('values' in one) || one.values.some((value) => values.has(value))) return [];
    const near = one.values.flatMap((value) => nearest(value, [...values.keys()]));
    const there = [...values.keys()].slice(0, mostNamed).map((value) => `${one.key}=${value}`).join(', ');
    return [`No device has ${one.key}=${one.values.join(` or ${one.key}=`)}${near.length > 0 ? `; did you mean ${near.map((value) => `${one.key}=${value}`).join(' or ')}?` : `; there is ${there}${values.size > mostNamed ? ', ...' : ''}.`}`];
  });
}

/** A key that nobody has is a slip of the pen, or the value of another label. */
function insteadOf(key: string, known: KnownLabels): string {
  if (known.size === 0) return '; none has any label.';
  const pairs = (most?: number) => [...known].flatMap(([name, values]) => nearest(key, [...values.keys()], most).map((value) => `${name}=${value}`));
  const same = pairs(0);
  const near = same.length > 0 ? same : nearest(key, [...known.keys()]);
  if (near.length > 0) return `; did you mean ${near.slice(0, 3).join(' or ')}?`;
  const close = pairs();
  return close.length > 0 ? `; did you mean ${close.slice(0, 3).join(' or ')}?` : `; devices have ${[...known.keys()].slice(0, mostNamed).join(', ')}${known.size > mostNamed ? ', ...' : ''}.`;
}

/** Those that are a third of a word away at most, the nearest first; with `most` 0 only those that differ in case at most. */
function nearest(word: string, among: readonly string[], most = Math.max(1, Math.floor(word.length / 3))): string[] {
  return among.map((one) => ({ one, far: distance(word.toLowerCase(), one.toLowerCase()) })).filter(({ far }) => far <= most).sort((a, b) => a.far - b.far).slice(0, 3).map(({ one }) => one);
}

/** Letters to put in, take out, change, or swap with the next one (optimal string alignment). */
function distance(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = row[j - 1]! + Number(a[i - 1] !== b[j - 1]);
      const swap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? before[j - 2]! + 1 : Infinity;
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, change, swap));
    }
    [before, row] = [row, next];
  }
  return row[b.length]!;
}
