import type { Report } from './simulated-fleet.ts';

/** Binary heap by time of arrival. */
export class ReportQueue {
  private readonly heap: Report[] = [];

  push(report: Report): void {
    const { heap } = this;
    heap.push(report);
    for (let at = heap.length - 1; at > 0;) {
      const parent = (at - 1) >> 1;
      if (heap[parent]!.at <= report.at) break;
      heap[at] = heap[parent]!;
      heap[parent] = report;
      at = parent;
    }
  }

  /** The earliest report that has arrived by `now`. */
  until(now: number): Report | undefined {
    const { heap } = this;
    const first = heap[0];
    if (!first || first.at > now) return undefined;
    const last = heap.pop()!;
    if (heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && heap[child + 1]!.at < heap[child]!.at) child += 1;
      if (heap[child]!.at >= last.at) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}
