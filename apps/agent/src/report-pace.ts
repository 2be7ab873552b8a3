import type { Reported } from '@reefkeeper/protocol';

type Said = Pick<Reported, 'observedRevision' | 'health' | 'conditions' | 'workloads'>;

/** Of an update that takes a fifth of a second nobody reads the steps. */
const stepMs = 250;

/**
 * When a report is due. What somebody may act on (a state, a failure, what runs, a condition) is said at once; which step an update is at, and how far, four times a second at most. Each report costs a
 * message, a row and an acknowledgement, and an update has some nine steps: on a fast device most of them are never sent.
 */
export class ReportPace {
  private matter = '';
  private sentMs = -Infinity;

  sent(said: Said, nowMs: number): void {
    this.matter = matterOf(said);
    this.sentMs = nowMs;
  }

  /** How long a report that says this may wait. */
  delayMs(said: Said, nowMs: number): number {
    return matterOf(said) === this.matter ? Math.max(0, this.sentMs + stepMs - nowMs) : 0;
  }
}

function matterOf({ observedRevision, health, conditions, workloads }: Said): string {
  return JSON.stringify([observedRevision, health, conditions, Object.entries(workloads).map(([name, { execution, learning: _learning, ...rest }]) => {
    const { step: _step, percent: _percent, ...matter } = execution ?? {};
    return [name, rest, matter];
  })]);
}
