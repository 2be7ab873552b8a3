import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { execa } from 'execa';
import writeFileAtomic from 'write-file-atomic';
import { Authority } from '@reefkeeper/devices';
import { ReefError } from '@reefkeeper/platform/errors';
import { Client } from '../client.ts';
import { credentialsFile, keptCredentials, type Credentials } from '../context.ts';
import { Database } from './database.ts';
import { holdLock, RunFolder } from './lock.ts';
import { Managed, type ManagedState } from './managed.ts';
import { checkPort } from './ports.ts';

export interface StackOptions {
  dir: string;
  agents: number;
  /** Agents are `<agentName>-1` and so on. */
  agentName: string;
  port: number;
  gatewayPort: number;
  mqttPort: number;
  /** Images the agents infer; none = they wait for work from elsewhere. */
  frames?: string | undefined;
  fps: number;
  telemetryWindowS: number;
  onNote(text: string): void;
  /** A process has another state than before. */
  onChange(): void;
}

/** A line of the status view. */
export interface Row { name: string; state: ManagedState; pid: number | undefined; since: number; restarts: number; at: string }

const app = (path: string) => fileURLToPath(new URL(`../../../../${path}`, import.meta.url));

/**
 * The embedded mode: the product's own processes on embedded infrastructure. Whatever has a URL in the environment (DATABASE_URL, REDIS_URL,
 * MQTT_URL, ARTIFACTS_URL) is used instead of the embedded one.
 */
export class Stack {
  readonly processes: Managed[] = [];
  client!: Client;
  token = '';
  /** Set when the administrator's token was made by this start. */
  newToken: string | undefined;
  private readonly database: Database;
  private run!: RunFolder;
  private lock: { release(): Promise<void> } | undefined;
  private starting: Promise<void> | undefined;
  private started = false;
  private stopping: Promise<void> | undefined;

  constructor(readonly options: StackOptions) {
    this.database = new Database(join(options.dir, 'postgres'), options);
  }

  get url(): string {
    return `http://127.0.0.1:${this.options.port}`;
  }

  rows(): Row[] {
    return [this.database.row(), ...this.processes.map(({ spec, state, pid, since, restarts }) => ({ name: spec.name, state, pid, since, restarts, at: spec.at ?? '' }))];
  }

  start(): Promise<void> {
    this.starting = this.startAll();
    return this.starting;
  }

  private async startAll(): Promise<void> {
    const { dir, port, gatewayPort, mqttPort, onNote } = this.options;
    await mkdir(join(dir, 'logs'), { recursive: true });
    this.lock = await holdLock(dir);
    this.run = await RunFolder.open(join(dir, 'run'));
    const leftovers = await this.run.clear();
    if (leftovers.length > 0) onNote(`stopped what a former start had left running: ${leftovers.join(', ')}`);
    await checkPort(port, 'API and console', '--port');
    await checkPort(gatewayPort, 'device gateway', '--gateway-port');
    if (!process.env.MQTT_URL) await checkPort(mqttPort, 'MQTT broker', '--mqtt-port');
    const keys = process.env.KEYS_DIR ?? join(dir, 'keys');
    const authority = await Authority.loadOrCreate(keys);

    const databaseUrl = await this.database.start();
    this.goOn();
    const mqttUrl = process.env.MQTT_URL ?? `mqtts://127.0.0.1:${mqttPort}`;
    if (!process.env.MQTT_URL) {
      const files = await authority.ownFiles(keys, 'broker', { commonName: 'reef-broker', hosts: ['localhost', '127.0.0.1'] });
      await this.launch('broker', 'apps/cli/dist/up/broker-main.js', { BROKER_PORT: `${mqttPort}`, BROKER_CA: join(keys, 'ca.pem'), BROKER_CERT: files.certificateFile, BROKER_KEY: files.keyFile, BROKER_CRL: join(keys, 'crl.pem') }, [], mqttUrl);
    }
    const { token } = await this.credentials();
    this.token = token;
    const shared = {
      DATABASE_URL: databaseUrl, MQTT_URL: mqttUrl, KEYS_DIR: resolve(keys), ARTIFACTS_URL: process.env.ARTIFACTS_URL ?? pathToFileURL(resolve(dir, 'artifacts')).href,
    };
    const console_ = app('apps/console/dist');
    await this.launch('controller', 'apps/controller/dist/main.js', {
      ...shared, PORT: `${port}`, GATEWAY_PORT: `${gatewayPort}`, PUBLIC_GATEWAY_URL: `https://127.0.0.1:${gatewayPort}`, PUBLIC_MQTT_URL: mqttUrl.replace(/^mqtt:/, 'mqtts:'), BOOTSTRAP_ADMIN_TOKEN: token,
      ...(existsSync(console_) ? { CONSOLE_DIR: console_ } : {}), AGENT_PACKAGES_DIR: process.env.AGENT_PACKAGES_DIR ?? app('dist/packages'),
    }, [], this.url);
    this.client = new Client(this.url, token);
    await Promise.all([
      this.launch('worker', 'apps/worker/dist/main.js', { ...shared, CONSOLE_URL: process.env.CONSOLE_URL ?? this.url, PYTHON_ENV_DIR: process.env.PYTHON_ENV_DIR ?? resolve(dir, 'python'), WORK_DIR: resolve(dir, 'work') }),
      this.startAgents(),
    ]);
    this.started = true;
  }

  /** Children first, in the order of who needs whom. */
  async stop(): Promise<void> {
    this.stopping ??= (async () => {
      const stop = (wanted: (name: string) => boolean) => Promise.all(this.processes.filter(({ spec }) => wanted(spec.name)).map((one) => one.stop()));
      await stop((name) => !['broker', 'controller', 'worker'].includes(name));
      // What was just being started ends by that, or when it sees that we stop; only then is it known what there is to stop.
      await stop(() => this.starting !== undefined && !this.started);
      await this.starting?.catch(() => {});
      await stop((name) => name === 'controller' || name === 'worker');
      await stop((name) => name === 'broker');
      await this.database.stop();
      await this.lock?.release();
    })();
    await this.stopping;
  }

  /** Two at a time: more would only wait for each other on a small machine. */
  private async startAgents(): Promise<void> {
    const waiting = Array.from({ length: this.options.agents }, (_, index) => {
      const id = `${this.options.agentName}-${index + 1}`;
      const home = resolve(this.options.dir, 'agents', id);
      const managed = this.declare(id, 'apps/agent/dist/main.js', { REEF_AGENT_DIR: home, REEF_LOCAL_API: '127.0.0.1:0', FRAMES_FPS: `${this.options.fps}`, ...(this.options.frames ? { FRAMES_DIR: resolve(this.options.frames) } : {}) }, ['run']);
      return { id, home, managed, line: index % 2 === 0 ? 'a' : 'b' };
    });
    const lane = async () => {
      for (let next = waiting.shift(); next; next = waiting.shift()) {
        this.goOn();
        if (await this.enrol(next)) await next.managed.start();
        else this.processes.splice(this.processes.indexOf(next.managed), 1);
      }
    };
    await Promise.all([lane(), lane()]);
  }

  /** @returns whether it has a place in the fleet; one that was retired stays out of it */
  private async enrol({ id, home, line }: { id: string; home: string; line: string }): Promise<boolean> {
    const known = await this.client.get<{ retiredAt: string | null }>(`/devices/${id}`).catch((error: unknown) => {
      if (error instanceof ReefError && error.kind === 'not_found') return undefined;
      throw error;
    });
    if (known?.retiredAt) {
      this.options.onNote(`${id} was retired and is not started; \`reef device token --id ${id}\` brings it back`);
      return false;
    }
    if (known && existsSync(join(home, 'identity', 'identity.json'))) return true;
    // A device of another database, or half enrolled: it starts anew.
    await rm(home, { recursive: true, force: true });
    const { token } = await this.client.post<{ token: string }>('/enrolment-tokens', { deviceId: id, labels: { site: 'demo', line } });
    const enrolled = await execa(process.execPath, [app('apps/agent/dist/main.js'), 'enrol', '--gateway', `https://127.0.0.1:${this.options.gatewayPort}`, '--token', token, '--id', id, '--dir', home], { reject: false });
    if (enrolled.exitCode !== 0) throw new ReefError('up.enrolment_failed', 'unavailable', `${id} could not enrol: ${enrolled.stderr}`);
    await this.client.patch(`/devices/${id}`, { config: { telemetryWindowS: this.options.telemetryWindowS } });
    return true;
  }

  private async launch(name: string, main: string, env: Record<string, string>, args: string[] = [], at?: string): Promise<void> {
    this.goOn();
    await this.declare(name, main, env, args, at).start();
  }

  private declare(name: string, main: string, env: Record<string, string>, args: string[], at?: string): Managed {
    const file = app(main);
    if (!existsSync(file)) throw new ReefError('up.not_built', 'invalid', `${main} is not built. Run \`npm run build\` first.`);
    const managed = new Managed({ name, main: file, args, env, logFile: join(this.options.dir, 'logs', `${name}.log`), ...(at ? { at } : {}) });
    managed.on('change', this.options.onChange);
    managed.on('spawned', (pid) => { this.run.note(name, pid).catch(() => {}); });
    managed.on('gone', () => { this.run.forget(name).catch(() => {}); });
    this.processes.push(managed);
    return managed;
  }

  /** A start that was interrupted must not go on behind the back of the stop. */
  private goOn(): void {
    if (this.stopping) throw new ReefError('up.interrupted', 'conflict', 'Interrupted while starting.');
  }

  /** The administrator's token is made once and kept for the CLI on this machine, readable by its owner only. */
  private async credentials(): Promise<Credentials> {
    const file = credentialsFile(this.options.dir);
    const kept = await keptCredentials(this.options.dir);
    const token = kept?.token ?? `reef_${randomBytes(24).toString('base64url')}`;
    if (!kept) this.newToken = token;
    const credentials: Credentials = { url: this.url, token, gatewayUrl: `https://127.0.0.1:${this.options.gatewayPort}` };
    await writeFileAtomic(file, `${JSON.stringify(credentials, null, 2)}\n`, { mode: 0o600 });
    return credentials;
  }
}
