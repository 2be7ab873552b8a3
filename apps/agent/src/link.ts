import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import type { Logger } from '@reefkeeper/platform/logger';
import { command, desired, parseTopic, presence, type Command, type Desired } from '@reefkeeper/protocol';
import mqtt, { type IClientOptions, type MqttClient } from 'mqtt';
import { sleep } from './backoff.ts';
import type { DeviceClock } from './clock.ts';
import { agentComeback, Comeback, type ComebackOptions } from './comeback.ts';
import type { Identity } from './identity.ts';
import { connectAt, isTimeError } from './trust.ts';

export interface LinkOptions {
  identity: () => Identity;
  clock: DeviceClock;
  /** Raises the session counter and returns it, on disk before it is used. */
  nextSession: () => Promise<number>;
  log: Logger;
  comeback?: Partial<ComebackOptions>;
  /** A connection on which the broker has not acknowledged for so long is given up: it will not do so any more (MQTT 3.1.1 section 4.4 has no repeats within one). */
  acknowledgeMs?: number;
}

/** How long the broker has to hear that we leave. It says so itself, by our will, where it has not. */
const farewellMs = 2_000;

interface LinkEvents {
  /** Subscribed; the birth is to be sent now. */
  up: [];
  down: [];
  /** `asked`: not what the broker kept for whoever subscribes, but sent just now. */
  desired: [Desired, asked: boolean];
  command: [Command];
}

/**
 * The connection to the broker. Each one is a new client with the will of its own session number; nothing is queued in memory,
 * since state, telemetry and command answers all wait on disk and are sent when a link is up.
 */
export class Link extends EventEmitter<LinkEvents> {
  private client: MqttClient | undefined;
  private session = 0;
  private readonly stopped = new AbortController();
  private running: Promise<void> = Promise.resolve();

  constructor(private readonly options: LinkOptions) {
    super();
  }

  get up(): boolean {
    return this.client?.connected === true;
  }

  /** Of the present (or last) connection. */
  get currentSession(): number {
    return this.session;
  }

  start(): void {
    this.running = this.run();
  }

  /** @throws Error when the link is down or goes down before the broker has acknowledged */
  async publish(topic: string, payload: Buffer, options: { qos: 0 | 1; retain: boolean }): Promise<void> {
    const { client } = this;
    if (!client?.connected) throw new Error('the link is down');
    await this.answered(client, client.publishAsync(topic, payload, options));
  }

  /** Drops the connection so that the next one uses what has changed (a renewed certificate). */
  reconnect(): void {
    this.client?.end(true);
  }

  async stop(): Promise<void> {
    this.stopped.abort(new Error('stopped'));
    const { client } = this;
    if (client?.connected) {
      const farewell = client.publishAsync(this.presenceTopic, presence.encode({ online: false, session: this.session }), presence).then(() => client.endAsync());
      await this.answered(client, farewell, farewellMs).catch(() => {});
    } else {
      client?.end(true);
    }
    await this.running;
  }

  /** What the broker answers. mqtt.js itself would wait for ever: it keeps what is unanswered for its own reconnect, which we never use. @throws Error when the link goes down first, as it does where the answer is late */
  private async answered<T>(client: MqttClient, answer: Promise<T>, withinMs = this.options.acknowledgeMs ?? 60_000): Promise<T> {
    const down = Promise.withResolvers<never>();
    const closed = () => down.reject(new Error('the link went down'));
    client.once('close', closed);
    // Not `end`, which does nothing while an earlier one waits for acknowledgements.
    const late = setTimeout(() => {
      this.options.log.warn({ session: this.session, withinMs }, 'the broker does not acknowledge');
      client.stream.destroy();
    }, withinMs);
    try {
      return await Promise.race([answer, down.promise]);
    } finally {
      clearTimeout(late);
      client.off('close', closed);
    }
  }

  private get presenceTopic(): string {
    return presence.topicFor(this.options.identity().deviceId);
  }

  private async run(): Promise<void> {
    const comeback = new Comeback({ ...agentComeback, ...this.options.comeback }, performance.now());
    const { signal } = this.stopped;
    while (!signal.aborted) {
      const lastedMs = await this.connection();
      await sleep(comeback.waitMs(lastedMs, performance.now()), signal).catch(() => {});
    }
  }

  /** One connection from dial to end. @returns how long it was up, milliseconds */
  private async connection(): Promise<number> {
    const { log } = this.options;
    const identity = this.options.identity();
    this.session = await this.options.nextSession();
    if (this.stopped.signal.aborted) return 0;
    const { ca, certificate: cert, key } = identity;
    const options: IClientOptions = {
      clientId: identity.deviceId, clean: false, reconnectPeriod: 0, connectTimeout: 15_000, keepalive: 30, resubscribe: false, protocolVersion: 4,
      ca, cert, key, rejectUnauthorized: true,
      will: { topic: this.presenceTopic, payload: presence.encode({ online: false, session: this.session }), qos: presence.qos, retain: presence.retain },
    };
    let client: MqttClient;
    try {
      client = await this.dial(identity.mqttUrl, options, { ca, cert, key });
    } catch (error) {
      log.info({ session: this.session, reason: (error as Error).message }, 'broker not reached');
      return 0;
    }
    this.client = client;
    // One for each publish that waits for its acknowledgement.
    client.setMaxListeners(0);
    if (this.stopped.signal.aborted) client.end(true);
    let upAt = 0;
    // Before CONNACK: what the broker kept for us arrives right behind it.
    client.on('message', (topic, payload, { retain }) => this.receive(topic, payload, retain));
    client.on('connect', () => {
      // An answer must not wait for the acknowledgement of the message before it (Nagle's algorithm).
      (client.stream as Partial<Socket>).setNoDelay?.(true);
      upAt = performance.now();
      void this.greet(client, identity.deviceId).catch((error: Error) => {
        log.warn({ reason: error.message }, 'broker refused the greeting');
        client.end(true);
      });
    });
    let timeWrong = false;
    const reason = await new Promise<string>((resolve) => {
      let last = 'closed';
      client.on('error', (error) => {
        last = error.message;
        timeWrong ||= isTimeError(error);
      });
      client.on('close', () => resolve(last));
      client.on('end', () => resolve(last));
    });
    client.end(true);
    // A late error of a client that is done must not become an unhandled one.
    client.on('error', () => {});
    if (upAt > 0) this.emit('down');
    if (!this.stopped.signal.aborted) log.info({ session: this.session, reason }, upAt > 0 ? 'link down' : 'broker not reached');
    // One of the two clocks is wrong. Whether it is ours the gateway can tell; the next try goes by it then.
    if (timeWrong) await this.options.clock.consult(identity.gatewayUrl, ca);
    return upAt > 0 ? performance.now() - upAt : 0;
  }

  private async dial(url: string, options: IClientOptions, own: { ca: string; cert: string; key: string }): Promise<MqttClient> {
    const { clock } = this.options;
    if (clock.wrong && !clock.told) await clock.consult(this.options.identity().gatewayUrl, own.ca);
    if (!clock.wrong) return mqtt.connect(url, options);
    const { hostname: host, port } = new URL(url);
    const { socket } = await connectAt({ host, port: Number(port || 8883), ...own }, clock.now().getTime());
    return new mqtt.MqttClient(() => socket, { protocolId: 'MQTT', ...options });
  }

  private async greet(client: MqttClient, id: string): Promise<void> {
    await this.answered(client, client.publishAsync(this.presenceTopic, presence.encode({ online: true, session: this.session }), presence));
    const granted = await this.answered(client, client.subscribeAsync({ [desired.topicFor(id)]: { qos: 1 }, [command.topicFor(id)]: { qos: 1 } }));
    const refused = granted.filter(({ qos }) => qos > 2);
    if (refused.length > 0) throw new Error(`subscription refused: ${refused.map(({ topic }) => topic).join(', ')}`);
    this.options.log.info({ session: this.session }, 'link up');
    this.emit('up');
  }

  private receive(topic: string, payload: Buffer, retain: boolean): void {
    const parsed = parseTopic(topic);
    if (!parsed || parsed.device !== this.options.identity().deviceId) return;
    if (parsed.path === 'desired') {
      const decoded = desired.decode(payload);
      if (decoded.ok) this.emit('desired', decoded.body, !retain);
      else this.options.log.warn({ topic, reason: decoded.reason }, 'unreadable message ignored');
    } else if (parsed.path === 'cmd/{id}') {
      const decoded = command.decode(payload);
      if (decoded.ok && decoded.body.id === parsed.id) this.emit('command', decoded.body);
      else this.options.log.warn({ topic, reason: decoded.ok ? 'id and topic differ' : decoded.reason }, 'unreadable message ignored');
    }
  }
}
