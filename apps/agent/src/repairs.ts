import { Backoff } from './backoff.ts';

/**
 * Workloads whose bundle is damaged on the disk, and when to try to mend it next: each on its own, so that one that cannot be mended (no
 * network) keeps nobody else waiting. In memory only: after a restart the damage is met again.
 */
export class Repairs {
  private readonly open = new Map<string, { backoff: Backoff; notBeforeMs: number; timer: NodeJS.Timeout | undefined }>();

  constructor(private readonly poke: () => void, private readonly delays: { firstMs: number; maxMs: number } = { firstMs: 2_000, maxMs: 300_000 }) {}

  /** All that are damaged. */
  get workloads(): ReadonlySet<string> {
    return new Set(this.open.keys());
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
    clearTimeout(this.open.get(workload)?.timer);
    this.open.delete(workload);
  }

  stop(): void {
    for (const name of this.open.keys()) this.mended(name);
  }
}
