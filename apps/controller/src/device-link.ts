import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Inject, Injectable, type BeforeApplicationShutdown, type OnApplicationBootstrap } from '@nestjs/common';
import { Commands, Desired, Devices, Reports } from '@reefkeeper/devices';
import { databaseGone, type ChangeFeed, type Clock, type Logger } from '@reefkeeper/platform';
import { commandResult, desired, parseTopic, presence, reported, telemetry, type CommandResult, type Message, type Presence, type Reported, type Telemetry as Window } from '@reefkeeper/protocol';
import { Telemetry } from '@reefkeeper/telemetry';
import { connect, type IClientOptions, type IPublishPacket, type MqttClient } from 'mqtt';
import { Counter } from 'prom-client';
import type { z } from 'zod';
import type { Config } from './config.ts';
import { acknowledged, published } from './acknowledged.ts';
import { Batches } from './batches.ts';
import { CommandSender } from './command-sender.ts';
import { takeConcurrently } from './inbox.ts';
import { Revocations } from './revocations.ts';

export interface BrokerIdentity { ca: string; certificate: string; key: string }

/** How late a message goes out when the hint about it is lost. */
const sweepMs = 1_000;
const expireMs = 10_000;
/** A device that is online and silent for so long is asked what it runs. */
const silent = { everyMs: 5_000, afterS: 5 };
const batch = 500;
/** After this long on a broker that had forgotten us, devices it knows no presence of are offline. */
const presenceGraceMs = 30_000;
/** Replicas are few, and until one is back no device is: a broker can bear being asked by them once a second. */
const reconnectMs = { first: 250, most: 1_000 };
const stableMs = 10_000;
const retryMs = { first: 100, most: 5_000 };
/** A message that fails this often while the database is there will never be stored. */
const attempts = 3;

const received = new Counter({ name: 'reef_mqtt_received_total', help: 'Device messages by kind and outcome', labelNames: ['message', 'outcome'] });

type Taker = (device: string, payload: Buffer) => Promise<void>;

/**
 * MQTT in and out. In: a message is acknowledged after its effect is committed, so a crash between loses nothing; the topic says who
 * sent it, never the payload. Out: whatever the rows say is not published yet. Sessions at the broker are kept over restarts.
 */
@Injectable()
export class DeviceLink implements OnApplicationBootstrap, BeforeApplicationShutdown {
  private readonly clients: MqttClient[] = [];
  private readonly inboxes: { idle(): Promise<void> }[] = [];
  private readonly complained = new Set<string>();
  /** Devices to which an older message may still be on its way, from a connection that broke: they are told again. */
  private readonly doubtful = new Set<string>();
  private readonly stopping = new AbortController();
  private readonly timers: NodeJS.Timeout[] = [];
  private heard = new Set<string>();
  private audit: NodeJS.Timeout | undefined;
  private sending: Promise<void> | undefined;
  private again = false;
  private sender!: CommandSender;
  private once = false;
  private off = () => {};

  constructor(
    @Inject('CONFIG') private readonly config: Config,
    @Inject('BROKER_IDENTITY') private readonly identity: BrokerIdentity,
    @Inject('LOG') private readonly log: Logger,
    @Inject('FEED') private readonly feed: ChangeFeed,
    @Inject('CLOCK') private readonly clock: Clock,
    @Inject(Devices) private readonly devices: Devices,
    @Inject(Desired) private readonly desired: Desired,
    @Inject(Reports) private readonly reports: Reports,
    @Inject(Commands) private readonly commands: Commands,
    @Inject(Telemetry) private readonly telemetry: Telemetry,
    @Inject(Revocations) private readonly revocations: Revocations,
  ) {}

  get connected(): boolean {
    return this.clients.length > 0 && this.clients.every((client) => client.connected);
  }

  /** Whether the broker was reached since this process started. */
  get wasConnected(): boolean {
    return this.once ||= this.connected;
  }

  onApplicationBootstrap(): void {
    const { signal } = this.stopping;
    this.sender = new CommandSender(this.commands, () => this.clients[0], this.clock, this.log, signal);
    const presences = new Batches((batch: { device: string; presence: Presence }[]) => this.devices.presence(batch), { most: 500, waitMs: 10, signal });
    const reports = new Batches((batch: { device: string; report: Reported }[]) => this.reports.ingest(batch), { most: 500, waitMs: 10, signal });
    const answers = new Batches((batch: { device: string; answer: CommandResult }[]) => this.commands.answered(batch), { most: 500, waitMs: 0, signal });
    const windows = new Batches((batch: { device: string; window: Window }[]) => this.telemetry.ingest(batch), { most: 500, waitMs: 50, signal });
    // Two sessions, so that a flood of telemetry does not hold up what rollouts wait for. Each kind takes one database connection at most, however much is on its way.
    this.listen('state', 2_000, [
      this.taker(presence, (device, body) => {
        this.heard.add(device);
        return presences.add({ device, presence: body });
      }),
      this.taker(reported, (device, report) => reports.add({ device, report })),
      this.taker(commandResult, (device, answer) => answers.add({ device, answer })),
    ]);
    this.listen('telemetry', 2_000, [this.taker(telemetry, (device, window) => windows.add({ device, window }))]);
    this.off = this.feed.onChange(({ kind }) => { if (kind === 'desired') this.send(); });
    this.timers.push(
      setInterval(() => this.send(), sweepMs),
      setInterval(() => { this.askSilent().catch((err: unknown) => this.log.warn({ err }, 'silent devices could not be asked')); }, silent.everyMs),
      setInterval(() => { this.commands.expire().catch((err: unknown) => this.log.warn({ err }, 'commands could not be expired')); }, expireMs),
    );
  }

  async beforeApplicationShutdown(): Promise<void> {
    this.stopping.abort();
    this.off();
    for (const timer of this.timers) clearInterval(timer);
    clearTimeout(this.audit);
    await this.sending;
    // What is being stored gets its acknowledgement; what waits for a database that is away does not.
    await Promise.all(this.inboxes.map((inbox) => Promise.race([inbox.idle(), sleep(2_000)])));
    await Promise.all(this.clients.map((client) => client.endAsync(true)));
  }

  private listen(purpose: 'state' | 'telemetry', limit: number, takers: { message: Message<string, z.ZodType>; take: Taker }[]): void {
    const options: IClientOptions = {
      ...this.identityOptions(), clientId: `reef-controller-${this.config.INSTANCE_ID}-${purpose}`,
      clean: false, protocolVersion: 4, reconnectPeriod: reconnectMs.first, connectTimeout: 10_000, keepalive: 30, resubscribe: false,
    };
    const client = connect(this.config.MQTT_URL, options);
    let upSince: number | undefined;
    let fault: string | undefined;
    let waitMs = reconnectMs.first;
    const byPath = new Map(takers.map(({ message, take }) => [message.filter.replace(/^reef\/v1\/\+\//, '').replace('+', '{id}'), { name: message.name, take }]));
    this.inboxes.push(takeConcurrently(client, { session: purpose, limit, take: (packet) => this.take(byPath, packet) }));
    client.on('connect', ({ sessionPresent }) => {
      // A command must not wait for the acknowledgement of the message before it (Nagle's algorithm), which the broker may hold back for 40 ms.
      (client.stream as Partial<Socket>).setNoDelay?.(true);
      this.log.info({ purpose, sessionPresent }, 'broker connected');
      upSince = Date.now();
      fault = undefined;
      if (purpose === 'state' && !sessionPresent) this.auditPresence();
      // At every connection: the session may be new to a broker that was restarted without its state.
      client.subscribeAsync(takers.map(({ message }) => this.filterOf(message)), { qos: 1 }).catch((err: unknown) => {
        this.log.warn({ err, purpose }, 'subscription failed, connecting again');
        client.stream.destroy();
      });
      this.send();
    });
    client.on('close', () => {
      // Full jitter, so that replicas do not come back in step; short again only after a connection that lasted.
      if (upSince && Date.now() - upSince > stableMs) waitMs = reconnectMs.first;
      client.options.reconnectPeriod = reconnectMs.first + Math.random() * waitMs;
      waitMs = Math.min(2 * waitMs, reconnectMs.most);
      if (upSince && !this.stopping.signal.aborted) this.log.warn({ purpose }, 'broker connection closed, trying to come back');
      upSince = undefined;
    });
    // An outage is told once, not at every attempt.
    client.on('error', ({ message }) => {
      if (message !== fault) this.log.warn({ purpose, fault: message }, 'broker connection failed, trying again');
      fault = message;
    });
    this.clients.push(client);
  }

  /** Reports and telemetry are shared between replicas where the broker can; presence goes to all, because shared subscriptions get no retained messages. */
  private filterOf(message: Message<string, z.ZodType>): string {
    const group = this.config.MQTT_SHARED_GROUP;
    return group && !message.retain ? `$share/${group}/${message.filter}` : message.filter;
  }

  private identityOptions(): IClientOptions {
    return { ca: this.identity.ca, cert: this.identity.certificate, key: this.identity.key };
  }

  /** Settles when the message may be acknowledged: its effect is stored, or it will never have one. */
  private async take(takers: Map<string, { name: string; take: Taker }>, { topic, payload }: IPublishPacket): Promise<void> {
    const address = parseTopic(topic);
    const taker = address && takers.get(address.path);
    if (!taker) return;
    for (let failures = 0, waitMs = retryMs.first; !this.stopping.signal.aborted; waitMs = Math.min(2 * waitMs, retryMs.most)) {
      try {
        await taker.take(address.device, Buffer.from(payload));
        return;
      } catch (err) {
        // Not acknowledging is the back pressure: the broker keeps what we cannot store.
        if (!databaseGone(err) && ++failures >= attempts) {
          received.inc({ message: taker.name, outcome: 'refused' });
          this.complain(address.device, taker.name, { err }, 'message cannot be stored and is dropped');
          return;
        }
        await sleep(waitMs, undefined, { signal: this.stopping.signal }).catch(() => {});
      }
    }
    // Stopping: never acknowledged, so the broker delivers it again to whoever comes next.
    await new Promise(() => {});
  }

  private taker<S extends z.ZodType>(message: Message<string, S>, take: (device: string, body: z.output<S>) => Promise<void>): { message: Message<string, z.ZodType>; take: Taker } {
    return {
      message: message as unknown as Message<string, z.ZodType>,
      take: async (device, payload) => {
        const decoded = message.decode(payload);
        if (!decoded.ok) {
          received.inc({ message: message.name, outcome: 'malformed' });
          return this.complain(device, message.name, { reason: decoded.reason }, 'malformed message');
        }
        await take(device, decoded.body);
        received.inc({ message: message.name, outcome: 'taken' });
      },
    };
  }

  private complain(device: string, message: string, why: object, text: string): void {
    const key = `${device} ${message}`;
    if (this.complained.has(key)) return;
    if (this.complained.size > 10_000) this.complained.clear();
    this.complained.add(key);
    this.log.warn({ device, message, ...why }, `${text}; further ones of this device are only counted`);
  }

  /** A broker that lost its state lost the wills of devices that died with it. Presence that is still true has been heard again by then. */
  private auditPresence(): void {
    this.heard = new Set();
    clearTimeout(this.audit);
    this.audit = setTimeout(() => {
      if (!this.clients[0]?.connected) return;
      this.devices.absent([...this.heard]).then(
        (gone) => { if (gone.length > 0) this.log.info({ devices: gone.length }, 'offline: unknown to the broker since it came back'); },
        (err: unknown) => this.log.warn({ err }, 'presence could not be checked'),
      );
    }, presenceGraceMs);
  }

  private async askSilent(): Promise<void> {
    if (!this.clients[0]?.connected) return;
    const asked = await this.desired.askSilent(silent.afterS, batch);
    if (asked > 0) this.log.info({ devices: asked }, 'asked what they run: online, and nothing heard since they came');
  }

  /** One sender at a time; a call while it runs makes it look once more. */
  private send(): void {
    this.again = true;
    this.sending ??= this.sendAll().finally(() => { this.sending = undefined; });
  }

  private async sendAll(): Promise<void> {
    while (this.again && !this.stopping.signal.aborted && this.clients[0]?.connected) {
      this.again = false;
      try {
        await this.desired.publishing(() => this.sendWaiting(this.clients[0]!));
      } catch (err) {
        this.log.warn({ err }, 'sending to devices failed, trying again at the next sweep');
        return;
      }
    }
  }

  private async sendWaiting(client: MqttClient): Promise<void> {
    const doubtful = [...this.doubtful];
    const waiting = await this.desired.unpublished(batch);
    const told = new Map([...(await this.desired.messages(doubtful)), ...waiting].map((one) => [one.device, one]));
    for (const device of told.keys()) this.doubtful.add(device);
    await acknowledged(client, [...told.values()].map(({ device, message }) => client.publishAsync(desired.topicFor(device), desired.encode(message), { qos: desired.qos, retain: desired.retain })));
    await this.desired.markPublished([...told.values()].map(({ device, message }) => ({ device, revision: message.revision })));
    for (const device of [...told.keys(), ...doubtful]) this.doubtful.delete(device);
    if (told.size > 0) published.inc({ message: 'desired' }, told.size);
    for (const { device } of waiting.filter(({ retired }) => retired)) await this.cut(device);

    const more = await this.sender.sendLeftBehind(batch);
    if (waiting.length === batch || more) this.again = true;
  }

  /** Ends a retired device's connection by taking its client id over, which every broker allows the controller. The revocation list keeps it from coming back. */
  private async cut(device: string): Promise<void> {
    await this.revocations.refresh();
    const client = connect(this.config.MQTT_URL, { ...this.identityOptions(), clientId: device, clean: true, reconnectPeriod: 0, connectTimeout: 5_000, protocolVersion: 4 });
    await new Promise<void>((resolve) => { client.once('connect', () => resolve()).once('error', () => resolve()).once('close', () => resolve()); });
    await client.endAsync(true);
    this.log.info({ device }, 'retired device disconnected');
  }
}
