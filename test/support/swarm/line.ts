import { connect, type Socket } from 'node:net';
import { generate, parser, type IPublishPacket, type Packet } from 'mqtt-packet';

export interface LineOptions { host: string; port: number; name: string; will: { topic: string; payload: Buffer } }

export interface LineEvents {
  up(sessionPresent: boolean): void;
  message(packet: IPublishPacket): void;
  down(): void;
}

const keepaliveS = 60;

/**
 * One MQTT 3.1.1 connection on the packet codec that mqtt.js itself uses, and nothing else: ten thousand of mqtt.js's own clients in one process would
 * measure the simulator. Its name goes as the user name, where a device shows a certificate. A session outlives the connection, as an agent's does.
 */
export class Line {
  private readonly socket: Socket;
  private readonly waiting = new Map<number, () => void>();
  private nextId = 1;
  private readonly ping: NodeJS.Timeout;
  connected = false;

  constructor(options: LineOptions, private readonly events: LineEvents) {
    const { host, port, name, will } = options;
    this.socket = connect({ host, port, noDelay: true });
    const read = parser({ protocolVersion: 4 });
    read.on('packet', (packet) => this.take(packet));
    read.on('error', () => this.socket.destroy());
    this.socket.on('connect', () => this.send({ cmd: 'connect', protocolId: 'MQTT', protocolVersion: 4, clean: false, clientId: name, username: name, keepalive: keepaliveS, will: { ...will, qos: 1, retain: true } }));
    this.socket.on('data', (bytes) => { read.parse(bytes); });
    this.socket.on('error', () => {});
    this.ping = setInterval(() => this.send({ cmd: 'pingreq' }), (keepaliveS * 1_000) / 2);
    this.socket.on('close', () => {
      clearInterval(this.ping);
      this.connected = false;
      this.waiting.clear();
      this.events.down();
    });
  }

  /** @param done when the broker has acknowledged it; never called when the connection ends before */
  publish(topic: string, payload: Buffer, options: { retain: boolean }, done: () => void = () => {}): void {
    const messageId = this.id(done);
    this.send({ cmd: 'publish', topic, payload, qos: 1, retain: options.retain, dup: false, messageId });
  }

  subscribe(topics: string[], done: () => void): void {
    const messageId = this.id(done);
    this.send({ cmd: 'subscribe', messageId, subscriptions: topics.map((topic) => ({ topic, qos: 1 as const })) });
  }

  acknowledge(packet: IPublishPacket): void {
    if (packet.qos > 0) this.send({ cmd: 'puback', messageId: packet.messageId! });
  }

  /** As a power cut or a broken network ends it. */
  cut(): void {
    this.socket.destroy();
  }

  private id(done: () => void): number {
    const id = this.nextId;
    this.nextId = id === 65_535 ? 1 : id + 1;
    this.waiting.set(id, done);
    return id;
  }

  private take(packet: Packet): void {
    if (packet.cmd === 'publish') return this.events.message(packet);
    if (packet.cmd === 'connack') {
      if (packet.returnCode !== 0) return this.cut();
      this.connected = true;
      return this.events.up(packet.sessionPresent);
    }
    if (packet.cmd !== 'puback' && packet.cmd !== 'suback') return;
    const done = this.waiting.get(packet.messageId!);
    this.waiting.delete(packet.messageId!);
    done?.();
  }

  private send(packet: Packet): void {
    if (this.socket.writable) this.socket.write(generate(packet));
  }
}
