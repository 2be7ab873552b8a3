import { createClient, type Client } from 'graphql-ws';
import { useCallback, useEffect, useRef, useState } from 'react';
import { api, Problem, token } from './api.ts';

let shared: Client | undefined;

function client(): Client {
  shared ??= createClient({
    url: `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/graphql`,
    connectionParams: () => ({ authorization: `Bearer ${token.get()}` }),
    retryAttempts: Infinity,
    shouldRetry: () => true,
  });
  return shared;
}

/** Drops the live connection, so that the next one carries the present token. */
export function reconnect(): void {
  void shared?.dispose();
  shared = undefined;
}

/** Hints arrive in bursts; the page reads again at most this often. */
const quietMs = 400;
/** And without any hint this often, in case the live connection is down. */
const pollMs = 5_000;

export interface Live<T> { data: T | undefined; error: Problem | undefined; reload: () => void }

/**
 * A REST resource that follows changes: each event of the GraphQL `subscription` is a hint to read it again.
 * The resource stays the truth; a lost hint costs at most one poll.
 */
export function useLive<T>(path: string | null, subscription?: string): Live<T> {
  const [state, setState] = useState<{ path: string | null; data?: T; error?: Problem }>({ path });
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);

  const read = useCallback(async () => {
    if (!path) return;
    try {
      const data = await api<T>(path);
      setState({ path, data });
    } catch (thrown) {
      const error = thrown instanceof Problem ? thrown : new Problem(0, 'offline', 'The controller does not answer; trying again.');
      setState((before) => ({ path, ...(before.path === path && before.data !== undefined ? { data: before.data } : {}), error }));
    }
  }, [path]);

  useEffect(() => {
    void read();
    const poll = setInterval(() => void read(), pollMs);
    return () => clearInterval(poll);
  }, [read]);

  useEffect(() => {
    if (!subscription) return undefined;
    const stop = client().subscribe({ query: subscription }, {
      next: () => {
        timer.current ??= setTimeout(() => { timer.current = undefined; void read(); }, quietMs);
      },
      error: () => {},
      complete: () => {},
    });
    return () => { stop(); clearTimeout(timer.current); timer.current = undefined; };
  }, [subscription, read]);

  const fresh = state.path === path;
  return { data: fresh ? state.data : undefined, error: fresh ? state.error : undefined, reload: () => void read() };
}
