import { choicesFor, cpuVariant, edgeTpusOf } from '@reefkeeper/bundle';
import { activationLimitS, type Desired, type ExecutionStep, type Failure, type WantedWorkload } from '@reefkeeper/protocol';
import type { EdgeTpuDevice } from '@reefkeeper/inference';
import type { DiskTrouble } from './disk.ts';
import { matching } from './placement.ts';
import { begun, emptyWorkload, isOpen, maxTrials, onTrial, sameSlot, waitsForBudget, type Execution, type Slot, type WorkloadState } from './workload.ts';

/** A bundle on disk: verified, complete, with the variants whose files are there. */
export interface InstalledBundle {
  variants: readonly { name: string; minRuntime: number | null }[];
}

/** Everything a plan depends on. No clock, no disk, no network behind it. */
export interface Actual {
  workloads: Readonly<Record<string, WorkloadState>>;
  installed: ReadonlyMap<string, InstalledBundle>;
  /** Bundles of which anything lies on disk, complete or not. */
  stored: ReadonlySet<string>;
  accelerator: Accelerator;
  /** `bundle/variant` of what did not prove itself when it was to replace a running variant. */
  unfit: ReadonlySet<string>;
  /** Workloads whose running bundle is damaged on the disk and may be mended now. */
  damaged?: ReadonlySet<string>;
  /** The disk cannot be written. */
  disk?: DiskTrouble | null;
}

/** `runtime`: RuntimeVersion of libedgetpu, null = not known. */
export type Accelerator = { present: false } | { present: true; runtime: number | null; devices: readonly EdgeTpuDevice[] };

interface Of { workload: string }
interface OfBundle extends Of { bundle: string; wanted: WantedWorkload }

export type Step =
  | (Of & { kind: 'begin'; revision: number; wanted: WantedWorkload })
  | (OfBundle & { kind: 'download' | 'verify' | 'install' })
  | (OfBundle & { kind: 'golden' | 'activate' | 'observe'; slot: Slot })
  /** `slot`: how the candidate runs beside what serves; null where it cannot. */
  | (OfBundle & { kind: 'shadow'; slot: Slot | null })
  | (Of & { kind: 'commit' })
  | (Of & { kind: 'refetch' })
  /** Gives up, for a reason that no step has met. */
  | (Of & { kind: 'fail'; code: string; message: string })
  | (Of & { kind: 'rollback'; to: Slot | null })
  /** Back to the bundle before, since the committed one has a fault. */
  | (Of & { kind: 'leave'; to: Slot })
  | (Of & { kind: 'close'; state: 'SUCCEEDED' | 'FAILED' | 'TIMED_OUT' })
  /** Serves the same bundle by another variant: Edge TPUs came or went. */
  | (Of & { kind: 'reseat'; slot: Slot; wanted: WantedWorkload })
  | (Of & { kind: 'remove'; revision: number })
  /** Nothing to do until the world changes. */
  | (Of & { kind: 'wait'; reason: 'NO_ACCELERATOR' | 'budget_exceeded' | DiskTrouble })
  /** Fetches what is damaged of the bundle that runs. */
  | (Of & { kind: 'repair'; slot: Slot })
  | { kind: 'collect'; keep: string[] };

/** A step cannot lack an executor. */
export type Executors = { [K in Step['kind']]: (step: Step & { kind: K }, signal: AbortSignal) => Promise<void> };

export const timeoutCode = 'activation.timeout';

/**
 * All that is left to do, in order, as far as it can be foreseen. Only the first is executed before planning again, so a
 * plan never acts on facts that its own steps have changed.
 */
export function plan(desired: Desired | null, actual: Actual): Step[] {
  if (!desired) return [];
  const names = [...new Set([...Object.keys(desired.workloads), ...Object.keys(actual.workloads)])].sort();
  const steps: Step[] = names.flatMap((name) => planWorkload(name, desired.revision, desired.workloads[name], actual.workloads[name] ?? emptyWorkload, actual));
  // Rubbish only goes when nothing is under way: what an open execution needs is not yet all named.
  // On a full disk it is what helps; a read-only one keeps everything.
  if (!steps.some((step) => step.kind !== 'wait') && (actual.disk ?? 'DISK_FULL') === 'DISK_FULL') {
    const keep = kept(desired, actual);
    if ([...actual.stored].some((bundle) => !keep.has(bundle))) steps.push({ kind: 'collect', keep: [...keep].sort() });
  }
  return steps;
}

/** By the reason of a wait, as it is reported: the fleet then neither counts the time nor gives the device up. */
const waits: Readonly<Record<Exclude<(Step & { kind: 'wait' })['reason'], 'budget_exceeded'>, Failure>> = {
  NO_ACCELERATOR: { code: 'no_accelerator', message: 'It needs an Edge TPU and none answers; it goes on by itself when one does.' },
  DISK_FULL: { code: 'disk_full', message: 'The disk is full, so that nothing new can be noted; it goes on by itself when there is room.' },
  DISK_READ_ONLY: { code: 'disk_read_only', message: 'The disk cannot be written; it goes on by itself when it can.' },
  DISK_FAILING: { code: 'disk_failing', message: 'Writing to the disk fails; it goes on by itself when that is over.' },
};

/** What open executions wait for and have not said yet, by workload. */
export function unsaidWaits(steps: readonly Step[], workloads: Actual['workloads']): Map<string, Failure> {
  return new Map(steps.flatMap((step): [string, Failure][] => {
    if (step.kind !== 'wait' || step.reason === 'budget_exceeded') return [];
    const { execution = null } = workloads[step.workload] ?? {};
    const why = waits[step.reason];
    return isOpen(execution) && !execution.rollback && execution.waiting?.code !== why.code ? [[step.workload, why]] : [];
  }));
}

function planWorkload(workload: string, revision: number, wanted: WantedWorkload | undefined, state: WorkloadState, actual: Actual): Step[] {
  if (!wanted) return state.running || isOpen(state.execution) ? [{ kind: 'remove', workload, revision }] : [];

  // Before anything new begins: what has a fault must not become what that returns to.
  if (state.fault && state.fault.bundle === state.running?.bundle && !isOpen(state.execution) && state.previous && actual.installed.has(state.previous.bundle)) {
    return [{ kind: 'leave', workload, to: state.previous }];
  }
  if (!state.execution || state.execution.revision < revision) {
    const after = begun(state, revision, wanted);
    return [{ kind: 'begin', workload, revision, wanted }, ...planWorkload(workload, revision, wanted, after, actual)];
  }
  if (!isOpen(state.execution)) return planSettled(workload, wanted, state, actual);
  return planExecution(workload, wanted, state, state.execution, actual);
}

function planExecution(workload: string, wanted: WantedWorkload, state: WorkloadState, execution: Execution, actual: Actual): Step[] {
  const { bundle } = wanted;
  if (execution.failure) {
    const end = execution.failure.code === timeoutCode ? 'TIMED_OUT' : 'FAILED';
    const close: Step = { kind: 'close', workload, state: end };
    return onTrial(state) ? [{ kind: 'rollback', workload, to: returnTo(wanted, state, actual) }, close] : [close];
  }
  const fail = (code: string, message: string): Step[] => [{ kind: 'fail', workload, code, message }];
  const limitMs = activationLimitS(wanted.policy) * 1_000;
  if (execution.elapsedMs > limitMs) return fail(timeoutCode, `The activation was not finished within ${wanted.policy.timeoutS} s.`);

  const installed = actual.installed.get(bundle);
  if (state.running?.bundle === bundle && !onTrial(state) && installed) {
    return [{ kind: 'close', workload, state: 'SUCCEEDED' }];
  }
  if (execution.trials >= maxTrials && !execution.done.includes('observe')) {
    return fail('observe.agent_crash_loop', `The agent died ${execution.trials} times while it observed this bundle.`);
  }

  if (waitsForBudget(execution)) return [{ kind: 'wait', workload, reason: 'budget_exceeded' }];
  // Nothing new on a disk that cannot be written: a restart would not know what it runs. Going back is done in memory, if need be.
  if (actual.disk && !execution.rollback) return [{ kind: 'wait', workload, reason: actual.disk }];

  const of = { workload, bundle, wanted };
  const left = (step: ExecutionStep) => !execution.done.includes(step);
  // Installed once and not there any more: a damaged file was thrown away.
  if (!installed && !left('install')) return [{ kind: 'refetch', workload }];
  const fetching: Step[] = installed && execution.rollback ? [] : (['download', 'verify', 'install'] as const).filter(left).map((kind) => ({ kind, ...of }));
  // Which variant it will be is known when the manifest is.
  if (!installed) return fetching;

  const choice = chooseVariant(wanted, installed, actual.accelerator);
  if (!choice.ok) {
    return [...fetching, choice.reason === 'NO_ACCELERATOR' ? { kind: 'wait', workload, reason: choice.reason } : { kind: 'fail', workload, code: choice.reason, message: choice.message }];
  }
  const slot: Slot = { bundle, ...choice.variant };
  // On trial by another variant than there is an accelerator for now: what was proved was the other one.
  const moved = execution.done.includes('activate') && !sameSlot(state.running, slot);
  const proving = (['golden', 'shadow', 'activate', 'observe'] as const)
    // A rollback goes to what has proved itself here before: no golden run, no observation, only the switch.
    .filter((kind) => (left(kind) || moved) && (!execution.rollback || kind === 'activate'))
    .filter((kind) => kind !== 'shadow' || shadows(wanted, state, execution))
    .map((kind): Step => (kind === 'shadow' ? { kind, ...of, slot: besides(slot, installed) } : { kind, ...of, slot }));
  return [...fetching, ...proving, { kind: 'commit', workload }];
}

/** A candidate runs beside something else that serves, and before it takes its place. */
function shadows({ policy, bundle }: WantedWorkload, { running }: WorkloadState, { done }: Execution): boolean {
  return policy.shadow !== undefined && running !== null && running.bundle !== bundle && !done.includes('activate');
}

/** A process of its own on the CPU: on the Edge TPU it would stand in line with the model that serves, and could take its process down. */
function besides(slot: Slot, installed: InstalledBundle): Slot | null {
  if (slot.backend === 'cpu') return slot;
  return installed.variants.some(({ name }) => name === cpuVariant) ? { bundle: slot.bundle, variant: cpuVariant, backend: 'cpu' } : null;
}

/** Nothing is open. The only thing that can still be wrong is the variant, when Edge TPUs have come or gone. */
function planSettled(workload: string, wanted: WantedWorkload, state: WorkloadState, actual: Actual): Step[] {
  if (state.running && actual.damaged?.has(workload) && !actual.disk) return [{ kind: 'repair', workload, slot: state.running }];
  const installed = state.running && actual.installed.get(state.running.bundle);
  if (!installed || !state.running || state.running.bundle !== wanted.bundle) return [];
  const { bundle, variant: serving } = state.running;
  const choice = chooseVariant(wanted, installed, actual.accelerator, (variant) => variant === serving || !actual.unfit.has(variantKey(bundle, variant)));
  if (!choice.ok) return choice.reason === 'NO_ACCELERATOR' ? [{ kind: 'wait', workload, reason: 'NO_ACCELERATOR' }] : [];
  if (choice.variant.variant === serving) return [];
  return [{ kind: 'reseat', workload, wanted, slot: { bundle, ...choice.variant } }];
}

export type VariantChoice =
  | { ok: true; variant: { variant: string; backend: 'edgetpu' | 'cpu' } }
  | { ok: false; reason: 'NO_ACCELERATOR' | 'bundle.variant_missing'; message: string };

/** The best that runs on what is there. @param fit whether a variant may be tried at all */
export function chooseVariant(wanted: Pick<WantedWorkload, 'variant' | 'policy'>, installed: InstalledBundle, accelerator: Accelerator, fit: (variant: string) => boolean = () => true): VariantChoice {
  const { variant, policy: { cpuFallback, device } } = wanted;
  const choices = choicesFor(variant, installed.variants, cpuFallback);
  if (choices.length === 0) return { ok: false, reason: 'bundle.variant_missing', message: `The bundle has no variant ${variant}; it has ${installed.variants.map(({ name }) => name).join(', ')}.` };
  const chosen = choices.find((one) => fit(one.name) && runs(one, accelerator, device));
  if (chosen) return { ok: true, variant: { variant: chosen.name, backend: needsAccelerator(chosen.name) ? 'edgetpu' : 'cpu' } };
  return { ok: false, reason: 'NO_ACCELERATOR', message: edgeTpusOf(variant) > 1 ? `${variant} needs ${edgeTpusOf(variant)} Edge TPUs${device === undefined ? '' : ` (${device})`}, which do not all answer.` : device === undefined ? `${variant} needs an Edge TPU and none answers.` : `${variant} is to run on the Edge TPU ${device}, which does not answer.` };
}

/** A runtime that is not known may do: the self-test finds out. */
function runs({ name, minRuntime }: InstalledBundle['variants'][number], accelerator: Accelerator, pin: string | undefined): boolean {
  if (!needsAccelerator(name)) return true;
  return accelerator.present && hasAccelerators(name, accelerator, pin) && (minRuntime === null || accelerator.runtime === null || accelerator.runtime >= minRuntime);
}

export function variantKey(bundle: string, variant: string): string {
  return `${bundle}/${variant}`;
}

export function needsAccelerator(variant: string): boolean {
  return edgeTpusOf(variant) > 0;
}

/** Whether the Edge TPUs that `variant` runs on are there. @param pin `policy.device` */
export function hasAccelerators(variant: string, accelerator: Accelerator, pin: string | undefined): boolean {
  if (!accelerator.present) return false;
  const needed = edgeTpusOf(variant);
  return pin === undefined ? needed === 1 || accelerator.devices.length >= needed : matching(accelerator.devices, pin).length >= needed;
}

/** The bundle the controller names, if it is here whole; else our own last good one. */
function returnTo(wanted: WantedWorkload, state: WorkloadState, actual: Actual): Slot | null {
  const named = [state.good, state.previous].find((slot) => slot?.bundle === wanted.rollbackTo);
  return named && actual.installed.has(named.bundle) ? named : state.good;
}

/** What must stay on disk. The wanted bundle stays also after a failure, so that a new try need not fetch it again. */
function kept(desired: Desired, actual: Actual): Set<string> {
  const keep = new Set<string>();
  for (const { running, good, previous } of Object.values(actual.workloads)) {
    for (const slot of [running, good, previous]) if (slot) keep.add(slot.bundle);
  }
  for (const { bundle, rollbackTo } of Object.values(desired.workloads)) {
    keep.add(bundle);
    if (rollbackTo) keep.add(rollbackTo);
  }
  return keep;
}
