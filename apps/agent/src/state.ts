import { mkdir, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import writeFileAtomic from 'write-file-atomic';
import { z } from 'zod';
import { backend, desired, digest, execution, executionStep, failure, type Desired } from '@reefkeeper/protocol';
import { emptyWorkload, type WorkloadState } from './workload.ts';

const slot = z.object({ bundle: digest, variant: z.string(), backend }).nullable();
const workload = z.object({
  running: slot, good: slot, previous: slot,
  execution: execution.extend({
    wantedVariant: z.string(), rollback: z.boolean(), done: z.array(executionStep), elapsedMs: z.number(), trials: z.number(), waiting: failure.nullable().default(null),
  }).nullable(),
  // Absent in files of earlier agents.
  probation: z.object({ leftMs: z.number(), crashes: z.number(), boots: z.number() }).nullable().default(null),
  fault: z.object({ bundle: digest, failure }).nullable().default(null),
});
const schema = z.object({
  schema: z.literal(1),
  /** Connections opened so far; orders presence and reports across restarts. */
  session: z.number().int().nonnegative(),
  /** The wanted state last taken in. Its revision is the lowest that will be looked at again. */
  desired: desired.schema.nullable(),
  workloads: z.record(z.string(), workload),
});

export interface AgentState {
  schema: 1;
  session: number;
  desired: Desired | null;
  workloads: Record<string, WorkloadState>;
}

/**
 * state.json: the one truth about what this device runs and where an activation stands. Each change is a whole new file, on disk
 * (fsync) before anyone hears of it; so a report never says more than a restart would still know.
 */
export class StateFile {
  private tail: Promise<unknown> = Promise.resolve();
  private readonly listeners = new Set<() => void>();

  private constructor(private readonly path: string, private held: AgentState, readonly wasDamaged: boolean) {}

  static async open(dir: string): Promise<StateFile> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const path = join(dir, 'state.json');
    const { state, damaged } = await read(path);
    // A damaged file is kept for whoever looks into it. The bundles are still on disk and the broker holds what is wanted.
    if (damaged) await rename(path, `${path}.damaged`);
    return new StateFile(path, state, damaged);
  }

  get now(): Readonly<AgentState> {
    return this.held;
  }

  workload(name: string): WorkloadState {
    return this.held.workloads[name] ?? emptyWorkload;
  }

  /** Applies `move` to the newest state, one after the other. Resolves when the result is on disk. */
  update(move: (state: AgentState) => AgentState): Promise<void> {
    const done = this.tail.then(async () => {
      const next = move(this.held);
      if (next === this.held) return;
      await writeFileAtomic(this.path, `${JSON.stringify(next, null, 1)}\n`, { mode: 0o600 });
      this.held = next;
      for (const listener of this.listeners) listener();
    });
    this.tail = done.catch(() => {});
    return done;
  }

  move(name: string, move: (state: WorkloadState) => WorkloadState): Promise<void> {
    return this.update((state) => ({ ...state, workloads: { ...state.workloads, [name]: move(state.workloads[name] ?? emptyWorkload) } }));
  }

  onChange(listener: () => void): void {
    this.listeners.add(listener);
  }
}

/** For `reef-agent status`: what a running agent wrote last. */
export async function readState(dir: string): Promise<AgentState> {
  return (await read(join(dir, 'state.json'))).state;
}

async function read(path: string): Promise<{ state: AgentState; damaged: boolean }> {
  const empty: AgentState = { schema: 1, session: 0, desired: null, workloads: {} };
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (text === undefined) return { state: empty, damaged: false };
  try {
    return { state: schema.parse(JSON.parse(text)), damaged: false };
  } catch {
    return { state: empty, damaged: true };
  }
}
