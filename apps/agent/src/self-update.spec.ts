import { describe, expect, it } from 'vitest';
import { agentVariant, toldBy } from './self-update.ts';
import { emptyWorkload, type Execution, type Slot, type WorkloadState } from './workload.ts';

const [one, two] = ['1'.repeat(64), '2'.repeat(64)];
const slot = (bundle: string): Slot => ({ bundle, variant: 'agent-arm64', backend: 'cpu' });
const ended = (state: Execution['state'], bundle: string): Execution => ({ revision: 3, bundle, wantedVariant: 'agent-arm64', rollback: false, state, step: null, percent: null, failure: null, done: [], elapsedMs: 0, trials: 0, waiting: null });
const committed: WorkloadState = { ...emptyWorkload, running: slot(two), good: slot(two), previous: slot(one), execution: ended('SUCCEEDED', two) };

describe('what the state says of the release that runs', () => {
  it('stays where it is right', () => {
    expect(toldBy(two, committed, 'arm64')).toBe(committed);
    expect(toldBy('factory', emptyWorkload, 'arm64')).toBe(emptyWorkload);
  });

  it('waits for an open update, which knows more: the switch may not have been noted yet', () => {
    const open = { ...committed, execution: ended('IN_PROGRESS', '3'.repeat(64)) };
    expect(toldBy('3'.repeat(64), open, 'arm64')).toBe(open);
    expect(toldBy('3'.repeat(64), { ...emptyWorkload, execution: ended('QUEUED', '3'.repeat(64)) }, 'arm64')).toMatchObject({ running: null });
  });

  it('follows a launcher that has gone back from a committed release, and names it', () => {
    expect(toldBy(one, committed, 'arm64', 'starts')).toMatchObject({ running: slot(one), good: slot(one), previous: null, fault: { bundle: two, failure: { code: 'service.crash_loop' } } });
    expect(toldBy('factory', committed, 'arm64', 'incomplete')).toMatchObject({ running: null, good: null, fault: { bundle: two } });
  });

  it('finds no fault where a newer package has put its own release in place, or the state was lost', () => {
    expect(toldBy('factory', committed, 'arm64')).toMatchObject({ running: null, fault: null });
    expect(toldBy(two, emptyWorkload, 'arm64')).toMatchObject({ running: slot(two), good: slot(two), fault: null });
  });

  it('calls machines as Debian does', () => {
    expect([agentVariant('x64'), agentVariant('arm64')]).toEqual(['agent-amd64', 'agent-arm64']);
  });
});
