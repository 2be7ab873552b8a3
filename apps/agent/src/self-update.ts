import type { Manifest } from '@reefkeeper/bundle';
import { ReefError } from '@reefkeeper/platform/errors';
import type { Logger } from '@reefkeeper/platform/logger';
import { agentWorkload } from '@reefkeeper/protocol';
import { sleep } from './backoff.ts';
import type { CrashPoint } from './crash-point.ts';
import type { Executors } from './plan.ts';
import { factory, type Releases } from './releases.ts';
import type { StateFile } from './state.ts';
import type { Store } from './store.ts';
import { activated, closed, committed, did, entered, isOpen, left, removed, returned, type Slot, type WorkloadState } from './workload.ts';

export interface SelfUpdateOptions {
  /** Undefined where no launcher has started us: then there is nothing that could start another release. */
  releases: Releases | undefined;
  state: StateFile;
  store: Store;
  /** Resolves once this process is connected and the broker has its first report. */
  heard: (signal: AbortSignal) => Promise<void>;
  /** Ends this process so that the launcher chooses again. Nothing is planned or done after this call. */
  restart: (why: string) => void;
  crashPoint: CrashPoint;
  log: Logger;
}

/** A release that has run this long has started well: its starts are counted anew. */
const wellAfterMs = 60_000;

const reasons: Record<string, string> = {
  silent: 'it did not connect and report in its probation',
  starts: 'it ended again and again without proving itself',
  incomplete: 'its files are not whole',
};

/**
 * The agent's own release is a workload (`reef-agent`) with the plan, the state and the downloads of all others; only what it means to prove,
 * switch and observe differs. The switch ends the process: what comes after is done, and reported, by whichever release runs then, which
 * knows from the launcher who it is. docs/adr/0009-agent-updates-itself.md
 */
export function selfUpdateExecutors(general: Executors, options: SelfUpdateOptions): Executors {
  const { state, store, log, crashPoint } = options;

  function packaged(): Releases {
    if (options.releases) return options.releases;
    throw new ReefError('agent.not_updatable', 'invalid', 'This agent was not started by the launcher of its package, and so cannot run another release. Install the reef-agent package on the device.');
  }

  const own: { [K in 'download' | 'golden' | 'shadow' | 'activate' | 'observe' | 'commit' | 'rollback' | 'leave' | 'close' | 'reseat' | 'remove']: Executors[K] } = {
    async download(step, signal) {
      packaged();
      await general.download(step, signal);
    },

    async golden({ workload, bundle, slot }, signal) {
      await state.move(workload, (now) => entered(now, 'golden'));
      const manifest = await store.manifest(bundle);
      await packaged().unpack(bundle, store.blobPath(fileOf(manifest, slot)));
      crashPoint('unpack:effect');
      const said = await packaged().selfTest(bundle, signal);
      const promised = manifest?.lineage.tools[agentWorkload];
      if (promised !== undefined && said.version !== promised) throw new ReefError('golden.failed', 'invalid', `The release says it is ${said.version}; its manifest says ${promised}.`);
      log.info({ bundle, ...said }, 'the release runs on this device');
      crashPoint('golden:effect');
      await state.move(workload, (now) => did(now, 'golden'));
    },

    // There is nothing that two agents could both be asked.
    async shadow({ workload }) {
      await state.move(workload, (now) => did(now, 'shadow'));
    },

    async activate({ workload, bundle, slot, wanted }) {
      const releases = packaged();
      await state.move(workload, (now) => entered(now, wanted.rollback ? 'rollback' : 'activate'));
      if (wanted.rollback) await releases.unpack(bundle, store.blobPath(fileOf(await store.manifest(bundle), slot)));
      // The link first: a kill between the two starts the new release, which finds that only the note is missing.
      if (releases.own !== bundle) await (wanted.rollback ? releases.use(bundle) : releases.try(bundle));
      crashPoint('activate:effect');
      await state.move(workload, (now) => activated(now, slot));
      if (releases.own !== bundle) options.restart(`to run release ${bundle}`);
    },

    async observe({ workload, bundle, wanted }, signal) {
      const releases = packaged();
      if (releases.own !== bundle) {
        // The switch is noted and not done yet.
        if (await releases.onTrial(bundle)) return options.restart(`to run release ${bundle}`);
        const why = await releases.failureOf(bundle);
        throw new ReefError('agent.release_given_up', 'unavailable', `Release ${bundle.slice(0, 12)} was given up and the device went back: ${reasons[why ?? ''] ?? 'for a reason that is not known'}.`, { detail: { reason: why ?? null } });
      }
      await state.move(workload, (now) => entered(now, 'observe'));
      await options.heard(signal);
      if (!(await releases.prove())) throw new ReefError('agent.release_given_up', 'unavailable', `Release ${bundle.slice(0, 12)} proved itself too late: it had been given up.`);
      crashPoint('observe:effect');
      await sleep(wanted.policy.observeS * 1_000, signal);
      await state.move(workload, (now) => did(now, 'observe'));
    },

    async commit({ workload }) {
      if (!state.workload(workload).execution?.rollback) await state.move(workload, (now) => entered(now, 'commit'));
      crashPoint('commit:effect');
      await state.move(workload, (now) => committed(now));
      log.info({ bundle: state.workload(workload).running?.bundle }, 'this release of the agent is committed');
    },

    async rollback({ workload, to }) {
      const releases = packaged();
      await state.move(workload, (now) => entered(now, 'rollback'));
      const name = to?.bundle ?? factory;
      if (releases.own !== name || (await releases.onTrial(state.workload(workload).running?.bundle ?? ''))) await releases.use(name);
      crashPoint('rollback:effect');
      await state.move(workload, (now) => returned(now, to));
      if (releases.own !== name) options.restart(`to go back to ${name}`);
    },

    async leave({ workload, to }) {
      const releases = packaged();
      await releases.use(to.bundle);
      await state.move(workload, (now) => left(now, to));
      if (releases.own !== to.bundle) options.restart(`to go back to ${to.bundle}`);
    },

    async close({ workload, state: end }) {
      await state.move(workload, (now) => closed(now, end));
      const { execution } = state.workload(workload);
      log.info({ revision: execution?.revision, state: end, code: execution?.failure?.code }, 'update of the agent ended');
    },

    // There is one build per machine: nothing to change in place.
    async reseat() {},

    async remove({ workload, revision }) {
      // The note first: a kill between the two starts a release that nobody wants, which sees that (`toldBy`) and comes back to this step.
      await state.move(workload, (now) => removed(now, revision));
      crashPoint('remove:effect');
      // The release of the package runs where nothing else is wanted.
      await options.releases?.use(factory);
      if (options.releases && options.releases.own !== factory) options.restart('to go back to the release of the package');
    },
  };

  return {
    ...general,
    ...Object.fromEntries(Object.entries(own).map(([kind, execute]) => [kind, (step: { workload: string }, signal: AbortSignal) => (
      (step.workload === agentWorkload ? execute : general[kind as keyof typeof own]) as (step: unknown, signal: AbortSignal) => Promise<void>)(step, signal)])),
    async collect(step, signal) {
      await general.collect(step, signal);
      await options.releases?.collect(new Set(step.keep));
    },
  } as Executors;
}

/**
 * What the state must say of the release that really runs: after the launcher has gone back from a release that was committed, or the state was lost.
 * An open update settles itself.
 * @param why the launcher gave up the release that the state names
 */
export function toldBy(own: string, state: WorkloadState, architecture: string, why?: string): WorkloadState {
  const { running } = state;
  if (isOpen(state.execution) || (running?.bundle ?? factory) === own) return state;
  const now = returned(state, own === factory ? null : { bundle: own, variant: agentVariant(architecture), backend: 'cpu' });
  return running && why ? { ...now, fault: { bundle: running.bundle, failure: { code: 'service.crash_loop', message: `This release of the agent was left: ${reasons[why] ?? why}.` } } } : now;
}

/** At the start of a process that the launcher has started: the state learns which release runs, and the launcher in time that it runs well. */
export async function settleRelease(releases: Releases, { state, heard, log }: { state: StateFile; heard: Promise<void>; log: Logger }): Promise<void> {
  const now = state.workload(agentWorkload);
  const told = toldBy(releases.own, now, process.arch, now.running ? await releases.failureOf(now.running.bundle) : undefined);
  if (told !== now) await state.move(agentWorkload, () => told);
  const unnoted = (err: unknown): void => log.error({ err }, 'the launcher could not be told that this release is well');
  // An open update proves itself by its own steps; of one that the state has lost, nothing is left to wait for.
  if (!isOpen(told.execution)) void heard.then(() => releases.prove()).catch(unnoted);
  setTimeout(() => void releases.onTrial(releases.own).then((trial) => (trial ? undefined : releases.well())).catch(unnoted), wellAfterMs).unref();
}

/** Node's word for the machine to Debian's, as releases are named. */
export function agentVariant(architecture: string): string {
  return `agent-${architecture === 'x64' ? 'amd64' : architecture}`;
}

function fileOf(manifest: Manifest | undefined, slot: Slot): string {
  const variant = manifest?.variants.find(({ name }) => name === slot.variant);
  if (!variant) throw new ReefError('bundle.not_installed', 'not_found', `Release ${slot.bundle} with variant ${slot.variant} is not on this device.`);
  return variant.file.digest;
}
