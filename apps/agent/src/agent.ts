import { randomUUID } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import { giveBackStartupCode, type EdgeTpuDevice } from '@reefkeeper/inference';
import type { Logger } from '@reefkeeper/platform/logger';
import { agentConfig, agentWorkload, commandResult, learnArgs, reported, telemetry, type Command, type CommandResult, type Desired, type ReportedWorkload } from '@reefkeeper/protocol';
import { Accelerators } from './accelerator.ts';
import { Aftercare } from './aftercare.ts';
import { activationExecutors, type ActivationOptions } from './activation.ts';
import { sleep, unlessAborted } from './backoff.ts';
import { Budget, limitOf } from './budget.ts';
import { agentVersion, capabilitiesOf } from './capabilities.ts';
import { Captures } from './captures.ts';
import { DeviceClock, type ClockOptions } from './clock.ts';
import { Commands } from './commands.ts';
import type { AgentSettings } from './config.ts';
import { crashPoint } from './crash-point.ts';
import { Disk } from './disk.ts';
import { Drift } from './drift.ts';
import { Camera } from './camera.ts';
import { FolderFrames } from './frames.ts';
import { Gateway } from './gateway.ts';
import { loadIdentity, renewIfDue, type Identity } from './identity.ts';
import { Hosts } from './hosts.ts';
import { Link } from './link.ts';
import { LocalApi } from './local-api.ts';
import { Outbox } from './outbox.ts';
import type { Placeable } from './placement.ts';
import { needsAccelerator } from './plan.ts';
import { Reconciler } from './reconcile.ts';
import { PeerServer } from './peer-server.ts';
import { Peers } from './peers.ts';
import { Releases } from './releases.ts';
import { ReportPace } from './report-pace.ts';
import { missesAccelerator, reportOf } from './report.ts';
import { Repairs } from './repairs.ts';
import { Runner } from './runner.ts';
import { selfUpdateExecutors, settleRelease } from './self-update.ts';
import { Serving, type FrameSource } from './serving.ts';
import { StateFile } from './state.ts';
import { Store } from './store.ts';
import { edgeTpuTemperature, hostTemperature } from './temperature.ts';
import type { TpuHealth } from './tpu-health.ts';
import type { ClosedWindow } from './window.ts';
import { crashedAgain, isOpen, resumed, sameSlot, waitsForBudget, type Slot } from './workload.ts';

const renewalCheckMs = 6 * 3_600_000;
const giveBackEveryMs = 600_000;

/** Delays that tests shorten. */
export interface Tuning {
  download?: ActivationOptions['download'];
  link?: { firstDelayMs: number; maxDelayMs: number };
  serving?: { firstDelayMs: number; maxDelayMs: number };
  camera?: { silenceMs?: number; firstDelayMs?: number; maxDelayMs?: number };
  health?: TpuHealth;
  disk?: { firstMs: number; maxMs: number };
  clock?: ClockOptions;
  aftercare?: { tickMs: number };
}

/** One device's agent: holds the parts and carries word between them. What is done and why is decided in `plan.ts`. */
export class Agent {
  private readonly bootId = randomUUID();
  private readonly startedMs = performance.now();
  private readonly serving = new Map<string, Serving>();
  private readonly percent = new Map<string, number>();
  /** Opened when the first workload wants frames. */
  private camera: Camera | undefined;
  private readonly learning = new Map<string, NonNullable<ReportedWorkload['learning']>>();
  private readonly unfit = new Set<string>();
  private readonly repairs = new Repairs(() => {
    this.reportSoon(500);
    this.reconciler.poke();
  });
  private readonly stopped = new AbortController();
  private readonly releases: Releases | undefined;
  private readonly heard = Promise.withResolvers<void>();
  private readonly restartWanted = Promise.withResolvers<string>();
  private reportSeq = 0;
  private windowSeq = 0;
  private reportTimer: NodeJS.Timeout | undefined;
  private reportDueMs = 0;
  private readonly pace = new ReportPace();
  private windowTimer: NodeJS.Timeout | undefined;
  private budgetTimer: NodeJS.Timeout | undefined;
  private pendingWindows: Promise<void> = Promise.resolve();
  private gateway: Gateway;
  private readonly accelerators: Accelerators;
  private readonly hosts: Hosts;
  private readonly aftercare: Aftercare;
  private readonly link: Link;
  private readonly reconciler: Reconciler;
  private commands!: Commands;
  private peerServer: PeerServer | undefined;
  private localApi: LocalApi | undefined;

  private constructor(private readonly settings: AgentSettings, private identity: Identity, private readonly disk: Disk, private readonly clock: DeviceClock, private readonly state: StateFile, private readonly store: Store, private readonly outbox: Outbox, private readonly drift: Drift, private readonly captures: Captures, private readonly budget: Budget, private readonly log: Logger, private readonly tuning: Tuning) {
    this.gateway = this.openGateway();
    this.accelerators = new Accelerators({
      tflite: settings.REEF_TFLITE_LIBRARY, edgetpu: settings.REEF_EDGETPU_LIBRARY, maxMs: settings.REEF_PROBE_MAX_S * 1_000, log, onChange: () => this.changed(),
      reset: { mode: settings.REEF_TPU_RESET, perHour: settings.REEF_TPU_RESETS_PER_H, file: join(settings.REEF_AGENT_DIR, 'tpu-resets.json'), sysfs: settings.REEF_SYSFS },
      ...(tuning.health ? { health: tuning.health } : {}),
    });
    this.hosts = new Hosts({ tflite: settings.REEF_TFLITE_LIBRARY, onEnd: (device, why) => { if (device) this.accelerators.failed(device, why.code); } });
    this.link = new Link({
      identity: () => this.identity, clock, stableMs: settings.REEF_STABLE_S * 1_000, log, ...tuning.link,
      nextSession: async () => {
        // A counter that may have been lost goes on from the clock, or the fleet would take all we say for old news.
        const least = state.uncertain ? Math.floor(clock.now().getTime() / 1_000) : 0;
        await state.update((now) => ({ ...now, session: Math.max(now.session + 1, least) }));
        return state.now.session;
      },
    });
    this.aftercare = new Aftercare({
      state, store, log, serving: () => this.serving, goldenEveryMs: settings.REEF_GOLDEN_EVERY_S * 1_000, ...tuning.aftercare,
      poke: () => {
        this.reportSoon(0);
        this.reconciler.poke();
      },
    });
    this.releases = settings.REEF_RELEASE ? new Releases(settings.REEF_AGENT_DIR, settings.REEF_RELEASE) : undefined;
    const crash = crashPoint(settings.REEF_AGENT_CRASH_AT, settings.REEF_AGENT_DIR);
    this.reconciler = new Reconciler({
      state, disk, log, crashPoint: crash,
      observe: async () => ({ workloads: state.now.workloads, ...(await store.survey()), accelerator: this.accelerators.now, unfit: this.unfit, damaged: this.repairs.due, disk: disk.trouble }),
      executors: selfUpdateExecutors(activationExecutors({
        state, store, budget, peers: settings.REEF_PEER_CACHE === 'on' ? new Peers({ identity: () => this.identity, known: () => this.config.peers, now: () => this.clock.now(), log }) : undefined, log, crashPoint: crash, unfit: this.unfit, repairs: this.repairs, ...(tuning.download ? { download: tuning.download } : {}),
        gateway: () => this.gateway, identity: () => this.identity, start: (workload, slot) => this.startRunner(workload, slot),
        serving: (workload) => this.servingOf(workload),
        removeServing: async (workload) => {
          await this.serving.get(workload)?.stop();
          this.serving.delete(workload);
          this.camera?.forget(workload);
        },
        onPercent: (workload, percent) => this.progress(workload, percent),
      }), {
        releases: this.releases, state, store, log, crashPoint: crash,
        heard: (signal) => unlessAborted(this.heard.promise, signal),
        restart: (why) => {
          log.info({ why }, 'this process ends, to be started again');
          // At once: nothing may be planned behind the switch.
          void this.reconciler.stop();
          this.restartWanted.resolve(why);
        },
      }),
    });
  }

  /** Reads what is on disk and starts serving it before any network is touched. @throws ReefError `identity.missing`, ... */
  static async start(settings: AgentSettings, log: Logger, tuning: Tuning = {}): Promise<Agent> {
    const dir = settings.REEF_AGENT_DIR;
    const identity = await loadIdentity(dir);
    const disk = new Disk(dir, tuning.disk);
    const clock = await DeviceClock.open(dir, disk, tuning.clock);
    const state = await StateFile.open(dir, disk);
    if (state.was !== 'whole') log.error({ file: join(dir, 'state.json.damaged'), state: state.was }, 'state.json could not be read and was set aside; what runs is taken from its copy, what is wanted comes again from the broker');
    const store = await Store.open(join(dir, 'store'), settings.REEF_DISK_RESERVE, disk);
    const drift = await Drift.open(join(dir, 'drift.json'), disk);
    const captures = await Captures.open(join(dir, 'captures'), disk, { maxBytes: settings.REEF_CAPTURE_BYTES, mask: settings.REEF_CAPTURE_MASK, log });
    const outbox = await Outbox.open(join(dir, 'telemetry'), disk, settings.REEF_TELEMETRY_BYTES);
    const budget = await Budget.open(dir, { limit: () => limitOf(state.now.desired?.config ?? agentConfig.parse({}), { link: settings.REEF_LINK, dataBudget: settings.REEF_DATA_BUDGET }) });
    const agent = new Agent(settings, identity, disk, clock, state, store, outbox, drift, captures, budget, log.child({ device: identity.deviceId }), tuning);
    await agent.begin();
    return agent;
  }

  get deviceId(): string {
    return this.identity.deviceId;
  }

  /** Where programs on this device ask; undefined where it is off or cannot listen yet. */
  get localUrl(): string | undefined {
    return this.localApi?.url;
  }

  /** Resolves when this process should end with the code that makes the launcher choose a release anew. */
  get restarting(): Promise<string> {
    return this.restartWanted.promise;
  }

  /** For the service manager's watchdog: what waits to be written gets written, and no step hangs. */
  async healthy(): Promise<boolean> {
    await this.state.update((now) => now);
    return !this.reconciler.stuck;
  }

  /** Process ids of the inference children, by workload. */
  get children(): Record<string, number | undefined> {
    return Object.fromEntries([...this.serving].map(([name, serving]) => [name, serving.pid]));
  }

  get cameraPid(): number | undefined {
    return this.camera?.pid;
  }

  async stop(): Promise<void> {
    this.stopped.abort(new Error('stopped'));
    clearInterval(this.windowTimer);
    clearTimeout(this.drainTimer);
    clearTimeout(this.reportTimer);
    clearTimeout(this.budgetTimer);
    // First: what was asked is still answered.
    await this.localApi?.stop();
    await this.reconciler.stop();
    await this.aftercare.booted(-1);
    await this.camera?.stop();
    await Promise.all([...this.serving.values()].map((serving) => serving.stop()));
    await this.pendingWindows;
    // A last try: what does not leave now leaves after the next start.
    if (this.link.up) await Promise.race([this.drain(), sleep(2_000)]);
    await this.link.stop();
    this.gateway.close();
    await this.peerServer?.stop();
    await this.budget.save();
    this.repairs.stop();
    await this.disk.stop();
  }

  private async begin(): Promise<void> {
    await this.accelerators.probe();
    this.clock.onChange(() => {
      this.log.warn({ wrong: this.clock.wrong, device: new Date().toISOString(), fleet: this.clock.now().toISOString() }, this.clock.wrong ? 'the clock of this device is wrong and not used' : 'the clock of this device is right again');
      this.reportSoon(0);
    });
    this.disk.onChange(() => {
      const { trouble } = this.disk;
      if (trouble) this.log.error({ trouble }, 'the agent\'s directory cannot be written; going on in memory');
      else this.log.info('the agent\'s directory can be written again');
      this.reportSoon(0);
      this.reconciler.poke();
    });
    this.commands = await Commands.open(join(this.settings.REEF_AGENT_DIR, 'journal'), this.disk, {
      ping: async () => ({ agentVersion, uptimeMs: Math.round(performance.now() - this.startedMs), bootId: this.bootId, windowsWaiting: this.outbox.count, windowsMerged: this.outbox.merged, windowsDropped: this.outbox.dropped, temperaturesC: await this.temperatures() }),
      'restart-inference': async (args) => {
        const chosen = this.chosen(args);
        await Promise.all(chosen.map(([, serving]) => serving.restart()));
        return { restarted: chosen.map(([name]) => name) };
      },
      'allow-download': async (args) => {
        const wanted = Object.entries(this.state.now.desired?.workloads ?? {}).filter(([name]) => args.workload === undefined || args.workload === name);
        await this.budget.allow(wanted.map(([, { bundle }]) => bundle));
        await this.resumeDownloads();
        return { allowed: wanted.map(([name]) => name) };
      },
      bench: async (args) => {
        const [name, serving] = this.chosen(args)[0]!;
        const runs = Math.min(1_000, Math.max(1, Math.trunc(Number(args.runs ?? 50)) || 50));
        const sorted = (await serving.bench(runs)).sort((a, b) => a - b);
        const at = (q: number) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))]!);
        return { workload: name, runs, p50Us: at(0.5), p95Us: at(0.95), p99Us: at(0.99), maxUs: at(1) };
      },
      learn: (args, id) => this.learn(args, id),
    });
    await this.disk.write(() => rm(this.learningDir, { recursive: true, force: true }));
    if (this.releases) await settleRelease(this.releases, { state: this.state, heard: this.heard.promise, log: this.log });
    for (const [name, { running }] of Object.entries(this.state.now.workloads)) if (running && name !== agentWorkload) this.servingOf(name).want(running);
    await this.aftercare.booted(1);
    await this.listen();
    this.state.onChange(() => this.reportSoon(this.pace.delayMs(this.said(), performance.now())));
    this.state.onChange(() => this.awaitBudget());
    this.link.on('up', () => void this.birth());
    this.link.on('desired', (wanted, asked) => void this.take(wanted, asked).catch((err: unknown) => this.log.error({ err }, 'the wanted state could not be stored')));
    this.link.on('command', (command) => void this.obey(command).catch((err: unknown) => this.log.error({ err }, 'a command could not be journalled')));
    await this.listenToPeers();
    this.link.start();
    this.openWindows();
    void this.accelerators.watch(() => missesAccelerator(this.state.now.desired, this.accelerators.now), this.stopped.signal);
    void this.renewals();
    // Whatever they waited for: that is found out at once.
    await this.resumeDownloads();
    void this.aftercare.run(this.stopped.signal);
    void this.keepSmall();
    this.reconciler.poke();
  }

  private async listenToPeers(): Promise<void> {
    const { REEF_PEER_CACHE: wanted, REEF_PEER_LISTEN: listen, REEF_PEER_ADDRESS: advertise, REEF_PEER_BYTES_PER_S: bytesPerS } = this.settings;
    if (wanted === 'off') return;
    // A taken port is no reason not to serve.
    this.peerServer = await PeerServer.start({ store: this.store, identity: () => this.identity, listen, advertise, bytesPerS, log: this.log })
      .catch((err: unknown) => void this.log.error({ err, listen }, 'files cannot be handed to peers; set REEF_PEER_LISTEN to a free address')) ?? undefined;
  }

  /** Starting up and every activation use much code that then lies idle. */
  private async keepSmall(): Promise<void> {
    const { signal } = this.stopped;
    for (let ms = 5_000; !signal.aborted; ms = giveBackEveryMs) {
      await sleep(ms, signal).catch(() => {});
      if (!signal.aborted) giveBackStartupCode();
    }
  }

  private async listen(): Promise<void> {
    const { REEF_LOCAL_API: address, REEF_LOCAL_API_QUEUE: queue, REEF_LOCAL_API_BODY: maxBodyBytes } = this.settings;
    if (!address) return;
    // One that nothing is wanted of any more, or not yet, is not there for those who ask.
    const names = () => [...this.serving].filter(([, { slot }]) => slot).map(([name]) => name).sort();
    this.localApi = new LocalApi({ address, queue, maxBodyBytes, log: this.log, workloads: { names, get: (name) => (this.serving.get(name)?.slot ? this.serving.get(name) : undefined) } });
    await this.localApi.start();
    // Where the port was left to the system, this is how others learn it.
    if (this.localUrl) await this.disk.write(() => writeFile(join(this.settings.REEF_AGENT_DIR, 'local-api'), `${this.localUrl}\n`));
  }

  private async take(wanted: Desired, asked: boolean): Promise<void> {
    const known = this.state.now.desired?.revision ?? 0;
    if (wanted.revision < known) {
      this.log.warn({ revision: wanted.revision, known }, 'a lower revision was ignored');
      // Says so: the report names the revision we hold.
      this.reportSoon(0);
      return;
    }
    if (wanted.revision === known) {
      // Sent again although we have it: our birth was lost, with a broker that forgot it or before anybody listened.
      if (asked) await this.report(true);
      return;
    }
    let taken = false;
    await this.state.update((now) => {
      taken = wanted.revision > (now.desired?.revision ?? 0);
      return taken ? { ...now, desired: wanted } : now;
    });
    if (!taken) return;
    this.log.info({ revision: wanted.revision, workloads: Object.keys(wanted.workloads) }, 'new wanted state');
    this.openWindows();
    this.reconciler.supersede(wanted);
    this.reconciler.poke();
  }

  /** Downloads over the data budget go on in the next period. */
  private awaitBudget(): void {
    const waiting = Object.values(this.state.now.workloads).filter(({ execution }) => waitsForBudget(execution));
    clearTimeout(this.budgetTimer);
    if (this.stopped.signal.aborted || waiting.length === 0) return;
    // A person may have said so while it was about to wait.
    const opensInMs = waiting.some(({ execution }) => this.budget.allows(execution!.bundle)) ? 0 : this.budget.opensInMs;
    this.budgetTimer = setTimeout(() => void this.resumeDownloads().catch((err: unknown) => this.log.error({ err }, 'a waiting download could not be resumed')), Math.min(opensInMs ?? 0, 2 ** 31 - 1));
  }

  private async resumeDownloads(): Promise<void> {
    for (const [name, { execution }] of Object.entries(this.state.now.workloads)) if (waitsForBudget(execution)) await this.state.move(name, resumed);
    this.reconciler.poke();
  }

  private async obey(command: Command): Promise<void> {
    await this.tell(await this.commands.handle(command, this.clock.now()));
  }

  /** Not sent when the link is down: the journal has the answer, and the next birth sends it. */
  private async tell(result: CommandResult): Promise<void> {
    const sent = await this.link.publish(commandResult.topicFor(this.deviceId, result.id), commandResult.encode(result), commandResult).then(() => true, () => false);
    if (sent) await this.commands.delivered(result.id);
  }

  private async birth(): Promise<void> {
    await this.report(true);
    for (const result of this.commands.undelivered) await this.tell(result);
    await this.drain();
  }

  private async report(birth = false): Promise<void> {
    clearTimeout(this.reportTimer);
    this.reportTimer = undefined;
    if (!this.link.up) return;
    const said = this.said();
    this.pace.sent(said, performance.now());
    const body = {
      bootId: this.bootId, seq: this.reportSeq++, session: this.link.currentSession, ...said,
      ...(birth ? { capabilities: await capabilitiesOf(this.accelerators.found, { release: this.releases?.own, peer: this.peerServer?.address }) } : {}),
    };
    // Lost with the link: the birth of the next connection says it all again.
    await this.link.publish(reported.topicFor(this.deviceId), reported.encode(body), reported).then(() => this.heard.resolve(), () => {});
  }

  private said(): ReturnType<typeof reportOf> {
    return reportOf(this.state.now, {
      accelerator: this.accelerators.now, acceleratorFailing: this.accelerators.failing, percent: this.percent, learning: this.learning, cameraLost: this.camera?.lost ?? false,
      devices: new Map([...this.serving].map(([name, serving]) => [name, serving.device])), stateWasDamaged: this.state.was === 'lost', disk: this.disk.trouble, clockWrong: this.clock.wrong, damaged: this.repairs.workloads,
      wrong: this.aftercare.wrong,
      crashLooping: new Set([...this.serving].filter(([, serving]) => serving.crashLooping).map(([name]) => name)),
    });
  }

  /** Changes close together become one report. */
  private reportSoon(delayMs: number): void {
    const dueMs = performance.now() + delayMs;
    if (this.stopped.signal.aborted || (this.reportTimer && this.reportDueMs <= dueMs && delayMs > 0)) return;
    clearTimeout(this.reportTimer);
    this.reportDueMs = dueMs;
    this.reportTimer = setTimeout(() => void this.report(), delayMs);
  }

  private progress(workload: string, percent: number | null): void {
    if (percent === null) this.percent.delete(workload);
    else if (percent !== this.percent.get(workload)) {
      this.percent.set(workload, percent);
      this.reportSoon(1_000);
    }
  }

  private changed(): void {
    this.log.info({ accelerators: this.accelerators.found.devices.length }, 'accelerators changed');
    // With capabilities, since those have changed too.
    void this.report(true);
    this.reconciler.poke();
    void this.move().catch((err: unknown) => this.log.error({ err }, 'workloads could not be spread over the Edge TPUs'));
  }

  private framesFor(workload: string): FrameSource | undefined {
    const { REEF_CAMERA: source, FRAMES_DIR, FRAMES_FPS } = this.settings;
    const folder = source === undefined ? FRAMES_DIR : source.kind === 'folder' ? source.dir : undefined;
    if (folder !== undefined) return new FolderFrames(folder);
    if (!source || source.kind === 'folder') return undefined;
    this.camera ??= new Camera({ source, fps: FRAMES_FPS, log: this.log, onChange: () => this.reportSoon(0), ...this.tuning.camera });
    return this.camera.view(workload);
  }

  private servingOf(workload: string): Serving {
    const existing = this.serving.get(workload);
    if (existing) return existing;
    const { FRAMES_FPS } = this.settings;
    const serving = new Serving({
      workload, log: this.log.child({ workload }), frames: this.framesFor(workload), ...this.tuning.serving,
      fps: () => Math.min(FRAMES_FPS, this.config.maxFps ?? Infinity),
      start: (slot) => this.startRunner(workload, slot),
      onWindow: (window) => this.keep(window),
      onPicture: (picture, answer) => {
        const { capture } = this.config;
        if (capture && this.settings.REEF_CAPTURE === 'allowed') this.captures.offer(workload, picture, answer, capture);
      },
      onCrash: (slot, why, inARow) => void this.crashed(workload, slot, why, inARow).catch((err: unknown) => this.log.error({ err, workload }, 'a crash could not be noted')),
    });
    this.serving.set(workload, serving);
    return serving;
  }

  private async startRunner(workload: string, slot: Slot): Promise<Runner> {
    const device = slot.backend === 'edgetpu' ? (await this.placement()).get(workload) : undefined;
    const { REEF_EDGETPU_LIBRARY: edgetpu, REEF_HANG_FLOOR_MS: floorMs, REEF_HANG_CEILING_MS: ceilingMs } = this.settings;
    try {
      const runner = await Runner.start(this.store, slot, { hosts: this.hosts, edgetpu, device, deadline: { floorMs, ceilingMs } });
      // On which Edge TPU it is now, once it serves.
      if (device) this.reportSoon(500);
      return runner;
    } catch (error) {
      const { code } = asReefError(error);
      if ((code === 'artifact.checksum_mismatch' || code === 'bundle.not_installed') && sameSlot(slot, this.state.workload(workload).running) && !isOpen(this.state.workload(workload).execution)) this.repairs.met(workload);
      if (device && code === 'inference.no_device') this.accelerators.failed(device, code);
      throw error;
    }
  }

  /** Which Edge TPU each workload belongs on, as things are. */
  private async placement(): Promise<Map<string, EdgeTpuDevice>> {
    const { desired, workloads } = this.state.now;
    const names = [...new Set([...Object.keys(desired?.workloads ?? {}), ...Object.keys(workloads)])];
    const wanted = names.map(async (workload): Promise<Placeable[]> => {
      const one = desired?.workloads[workload];
      const slot = workloads[workload]?.running;
      if (!(one && needsAccelerator(one.variant)) && slot?.backend !== 'edgetpu') return [];
      const manifest = await this.store.manifest(one?.bundle ?? slot!.bundle);
      const variant = manifest?.variants.find(({ name }) => name === (one?.variant ?? slot!.variant));
      return [{ workload, pin: one?.policy.device ?? null, group: variant?.cacheTokens?.[0] ?? null }];
    });
    return this.accelerators.placement((await Promise.all(wanted)).flat());
  }

  /** Whoever is on another Edge TPU than it belongs on starts anew there. */
  private async move(): Promise<void> {
    const placed = await this.placement();
    for (const [workload, serving] of this.serving) {
      const [now, then] = [serving.device, placed.get(workload)?.path];
      if (!now || !then || now === then || isOpen(this.state.workload(workload).execution)) continue;
      this.log.info({ workload, from: now, to: then }, 'moves to another Edge TPU');
      await serving.restart();
    }
  }

  /** The process of a served bundle died by its own fault. */
  private async crashed(workload: string, slot: Slot, { code, message }: ReefError, inARow: number): Promise<void> {
    await this.state.move(workload, (now) => crashedAgain(now, slot.bundle, { code, message }, inARow));
    this.reportSoon(0);
    this.reconciler.poke();
  }

  private get config(): Desired['config'] {
    return this.state.now.desired?.config ?? agentConfig.parse({});
  }

  private windowMs = 0;
  private openWindows(): void {
    const ms = this.config.telemetryWindowS * 1_000;
    if (ms === this.windowMs) return;
    this.windowMs = ms;
    clearInterval(this.windowTimer);
    this.windowTimer = setInterval(() => { for (const serving of this.serving.values()) serving.closeWindows(); }, ms);
  }

  private drainTimer: NodeJS.Timeout | undefined;
  private keep(window: ClosedWindow): void {
    const seq = this.windowSeq++;
    this.pendingWindows = this.pendingWindows.then(async () => {
      // What is on trial may be gone in a minute; its scores are no reference.
      const drift = this.state.workload(window.workload).good?.bundle === window.bundle ? await this.drift.note(window) : undefined;
      await this.outbox.put(telemetry.schema.parse({ ...window, ...(drift ? { drift } : {}), bootId: this.bootId, seq, temperatureC: await this.temperatureOf(window) }));
    }).catch((err: unknown) => this.log.error({ err }, 'a telemetry window could not be kept'));
    void this.pendingWindows.then(() => this.drain());
  }

  /** Of what runs the model: its Edge TPU, or the board's processor. */
  private async temperatureOf({ workload, backend }: ClosedWindow): Promise<number | null> {
    const { REEF_SYSFS: sysfs } = this.settings;
    if (backend === 'cpu') return hostTemperature(sysfs);
    const device = this.accelerators.found.devices.find(({ path }) => path === this.serving.get(workload)?.device);
    return device ? edgeTpuTemperature(device, sysfs) : null;
  }

  private async temperatures(): Promise<{ host: number | null; edgetpus: Record<string, number | null> }> {
    const { REEF_SYSFS: sysfs } = this.settings;
    return {
      host: await hostTemperature(sysfs),
      edgetpus: Object.fromEntries(await Promise.all(this.accelerators.found.devices.map(async (device) => [device.path, await edgeTpuTemperature(device, sysfs)] as const))),
    };
  }

  private async drain(): Promise<void> {
    if (!this.link.up) return;
    // What is left stays on disk for the next connection.
    const waitMs = await this.outbox.drain((payload) => this.link.publish(telemetry.topicFor(this.deviceId), payload, telemetry), this.config.telemetryBytesPerHour).catch(() => undefined);
    void this.sendCaptures();
    if (waitMs === undefined || this.stopped.signal.aborted) return;
    clearTimeout(this.drainTimer);
    this.drainTimer = setTimeout(() => void this.drain(), waitMs);
  }

  /** Uploads what was captured, at the pace of the telemetry. */
  private async sendCaptures(): Promise<void> {
    if (this.captures.count === 0 || this.stopped.signal.aborted) return;
    await this.captures.drain(async (id, facts, jpeg) => {
      const query = new URLSearchParams(Object.entries(facts).map(([name, value]): [string, string] => [name, `${value}`]));
      await this.gateway.upload(`/v1/captures/${id}?${query.toString()}`, jpeg);
    })
      .catch((err: unknown) => this.log.error({ err }, 'captured pictures could not be sent'));
  }

  private async renewals(): Promise<void> {
    const { signal } = this.stopped;
    while (!signal.aborted) {
      try {
        const renewed = await renewIfDue(this.settings.REEF_AGENT_DIR, this.identity, this.clock, this.disk);
        if (renewed) {
          this.identity = renewed;
          this.peerServer?.renewed();
          this.gateway.close();
          this.gateway = this.openGateway();
          this.log.info('certificate renewed');
          this.link.reconnect();
        }
      } catch (error) {
        this.log.warn({ reason: asReefError(error).message }, 'the certificate could not be renewed yet');
      }
      await sleep(renewalCheckMs * (0.5 + Math.random() / 2), signal).catch(() => {});
    }
  }

  private openGateway(): Gateway {
    const { gatewayUrl, ca, certificate, key } = this.identity;
    return new Gateway({ url: gatewayUrl, ca, cert: certificate, key, clock: this.clock });
  }

  private get learningDir(): string {
    return join(this.settings.REEF_AGENT_DIR, 'learning');
  }

  /** A new head on what a workload runs, offered to the fleet; what runs here does not change by it. */
  private async learn(given: Record<string, unknown>, id: string): Promise<Record<string, unknown>> {
    const parsed = learnArgs.safeParse(given);
    if (!parsed.success) throw new ReefError('command.args_wrong', 'invalid', `The device cannot read what it is asked to learn: ${parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; ')}`);
    const { workload } = parsed.data;
    this.chosen({ workload });
    const dir = join(this.learningDir, id);
    await mkdir(dir, { recursive: true, mode: 0o700 });
    try {
      const { learnAndOffer } = await import('./learning.ts');
      return await learnAndOffer(id, parsed.data, {
        runner: () => this.serving.get(workload)?.current, store: this.store, gateway: () => this.gateway, dir, reserveBytes: this.settings.REEF_DISK_RESERVE, tflite: this.settings.REEF_TFLITE_LIBRARY,
        signal: this.stopped.signal, ...(this.tuning.download ? { download: this.tuning.download } : {}),
        onProgress: (step, percent) => {
          // That it has begun is told at once.
          const delayMs = this.learning.has(workload) ? 1_000 : 0;
          this.learning.set(workload, { command: id, step, percent: Math.round(percent) });
          this.reportSoon(delayMs);
        },
      });
    } finally {
      this.learning.delete(workload);
      this.reportSoon(0);
      await rm(dir, { recursive: true, force: true });
    }
  }

  private chosen(args: Record<string, unknown>): [string, Serving][] {
    const chosen = [...this.serving].filter(([name]) => args.workload === undefined || args.workload === name);
    if (chosen.length === 0) throw new ReefError('command.no_workload', 'not_found', args.workload === undefined ? 'No workload is served on this device.' : `No workload ${String(args.workload)} is served on this device.`);
    return chosen;
  }
}
