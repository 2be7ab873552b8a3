import { bundleDigest, verifyBundle, type Manifest } from '@reefkeeper/bundle';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import type { Logger } from '@reefkeeper/platform/logger';
import type { ExecutionStep, Transfer, WantedWorkload } from '@reefkeeper/protocol';
import { bringBlob } from './bring.ts';
import type { Budget } from './budget.ts';
import type { CrashPoint } from './crash-point.ts';
import { downloadJson, type DownloadOptions } from './download.ts';
import type { Gateway } from './gateway.ts';
import type { Identity } from './identity.ts';
import type { Peers } from './peers.ts';
import { variantKey, type Executors } from './plan.ts';
import type { Runner } from './runner.ts';
import type { Repairs } from './repairs.ts';
import { blameless } from './stage.ts';
import type { StateFile } from './state.ts';
import { basesOf, filesFor, type BlobName, type Store } from './store.ts';
import { activated, begun, closed, committed, defaultProbationS, did, entered, failed, faulted, left, noted, refetched, removed, returned, sameSlot, transferred, type Slot } from './workload.ts';
import type { Workloads } from './workloads.ts';

export interface ActivationOptions {
  state: StateFile;
  store: Store;
  gateway: () => Gateway;
  identity: () => Identity;
  workloads: Pick<Workloads, 'of' | 'start' | 'remove'>;
  /** `bundle/variant` did not prove itself in a reseat; it is not tried again before the Edge TPUs have changed. */
  onUnfit: (variant: string) => void;
  repairs: Repairs;
  /** Of the step at hand; kept in memory only. */
  onPercent: (workload: string, percent: number | null) => void;
  budget: Budget;
  peers?: Peers | undefined;
  crashPoint: CrashPoint;
  log: Logger;
  download?: Pick<DownloadOptions, 'tries' | 'firstDelayMs' | 'maxDelayMs'>;
}

/** A bundle that is damaged on the disk is left for the one before when it could not be fetched so often. */
const triesBeforeLeaving = 3;

/**
 * The effects behind the plan. Every one may be cut off at any point and run again: what it leaves behind is either nothing,
 * or whole. A step's effect comes first and its note in the state second, never the other way round.
 */
export function activationExecutors(options: ActivationOptions): Executors {
  const { state, store, log } = options;
  /** Runners that have passed their self-test and wait for the switch. */
  const proved = new Map<string, Runner>();

  async function step(workload: string, name: ExecutionStep, effect: () => Promise<void>): Promise<void> {
    options.onPercent(workload, null);
    await state.move(workload, (now) => entered(now, name));
    await effect();
    options.crashPoint(`${name}:effect`);
    await state.move(workload, (now) => did(now, name));
  }

  function verified(bundle: string, envelope: unknown): Manifest {
    const manifest = verifyBundle(envelope, options.identity().signingKeys);
    if (bundleDigest(manifest) === bundle) return manifest;
    throw new ReefError('bundle.digest_mismatch', 'forbidden', `The signed manifest has digest ${bundleDigest(manifest)} instead of ${bundle}; it belongs to another version.`);
  }

  /** A failing signature is a matter of the verify step, whoever notices it. */
  async function verifiedOrSaid(workload: string, bundle: string, envelope: unknown): Promise<Manifest> {
    try {
      return verified(bundle, envelope);
    } catch (error) {
      await state.move(workload, (now) => entered(now, 'verify'));
      throw error;
    }
  }

  async function fresh(workload: string, slot: Slot): Promise<Runner> {
    const ready = proved.get(workload);
    proved.delete(workload);
    if (ready && sameSlot(ready.slot, slot) && !ready.crashed) return ready;
    await ready?.close();
    return options.workloads.start(workload, slot);
  }

  /** Of what runs here and ran before: what a new version most likely resembles. */
  async function olderManifests(workload: string): Promise<Manifest[]> {
    const { running, good, previous } = state.workload(workload);
    const bundles = new Set([running, good, previous].flatMap((slot) => (slot ? [slot.bundle] : [])));
    return (await Promise.all([...bundles].map((bundle) => store.manifest(bundle)))).filter((manifest) => manifest !== undefined);
  }

  return {
    async begin({ workload, revision, wanted }) {
      log.info({ workload, revision, bundle: wanted.bundle, rollback: wanted.rollback }, 'activation begins');
      await state.move(workload, (now) => begun(now, revision, wanted));
    },

    download: ({ workload, bundle, wanted }, signal) => step(workload, 'download', async () => {
      const tuned = { ...options.download, signal };
      // Held by digest of the payload, so an envelope that verifies is as good as a new one.
      let envelope = await store.envelope(bundle);
      if (!envelope || !isGood(() => verified(bundle, envelope))) {
        envelope = await downloadJson(options.gateway(), wanted.manifestUrl, tuned);
        options.budget.spend(JSON.stringify(envelope).length);
        await verifiedOrSaid(workload, bundle, envelope);
        await store.putEnvelope(bundle, envelope);
      }
      const manifest = verified(bundle, envelope);
      const older = await olderManifests(workload);
      const files = neededFiles(manifest, wanted);
      const total = Math.max(1, sum(files));
      await store.ensureRoomFor(files);
      const took: Transfer = { fullBytes: 0, deltaBytes: 0, peerBytes: 0, savedBytes: 0 };
      try {
        for (const [at, file] of files.entries()) await bring(file, at);
      } finally {
        await options.budget.save();
        await state.move(workload, (now) => transferred(now, took));
      }

      async function bring(file: BlobName, at: number): Promise<void> {
        const before = sum(files.slice(0, at));
        await bringBlob(options.gateway(), store, file, {
          ...tuned, bases: basesOf(file, manifest, older), peers: options.peers,
          afford: (bytes) => { if (!wanted.policy.ignoreBudget) options.budget.afford(bundle, bytes); },
          onBytes: (bytes, way) => {
            took[`${way}Bytes`] += bytes;
            // What comes from next door is on nobody's bill.
            if (way !== 'peer') options.budget.spend(bytes);
          },
          onSaved: (bytes) => { took.savedBytes += bytes; },
          onShare: (share) => options.onPercent(workload, Math.min(100, Math.floor((100 * (before + share * file.bytes)) / total))),
          onNoDelta: (reason) => log.warn({ workload, file: file.digest, reason }, 'no use in the delta; fetching the whole file'),
        });
      }
    }),

    verify: ({ workload, bundle, wanted }) => step(workload, 'verify', async () => {
      const manifest = verified(bundle, await store.envelope(bundle));
      for (const file of neededFiles(manifest, wanted)) {
        if (!(await store.holds(file))) throw new ReefError('artifact.checksum_mismatch', 'invalid', `${file.digest} is not on disk as it was downloaded; the card may be failing.`);
      }
    }),

    install: ({ workload, bundle }) => step(workload, 'install', async () => store.install(bundle, verified(bundle, await store.envelope(bundle)))),

    golden: ({ workload, slot }, signal) => step(workload, 'golden', async () => {
      const runner = await fresh(workload, slot);
      try {
        await runner.proveGolden(store, (percent) => options.onPercent(workload, percent), signal);
      } catch (error) {
        await runner.close();
        throw error;
      }
      proved.set(workload, runner);
    }),

    shadow: ({ workload, bundle, slot, wanted }, signal) => step(workload, 'shadow', async () => {
      const serving = options.workloads.of(workload);
      const policy = wanted.policy.shadow!;
      const note = (code: string, message: string) => {
        log.info({ workload, bundle, code, reason: message }, 'shadow step');
        return state.move(workload, (now) => noted(now, { code, message }));
      };
      if (!slot || !serving.ready) return note('shadow.skipped', slot ? 'Nothing serves beside which it could run.' : 'An Edge TPU serves one process, and the bundle has no cpu-int8 variant on this device that could run beside it.');
      const waiting = proved.get(workload);
      const own = waiting && sameSlot(waiting.slot, slot) && !waiting.crashed ? undefined : await options.workloads.start(workload, slot);
      try {
        const { end, frames, agreed, errors, dropped } = await serving.shadow(own ?? waiting!, policy, (percent) => options.onPercent(workload, percent), signal);
        log.info({ workload, bundle, end, frames, agreed, errors, dropped }, 'ran beside what serves');
        if (end === 'hurts') await note('shadow.hurts', `The active model's p95 rose by more than ${policy.maxAddedPercent} % although the candidate was shown ever fewer frames; it was taken away after ${frames} of ${policy.frames}.`);
        else if (end === 'time') await note('shadow.too_few_frames', `${frames} of ${policy.frames} frames were compared within ${policy.maxS} s.`);
      } finally {
        await own?.close();
      }
    }),

    async activate({ workload, slot, wanted }) {
      options.onPercent(workload, null);
      await state.move(workload, (now) => entered(now, wanted.rollback ? 'rollback' : 'activate'));
      const serving = options.workloads.of(workload);
      let runner: Runner;
      try {
        runner = await fresh(workload, slot);
      } catch (thrown) {
        const { code } = asReefError(thrown);
        if (!wanted.rollback || (code !== 'artifact.checksum_mismatch' && code !== 'bundle.not_installed')) throw thrown;
        // The copy on our own disk is damaged; it can still come from the gateway.
        log.warn({ workload, bundle: slot.bundle, code }, 'the bundle to return to is damaged on disk and will be fetched');
        await store.uninstall(slot.bundle);
        await state.move(workload, refetched);
        return;
      }
      // The pointer first: if we die now, the restarted agent serves what the state says.
      await state.move(workload, (now) => activated(now, slot));
      options.crashPoint('activate:effect');
      await serving.swap(runner);
    },

    observe: ({ workload, wanted }, signal) => step(workload, 'observe', async () => {
      const serving = options.workloads.of(workload);
      const { running } = state.workload(workload);
      if (running) serving.want(running);
      await serving.observe(wanted.policy.observeS * 1_000, (percent) => options.onPercent(workload, percent), signal);
    }),

    async commit({ workload }) {
      options.onPercent(workload, null);
      if (!state.workload(workload).execution?.rollback) await state.move(workload, (now) => entered(now, 'commit'));
      options.crashPoint('commit:effect');
      const { probationS = defaultProbationS } = state.now.desired?.workloads[workload]?.policy ?? {};
      await state.move(workload, (now) => committed(now, probationS * 1_000));
      log.info({ workload, revision: state.workload(workload).execution?.revision, bundle: state.workload(workload).running?.bundle }, 'activation succeeded');
    },

    async refetch({ workload }) {
      await state.move(workload, refetched);
    },

    async fail({ workload, code, message }) {
      await state.move(workload, (now) => failed(now, { code, message }));
    },

    async rollback({ workload, to }) {
      options.onPercent(workload, null);
      await state.move(workload, (now) => entered(now, 'rollback'));
      options.workloads.of(workload).want(to ?? undefined);
      options.crashPoint('rollback:effect');
      await state.move(workload, (now) => returned(now, to));
      log.warn({ workload, to: to?.bundle ?? null }, 'returned to the last good bundle');
    },

    async leave({ workload, to }) {
      const { fault } = state.workload(workload);
      options.workloads.of(workload).want(to);
      options.crashPoint('leave:effect');
      await state.move(workload, (now) => left(now, to));
      log.error({ workload, from: fault?.bundle, to: to.bundle, code: fault?.failure.code, reason: fault?.failure.message }, 'left a committed bundle for the one before');
    },

    async close({ workload, state: end }) {
      options.onPercent(workload, null);
      await proved.get(workload)?.close();
      proved.delete(workload);
      await state.move(workload, (now) => closed(now, end));
      const { execution } = state.workload(workload);
      log.info({ workload, revision: execution?.revision, state: end, code: execution?.failure?.code }, 'activation ended');
    },

    async reseat({ workload, slot, wanted }, signal) {
      let runner: Runner | undefined;
      try {
        runner = await fresh(workload, slot);
        await runner.proveGolden(store, () => {}, signal);
      } catch (thrown) {
        await runner?.close();
        const error = asReefError(thrown);
        // The accelerator, not the variant: it is looked at again when that has changed, and this tried again.
        const code = runner?.crashed?.code ?? error.code;
        if (lacksAccelerator(code) || code === 'inference.hung') throw new ReefError('inference.no_device', 'unavailable', error.message, { cause: error });
        options.onUnfit(variantKey(slot.bundle, slot.variant));
        log.warn({ workload, variant: slot.variant, reason: error.message }, 'the variant that fits now did not prove itself; staying');
        return;
      }
      await state.move(workload, (now) => (sameSlot(now.running, now.good) ? { ...now, running: slot, good: slot } : now));
      await options.workloads.of(workload).swap(runner);
      log.info({ workload, variant: slot.variant, wanted: wanted.variant }, 'changed the variant in place');
    },

    async remove({ workload, revision }) {
      await options.workloads.remove(workload);
      await state.move(workload, (now) => removed(now, revision));
    },

    async repair({ workload, slot: { bundle, variant, backend } }, signal) {
      try {
        let manifest = await store.manifest(bundle);
        if (!manifest) {
          const envelope = await downloadJson(options.gateway(), `/v1/bundles/${bundle}`, { ...options.download, tries: 2, signal });
          manifest = verified(bundle, envelope);
          await store.putEnvelope(bundle, envelope);
        }
        for (const file of filesFor(manifest, variant, state.now.desired?.workloads[workload]?.policy.cpuFallback ?? false)) {
          await bringBlob(options.gateway(), store, file, { ...options.download, tries: 2, bases: [], signal, afford: (bytes) => options.budget.afford(bundle, bytes), onBytes: (bytes) => options.budget.spend(bytes) });
        }
        await store.install(bundle, manifest);
        await options.workloads.of(workload).swap(await options.workloads.start(workload, { bundle, variant, backend }));
        options.repairs.mended(workload);
        log.info({ workload, bundle }, 'the damaged bundle was fetched again');
      } catch (thrown) {
        const error = asReefError(thrown);
        if (lacksAccelerator(error.code)) options.repairs.mended(workload);
        const times = options.repairs.failed(workload);
        log.warn({ workload, bundle, times, code: error.code, reason: error.message }, 'the damaged bundle could not be fetched again yet');
        // Anything good is better than nothing at all, and a device without a network may have to wait for long.
        if (times >= triesBeforeLeaving) await state.move(workload, (now) => (now.previous ? faulted(now, bundle, { code: 'artifact.checksum_mismatch', message: `Its files on this device are damaged and could not be fetched again (${error.code}).` }) : now));
      }
    },

    async wait() {},

    async collect({ keep }) {
      await store.collect(new Set(keep));
    },
  };
}

function neededFiles(manifest: Manifest, wanted: WantedWorkload): ReturnType<typeof filesFor> {
  if (!manifest.variants.some(({ name }) => name === wanted.variant)) {
    throw new ReefError('bundle.variant_missing', 'invalid', `The bundle has no variant ${wanted.variant}; it has ${manifest.variants.map(({ name }) => name).join(', ')}.`);
  }
  return filesFor(manifest, wanted.variant, wanted.policy.cpuFallback);
}

function sum(files: readonly BlobName[]): number {
  return files.reduce((total, { bytes }) => total + bytes, 0);
}

/** The files are good; it is the accelerator that is not there. */
function lacksAccelerator(code: string): boolean {
  return blameless.has(code) && code.startsWith('inference.');
}

function isGood(check: () => unknown): boolean {
  try {
    check();
    return true;
  } catch {
    return false;
  }
}
