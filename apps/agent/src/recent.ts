import type { Slot } from './workload.ts';

export interface Result { slot: Slot; top1: number; label: string; right: (label: string) => boolean; fed: boolean }

/** The last answers by id, so that the truth can be told about them when it is known. The oldest is forgotten first. */
export class RecentResults {
  private readonly results = new Map<string, Result>();

  constructor(private readonly most = 1_000) {}

  add(id: string, result: Omit<Result, 'fed'>): void {
    // Deleted first: an id that is used again belongs at the end of the line.
    this.results.delete(id);
    this.results.set(id, { ...result, fed: false });
    if (this.results.size > this.most) this.results.delete(this.results.keys().next().value!);
  }

  get(id: string): Result | undefined {
    return this.results.get(id);
  }
}
