// The embedded MQTT broker: a process of its own, TLS only, client certificates only. Mosquitto takes its place in production.
import { readFileSync } from 'node:fs';
import { createServer, type TLSSocket } from 'node:tls';
import { mayUse } from '@reefkeeper/devices';
import { Aedes } from 'aedes';
import { openLogger } from '@reefkeeper/platform/logger';

const { BROKER_PORT = '8883', BROKER_HOST = '127.0.0.1', BROKER_CA = '', BROKER_CERT = '', BROKER_KEY = '', LOG_LEVEL = 'info' } = process.env;
const log = openLogger('broker', LOG_LEVEL);
const broker = await Aedes.createBroker({ heartbeatInterval: 30_000, connectTimeout: 10_000 });
const refused = (why: string) => Object.assign(new Error(why), { returnCode: 5 });

/** The certificate's common name is the user, as with Mosquitto's use_identity_as_username. */
function nameOf(client: { conn: unknown } | null): string | undefined {
  const name = (client?.conn as TLSSocket | undefined)?.getPeerCertificate?.()?.subject?.CN;
  return typeof name === 'string' ? name : undefined;
}

broker.authenticate = (client, _username, _password, done) => (nameOf(client) ? done(null, true) : done(refused('no certificate') as never, false));
broker.authorizePublish = (client, packet, done) => {
  // Wills are published without a connection; their topic was checked when the client connected, below.
  const name = client && nameOf(client);
  if (!client || (name && mayUse(name, packet.topic, 'publish'))) return done(null);
  log.warn({ name, topic: packet.topic }, 'publish refused');
  return done(refused('not authorised'));
};
broker.authorizeSubscribe = (client, subscription, done) => {
  const name = nameOf(client);
  if (name && mayUse(name, subscription.topic, 'subscribe')) return done(null, subscription);
  log.warn({ name, topic: subscription.topic }, 'subscription refused');
  return done(null, null);
};
broker.preConnect = (client, packet, done) => {
  const name = nameOf(client);
  const will = (packet as { will?: { topic: string } }).will;
  if (will && !(name && mayUse(name, will.topic, 'publish'))) return done(refused('not authorised') as never, false);
  return done(null, true);
};
broker.on('clientError', (client, error) => log.debug({ name: nameOf(client), err: error.message }, 'client error'));

const server = createServer({ ca: readFileSync(BROKER_CA), cert: readFileSync(BROKER_CERT), key: readFileSync(BROKER_KEY), requestCert: true, rejectUnauthorized: true, minVersion: 'TLSv1.2' }, broker.handle);
server.on('error', (error) => { log.fatal({ err: error }, 'the broker cannot listen'); process.exit(1); });
server.on('tlsClientError', (error) => log.debug({ err: error.message }, 'TLS handshake failed'));
server.listen(Number(BROKER_PORT), BROKER_HOST, () => process.stdout.write(`${JSON.stringify({ ready: true, port: Number(BROKER_PORT) })}\n`));

const stop = () => {
  setTimeout(() => process.exit(0), 2_000).unref();
  broker.close(() => server.close(() => process.exit(0)));
};
process.on('SIGTERM', stop);
process.on('SIGINT', stop);
process.on('disconnect', stop);
