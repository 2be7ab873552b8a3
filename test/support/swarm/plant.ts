import { fork, spawn, type ChildProcess } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { startEmbeddedPostgres, type EmbeddedPostgres } from '@reefkeeper/platform/embedded-postgres';
import { Authority } from '@reefkeeper/devices';
import getPort from 'get-port';
import pg from 'pg';

const root = join(import.meta.dirname, '../../..');
const mosquitto = '/usr/sbin/mosquitto';

export interface PlantOptions {
  /** `mosquitto` where it is installed, else aedes. */
  broker?: 'mosquitto' | 'aedes';
  /** Without fsync: for tests. Measurements run with PostgreSQL's own defaults. */
  throwaway?: boolean;
  controllerArgs?: string[];
  /** Where broker and gateway listen and devices come to; 127.0.0.1 when absent. Simulated devices always come to 127.0.0.1. */
  host?: string;
  /** What the controller connects to instead of the broker, with the broker's own port at hand. */
  controllerMqttUrl?: () => string;
  /** When database and broker are there, before the controller is. */
  beforeController?: (plant: Plant) => Promise<void>;
  /** Loads pg_stat_statements. */
  statements?: boolean;
  env?: Record<string, string>;
}

/**
 * What a fleet's controller stands on, each a process of its own: PostgreSQL (embedded binaries), a broker and the built controller. Devices are not enrolled one by one but written
 * as rows, and come over a listener without TLS on 127.0.0.1 that takes the user name for the name in the certificate; the topic rules are those that `deploy/` ships.
 */
export class Plant {
  readonly dir: string;
  readonly token = `bench_${randomBytes(18).toString('hex')}`;
  readonly ports: { plain: number; tls: number; api: number; gateway: number };
  readonly kind: 'mosquitto' | 'aedes';
  readonly options: PlantOptions;
  postgres!: EmbeddedPostgres;
  broker!: ChildProcess;
  controller!: ChildProcess;
  /** Lines of the controller's log at warning and above. */
  readonly complaints: string[] = [];
  pool!: pg.Pool;

  private constructor(dir: string, ports: Plant['ports'], options: PlantOptions) {
    this.dir = dir;
    this.ports = ports;
    this.options = options;
    this.kind = options.broker ?? (existsSync(mosquitto) ? 'mosquitto' : 'aedes');
  }

  static async open(options: PlantOptions = {}): Promise<Plant> {
    const dir = await mkdtemp(join(tmpdir(), 'reef-plant-'));
    await chmod(dir, 0o755);
    const plant = new Plant(dir, { plain: await getPort(), tls: await getPort(), api: await getPort(), gateway: await getPort() }, options);
    try {
      plant.postgres = await startEmbeddedPostgres(join(dir, 'postgres'), { throwaway: options.throwaway ?? false });
      if (options.statements) {
        const client = new pg.Client(plant.postgres.url);
        await client.connect();
        await client.query("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'");
        await client.query('CREATE EXTENSION pg_stat_statements');
        await client.end();
        await plant.postgres.stop();
        plant.postgres = await startEmbeddedPostgres(join(dir, 'postgres'), { throwaway: options.throwaway ?? false, port: plant.postgres.port });
      }
      plant.pool = new pg.Pool({ connectionString: plant.postgres.url, max: 4 });
      plant.pool.on('error', () => {});
      await plant.startBroker();
      await options.beforeController?.(plant);
      await plant.startController();
    } catch (error) {
      await plant.close();
      throw error;
    }
    return plant;
  }

  get host(): string {
    return this.options.host ?? '127.0.0.1';
  }

  get gatewayUrl(): string {
    return `https://${this.host}:${this.ports.gateway}`;
  }

  get keys(): string {
    return join(this.dir, 'keys');
  }

  get url(): string {
    return `http://127.0.0.1:${this.ports.api}`;
  }

  async startBroker(): Promise<void> {
    const { keys, host } = this;
    const authority = await Authority.loadOrCreate(keys);
    const files = await authority.ownFiles(keys, 'broker', { commonName: 'reef-broker', hosts: [...new Set(['localhost', '127.0.0.1', host])] });
    if (this.kind === 'aedes') {
      this.broker = fork(join(import.meta.dirname, 'broker-main.ts'), [], {
        stdio: ['ignore', 'pipe', 'inherit', 'ipc'], execArgv: ['--conditions=@reefkeeper/source', '--experimental-transform-types', '--disable-warning=ExperimentalWarning'],
        env: { PATH: process.env.PATH, BROKER: JSON.stringify({ host, ports: this.ports, ca: join(keys, 'ca.pem'), cert: files.certificateFile, key: files.keyFile }) },
      });
    } else {
      const data = join(this.dir, 'mosquitto');
      await mkdir(data, { recursive: true });
      // The shipped configuration with one more listener; queues and limits are as shipped. The first one still wants certificates, so that anonymous means: over the plain one. Settings per
      // listener will not do: Mosquitto 2.0 then judges a client that is away by no listener's rules, and drops what its session should keep.
      const shipped = (await readFile(join(root, 'deploy/mosquitto/mosquitto.conf'), 'utf8'))
        .replaceAll('/etc/reefkeeper/keys', keys).replaceAll('/mosquitto/data/', `${data}/`).replace('allow_anonymous false', 'allow_anonymous true')
        .replace('listener 8883', `listener ${this.ports.tls} ${host}`).replace('/etc/mosquitto/reefkeeper.acl', join(this.dir, 'reefkeeper.acl'));
      const config = `${process.getuid?.() === 0 ? 'user root\n' : ''}${shipped}\nlistener ${this.ports.plain} 127.0.0.1\n`;
      await writeFile(join(this.dir, 'mosquitto.conf'), config);
      await writeFile(join(this.dir, 'reefkeeper.acl'), await readFile(join(root, 'deploy/mosquitto/reefkeeper.acl')), { mode: 0o700 });
      this.broker = spawn(mosquitto, ['-c', join(this.dir, 'mosquitto.conf')], { stdio: ['ignore', 'ignore', 'ignore'] });
    }
    await answers('127.0.0.1', this.ports.plain, 'the broker', this.broker);
    await answers(host, this.ports.tls, 'the broker', this.broker);
  }

  async startController(args = this.options.controllerArgs ?? []): Promise<void> {
    const { ports, dir, host } = this;
    const broker = `mqtts://${host}:${ports.tls}`;
    const child = spawn(process.execPath, [...args, join(root, 'apps/controller/dist/main.js')], {
      stdio: ['ignore', 'pipe', 'pipe'], cwd: dir,
      env: {
        PATH: process.env.PATH, NODE_ENV: 'production', LOG_LEVEL: 'warn', DATABASE_URL: this.postgres.url, MQTT_URL: this.options.controllerMqttUrl?.() ?? broker, ARTIFACTS_URL: this.artifactsUrl, KEYS_DIR: this.keys,
        PORT: `${ports.api}`, GATEWAY_HOST: host, GATEWAY_PORT: `${ports.gateway}`, PUBLIC_GATEWAY_URL: this.gatewayUrl, PUBLIC_MQTT_URL: broker, BOOTSTRAP_ADMIN_TOKEN: this.token, INSTANCE_ID: 'plant', ...this.options.env,
      },
    });
    this.controller = child;
    const said: string[] = [];
    const ready = new Promise<void>((resolve, reject) => {
      child.stdout.on('data', (text: Buffer) => {
        for (const line of text.toString('utf8').split('\n')) {
          if (line.includes('"ready":true')) resolve();
          else if (line) this.complaints.push(line);
        }
      });
      child.stderr.on('data', (text: Buffer) => { said.push(text.toString('utf8')); });
      child.once('exit', (code, signal) => reject(new Error(`the controller ended with ${signal ?? code}: ${said.join('')}`)));
    });
    await ready;
  }

  get artifactsUrl(): string {
    return pathToFileURL(join(this.dir, 'artifacts')).href;
  }

  /** SIGKILL and a new start with nothing remembered: no session, no retained message. */
  async restartBrokerWithoutState(awayMs = 0): Promise<void> {
    await ended(this.broker, 'SIGKILL');
    await rm(join(this.dir, 'mosquitto'), { recursive: true, force: true });
    await sleep(awayMs);
    await this.startBroker();
  }

  /** The database server and its sessions die; it recovers from its log. */
  async restartPostgres(awayMs = 0): Promise<void> {
    process.kill((await this.postgres.pid())!, 'SIGKILL');
    await sleep(500 + awayMs);
    this.postgres = await startEmbeddedPostgres(join(this.dir, 'postgres'), { throwaway: this.options.throwaway ?? false, port: this.postgres.port });
  }

  async killController(): Promise<void> {
    await ended(this.controller, 'SIGKILL');
  }

  /** Asks again while the API or the database is away. */
  async patiently<T>(ask: () => Promise<T>, timeoutMs = 120_000): Promise<T> {
    for (const until = Date.now() + timeoutMs; ;) {
      try {
        return await ask();
      } catch (error) {
        if (Date.now() > until) throw error;
        await sleep(300);
      }
    }
  }

  async call<T>(method: string, path: string, body?: unknown): Promise<T> {
    const answer = await fetch(`${this.url}/api/v1${path}`, { method, headers: { authorization: `Bearer ${this.token}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }) }, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
    return await answer.json() as T;
  }

  /** Rows for devices that nobody enrolled. */
  async addDevices(ids: string[], labels: Record<string, string> = {}): Promise<void> {
    await this.pool.query('INSERT INTO devices (id, labels, enrolled_at) SELECT unnest($1::text[]), $2, now()', [ids, labels]);
  }

  /** A READY version as the pipeline leaves one, as far as a rollout reads it. Nobody can download it, unless its objects are in the store. @returns its bundle digest */
  async addVersion(model: string, number: number, objects?: { bundle: string; envelope: string; variant: { digest: string; bytes: number }; golden: string }): Promise<string> {
    const bundle = objects?.bundle ?? randomBytes(32).toString('hex');
    const id = randomUUID();
    await this.pool.query('INSERT INTO models (name, created_at, created_by) VALUES ($1, now(), $2) ON CONFLICT DO NOTHING', [model, 'bench']);
    await this.pool.query("INSERT INTO versions (id, model, version, state, task, bundle_digest, envelope_digest, created_at, created_by, ready_at) VALUES ($1, $2, $3, 'READY', 'classification', $4, $5, now(), 'bench', now())", [id, model, number, bundle, objects?.envelope ?? bundle]);
    await this.pool.query("INSERT INTO variants (version_id, name, kind, digest, bytes) VALUES ($1, 'cpu-int8', 'cpu-int8', $2, $3)", [id, objects?.variant.digest ?? bundle, objects?.variant.bytes ?? 1]);
    if (objects) await this.pool.query("INSERT INTO artifacts (digest, bytes, media_type, role, created_at, touched_at) VALUES ($1, 1, 'application/octet-stream', 'golden', now(), now()) ON CONFLICT DO NOTHING", [objects.golden]);
    return bundle;
  }

  /** Counts statements anew from here on; with `statements` only. */
  async forgetStatements(): Promise<void> {
    await this.pool.query('SELECT pg_stat_statements_reset()');
  }

  /** What took the database longest since, a line each. */
  async heaviestStatements(): Promise<string> {
    const { rows } = await this.pool.query<{ calls: string; ms: number; rows: string; query: string }>("SELECT calls, round(total_exec_time) AS ms, rows, left(regexp_replace(query, '\\s+', ' ', 'g'), 140) AS query FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT 15");
    return rows.map(({ calls, ms, rows: n, query }) => `${String(ms).padStart(8)} ms ${calls.padStart(7)} calls ${n.padStart(8)} rows  ${query}`).join('\n');
  }

  /** CPU seconds so far of each process, with those of children that have ended. */
  async cpu(more: Record<string, number> = {}): Promise<Record<string, number>> {
    const pids = { controller: this.controller.pid!, postgres: (await this.postgres.pid())!, broker: this.broker.pid!, ...more };
    return Object.fromEntries(await Promise.all(Object.entries(pids).map(async ([name, pid]) => [name, await cpuSeconds(pid, name === 'postgres')] as const)));
  }

  private closed = false;

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await ended(this.controller, 'SIGTERM');
    await ended(this.broker, 'SIGTERM');
    await this.pool?.end();
    await this.postgres?.stop();
    await rm(this.dir, { recursive: true, force: true });
  }
}

export async function ended(child: ChildProcess | undefined, signal: NodeJS.Signals): Promise<void> {
  if (!child?.pid || child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill(signal);
  await gone;
}

/** utime, stime, and those of waited-for children (proc(5)); 100 ticks a second on Linux. */
async function cpuSeconds(pid: number, withChildren: boolean): Promise<number> {
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).replace(/^.*\) /, '').split(' ').map(Number);
  let ticks = fields[11]! + fields[12]! + fields[13]! + fields[14]!;
  if (withChildren) {
    for (const entry of await readdir('/proc')) {
      if (!/^\d+$/.test(entry)) continue;
      const one = (await readFile(`/proc/${entry}/stat`, 'utf8').catch(() => '')).replace(/^.*\) /, '').split(' ');
      if (Number(one[1]) === pid) ticks += Number(one[11]) + Number(one[12]);
    }
  }
  return ticks / 100;
}

async function answers(host: string, port: number, what: string, child: ChildProcess): Promise<void> {
  for (let attempt = 0; attempt < 300; attempt += 1) {
    if (child.exitCode !== null) throw new Error(`${what} ended with ${child.exitCode}`);
    const open = await new Promise<boolean>((resolve) => {
      const socket = connect(port, host).once('connect', () => { socket.destroy(); resolve(true); }).once('error', () => resolve(false));
    });
    if (open) return;
    await sleep(100);
  }
  throw new Error(`${what} does not answer on port ${port}`);
}
