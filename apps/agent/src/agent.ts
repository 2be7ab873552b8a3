import { randomUUID } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { giveBackStartupCode } from '@reefkeeper/inference';
import type { Logger } from '@reefkeeper/platform/logger';
import { agentWorkload, commandResult, type Command, type CommandResult, type Desired } from '@reefkeeper/protocol';
import { Accelerators } from './accelerator.ts';
import { Aftercare } from './aftercare.ts';
import { activationExecutors, type ActivationOptions } from './activation.ts';
import { sleep, unlessAborted } from './backoff.ts';
import { Budget, limitOf } from './budget.ts';
import { capabilitiesOf } from './capabilities.ts';
import { Captures } from './captures.ts';
import { DeviceClock, type ClockOptions } from './clock.ts';
import { commandHandlers, learningDir } from './command-handlers.ts';
import { Commands } from './commands.ts';
import type { AgentSettings } from './config.ts';
import { crashPoint } from './crash-point.ts';
import { Credentials } from './credentials.ts';
import { Disk } from './disk.ts';
import { Drift } from './drift.ts';
import { loadIdentity, type Identity } from './identity.ts';
import { Link, type LinkOptions } from './link.ts';
import { LocalApi } from './local-api.ts';
import { Outbox } from './outbox.ts';
import { Reconciler } from './reconcile.ts';
import { PeerServer } from './peer-server.ts';
import { Peers } from './peers.ts';
import { Releases } from './releases.ts';
import { missesAccelerator, standsIn, type Live } from './report.ts';
import { Reporter } from './reporter.ts';
import { Repairs } from './repairs.ts';
import { selfUpdateExecutors, settleRelease } from './self-update.ts';
import { StateFile } from './state.ts';
import { Store } from './store.ts';
import { TelemetryLink } from './telemetry-link.ts';
import type { TpuHealth } from './tpu-health.ts';
import { resumed, waitsForBudget } from './workload.ts';
import { Workloads } from './workloads.ts';

const giveBackEveryMs = 600_000;
const lastTryMs = 2_000;

/** Delays that tests shorten. */
export interface Tuning {
  download?: ActivationOptions['download'];
  link?: Pick<LinkOptions, 'comeback' | 'acknowledgeMs'>;
  serving?: { firstDelayMs: number; maxDelayMs: number };
  camera?: { silenceMs?: number; firstDelayMs?: number; maxDelayMs?: number };
  health?: TpuHealth;
  disk?: { firstMs: number; maxMs: number };
  clock?: ClockOptions;
  aftercare?: { tickMs: number };
}

/** What was read from the device's directory. */
interface Opened { identity: Identity; disk: Disk; clock: DeviceClock; state: StateFile; store: Store; drift: Drift; captures: Captures; outbox: Outbox; budget: Budget }

/** One device's agent: holds the parts and carries word between them. What is done and why is decided in `plan.ts`. */
export class Agent {
  private readonly bootId = randomUUID();
  private readonly startedMs = performance.now();
  private readonly unfit = new Set<string>();
  private readonly repairs = new Repairs(() => this.noticed(500));
  private readonly stopped = new AbortController();
  private readonly restartWanted = Promise.withResolvers<string>();
  private budgetTimer: NodeJS.Timeout | undefined;
  private readonly releases: Releases | undefined;
  private readonly credentials: Credentials;
  private readonly accelerators: Accelerators;
  private readonly workloads: Workloads;
  private readonly aftercare: Aftercare;
  private readonly link: Link;
  private readonly reporter: Reporter;
  private readonly telemetry: TelemetryLink;
  private readonly reconciler: Reconciler;
  private commands!: Commands;
  private peerServer: PeerServer | undefined;
  private localApi: LocalApi | undefined;

  private constructor(private readonly settings: AgentSettings, private readonly opened: Opened, private readonly log: Logger, private readonly tuning: Tuning) {
    const { identity, disk, clock, state, store, outbox, drift, captures, budget } = opened;
    const { bootId, repairs, unfit } = this;
    const [stopped, poke] = [this.stopped.signal, () => this.reconciler.poke()];
    this.credentials = new Credentials(identity, { dir: settings.REEF_AGENT_DIR, clock, disk, log });
    const who = () => this.credentials.identity;
    this.accelerators = new Accelerators({
      tflite: settings.REEF_TFLITE_LIBRARY, edgetpu: settings.REEF_EDGETPU_LIBRARY, maxMs: settings.REEF_PROBE_MAX_S * 1_000, log, onChange: () => this.changed(),
      reset: { mode: settings.REEF_TPU_RESET, perHour: settings.REEF_TPU_RESETS_PER_H, file: join(settings.REEF_AGENT_DIR, 'tpu-resets.json'), sysfs: settings.REEF_SYSFS },
      ...(tuning.health ? { health: tuning.health } : {}),
    });
    const accelerators = this.accelerators;
    this.workloads = new Workloads({
      settings, state, store, accelerators, repairs, poke, log, serving: tuning.serving, camera: tuning.camera,
      reportSoon: (delayMs) => this.reporter.soon(delayMs),
      onWindow: (window) => this.telemetry.keep(window),
      onPicture: (workload, picture, answer) => {
        const { capture } = state.config;
        if (capture && settings.REEF_CAPTURE === 'allowed') captures.offer(workload, picture, answer, capture);
      },
    });
    const workloads = this.workloads;
    this.link = new Link({
      identity: who, clock, log, acknowledgeMs: tuning.link?.acknowledgeMs, comeback: { stableMs: settings.REEF_STABLE_S * 1_000, ...tuning.link?.comeback },
      nextSession: async () => {
        // A counter that may have been lost goes on from the clock, or the fleet would take all we say for old news.
        const least = state.uncertain ? Math.floor(clock.now().getTime() / 1_000) : 0;
        await state.update((now) => ({ ...now, session: Math.max(now.session + 1, least) }));
        return state.now.session;
      },
    });
    this.aftercare = new Aftercare({ state, store, log, serving: () => workloads, goldenEveryMs: settings.REEF_GOLDEN_EVERY_S * 1_000, ...tuning.aftercare, poke: () => this.noticed(0) });
    this.releases = settings.REEF_RELEASE ? new Releases(settings.REEF_AGENT_DIR, settings.REEF_RELEASE) : undefined;
    this.reporter = new Reporter({
      deviceId: this.deviceId, bootId, link: this.link, state, stopped, live: () => this.live(),
      capabilities: () => capabilitiesOf(accelerators.found, { release: this.releases?.own, peer: this.peerServer?.address }),
    });
    this.telemetry = new TelemetryLink({
      deviceId: this.deviceId, bootId, link: this.link, gateway: () => this.credentials.gateway, state, outbox, drift, captures, stopped, log,
      closeWindows: () => workloads.closeWindows(), temperatureOf: (window) => workloads.temperatureOf(window),
    });
    const crash = crashPoint(settings.REEF_AGENT_CRASH_AT, settings.REEF_AGENT_DIR);
    this.reconciler = new Reconciler({
      state, disk, log, crashPoint: crash,
      observe: async () => ({ workloads: state.now.workloads, ...(await store.survey()), accelerator: accelerators.now, unfit, damaged: repairs.due, disk: disk.trouble }),
      executors: selfUpdateExecutors(activationExecutors({
        state, store, budget, log, crashPoint: crash, repairs, workloads, onUnfit: (variant) => {
          unfit.add(variant);
          this.reporter.soon(0);
        }, ...(tuning.download ? { download: tuning.download } : {}),
        peers: settings.REEF_PEER_CACHE === 'on' ? new Peers({ identity: who, known: () => state.config.peers, now: () => clock.now(), log }) : undefined,
        gateway: () => this.credentials.gateway, identity: who, onPercent: (workload, percent) => this.reporter.progress(workload, percent),
      }), {
        releases: this.releases, state, store, log, crashPoint: crash,
        heard: (signal) => unlessAborted(this.reporter.heard, signal),
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
    const budget = await Budget.open(dir, { limit: () => limitOf(state.config, { link: settings.REEF_LINK, dataBudget: settings.REEF_DATA_BUDGET }) });
    const agent = new Agent(settings, { identity, disk, clock, state, store, drift, captures, outbox, budget }, log.child({ device: identity.deviceId }), tuning);
    await agent.begin();
    return agent;
  }

  get deviceId(): string {
    return this.opened.identity.deviceId;
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
    await this.opened.state.update((now) => now);
    return !this.reconciler.stuck;
  }

  /** Process ids of the inference children, by workload. */
  get children(): Record<string, number | undefined> {
    return Object.fromEntries([...this.workloads].map(([name, serving]) => [name, serving.pid]));
  }

  get cameraPid(): number | undefined {
    return this.workloads.cameraPid;
  }

  async stop(): Promise<void> {
    this.stopped.abort(new Error('stopped'));
    this.telemetry.stop();
    this.reporter.stop();
    clearTimeout(this.budgetTimer);
    // First: what was asked is still answered.
    await this.localApi?.stop();
    await this.reconciler.stop();
    await this.aftercare.booted(-1);
    await this.workloads.stop();
    await this.telemetry.settled;
    // A last try: what the broker has not acknowledged by then leaves (once more) after the next start.
    const left = this.telemetry.drain();
    await unlessAborted(left, AbortSignal.timeout(lastTryMs)).catch(() => {});
    await this.link.stop();
    await left;
    this.credentials.gateway.close();
    await this.peerServer?.stop();
    await this.opened.budget.save();
    this.repairs.stop();
    await this.opened.disk.stop();
  }

  private async begin(): Promise<void> {
    const { settings, log, workloads, reporter, accelerators, releases } = this;
    const { state, disk, clock, store, outbox, budget } = this.opened;
    const stopped = this.stopped.signal;
    await accelerators.probe();
    clock.onChange(() => {
      log.warn({ wrong: clock.wrong, device: new Date().toISOString(), fleet: clock.now().toISOString() }, clock.wrong ? 'the clock of this device is wrong and not used' : 'the clock of this device is right again');
      reporter.soon(0);
    });
    disk.onChange(() => {
      const { trouble } = disk;
      if (trouble) log.error({ trouble }, 'the agent\'s directory cannot be written; going on in memory');
      else log.info('the agent\'s directory can be written again');
      this.noticed(0);
    });
    this.commands = await Commands.open(join(settings.REEF_AGENT_DIR, 'journal'), disk, commandHandlers({
      settings, bootId: this.bootId, startedMs: this.startedMs, workloads, accelerators, state, store, outbox, budget, reporter, gateway: () => this.credentials.gateway,
      resumeDownloads: () => this.resumeDownloads(), stopped, download: this.tuning.download,
    }));
    await disk.write(() => rm(learningDir(settings), { recursive: true, force: true }));
    if (releases) await settleRelease(releases, { state, heard: reporter.heard, log });
    for (const [name, { running }] of Object.entries(state.now.workloads)) if (running && name !== agentWorkload) workloads.of(name).want(running);
    await this.aftercare.booted(1);
    await this.listen();
    state.onChange(() => reporter.stateChanged());
    state.onChange(() => this.awaitBudget());
    this.link.on('up', () => void this.birth());
    this.link.on('desired', (wanted, asked) => void this.take(wanted, asked).catch((err: unknown) => log.error({ err }, 'the wanted state could not be stored')));
    this.link.on('command', (command) => void this.obey(command).catch((err: unknown) => log.error({ err }, 'a command could not be journalled')));
    await this.listenToPeers();
    this.link.start();
    this.telemetry.openWindows();
    void accelerators.watch(() => missesAccelerator(state.now.desired, accelerators.now) || standsIn(state.now, this.unfit), stopped);
    void this.credentials.renewals(() => {
      this.peerServer?.renewed();
      this.link.reconnect();
    }, stopped);
    // Whatever they waited for: that is found out at once.
    await this.resumeDownloads();
    void this.aftercare.run(stopped);
    void this.keepSmall();
    this.reconciler.poke();
  }

  private async listenToPeers(): Promise<void> {
    const { REEF_PEER_CACHE: wanted, REEF_PEER_LISTEN: listen, REEF_PEER_ADDRESS: advertise, REEF_PEER_BYTES_PER_S: bytesPerS } = this.settings;
    if (wanted === 'off') return;
    // A taken port is no reason not to serve.
    this.peerServer = await PeerServer.start({ store: this.opened.store, identity: () => this.credentials.identity, listen, advertise, bytesPerS, log: this.log })
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
    const names = () => [...this.workloads].filter(([, { slot }]) => slot).map(([name]) => name).sort();
    this.localApi = new LocalApi({ address, queue, maxBodyBytes, log: this.log, workloads: { names, get: (name) => (this.workloads.get(name)?.slot ? this.workloads.get(name) : undefined) } });
    await this.localApi.start();
    // Where the port was left to the system, this is how others learn it.
    if (this.localUrl) await this.opened.disk.write(() => writeFile(join(this.settings.REEF_AGENT_DIR, 'local-api'), `${this.localUrl}\n`));
  }

  private async take(wanted: Desired, asked: boolean): Promise<void> {
    const known = this.opened.state.now.desired?.revision ?? 0;
    if (wanted.revision < known) {
      this.log.warn({ revision: wanted.revision, known }, 'a lower revision was ignored');
      // Says so: the report names the revision we hold.
      this.reporter.soon(0);
      return;
    }
    if (wanted.revision === known) {
      // Sent again although we have it: our birth was lost, with a broker that forgot it or before anybody listened.
      if (asked) await this.reporter.report(true);
      return;
    }
    let taken = false;
    await this.opened.state.update((now) => {
      taken = wanted.revision > (now.desired?.revision ?? 0);
      return taken ? { ...now, desired: wanted } : now;
    });
    if (!taken) return;
    this.log.info({ revision: wanted.revision, workloads: Object.keys(wanted.workloads) }, 'new wanted state');
    this.telemetry.openWindows();
    this.reconciler.supersede(wanted);
    this.reconciler.poke();
  }

  /** Downloads over the data budget go on in the next period. */
  private awaitBudget(): void {
    const waiting = Object.values(this.opened.state.now.workloads).filter(({ execution }) => waitsForBudget(execution));
    clearTimeout(this.budgetTimer);
    if (this.stopped.signal.aborted || waiting.length === 0) return;
    // A person may have said so while it was about to wait.
    const opensInMs = waiting.some(({ execution }) => this.opened.budget.allows(execution!.bundle)) ? 0 : this.opened.budget.opensInMs;
    this.budgetTimer = setTimeout(() => void this.resumeDownloads().catch((err: unknown) => this.log.error({ err }, 'a waiting download could not be resumed')), Math.min(opensInMs ?? 0, 2 ** 31 - 1));
  }

  private async resumeDownloads(): Promise<void> {
    for (const [name, { execution }] of Object.entries(this.opened.state.now.workloads)) if (waitsForBudget(execution)) await this.opened.state.move(name, resumed);
    this.reconciler.poke();
  }

  private async obey(command: Command): Promise<void> {
    await this.tell(await this.commands.handle(command, this.opened.clock.now()));
  }

  /** Not sent when the link is down: the journal has the answer, and the next birth sends it. */
  private async tell(result: CommandResult): Promise<void> {
    const sent = await this.link.publish(commandResult.topicFor(this.deviceId, result.id), commandResult.encode(result), commandResult).then(() => true, () => false);
    if (sent) await this.commands.delivered(result.id);
  }

  private async birth(): Promise<void> {
    await this.reporter.report(true);
    for (const result of this.commands.undelivered) await this.tell(result);
    await this.telemetry.drain();
  }

  /** What the device says of itself besides its state. */
  private live(): Omit<Live, 'percent' | 'learning'> {
    const { accelerators, workloads } = this;
    return {
      accelerator: accelerators.now, acceleratorFailing: accelerators.failing, unfit: this.unfit, cameraLost: workloads.cameraLost,
      devices: new Map([...workloads].map(([name, serving]) => [name, serving.devices])), stateWasDamaged: this.opened.state.was === 'lost', disk: this.opened.disk.trouble, clockWrong: this.opened.clock.wrong, damaged: this.repairs.workloads,
      wrong: this.aftercare.wrong,
      crashLooping: new Set([...workloads].filter(([, serving]) => serving.crashLooping).map(([name]) => name)),
    };
  }

  /** Something that both the report and the plan should see. */
  private noticed(delayMs: number): void {
    this.reporter.soon(delayMs);
    this.reconciler.poke();
  }

  private changed(): void {
    this.log.info({ accelerators: this.accelerators.found.devices.length }, 'accelerators changed');
    // What did not prove itself may have met an Edge TPU on its way out.
    this.unfit.clear();
    // With capabilities, since those have changed too.
    void this.reporter.report(true);
    this.reconciler.poke();
    void this.workloads.spread().catch((err: unknown) => this.log.error({ err }, 'workloads could not be spread over the Edge TPUs'));
  }
}
