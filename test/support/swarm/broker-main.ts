// Where there is no Mosquitto: aedes with the fleet's topic rules, TLS for the controller, and a plain listener on 127.0.0.1 where a simulated device says its name.
import { readFileSync } from 'node:fs';
import { createServer as createPlain, type Socket } from 'node:net';
import { createServer as createTls, type TLSSocket } from 'node:tls';
import { Aedes, type Client } from 'aedes';
import { controllerName, mayUse } from '../../../libs/devices/src/broker-acl.ts';

const { host, ports, ca, cert, key } = JSON.parse(process.env.BROKER!) as { host: string; ports: { tls: number; plain: number }; ca: string; cert: string; key: string };
const broker = await Aedes.createBroker({ heartbeatInterval: 30_000, maxClientsIdLength: 64, concurrency: 1_000 });
const names = new WeakMap<Client, string>();
const overTls = new WeakSet<object>();
broker.authenticate = (client, username, _password, done) => {
  const name = overTls.has(client.conn) ? String((client.conn as unknown as TLSSocket).getPeerCertificate().subject.CN) : username ?? '';
  // Over the plain listener nobody is the controller.
  const welcome = overTls.has(client.conn) || (name === client.id && name !== controllerName);
  names.set(client, name);
  done(null, welcome);
};
broker.authorizePublish = (client, packet, done) => done(!client || mayUse(names.get(client) ?? '', packet.topic, 'publish') ? null : new Error('not authorised'));
broker.authorizeSubscribe = (client, subscription, done) => done(null, mayUse(names.get(client) ?? '', subscription.topic, 'subscribe') ? subscription : null);
const plain = createPlain(broker.handle as (socket: Socket) => void);
const tls = createTls({ ca: readFileSync(ca), cert: readFileSync(cert), key: readFileSync(key), requestCert: true, rejectUnauthorized: true }, (socket) => {
  overTls.add(socket);
  broker.handle(socket);
});
plain.listen(ports.plain, '127.0.0.1', () => tls.listen(ports.tls, host, () => process.stdout.write('ready\n')));
process.on('disconnect', () => process.exit(0));
