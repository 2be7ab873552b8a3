// The embedded MQTT broker: a process of its own, TLS only, client certificates only. Mosquitto takes its place in production.
import { readFileSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { createServer, type TLSSocket } from 'node:tls';
import { controllerName, mayUse, revokedSerials } from '@reefkeeper/devices';
import { commonConfig, parseConfig } from '@reefkeeper/platform/config';
import { asReefError } from '@reefkeeper/platform/errors';
import { openLogger } from '@reefkeeper/platform/logger';
import { commandResult, presence, reported, telemetry } from '@reefkeeper/protocol';
import { Aedes, type Client } from 'aedes';
import { z } from 'zod';

const schema = commonConfig.extend({
  BROKER_PORT: z.coerce.number().int().min(1).max(65_535), BROKER_HOST: z.string().default('127.0.0.1'),
  BROKER_CA: z.string(), BROKER_CERT: z.string(), BROKER_KEY: z.string(),
  /** Kept by the controller beside the CA; need not be there yet. */
  BROKER_CRL: z.string().optional(),
});
const { BROKER_PORT, BROKER_HOST, BROKER_CA, BROKER_CERT, BROKER_KEY, BROKER_CRL, LOG_LEVEL } = settings();
/** Agents wait this long for a CONNACK at least (15 s); ours comes before they give up. */
const doorMs = 10_000;
/** MQTT 3.1.1 section 3.2.2.3. */
const refusal = { unavailable: 3, notAuthorised: 5 } as const;

const log = openLogger('broker', LOG_LEVEL);
const broker = await Aedes.createBroker({ heartbeatInterval: 30_000, connectTimeout: 10_000 });
const refused = (why: string, returnCode: number = refusal.notAuthorised) => Object.assign(new Error(why), { returnCode });

interface Shown { name: string; serial: string }
/** Kept past the connection: a will is published when the socket is gone, and its certificate with it. */
const shown = new WeakMap<object, Shown>();

/** The certificate's common name is the user, as with Mosquitto's use_identity_as_username. */
function certificateOf(client: { conn: unknown } | null): Shown | undefined {
  const known = client && shown.get(client);
  if (known) return known;
  const certificate = (client?.conn as TLSSocket | undefined)?.getPeerCertificate?.();
  const name = certificate?.subject?.CN;
  if (typeof name !== 'string') return undefined;
  const found = { name, serial: certificate!.serialNumber.toLowerCase() };
  if (client) shown.set(client, found);
  return found;
}
const nameOf = (client: { conn: unknown } | null) => certificateOf(client)?.name;

/**
 * Everything here is in memory, so a broker that starts anew knows no session of the controller's, and what devices say first (their birth,
 * the end of an installation) would be heard by nobody. So devices wait at the door until the controller has subscribed once. From then
 * on its session keeps their messages, whether it is connected or not; wanted states it publishes again when it hears a birth.
 */
const awaited = new Set([reported, presence, telemetry, commandResult].map(({ filter }) => filter));
let open = () => {};
const door = new Promise<void>((resolve) => { open = resolve; });
broker.on('subscribe', (subscriptions, client) => {
  if (nameOf(client) !== controllerName) return;
  for (const { topic } of subscriptions) awaited.delete(topic.replace(/^\$share\/[^/]+\//, ''));
  if (awaited.size === 0) open();
});

let revoked = { at: 0, serials: new Set<string>() };
/** From the list that the controller keeps beside the CA. What cannot be read leaves the last one in force. */
async function isRevoked(serial: string): Promise<boolean> {
  const list = BROKER_CRL;
  const found = list && (await stat(list).catch(() => undefined));
  if (list && found && found.mtimeMs !== revoked.at) {
    await readFile(list, 'utf8').then((pem) => revokedSerials(pem, readFileSync(BROKER_CA, 'utf8'))).then(
      (serials) => { revoked = { at: found.mtimeMs, serials }; },
      (err: unknown) => log.warn({ err }, 'revocation list not usable'),
    );
  }
  return revoked.serials.has(serial);
}

async function admit(client: Client): Promise<ReturnType<typeof refused> | null> {
  const certificate = certificateOf(client);
  if (!certificate) return refused('no certificate');
  const { name, serial } = certificate;
  if (name === controllerName) return null;
  // Whoever has another's client id ends that one's connection; only the controller may.
  if (client.id !== name) return refused('the client id is not the name in the certificate');
  if (await isRevoked(serial)) return refused('certificate revoked');
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<true>((resolve) => { timer = setTimeout(() => resolve(true), doorMs); });
  const isLate = await Promise.race([door, late]);
  clearTimeout(timer);
  return isLate ? refused('the controller has not subscribed yet', refusal.unavailable) : null;
}

broker.authenticate = (client, _username, _password, done) => {
  admit(client).then(
    (error) => {
      if (error) log.warn({ name: nameOf(client), client: client.id, why: error.message }, 'connection refused');
      done(error as never, !error);
    },
    (err: unknown) => { log.error({ err }, 'connection could not be judged'); done(refused('internal', refusal.unavailable) as never, false); },
  );
};
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

const server = createServer({ ca: readFileSync(BROKER_CA), cert: readFileSync(BROKER_CERT), key: readFileSync(BROKER_KEY), requestCert: true, rejectUnauthorized: true, minVersion: 'TLSv1.2', noDelay: true }, broker.handle);
server.on('error', (error) => {
  log.fatal({ err: error }, 'the broker cannot listen');
  process.stderr.write(`error: the broker cannot listen on ${BROKER_HOST}:${BROKER_PORT}: ${error.message}\n`);
  setTimeout(() => process.exit(1), 100);
});
server.on('tlsClientError', (error) => log.debug({ err: error.message }, 'TLS handshake failed'));
server.listen(BROKER_PORT, BROKER_HOST, () => {
  log.info({ port: BROKER_PORT }, 'ready');
  process.stdout.write(`${JSON.stringify({ ready: true, port: BROKER_PORT })}\n`);
});

const stop = () => {
  setTimeout(() => process.exit(0), 2_000).unref();
  broker.close(() => server.close(() => process.exit(0)));
};
process.on('SIGTERM', stop);
process.on('SIGINT', stop);
process.on('disconnect', stop);

function settings(): z.output<typeof schema> {
  try {
    return parseConfig(schema, process.env);
  } catch (thrown) {
    const error = asReefError(thrown);
    process.stderr.write(`error: ${error.message}\ncode: ${error.code}\n`);
    process.exit(error.exitCode);
  }
}
