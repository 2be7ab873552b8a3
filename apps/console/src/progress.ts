import type { Rollout } from './api.ts';
import { counted, wordsOf, type Share } from './parts.tsx';

const order: [state: string, tone: string][] = [['SUCCEEDED', 'good'], ['IN_PROGRESS', 'busy'], ['QUEUED', 'soft'], ['TIMED_OUT', 'warn'], ['REJECTED', 'bad'], ['FAILED', 'bad'], ['CANCELED', 'idle'], ['REMOVED', 'idle'], ['PENDING', 'none']];
const words: Record<string, string> = { QUEUED: 'told', PENDING: 'not told', REMOVED: 'retired', CANCELED: 'left out', TIMED_OUT: 'without an answer', SUCCEEDED: 'updated' };

/** What became of the devices, worst last before those that wait. */
export function sharesOf(counts: Record<string, number>): Share[] {
  return order.map(([state, tone]) => ({ key: state, words: words[state] ?? wordsOf(state), tone, count: counts[state] ?? 0 }));
}

/** Over all waves. */
export function countsOf(rollout: Rollout): Record<string, number> {
  const sum: Record<string, number> = {};
  for (const { counts } of rollout.waves) for (const [state, n] of Object.entries(counts)) sum[state] = (sum[state] ?? 0) + n;
  return sum;
}

/** Which wave it is at, of how many. */
export function waveOf({ state, wave, waves }: Rollout): string {
  const done = waves.filter((one) => one.state === 'PASSED').length;
  return ['DRAFT', 'AWAITING_APPROVAL', 'SCHEDULED'].includes(state) || wave >= waves.length ? counted(waves.length, 'wave') : state === 'SUCCEEDED' ? `${done} of ${waves.length} waves passed` : `wave ${wave + 1} of ${waves.length}`;
}

/** What a person reads first: why it stands, or why it does not move. */
export function nowOf({ state, waiting, stateReason }: Rollout): { code: string; message: string } | null {
  return state === 'RUNNING' ? waiting : stateReason;
}
