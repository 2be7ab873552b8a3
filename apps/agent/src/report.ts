import type { Desired, Execution as ReportedExecution, Reported, ReportedWorkload } from '@reefkeeper/protocol';
import type { DiskTrouble } from './disk.ts';
import { hasAccelerators, needsAccelerator, variantKey, type Accelerator } from './plan.ts';
import type { AgentState } from './state.ts';
import { isOpen, onTrial, type Execution, type WorkloadState } from './workload.ts';

export interface Live {
  accelerator: Accelerator;
  /** An Edge TPU has failed so often that it is left alone for a while. */
  acceleratorFailing: boolean;
  /** Paths of the Edge TPUs that each workload is on. */
  devices: ReadonlyMap<string, readonly string[]>;
  /** `bundle/variant` of what did not prove itself when it was to replace a running variant. */
  unfit: ReadonlySet<string>;
  /** Of the step at hand, by workload. */
  percent: ReadonlyMap<string, number>;
  /** Workloads whose model fails its self-test in service, with nothing to go back to. */
  wrong: ReadonlySet<string>;
  /** Workloads whose inference process dies again and again. */
  crashLooping: ReadonlySet<string>;
  /** The agent's directory cannot be written. */
  disk: DiskTrouble | null;
  /** The device's clock contradicts what the fleet has told. */
  clockWrong: boolean;
  /** Workloads whose bundle is damaged on the disk. */
  damaged: ReadonlySet<string>;
  /** The camera gives no frames although it should. */
  cameraLost?: boolean;
  /** Under way, by workload. */
  learning?: ReadonlyMap<string, NonNullable<ReportedWorkload['learning']>>;
  /** The agent could not read its own state at start and began anew. */
  stateWasDamaged: boolean;
}

/** Nothing on the way, nothing wrong. */
export const quiet: Live = { accelerator: { present: false }, acceleratorFailing: false, devices: new Map(), unfit: new Set(), percent: new Map(), wrong: new Set(), disk: null, clockWrong: false, damaged: new Set(), crashLooping: new Set(), stateWasDamaged: false };

/** What the device says of itself, all of it derived: nothing is reported that is not in the state. */
export function reportOf(state: Readonly<AgentState>, live: Live): Pick<Reported, 'observedRevision' | 'health' | 'conditions' | 'workloads'> {
  const conditions = conditionsOf(state, live);
  return {
    observedRevision: state.desired?.revision ?? null,
    health: conditions.length === 0 ? 'HEALTHY' : 'DEGRADED', conditions,
    workloads: Object.fromEntries(Object.entries(state.workloads).map(([name, workload]) => [name, {
      ...reportedWorkload(workload, live.percent.get(name) ?? null, live.devices.get(name)?.join(', ') || null), ...(live.learning?.has(name) ? { learning: live.learning.get(name)! } : {}),
    }])),
  };
}

function conditionsOf(state: Readonly<AgentState>, live: Live): string[] {
  const conditions = new Set<string>();
  if (missesAccelerator(state.desired, live.accelerator)) conditions.add('NO_ACCELERATOR');
  if (live.acceleratorFailing && wantsAccelerator(state.desired)) conditions.add('ACCELERATOR_FAILING');
  if (standsIn(state, live.unfit)) conditions.add('VARIANT_UNFIT');
  for (const [name, workload] of Object.entries(state.workloads)) {
    const { fault } = workload;
    if (fault && fault.bundle === state.desired?.workloads[name]?.bundle) conditions.add(fault.failure.code.startsWith('probation.') ? 'PROBATION_FAILED' : fault.failure.code === 'service.golden_failed' ? 'GOLDEN_FAILED' : 'CRASH_LOOP');
    if (live.wrong.has(name)) conditions.add('GOLDEN_FAILED');
    if (live.crashLooping.has(name)) conditions.add('CRASH_LOOP');
  }
  if (live.disk) conditions.add(live.disk);
  if (live.clockWrong) conditions.add('CLOCK_WRONG');
  if (live.damaged.size > 0) conditions.add('BUNDLE_DAMAGED');
  if (live.cameraLost) conditions.add('CAMERA_LOST');
  if (live.stateWasDamaged) conditions.add('STATE_LOST');
  return [...conditions].sort();
}

/** Some workload wants an Edge TPU, perhaps a certain one, that does not answer. */
export function missesAccelerator(desired: Desired | null, accelerator: Accelerator): boolean {
  return Object.values(desired?.workloads ?? {}).some(({ variant, policy: { device } }) => needsAccelerator(variant) && !hasAccelerators(variant, accelerator, device));
}

/** Something else serves than the variant that is wanted, since that one did not pass its self-test here. */
export function standsIn({ desired, workloads }: Pick<AgentState, 'desired' | 'workloads'>, unfit: ReadonlySet<string>): boolean {
  return Object.entries(desired?.workloads ?? {}).some(([name, { bundle, variant }]) => {
    const running = workloads[name]?.running;
    return running?.bundle === bundle && running.variant !== variant && unfit.has(variantKey(bundle, variant));
  });
}

function wantsAccelerator(desired: Desired | null): boolean {
  return Object.values(desired?.workloads ?? {}).some(({ variant }) => needsAccelerator(variant));
}

function reportedWorkload(workload: WorkloadState, percent: number | null, device: string | null): ReportedWorkload {
  const { running, good, previous, execution, fault } = workload;
  return {
    running: running?.bundle ?? null, variant: running?.variant ?? null, backend: running?.backend ?? null,
    previous: (onTrial(workload) && good?.bundle !== running?.bundle ? good : previous)?.bundle ?? null,
    execution: execution && reportedExecution(execution, percent), device, fault,
  };
}

function reportedExecution(execution: Execution, percent: number | null): ReportedExecution {
  const { revision, bundle, state, step, failure, waiting, notes, transfer } = execution;
  return { revision, bundle, state, step, percent: isOpen(execution) ? percent : null, failure: failure ?? waiting, ...(notes ? { notes } : {}), ...(transfer ? { transfer } : {}) };
}
