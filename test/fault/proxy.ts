import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as connectTls, createServer as createTls, type TlsOptions } from 'node:tls';
import { generate, parser, type IPublishPacket, type Packet } from 'mqtt-packet';

export interface Weather {
  /** Share of the QoS 1 messages that arrive twice. */
  duplicate: number;
  /** Each message waits this long at most. Those of one topic keep their order (MQTT 3.1.1 section 4.6), others change places. */
  delayMs: number;
  /** A connection breaks after this long on average, with everything that is under way in it; null = never. */
  cutMs: number | null;
}

export interface ProxyOptions {
  upstream: { host: string; port: number };
  weather: Weather;
  random: () => number;
  /** Ends TLS here and begins it anew towards the broker, in the name of whose key it is. */
  tls?: { ca: string; server: Pick<TlsOptions, 'cert' | 'key'>; client: { cert: string; key: string } };
}

/** Bad weather between MQTT clients and their broker, within what the protocol allows a network and a broker to do. */
export class MqttProxy {
  readonly seen = { messages: 0, duplicated: 0, cut: 0 };
  weather: Weather;
  private readonly sockets = new Set<Socket>();
  private server!: Server;

  private constructor(private readonly options: ProxyOptions) {
    this.weather = options.weather;
  }

  static async open(options: ProxyOptions): Promise<MqttProxy> {
    const proxy = new MqttProxy(options);
    const serve = (socket: Socket) => proxy.serve(socket);
    proxy.server = options.tls ? createTls({ ...options.tls.server, ca: options.tls.ca, requestCert: true, rejectUnauthorized: true }, serve) : createServer(serve);
    proxy.server.listen(0, '127.0.0.1');
    await once(proxy.server, 'listening');
    return proxy;
  }

  get port(): number {
    return (this.server.address() as { port: number }).port;
  }

  async close(): Promise<void> {
    for (const socket of this.sockets) socket.destroy();
    await new Promise<void>((resolve) => { this.server.close(() => resolve()); });
  }

  private serve(client: Socket): void {
    const { upstream, tls, random } = this.options;
    const broker: Socket = tls ? connectTls({ ...upstream, ca: tls.ca, ...tls.client }) : connect(upstream);
    const both = [client, broker];
    const end = (): void => {
      clearTimeout(storm);
      for (const socket of both) {
        socket.destroy();
        this.sockets.delete(socket);
      }
    };
    const { cutMs } = this.weather;
    const storm = cutMs === null ? undefined : setTimeout(() => {
      this.seen.cut += 1;
      end();
    }, -Math.log(1 - random()) * cutMs);
    for (const socket of both) {
      socket.setNoDelay(true);
      this.sockets.add(socket);
      socket.on('error', end).on('close', end);
    }
    // An acknowledgement of a copy belongs to us, not to who sent the message once.
    const [ofClient, ofBroker] = [new Map<number, number>(), new Map<number, number>()];
    this.relay(client, broker, ofClient, ofBroker);
    this.relay(broker, client, ofBroker, ofClient);
  }

  private relay(from: Socket, to: Socket, copies: Map<number, number>, copiesOfOther: Map<number, number>): void {
    const lanes = new Map<string, Promise<void>>();
    const send = (packet: Packet): void => { if (to.writable) to.write(generate(packet)); };
    const read = parser({ protocolVersion: 4 });
    read.on('error', () => from.destroy());
    read.on('packet', (packet: Packet) => {
      if (packet.cmd === 'publish') {
        const lane = (lanes.get(packet.topic) ?? Promise.resolve()).then(() => this.deliver(packet, send, copies));
        lanes.set(packet.topic, lane);
        void lane.then(() => { if (lanes.get(packet.topic) === lane) lanes.delete(packet.topic); });
        return;
      }
      if (packet.cmd === 'puback') {
        const copiesLeft = copiesOfOther.get(packet.messageId!) ?? 0;
        if (copiesLeft > 0) {
          copiesOfOther.set(packet.messageId!, copiesLeft - 1);
          return;
        }
      }
      // What says goodbye goes after what was said before.
      if (packet.cmd === 'disconnect') void Promise.all(lanes.values()).then(() => send(packet));
      else send(packet);
    });
    from.on('data', (bytes) => { read.parse(bytes); });
  }

  private async deliver(packet: IPublishPacket, send: (packet: Packet) => void, copies: Map<number, number>): Promise<void> {
    const { duplicate, delayMs } = this.weather;
    const { random } = this.options;
    this.seen.messages += 1;
    if (delayMs > 0) await sleep(random() * delayMs);
    const twice = packet.qos === 1 && random() < duplicate;
    if (twice) {
      this.seen.duplicated += 1;
      copies.set(packet.messageId!, (copies.get(packet.messageId!) ?? 0) + 1);
    }
    send(packet);
    if (!twice) return;
    if (delayMs > 0) await sleep(random() * delayMs);
    send({ ...packet, dup: true });
  }
}
