import { readFileSync } from 'node:fs';
import { Inject, Injectable, type BeforeApplicationShutdown, type OnApplicationBootstrap } from '@nestjs/common';
import { Commands, Desired, Devices, Reports } from '@reefkeeper/devices';
import { asReefError, type ChangeFeed, type Logger } from '@reefkeeper/platform';
import { command, commandResult, desired, parseTopic, presence, reported, telemetry, type Message } from '@reefkeeper/protocol';
import { Telemetry } from '@reefkeeper/telemetry';
import { connect, type IClientOptions, type IPublishPacket, type MqttClient } from 'mqtt';
import { Counter } from 'prom-client';
import type { z } from 'zod';
import type { Config } from './config.ts';

export interface BrokerIdentity { ca: string; certificate: string; key: string }

/** How late a message goes out when the hint about it is lost. */
const sweepMs = 1_000;
const batch = 500;
const retryMs = { first: 200, most: 10_000 };

const received = new Counter({ name: 'reef_mqtt_received_total', help: 'Device messages by kind and outcome', labelNames: ['message', 'outcome'] });
const published = new Counter({ name: 'reef_mqtt_published_total', help: 'Messages sent to devices by kind', labelNames: ['message'] });

type Taker = (device: string, payload: Buffer, topic: string) => Promise<void>;

/**
 * MQTT in and out. In: a message is acknowledged after its effect is committed, so a crash between loses nothing; the topic says who
 * sent it, never the payload. Out: whatever the rows say is not published yet. Sessions at the broker are kept over restarts.
 */
@Injectable()
export class DeviceLink implements OnApplicationBootstrap, BeforeApplicationShutdown {
  private readonly clients: MqttClient[] = [];
  private readonly complained = new Set<string>();
  private sending: Promise<void> | undefined;
  private again = false;
  private stopped = false;
  private sweep: NodeJS.Timeout | undefined;
  private off = () => {};

  constructor(
    @Inject('CONFIG') private readonly config: Config,
    @Inject('BROKER_IDENTITY') private readonly identity: BrokerIdentity,
    @Inject('LOG') private readonly log: Logger,
    @Inject('FEED') private readonly feed: ChangeFeed,
    @Inject(Devices) private readonly devices: Devices,
    @Inject(Desired) private readonly desired: Desired,
    @Inject(Reports) private readonly reports: Reports,
    @Inject(Commands) private readonly commands: Commands,
    @Inject(Telemetry) private readonly telemetry: Telemetry,
  ) {}

  get connected(): boolean {
    return this.clients.length > 0 && this.clients.every((client) => client.connected);
  }

  onApplicationBootstrap(): void {
    // Two sessions, so that a flood of telemetry does not hold up what rollouts wait for.
    this.listen('state', new Map<Message<string, z.ZodType>, Taker>([
      [presence, this.taker(presence, (device, body) => this.devices.presence(device, body))],
      [reported, this.taker(reported, async (device, body) => {
        await this.reports.ingest(device, body);
        if (body.capabilities) await this.reports.reconcileBirth(device, body.observedRevision);
      })],
      [commandResult, this.taker(commandResult, (device, body) => this.commands.answered(device, body))],
    ]));
    this.listen('telemetry', new Map<Message<string, z.ZodType>, Taker>([
      [telemetry, this.taker(telemetry, async (device, window) => { await this.telemetry.ingest([{ device, window }]); })],
    ]));
    this.off = this.feed.onChange(({ kind }) => { if (kind === 'desired') this.send(); });
    this.sweep = setInterval(() => this.send(), sweepMs);
  }

  async beforeApplicationShutdown(): Promise<void> {
    this.stopped = true;
    this.off();
    clearInterval(this.sweep);
    await this.sending;
    await Promise.all(this.clients.map((client) => client.endAsync()));
  }

  private listen(purpose: string, takers: Map<Message<string, z.ZodType>, Taker>): void {
    const options: IClientOptions = {
      clientId: `reef-controller-${this.config.INSTANCE_ID}-${purpose}`,
      clean: false, protocolVersion: 4, reconnectPeriod: 1_000, connectTimeout: 10_000, keepalive: 30, resubscribe: false,
      ca: this.identity.ca, cert: this.identity.certificate, key: this.identity.key,
    };
    const client = connect(this.config.MQTT_URL, options);
    const filters = [...takers.keys()].map(({ filter }) => (this.config.MQTT_SHARED_GROUP ? `$share/${this.config.MQTT_SHARED_GROUP}/${filter}` : filter));
    const byPath = new Map([...takers].map(([message, take]) => [message.filter.replace(/^reef\/v1\/\+\//, '').replace('+', '{id}'), take]));
    client.handleMessage = (packet, done) => void this.take(byPath, packet).then(() => done());
    // Subscribed at every connection: the session may be new to a broker that was restarted without its state.
    client.on('connect', () => {
      this.log.info({ purpose }, 'broker connected');
      client.subscribeAsync(filters, { qos: 1 }).catch((err: unknown) => this.log.warn({ err }, 'subscription failed'));
      this.send();
    });
    client.on('close', () => { if (!this.stopped) this.log.warn({ purpose }, 'broker connection closed'); });
    client.on('error', (err) => this.log.warn({ err: { message: err.message }, purpose }, 'broker connection failed'));
    this.clients.push(client);
  }

  /** Returns when the message may be acknowledged: its effect is stored, or it will never have one. */
  private async take(takers: Map<string, Taker>, { topic, payload }: IPublishPacket): Promise<void> {
    const address = parseTopic(topic);
    const taker = address && takers.get(address.path);
    if (!taker) return;
    for (let waitMs = retryMs.first; !this.stopped; waitMs = Math.min(2 * waitMs, retryMs.most)) {
      try {
        await taker(address.device, Buffer.from(payload), topic);
        return;
      } catch (thrown) {
        // Not acknowledging is the back pressure: the broker keeps what we cannot store.
        this.log.warn({ err: thrown, device: address.device }, 'message could not be stored, trying again');
        if (asReefError(thrown).kind !== 'unavailable' && waitMs >= 8 * retryMs.first) return;
        await new Promise((resolve) => { setTimeout(resolve, waitMs); });
      }
    }
    // Stopping: never acknowledged, so the broker delivers it again to whoever comes next.
    await new Promise(() => {});
  }

  private taker<S extends z.ZodType>(message: Message<string, S>, take: (device: string, body: z.output<S>) => Promise<void>): Taker {
    return async (device, payload) => {
      const decoded = message.decode(payload);
      if (!decoded.ok) {
        received.inc({ message: message.name, outcome: 'malformed' });
        if (!this.complained.has(device)) this.log.warn({ device, message: message.name, reason: decoded.reason }, 'malformed message; further ones of this device are only counted');
        this.complained.add(device);
        return;
      }
      await take(device, decoded.body);
      received.inc({ message: message.name, outcome: 'taken' });
    };
  }

  /** One sender at a time; a call while it runs makes it look once more. */
  private send(): void {
    this.again = true;
    this.sending ??= this.sendAll().finally(() => { this.sending = undefined; });
  }

  private async sendAll(): Promise<void> {
    const client = this.clients[0];
    while (this.again && !this.stopped && client?.connected) {
      this.again = false;
      try {
        const waiting = await this.desired.unpublished(batch);
        const sent = await Promise.all(waiting.map(async ({ device, message }) => {
          await client.publishAsync(desired.topicFor(device), desired.encode(message), { qos: desired.qos, retain: desired.retain });
          return { device, revision: message.revision };
        }));
        await this.desired.markPublished(sent);
        published.inc({ message: 'desired' }, sent.length);
        const commands = await this.commands.queued(batch);
        await Promise.all(commands.map(({ id, deviceId, kind, args, expiresAt }) => client.publishAsync(command.topicFor(deviceId, id), command.encode({ id, kind: kind as 'ping', args, expiresAt: expiresAt.toISOString() }), { qos: command.qos })));
        await this.commands.markSent(commands.map(({ id }) => id));
        published.inc({ message: 'command' }, commands.length);
        if (waiting.length === batch || commands.length === batch) this.again = true;
      } catch (err) {
        this.log.warn({ err }, 'sending to devices failed, trying again at the next sweep');
        return;
      }
    }
  }
}

export function readBrokerCa(file: string): string {
  return readFileSync(file, 'utf8');
}
