import { setTimeout as sleep } from 'node:timers/promises';
import { Inject, Injectable, type BeforeApplicationShutdown, type OnApplicationBootstrap } from '@nestjs/common';
import { idsOf, type ChangeFeed, type Logger } from '@reefkeeper/platform';
import { RolloutEngine } from './engine.ts';

/** How late a move can be when every hint is lost. */
const idleMs = 500;
/** Reports of a wave arrive in bursts and one pass takes in many. Between two passes twice as long as the last one took, so that the loop leaves most of a core to others. */
const burstMs = (passMs: number): number => Math.min(idleMs, Math.max(20, 2 * passMs));

/** Keeps rollouts moving in this process. Hints wake it, the rows' `wait_until` are what it goes by; replicas share the work by row locks. */
@Injectable()
export class RolloutLoop implements OnApplicationBootstrap, BeforeApplicationShutdown {
  private heard = new Set<string>();
  private stopped = false;
  private wake = () => {};
  private off = () => {};
  private running: Promise<void> | undefined;

  constructor(@Inject(RolloutEngine) private readonly engine: RolloutEngine, @Inject('FEED') private readonly feed: ChangeFeed, @Inject('LOG') private readonly log: Logger) {}

  onApplicationBootstrap(): void {
    this.off = this.feed.onChange((change) => {
      if (change.kind === 'device') for (const id of idsOf(change)) this.heard.add(id);
      if (change.kind === 'device' || change.kind === 'rollout' || (change.kind === 'telemetry' && this.engine.awaitsSamples)) this.wake();
    });
    this.running ??= this.run();
  }

  /** Waits for the pass in progress; a pass is one short transaction per rollout. */
  async beforeApplicationShutdown(): Promise<void> {
    this.stopped = true;
    this.off();
    this.wake();
    await this.running;
  }

  private async run(): Promise<void> {
    while (!this.stopped) {
      const heard = [...this.heard];
      this.heard.clear();
      let woken = false;
      const next = new Promise<void>((resolve) => { this.wake = () => { woken = true; resolve(); }; });
      const began = performance.now();
      try {
        await this.engine.advanceDue(heard);
      } catch (error) {
        for (const id of heard) this.heard.add(id);
        this.log.warn({ err: error }, 'rollout pass failed, trying again');
        woken = false;
        await sleep(idleMs);
      }
      const passMs = performance.now() - began;
      if (!woken) await Promise.race([next, sleep(idleMs)]);
      if (!this.stopped) await sleep(burstMs(passMs));
    }
  }
}
