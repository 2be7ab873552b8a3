import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import type { Logger } from '@reefkeeper/platform/logger';
import { edgeTpusOf } from '@reefkeeper/bundle';
import type { EdgeTpuDevice } from '@reefkeeper/inference';
import type { Accelerators } from './accelerator.ts';
import type { Answer, Picture } from './answer.ts';
import { Camera } from './camera.ts';
import type { AgentSettings } from './config.ts';
import { FolderFrames } from './frames.ts';
import { Hosts } from './hosts.ts';
import type { Placeable } from './placement.ts';
import { needsAccelerator } from './plan.ts';
import type { Repairs } from './repairs.ts';
import { Runner } from './runner.ts';
import { Serving, type FrameSource } from './serving.ts';
import type { StateFile } from './state.ts';
import type { Store } from './store.ts';
import { edgeTpuTemperature, hostTemperature } from './temperature.ts';
import type { ClosedWindow } from './window.ts';
import { crashedAgain, isOpen, sameSlot, type Slot } from './workload.ts';

export interface WorkloadsOptions {
  settings: AgentSettings;
  state: StateFile;
  store: Store;
  accelerators: Accelerators;
  repairs: Repairs;
  onWindow: (window: ClosedWindow) => void;
  onPicture: (workload: string, picture: Picture, answer: Answer) => void;
  /** The report has something new. */
  reportSoon: (delayMs: number) => void;
  /** The plan has something new. */
  poke: () => void;
  log: Logger;
  serving?: { firstDelayMs: number; maxDelayMs: number } | undefined;
  camera?: { silenceMs?: number; firstDelayMs?: number; maxDelayMs?: number } | undefined;
}

/** What this device serves: each workload with its frames, on its Edge TPU. Which bundle it is to serve is for the plan to say. */
export class Workloads {
  private readonly serving = new Map<string, Serving>();
  private readonly hosts: Hosts;
  /** Opened when the first workload wants frames. */
  private camera: Camera | undefined;

  constructor(private readonly options: WorkloadsOptions) {
    const { settings, accelerators } = options;
    this.hosts = new Hosts({ tflite: settings.REEF_TFLITE_LIBRARY, onEnd: (device, why) => { if (device) accelerators.failed(device, why.code); } });
  }

  [Symbol.iterator](): IterableIterator<[string, Serving]> {
    return this.serving[Symbol.iterator]();
  }

  get(workload: string): Serving | undefined {
    return this.serving.get(workload);
  }

  get cameraPid(): number | undefined {
    return this.camera?.pid;
  }

  /** The camera gives no frames although it should. */
  get cameraLost(): boolean {
    return this.camera?.lost ?? false;
  }

  /** Opened where it is not yet. */
  of(workload: string): Serving {
    const existing = this.serving.get(workload);
    if (existing) return existing;
    const { settings, state, log, onWindow, onPicture } = this.options;
    const serving = new Serving({
      workload, log: log.child({ workload }), frames: this.framesFor(workload), ...this.options.serving, onWindow,
      fps: () => Math.min(settings.FRAMES_FPS, state.config.maxFps ?? Infinity),
      start: (slot) => this.start(workload, slot),
      onPicture: (picture, answer) => onPicture(workload, picture, answer),
      onCrash: (slot, why, inARow) => void this.crashed(workload, slot, why, inARow).catch((err: unknown) => log.error({ err, workload }, 'a crash could not be noted')),
    });
    this.serving.set(workload, serving);
    return serving;
  }

  /** A runner of its own for `slot`, on the Edge TPUs where the workload belongs. @throws ReefError as `Runner.start` */
  async start(workload: string, slot: Slot): Promise<Runner> {
    const { settings, store, state, accelerators, repairs, reportSoon } = this.options;
    const devices = slot.backend === 'edgetpu' ? (await this.placement(workload, slot)).get(workload) ?? [] : [];
    const { REEF_EDGETPU_LIBRARY: edgetpu, REEF_HANG_FLOOR_MS: floorMs, REEF_HANG_CEILING_MS: ceilingMs } = settings;
    try {
      const runner = await Runner.start(store, slot, { hosts: this.hosts, edgetpu, devices, deadline: { floorMs, ceilingMs }, doubts: (device) => accelerators.doubts(device) });
      // On which Edge TPUs it is now, once it serves.
      if (devices.length > 0) reportSoon(500);
      return runner;
    } catch (error) {
      const { code, detail } = asReefError(error);
      const { running, execution } = state.workload(workload);
      if ((code === 'artifact.checksum_mismatch' || code === 'bundle.not_installed') && sameSlot(slot, running) && !isOpen(execution)) repairs.met(workload);
      const missed = devices.find(({ path }) => path === detail?.edgetpu);
      if (missed && code === 'inference.no_device') accelerators.failed(missed, code);
      throw error;
    }
  }

  /** Whoever is on another Edge TPU than it belongs on starts anew there. */
  async spread(): Promise<void> {
    const placed = await this.placement();
    for (const [workload, serving] of this.serving) {
      const [now, then] = [serving.devices.join(), placed.get(workload)?.map(({ path }) => path).join()];
      if (!now || !then || now === then || isOpen(this.options.state.workload(workload).execution)) continue;
      this.options.log.info({ workload, from: now, to: then }, 'moves to another Edge TPU');
      await serving.restart();
    }
  }

  async remove(workload: string): Promise<void> {
    await this.serving.get(workload)?.stop();
    this.serving.delete(workload);
    this.camera?.forget(workload);
  }

  /** Those that a command is about. @param args `workload`: one of them only @throws ReefError `command.no_workload` */
  chosen(args: Record<string, unknown>): [string, Serving][] {
    const chosen = [...this.serving].filter(([name]) => args.workload === undefined || args.workload === name);
    if (chosen.length === 0) throw new ReefError('command.no_workload', 'not_found', args.workload === undefined ? 'No workload is served on this device.' : `No workload ${String(args.workload)} is served on this device.`);
    return chosen;
  }

  closeWindows(): void {
    for (const serving of this.serving.values()) serving.closeWindows();
  }

  /** Of what runs the model: the hottest of its Edge TPUs, or the board's processor. */
  async temperatureOf({ workload, backend }: Pick<ClosedWindow, 'workload' | 'backend'>): Promise<number | null> {
    const { settings: { REEF_SYSFS: sysfs }, accelerators } = this.options;
    if (backend === 'cpu') return hostTemperature(sysfs);
    const paths = this.serving.get(workload)?.devices ?? [];
    const measured = await Promise.all(accelerators.found.devices.filter(({ path }) => paths.includes(path)).map((device) => edgeTpuTemperature(device, sysfs)));
    return measured.reduce((most, one) => (one === null || (most !== null && most >= one) ? most : one), null);
  }

  async stop(): Promise<void> {
    await this.camera?.stop();
    await Promise.all([...this.serving.values()].map((serving) => serving.stop()));
  }

  private framesFor(workload: string): FrameSource | undefined {
    const { settings: { REEF_CAMERA: source, FRAMES_DIR, FRAMES_FPS }, log, reportSoon, camera } = this.options;
    const folder = source === undefined ? FRAMES_DIR : source.kind === 'folder' ? source.dir : undefined;
    if (folder !== undefined) return new FolderFrames(folder);
    if (!source || source.kind === 'folder') return undefined;
    this.camera ??= new Camera({ source, fps: FRAMES_FPS, log, onChange: () => reportSoon(0), ...camera });
    return this.camera.view(workload);
  }

  /** Which Edge TPUs each workload belongs on, as things are. @param starting about to run as `slot`, whatever is wanted */
  private async placement(starting?: string, as?: Slot): Promise<Map<string, EdgeTpuDevice[]>> {
    const { state, store, accelerators } = this.options;
    const { desired, workloads } = state.now;
    const names = [...new Set([...Object.keys(desired?.workloads ?? {}), ...Object.keys(workloads)])];
    const wanted = names.map(async (workload): Promise<Placeable[]> => {
      const one = desired?.workloads[workload];
      const slot = workloads[workload]?.running;
      if (!(one && needsAccelerator(one.variant)) && slot?.backend !== 'edgetpu') return [];
      const runs = workload === starting ? as! : slot?.backend === 'edgetpu' ? slot : undefined;
      // What is wanted says with whom it belongs together, even before it runs; a stand-in of it says so itself.
      const { bundle, variant: name } = runs && (!one || runs.bundle === one.bundle) ? runs : one!;
      const variant = (await store.manifest(bundle))?.variants.find((other) => other.name === name);
      const edgeTpus = Math.max(edgeTpusOf(runs?.variant ?? name), 1);
      return [{ workload, pin: one?.policy.device ?? null, group: variant?.cacheTokens?.[0] ?? null, edgeTpus }];
    });
    return accelerators.placement((await Promise.all(wanted)).flat());
  }

  /** The process of a served bundle died by its own fault. */
  private async crashed(workload: string, slot: Slot, { code, message }: ReefError, inARow: number): Promise<void> {
    const { state, reportSoon, poke } = this.options;
    await state.move(workload, (now) => crashedAgain(now, slot.bundle, { code, message }, inARow));
    reportSoon(0);
    poke();
  }
}
