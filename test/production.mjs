// `npm run test:production`: the integration tests and the stories again, on what a fleet runs on instead of the embedded parts: PostgreSQL, Redis
// (BullMQ over ioredis) and Mosquitto with TLS, client certificates and ACL. All three are started here on ports of their own and stopped at the end.
import { execa } from 'execa';
import getPort from 'get-port';
import { chmod, chown, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const root = join(import.meta.dirname, '..');
const nobody = 65_534;
const asRoot = process.getuid?.() === 0;
const dir = await mkdtemp(join(tmpdir(), 'reef-production-'));
await chmod(dir, 0o755);
const children = [];
const inherit = { cwd: root, stdio: 'inherit', reject: false };

const reef = (...args) => execa(process.execPath, [join(root, 'apps/cli/dist/main.js'), '--dir', dir, ...args]);

async function answers(port, what) {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const open = await new Promise((resolve) => {
      const socket = connect(port, '127.0.0.1').once('connect', () => { socket.destroy(); resolve(true); }).once('error', () => resolve(false));
    });
    if (open) return;
    await sleep(100);
  }
  throw new Error(`${what} does not answer on port ${port}`);
}

function start(file, args, options = {}) {
  const child = execa(file, args, { reject: false, stdout: { file: join(dir, `${file.split('/').at(-1)}.log`) }, stderr: { file: join(dir, `${file.split('/').at(-1)}.log`) }, ...options });
  children.push(child);
}

async function startPostgres() {
  const versions = await readdir('/usr/lib/postgresql').catch(() => []);
  const bin = join('/usr/lib/postgresql', versions.sort((a, b) => Number(b) - Number(a))[0] ?? '', 'bin');
  const data = join(dir, 'postgresql');
  await mkdir(data, { mode: 0o700 });
  const user = asRoot ? { uid: nobody, gid: nobody, cwd: '/' } : { cwd: '/' };
  if (asRoot) await chown(data, nobody, nobody);
  await execa(join(bin, 'initdb'), ['-D', data, '--username=reef', '--auth=trust', '--encoding=UTF8', '--locale=C', '--no-sync'], user);
  const port = await getPort();
  start(join(bin, 'postgres'), ['-D', data, '-p', `${port}`, '-c', 'listen_addresses=127.0.0.1', '-c', 'unix_socket_directories=', '-c', 'max_connections=200', '-c', 'fsync=off'], user);
  await answers(port, 'PostgreSQL');
  return `postgres://reef@127.0.0.1:${port}/postgres`;
}

async function startRedis() {
  const port = await getPort();
  start('redis-server', ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--maxmemory-policy', 'noeviction', '--dir', dir]);
  await answers(port, 'Redis');
  return `redis://127.0.0.1:${port}`;
}

/** The configuration that `deploy/` ships, with this machine's paths. */
async function startMosquitto() {
  await reef('keys');
  const keys = join(dir, 'keys');
  const port = await getPort();
  const shipped = await readFile(join(root, 'deploy/mosquitto/mosquitto.conf'), 'utf8');
  await mkdir(join(dir, 'mosquitto'));
  const config = shipped.replaceAll('/etc/reefkeeper/keys', keys).replace('/etc/mosquitto/reefkeeper.acl', join(dir, 'reefkeeper.acl')).replace('/mosquitto/data/', `${join(dir, 'mosquitto')}/`).replace('listener 8883', `listener ${port} 127.0.0.1`);
  await writeFile(join(dir, 'mosquitto.conf'), `${asRoot ? 'user root\n' : ''}${config}`);
  await writeFile(join(dir, 'reefkeeper.acl'), await readFile(join(root, 'deploy/mosquitto/reefkeeper.acl'), 'utf8'), { mode: 0o700 });
  start((await readdir('/usr/sbin')).includes('mosquitto') ? '/usr/sbin/mosquitto' : 'mosquitto', ['-c', join(dir, 'mosquitto.conf')]);
  await answers(port, 'Mosquitto');
  return { MQTT_URL: `mqtts://127.0.0.1:${port}`, KEYS_DIR: keys };
}

let status = 1;
try {
  const env = { DATABASE_URL: await startPostgres(), REDIS_URL: await startRedis(), ...(await startMosquitto()) };
  process.stdout.write(`${Object.entries(env).map(([name, value]) => `${name}=${value}`).join('\n')}\n`);
  const vitest = join(root, 'node_modules/.bin/vitest');
  // What the outside infrastructure carries. The agent's own suites bring their broker along and the embedded broker has no part here.
  const integration = await execa(vitest, ['run', 'libs/platform', 'libs/conversion', 'libs/devices', 'libs/registry', 'libs/telemetry', 'libs/rollouts', 'apps/controller'], { ...inherit, env });
  const stories = await execa(vitest, ['run', '--config', 'test/e2e/vitest.config.ts', 'stack', 'console', 'pipeline'], { ...inherit, env });
  status = integration.exitCode || stories.exitCode || 0;
} finally {
  for (const child of children) child.kill('SIGTERM');
  await Promise.all(children);
  await rm(dir, { recursive: true, force: true });
}
process.exitCode = status;
