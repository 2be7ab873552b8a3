import { mkdir, readFile, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import writeFileAtomic from 'write-file-atomic';
import { z } from 'zod';
import { agentConfig, backend, desired, digest, execution, executionStep, failure, type AgentConfig, type Desired } from '@reefkeeper/protocol';
import type { Disk } from './disk.ts';
import { emptyWorkload, type WorkloadState } from './workload.ts';

const defaults = Object.freeze(agentConfig.parse({}));

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
 * (fsync) before anyone hears of it; so a report never says more than a restart would still know. Only while the disk cannot be written the
 * truth is in memory, for as long as that lasts: going back must be possible even then. A copy of what ran last is kept beside, since a
 * card that rots takes files, not devices.
 */
export class StateFile {
  private tail: Promise<unknown> = Promise.resolve();
  private readonly listeners = new Set<() => void>();

  private unsaved = false;
  private copied: string;

  private constructor(private readonly path: string, private readonly disk: Disk, private held: AgentState, readonly was: 'whole' | 'restored' | 'lost') {
    this.copied = was === 'whole' ? essence(held) : '';
    disk.onChange(() => { if (this.unsaved && disk.trouble === null) void this.save().catch(() => {}); });
  }

  static async open(dir: string, disk: Disk): Promise<StateFile> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const path = join(dir, 'state.json');
    const { state, damaged } = await read(path);
    if (!damaged) return new StateFile(path, disk, state, 'whole');
    // A damaged file is kept for whoever looks into it. The bundles are still on disk and the broker holds what is wanted.
    await disk.write(() => rename(path, `${path}.damaged`));
    const copy = await read(join(dir, 'state.copy.json'));
    return new StateFile(path, disk, copy.state, copy.damaged || copy.missing ? 'lost' : 'restored');
  }

  /** Whether the session counter may be behind what the fleet has seen. */
  get uncertain(): boolean {
    return this.was !== 'whole' || this.unsaved;
  }

  get now(): Readonly<AgentState> {
    return this.held;
  }

  /** What the fleet wants of the agent itself; its defaults while nothing is wanted. */
  get config(): AgentConfig {
    return this.held.desired?.config ?? defaults;
  }

  workload(name: string): WorkloadState {
    return this.held.workloads[name] ?? emptyWorkload;
  }

  /** Applies `move` to the newest state, one after the other. Resolves when the result is on disk, or is known not to get there now. */
  update(move: (state: AgentState) => AgentState): Promise<void> {
    const done = this.tail.then(async () => {
      const next = move(this.held);
      if (next === this.held) return;
      if (await this.put(next)) this.unsaved = false;
      else this.unsaved = true;
      this.held = next;
      for (const listener of this.listeners) listener();
    });
    this.tail = done.catch(() => {});
    return done;
  }

  private save(): Promise<void> {
    const done = this.tail.then(async () => { this.unsaved = !(await this.put(this.held)); });
    this.tail = done.catch(() => {});
    return done;
  }

  private async put(state: AgentState): Promise<boolean> {
    const text = `${JSON.stringify(state, null, 1)}\n`;
    if (!(await this.disk.write(() => writeFileAtomic(this.path, text, { mode: 0o600 })))) return false;
    const now = essence(state);
    if (now !== this.copied && (await this.disk.write(() => writeFileAtomic(join(dirname(this.path), 'state.copy.json'), text, { mode: 0o600 })))) this.copied = now;
    return true;
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

/** What is worth a second write: what runs, and by which revision. */
function essence({ desired: wanted, workloads }: AgentState): string {
  return JSON.stringify([wanted?.revision, Object.entries(workloads).map(([name, { running, good, previous }]) => [name, running, good, previous])]);
}

async function read(path: string): Promise<{ state: AgentState; damaged: boolean; missing: boolean }> {
  const empty: AgentState = { schema: 1, session: 0, desired: null, workloads: {} };
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    // Sectors that cannot be read are as good as damaged ones.
    if (error.code === 'EIO') return '';
    throw error;
  });
  if (text === undefined) return { state: empty, damaged: false, missing: true };
  try {
    return { state: schema.parse(JSON.parse(text)), damaged: false, missing: false };
  } catch {
    return { state: empty, damaged: true, missing: false };
  }
}
