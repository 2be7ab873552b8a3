import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { DeviceState } from './device.ts';
import type { Order, SwarmOptions } from './main.ts';

/** Many simulated devices in a process of their own, so that what they cost shows apart from what is measured. */
export class Swarm {
  readonly child: ChildProcess;
  readonly options: SwarmOptions;
  private readonly open = new Map<number, (answer: unknown) => void>();
  private next = 0;

  constructor(options: Partial<SwarmOptions> & { port: number; count: number; prefix: string }, execArgv: string[] = []) {
    this.options = { host: '127.0.0.1', comeback: { firstMs: 500, maxMs: 10_000, stableMs: 10_000 }, stepMs: [10, 50], firstWindowMs: 100, windowMs: 60_000, inferences: 100, bad: [], connectsPerS: 2_000, seed: 1, ...options };
    this.child = fork(join(import.meta.dirname, 'main.ts'), [], {
      execArgv: ['--conditions=@reefkeeper/source', '--experimental-transform-types', '--disable-warning=ExperimentalWarning', ...execArgv],
      env: { PATH: process.env.PATH, SWARM: JSON.stringify(this.options) },
    });
    this.child.on('message', ({ id, answer }: { id: number; answer: unknown }) => {
      this.open.get(id)?.(answer);
      this.open.delete(id);
    });
  }

  get pid(): number {
    return this.child.pid!;
  }

  /** Ids in order; a device exists for the controller when there is a row for it. */
  get ids(): string[] {
    return Array.from({ length: this.options.count }, (_, at) => `${this.options.prefix}-${String(at).padStart(6, '0')}`);
  }

  async connected(count = this.options.count, timeoutMs = 120_000): Promise<void> {
    for (const until = Date.now() + timeoutMs; ;) {
      const { connected } = await this.ask<{ connected: number }>({ kind: 'counts' });
      if (connected >= count) return;
      if (Date.now() > until) throw new Error(`only ${connected} of ${count} simulated devices are connected after ${timeoutMs} ms`);
      await sleep(100);
    }
  }

  dump(): Promise<DeviceState[]> {
    return this.ask({ kind: 'dump' });
  }

  ask<T>(order: Order): Promise<T> {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.open.set(id, resolve as (answer: unknown) => void);
      this.child.send({ id, order }, (error) => { if (error) reject(error); });
    });
  }

  async stop(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const gone = once(this.child, 'exit');
    this.child.disconnect();
    await gone;
  }
}
