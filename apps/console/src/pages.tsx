import { useState, type ReactNode } from 'react';
import { addressOf, type Page, type Query } from './api.ts';
import { useLive, type Live } from './live.ts';

export interface Paged<T> { live: Live<Page<T>>; /** Under the list: empty where one page holds it all. */ turn: ReactNode }

/**
 * One page of a list at a time, however long it is; a list that asks for something else begins at its start.
 * @param query what it asks for; what is empty or undefined is not asked
 */
export function usePages<T>(list: string, { query, size, subscription, what }: { query?: Query; size: number; subscription?: string; what: string }): Paged<T> {
  const path = addressOf(list, query);
  const [state, setState] = useState<{ path: string; cursors: string[] }>({ path, cursors: [] });
  const cursors = state.path === path ? state.cursors : [];
  const cursor = cursors.at(-1);
  const live = useLive<Page<T>>(addressOf(list, { ...query, limit: `${size}`, cursor }), subscription);
  const next = live.data?.nextCursor ?? null;
  const first = cursors.length * size;
  const turn = (cursors.length > 0 || next) && (
    <nav className="turn" aria-label={`Pages of ${what}`}>
      <button type="button" disabled={cursors.length === 0} onClick={() => setState({ path, cursors: cursors.slice(0, -1) })}>Previous</button>
      <span className="faint">{live.data && live.data.items.length > 0 ? `${first + 1} to ${first + live.data.items.length}` : ''}</span>
      <button type="button" disabled={!next} onClick={() => setState({ path, cursors: [...cursors, next!] })}>Next</button>
    </nav>
  );
  return { live, turn };
}
