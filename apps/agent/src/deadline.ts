import { Sketch } from '@reefkeeper/protocol';

/** So many runs make a p99 worth something; it is learned anew after as many again, since a busier machine is slower. */
const enough = 200;
const generation = 2_000;

/** How long an invoke may take before its process counts as hung: `times` its own p99, at least `floorMs`, at most `ceilingMs`, which also holds until it is known. */
export class InvokeDeadline {
  private past: Sketch | undefined;
  private present = new Sketch();

  constructor(private readonly limits: { floorMs: number; ceilingMs: number; times?: number }) {}

  note(invokeUs: number): void {
    this.present.add(invokeUs);
    if (this.present.count < generation) return;
    this.past = this.present;
    this.present = new Sketch();
  }

  get ms(): number {
    const { floorMs, ceilingMs, times = 20 } = this.limits;
    const known = this.present.count >= enough ? this.present : this.past;
    const p99Us = known?.quantile(0.99);
    return p99Us === undefined ? ceilingMs : Math.min(ceilingMs, Math.max(floorMs, (times * p99Us) / 1_000));
  }
}
