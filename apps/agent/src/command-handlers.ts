import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ReefError } from '@reefkeeper/platform/errors';
import { learnArgs } from '@reefkeeper/protocol';
import type { Accelerators } from './accelerator.ts';
import type { ActivationOptions } from './activation.ts';
import type { Budget } from './budget.ts';
import { agentVersion } from './capabilities.ts';
import type { CommandHandlers } from './commands.ts';
import type { AgentSettings } from './config.ts';
import type { Gateway } from './gateway.ts';
import type { Outbox } from './outbox.ts';
import type { Reporter } from './reporter.ts';
import type { StateFile } from './state.ts';
import type { Store } from './store.ts';
import { edgeTpuTemperature, hostTemperature } from './temperature.ts';
import type { Workloads } from './workloads.ts';

export interface CommandWorld {
  settings: AgentSettings;
  bootId: string;
  /** Of the monotonic clock. */
  startedMs: number;
  workloads: Workloads;
  accelerators: Accelerators;
  state: StateFile;
  store: Store;
  outbox: Outbox;
  budget: Budget;
  reporter: Reporter;
  gateway: () => Gateway;
  resumeDownloads: () => Promise<void>;
  stopped: AbortSignal;
  download?: ActivationOptions['download'] | undefined;
}

/** What is being learnt, one folder a command. */
export function learningDir({ REEF_AGENT_DIR }: AgentSettings): string {
  return join(REEF_AGENT_DIR, 'learning');
}

/** What the fleet may ask this device to do once. How often each is done: `commands.ts`. */
export function commandHandlers(world: CommandWorld): CommandHandlers {
  const { settings, bootId, startedMs, workloads, accelerators, state, outbox, budget } = world;
  return {
    ping: async () => ({
      agentVersion, uptimeMs: Math.round(performance.now() - startedMs), bootId, windowsWaiting: outbox.count, windowsMerged: outbox.merged, windowsDropped: outbox.dropped,
      temperaturesC: await temperatures(accelerators, settings.REEF_SYSFS),
    }),

    'restart-inference': async (args) => {
      const chosen = workloads.chosen(args);
      await Promise.all(chosen.map(([, serving]) => serving.restart()));
      return { restarted: chosen.map(([name]) => name) };
    },

    'allow-download': async (args) => {
      const wanted = Object.entries(state.now.desired?.workloads ?? {}).filter(([name]) => args.workload === undefined || args.workload === name);
      await budget.allow(wanted.map(([, { bundle }]) => bundle));
      await world.resumeDownloads();
      return { allowed: wanted.map(([name]) => name) };
    },

    bench: async (args) => {
      const [name, serving] = workloads.chosen(args)[0]!;
      const runs = Math.min(1_000, Math.max(1, Math.trunc(Number(args.runs ?? 50)) || 50));
      const { invokesUs, stages, perSecond } = await serving.bench(runs);
      return {
        workload: name, runs, ...quantilesOf(invokesUs), perSecond: Math.round(perSecond * 10) / 10,
        ...(stages.length > 1 ? { segments: stages.map((stage) => ({ edgetpu: stage.edgetpu, ...quantilesOf(stage.invokesUs) })) } : {}),
      };
    },

    learn: (args, id) => learn(world, args, id),
  };
}

function quantilesOf(us: readonly number[]): Record<'p50Us' | 'p95Us' | 'p99Us' | 'maxUs', number> {
  const sorted = us.toSorted((a, b) => a - b);
  const at = (q: number) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))]!);
  return { p50Us: at(0.5), p95Us: at(0.95), p99Us: at(0.99), maxUs: at(1) };
}

async function temperatures({ found }: Accelerators, sysfs: string): Promise<{ host: number | null; edgetpus: Record<string, number | null> }> {
  return {
    host: await hostTemperature(sysfs),
    edgetpus: Object.fromEntries(await Promise.all(found.devices.map(async (device) => [device.path, await edgeTpuTemperature(device, sysfs)] as const))),
  };
}

/** A new head on what a workload runs, offered to the fleet; what runs here does not change by it. */
async function learn({ settings, workloads, store, gateway, reporter, stopped, download }: CommandWorld, given: Record<string, unknown>, id: string): Promise<Record<string, unknown>> {
  const parsed = learnArgs.safeParse(given);
  if (!parsed.success) throw new ReefError('command.args_wrong', 'invalid', `The device cannot read what it is asked to learn: ${parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; ')}`);
  const { workload } = parsed.data;
  workloads.chosen({ workload });
  const dir = join(learningDir(settings), id);
  await mkdir(dir, { recursive: true, mode: 0o700 });
  try {
    const { learnAndOffer } = await import('./learning.ts');
    return await learnAndOffer(id, parsed.data, {
      runner: () => workloads.get(workload)?.current, store, gateway, dir, reserveBytes: settings.REEF_DISK_RESERVE, tflite: settings.REEF_TFLITE_LIBRARY,
      signal: stopped, ...(download ? { download } : {}),
      onProgress: (step, percent) => reporter.learns(workload, { command: id, step, percent: Math.round(percent) }),
    });
  } finally {
    reporter.learns(workload, null);
    await rm(dir, { recursive: true, force: true });
  }
}
