import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { execa } from 'execa';
import writeFileAtomic from 'write-file-atomic';
import { Authority } from '@reefkeeper/devices';
import { startEmbeddedPostgres, type EmbeddedPostgres } from '@reefkeeper/platform/embedded-postgres';
import { ReefError } from '@reefkeeper/platform/errors';
import { Client } from '../client.ts';
import { credentialsFile, type Credentials } from '../context.ts';
import { holdLock } from './lock.ts';
import { Managed } from './managed.ts';
import { checkPort } from './ports.ts';

export interface StackOptions {
  dir: string;
  agents: number;
  port: number;
  gatewayPort: number;
  mqttPort: number;
  /** Images the agents infer; none = they wait for work from elsewhere. */
  frames?: string | undefined;
  fps: number;
  telemetryWindowS: number;
  onNote(text: string): void;
}

const app = (path: string) => fileURLToPath(new URL(`../../../${path}`, import.meta.url));

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
  private postgres: EmbeddedPostgres | undefined;
  private lock: { release(): Promise<void> } | undefined;
  private stopping: Promise<void> | undefined;

  constructor(readonly options: StackOptions) {}

  get url(): string {
    return `http://127.0.0.1:${this.options.port}`;
  }

  get database(): string {
    return this.postgres ? `embedded, port ${this.postgres.port}` : 'external';
  }

  async start(): Promise<void> {
    const { dir, port, gatewayPort, mqttPort, onNote } = this.options;
    await mkdir(join(dir, 'logs'), { recursive: true });
    this.lock = await holdLock(join(dir, 'up.lock'));
    await checkPort(port, 'API and console', '--port');
    await checkPort(gatewayPort, 'device gateway', '--gateway-port');
    if (!process.env.MQTT_URL) await checkPort(mqttPort, 'MQTT broker', '--mqtt-port');
    const keys = join(dir, 'keys');
    const authority = await Authority.loadOrCreate(keys);

    if (!process.env.DATABASE_URL) {
      this.postgres = await startEmbeddedPostgres(join(dir, 'postgres'));
      onNote(this.postgres.adopted ? 'PostgreSQL was still running from before and was taken over' : 'PostgreSQL started');
    }
    const databaseUrl = process.env.DATABASE_URL ?? this.postgres!.url;
    const mqttUrl = process.env.MQTT_URL ?? `mqtts://127.0.0.1:${mqttPort}`;
    if (!process.env.MQTT_URL) {
      const files = await authority.ownFiles(keys, 'broker', { commonName: 'reef-broker', hosts: ['localhost', '127.0.0.1'] });
      await this.launch('broker', 'apps/cli/dist/up/broker-main.js', { BROKER_PORT: `${mqttPort}`, BROKER_CA: join(keys, 'ca.pem'), BROKER_CERT: files.certificateFile, BROKER_KEY: files.keyFile }, [], `mqtts://127.0.0.1:${mqttPort}`);
    }
    const { token } = await this.credentials();
    this.token = token;
    const shared = {
      DATABASE_URL: databaseUrl, MQTT_URL: mqttUrl, KEYS_DIR: keys, ARTIFACTS_URL: process.env.ARTIFACTS_URL ?? pathToFileURL(resolve(dir, 'artifacts')).href,
    };
    await this.launch('controller', 'apps/controller/dist/main.js', {
      ...shared, PORT: `${port}`, GATEWAY_PORT: `${gatewayPort}`, PUBLIC_GATEWAY_URL: `https://127.0.0.1:${gatewayPort}`, PUBLIC_MQTT_URL: mqttUrl.replace(/^mqtt:/, 'mqtts:'), BOOTSTRAP_ADMIN_TOKEN: token, CONSOLE_DIR: app('apps/console/dist'),
    }, [], this.url);
    this.client = new Client(this.url, token);
    await this.launch('worker', 'apps/worker/dist/main.js', { ...shared, PYTHON_ENV_DIR: resolve(dir, 'python'), WORK_DIR: resolve(dir, 'work') });
    for (let number = 1; number <= this.options.agents; number += 1) await this.startAgent(number);
  }

  /** Children first, in the order of who needs whom. */
  async stop(): Promise<void> {
    this.stopping ??= (async () => {
      const of = (kind: string) => this.processes.filter(({ spec }) => spec.name.startsWith(kind));
      await Promise.all(of('coral-').map((one) => one.stop()));
      await Promise.all([...of('worker'), ...of('controller')].map((one) => one.stop()));
      await Promise.all(of('broker').map((one) => one.stop()));
      await this.postgres?.stop();
      await this.lock?.release();
    })();
    await this.stopping;
  }

  private async startAgent(number: number): Promise<void> {
    const id = `coral-${number}`;
    const home = resolve(this.options.dir, 'agents', id);
    const known = await this.client.get(`/devices/${id}`).then(() => true, () => false);
    if (!known || !existsSync(join(home, 'identity'))) {
      // A device of another database, or half enrolled: it starts anew.
      await rm(home, { recursive: true, force: true });
      const { token } = await this.client.post<{ token: string }>('/enrolment-tokens', { deviceId: id, labels: { site: 'demo', line: number % 2 === 1 ? 'a' : 'b' } });
      const enrolled = await execa(process.execPath, [app('apps/agent/dist/main.js'), 'enrol', '--gateway', `https://127.0.0.1:${this.options.gatewayPort}`, '--token', token, '--id', id, '--dir', home], { reject: false });
      if (enrolled.exitCode !== 0) throw new ReefError('up.enrolment_failed', 'unavailable', `${id} could not enrol: ${enrolled.stderr}`);
      await this.client.patch(`/devices/${id}`, { config: { telemetryWindowS: this.options.telemetryWindowS } });
    }
    await this.launch(id, 'apps/agent/dist/main.js', { REEF_AGENT_DIR: home, FRAMES_FPS: `${this.options.fps}`, ...(this.options.frames ? { FRAMES_DIR: resolve(this.options.frames) } : {}) }, ['run']);
  }

  private async launch(name: string, main: string, env: Record<string, string>, args: string[] = [], at?: string): Promise<void> {
    const file = app(main);
    if (!existsSync(file)) throw new ReefError('up.not_built', 'invalid', `${main} is not built. Run \`npm run build\` first.`);
    const managed = new Managed({ name, main: file, args, env, logFile: join(this.options.dir, 'logs', `${name}.log`), ...(at ? { at } : {}) });
    this.processes.push(managed);
    await managed.start();
  }

  /** The administrator's token is made once and kept for the CLI on this machine, readable by its owner only. */
  private async credentials(): Promise<Credentials> {
    const file = credentialsFile(this.options.dir);
    const kept = await readFile(file, 'utf8').then((text) => JSON.parse(text) as Credentials, () => undefined);
    const token = kept?.token ?? `reef_${randomBytes(24).toString('base64url')}`;
    if (!kept) this.newToken = token;
    await writeFileAtomic(file, `${JSON.stringify({ url: this.url, token }, null, 2)}\n`, { mode: 0o600 });
    return { url: this.url, token };
  }
}
