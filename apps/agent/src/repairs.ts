import { Backoff } from './backoff.ts';

const saidMs = 3_000;

/**
 * Workloads whose bundle is damaged on the disk, and when to try to mend it next: each on its own, so that one that cannot be mended (no
 * network) keeps nobody else waiting. In memory only: after a restart the damage is met again.
 */
export class Repairs {
  /** Mended just now, and said for a moment still: a file is fetched again in less time than a report takes, and who watches the fleet must hear of disks that rot. */
  private readonly lately = new Map<string, NodeJS.Timeout>();
  private readonly open = new Map<string, { backoff: Backoff; notBeforeMs: number; timer: NodeJS.Timeout | undefined }>();

  constructor(private readonly poke: () => void, private readonly delays: { firstMs: number; maxMs: number } = { firstMs: 2_000, maxMs: 300_000 }) {}

  /** All that are damaged, or were a moment ago. */
  get workloads(): ReadonlySet<string> {
    return new Set([...this.open.keys(), ...this.lately.keys()]);
  }

  /** Those to be tried now. */
  get due(): ReadonlySet<string> {
    const now = performance.now();
    return new Set([...this.open].filter(([, { notBeforeMs }]) => notBeforeMs <= now).map(([name]) => name));
  }

  met(workload: string): void {
    if (this.open.has(workload)) return;
    this.open.set(workload, { backoff: new Backoff(this.delays), notBeforeMs: 0, timer: undefined });
    this.poke();
  }

  /** @returns how often in a row it has failed */
  failed(workload: string): number {
    const one = this.open.get(workload);
    if (!one) return 0;
    const ms = 100 + one.backoff.next();
    one.notBeforeMs = performance.now() + ms;
    clearTimeout(one.timer);
    one.timer = setTimeout(this.poke, ms + 5);
    return one.backoff.count;
  }

  mended(workload: string): void {
    if (!this.close(workload)) return;
    clearTimeout(this.lately.get(workload));
    this.lately.set(workload, setTimeout(() => {
      this.lately.delete(workload);
      this.poke();
    }, saidMs));
  }

  stop(): void {
    for (const name of this.open.keys()) this.close(name);
    for (const timer of this.lately.values()) clearTimeout(timer);
  }

  private close(workload: string): boolean {
    clearTimeout(this.open.get(workload)?.timer);
    return this.open.delete(workload);
  }
}
