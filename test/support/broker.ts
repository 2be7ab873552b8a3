import type { AddressInfo } from 'node:net';
import { createServer, type TLSSocket } from 'node:tls';
import { Authority, mayUse } from '@reefkeeper/devices';
import { Aedes, type Client } from 'aedes';

export interface TestBroker {
  url: string;
  port: number;
  /** Names of the connected certificates. */
  names(): string[];
  stop(): Promise<void>;
}

/** A real MQTT broker over TLS that knows clients by their certificates and applies the fleet's access rules. It forgets everything when stopped. */
export async function startTestBroker(keysDir: string, port = 0): Promise<TestBroker> {
  const authority = await Authority.loadOrCreate(keysDir);
  const own = await authority.ownFiles(keysDir, 'broker', { commonName: 'reef-broker', hosts: ['localhost', '127.0.0.1'] });
  const broker = await Aedes.createBroker({ heartbeatInterval: 30_000 });
  // Kept past the connection: a will is published when the socket is gone, and its certificate with it.
  const connected = new Map<Client, string>();
  const known = new WeakMap<Client, string>();
  const nameOf = (client: Client): string => {
    const name = known.get(client) ?? String((client.conn as TLSSocket).getPeerCertificate().subject.CN);
    known.set(client, name);
    return name;
  };
  broker.preConnect = (client, _packet, done) => { nameOf(client); done(null, true); };
  broker.authorizePublish = (client, packet, done) => done(!client || mayUse(nameOf(client), packet.topic, 'publish') ? null : new Error('not authorised'));
  broker.authorizeSubscribe = (client, subscription, done) => done(null, mayUse(nameOf(client), subscription.topic, 'subscribe') ? subscription : null);
  broker.on('client', (client) => connected.set(client, nameOf(client)));
  broker.on('clientDisconnect', (client) => connected.delete(client));
  const server = createServer({ ca: authority.certificatePem, cert: own.certificate, key: own.key, requestCert: true, rejectUnauthorized: true }, broker.handle);
  await new Promise<void>((resolve) => { server.listen(port, '127.0.0.1', resolve); });
  const at = (server.address() as AddressInfo).port;
  return {
    url: `mqtts://127.0.0.1:${at}`, port: at,
    names: () => [...connected.values()],
    stop: async () => {
      await new Promise<void>((resolve) => { broker.close(resolve); });
      await new Promise<void>((resolve) => { server.close(() => resolve()); });
    },
  };
}

