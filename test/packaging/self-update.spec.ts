import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { cp, mkdtemp, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { bundleDigest, signBundle, type Manifest } from '@reefkeeper/bundle';
import { architectures, root, type Architecture } from '../../deploy/agent/packages.ts';
import { archiveOf, makeTrees } from '../../deploy/agent/tree.ts';
import { AgentProcess } from '../support/agent-process.ts';
import { eventually, Fleet } from '../support/fleet.ts';

const own = (Object.keys(architectures) as Architecture[]).find((architecture) => architectures[architecture] === process.arch)!;
const workload = 'reef-agent';
const launcher = join(root, 'deploy/agent/launcher');
let built: string;
let fleet: Fleet;
let device: Device;

beforeAll(async () => {
  built = await mkdtemp(join(tmpdir(), 'reef-releases-'));
  for (const version of ['1.0.0', '2.0.0', '3.0.0']) await makeTrees(join(built, version), [own], version);
  // Pass every check before the switch, and then end, or hang without ever speaking.
  for (const [name, body] of [['ends', 'process.exit(1)'], ['hangs', 'setInterval(() => {}, 1000); process.on("SIGTERM", () => {})']] as const) {
    await cp(join(built, '2.0.0'), join(built, name), { recursive: true, verbatimSymlinks: true });
    const main = join(built, name, own, 'lib/agent/main.js');
    await writeFile(main, `if (process.argv[2] === 'run') { ${body} } else { await import('./real.js') }\n`);
    await cp(join(built, '2.0.0', own, 'lib/agent/main.js'), join(built, name, own, 'lib/agent/real.js'));
  }
}, 300_000);
afterAll(() => rm(built, { recursive: true, force: true }));

beforeEach(async () => {
  fleet = await Fleet.open();
  device = await Device.enrolled();
});
afterEach(async () => {
  await device.remove();
  await fleet.close();
});

/** A machine with the agent's package: starts the launcher again whenever it ends, as a service manager would. */
class Device {
  private child: ChildProcess | undefined;
  private stopping = false;
  crashes = 0;

  private constructor(readonly agent: AgentProcess) {}

  static async enrolled(): Promise<Device> {
    return new Device(await AgentProcess.enrolled(fleet, 'reef-u', [process.execPath, join(built, '1.0.0', own, 'lib/agent/main.js')]));
  }

  get dir(): string {
    return this.agent.dir;
  }

  start(env: Record<string, string> = {}): void {
    this.stopping = false;
    const child = spawn(launcher, ['run', '--dir', this.dir], {
      env: { PATH: process.env.PATH, REEF_AGENT_DIR: this.dir, REEF_NODE: process.execPath, REEF_FACTORY: join(built, '1.0.0', own), REEF_DISK_RESERVE: '0', REEF_STABLE_S: '0.1', REEF_TRIAL_PAUSE_S: '0.1', LOG_LEVEL: 'warn', ...env },
      stdio: ['ignore', 'ignore', process.env.AGENT_LOG ? 'inherit' : 'ignore'], detached: true,
    });
    this.child = child;
    child.once('exit', () => {
      if (this.stopping) return;
      this.crashes += 1;
      setTimeout(() => { if (!this.stopping) this.start(env); }, 100);
    });
  }

  /** Everything at once, as when the power goes. */
  async cutPower(): Promise<void> {
    this.stopping = true;
    const gone = once(this.child!, 'exit');
    process.kill(-this.child!.pid!, 'SIGKILL');
    await gone;
  }

  async remove(): Promise<void> {
    this.stopping = true;
    if (this.child && this.child.exitCode === null && this.child.signalCode === null) {
      const gone = once(this.child, 'exit');
      process.kill(-this.child.pid!, 'SIGKILL');
      await gone;
    }
    await this.agent.remove();
  }

  /** The release that a next start would run. */
  async link(name: 'trial' | 'current' | 'previous'): Promise<string | undefined> {
    return readlink(join(this.dir, 'agent', name)).then((target) => target.replace('releases/', ''), () => undefined);
  }
}

/** A release as the controller publishes it. */
async function publish(version: number, folder: string, says = folder): Promise<string> {
  const file = fleet.put(await archiveOf(join(built, folder, own)));
  const manifest: Manifest = {
    schema: 1, model: workload, version, task: 'agent', labels: null, inputs: [], outputs: [],
    variants: [{ name: `agent-${own}`, kind: 'agent', minRuntime: null, file }], golden: null,
    lineage: { source: { digest: file.digest, filename: `reef-agent_${says}_${own}.tar` }, calibration: null, evaluation: null, job: null, parent: null, tools: { 'reef-agent': says } },
    parity: null, createdAt: '2026-01-01T00:00:00.000Z',
  };
  const bundle = bundleDigest(manifest);
  fleet.envelopes.set(bundle, signBundle(manifest, fleet.key));
  return bundle;
}

const want = (revision: number, bundle: string, more: { rollback?: boolean; observeS?: number } = {}) => fleet.want('reef-u', revision, { [workload]: { bundle, variant: `agent-${own}`, rollback: more.rollback ?? false, policy: { observeS: more.observeS ?? 0.2 } } });
const ended = async (revision: number) => (await fleet.reportWhere(({ workloads }) => workloads[workload]?.execution?.revision === revision && !['IN_PROGRESS', 'QUEUED'].includes(workloads[workload].execution.state), 120_000)).workloads[workload]!;
/** What the process that reports last says it is. */
const version = () => fleet.reports.findLast(({ capabilities }) => capabilities)?.capabilities;

describe('an agent that updates itself', () => {
  it('runs the new release, keeps the one before, and goes back to it without a byte', async () => {
    device.start();
    await eventually(() => version()?.agentVersion === '1.0.0' && version()?.release === 'factory');
    const [two, three] = [await publish(1, '2.0.0'), await publish(2, '3.0.0')];
    await want(1, two);
    expect(await ended(1)).toMatchObject({ running: two, previous: null, execution: { state: 'SUCCEEDED', failure: null } });
    expect(version()).toMatchObject({ agentVersion: '2.0.0', release: two });
    await want(2, three);
    expect(await ended(2)).toMatchObject({ running: three, previous: two });
    expect(version()).toMatchObject({ agentVersion: '3.0.0', release: three });
    expect([await device.link('trial'), await device.link('current'), await device.link('previous')]).toEqual([undefined, three, two]);

    const requests = fleet.requests.length;
    await want(3, two, { rollback: true });
    expect(await ended(3)).toMatchObject({ running: two, execution: { state: 'SUCCEEDED' } });
    await eventually(() => version()?.agentVersion === '2.0.0');
    expect(fleet.requests).toHaveLength(requests);
    // Nothing wanted any more: what the package brought.
    await fleet.want('reef-u', 4, {});
    await eventually(() => version()?.release === 'factory');
    expect(version()?.agentVersion).toBe('1.0.0');
    expect(await ended(4)).toMatchObject({ running: null, execution: { state: 'REMOVED' } });
    // An orderly switch is no crash.
    expect(device.crashes).toBe(0);
  }, 180_000);

  it.each([
    ['does not run here', 'golden.failed', async () => {
      await cp(join(built, '2.0.0'), join(built, 'broken'), { recursive: true, verbatimSymlinks: true, force: true });
      await rm(join(built, 'broken', own, 'lib/agent/libtensorflowlite_c.so'));
      return publish(1, 'broken', '2.0.0');
    }],
    ['is another version than it says', 'golden.failed', () => publish(1, '2.0.0', '9.9.9')],
  ])('refuses a release that %s, and never starts it', async (_, code, make) => {
    device.start();
    await want(1, await make());
    expect(await ended(1)).toMatchObject({ running: null, execution: { state: 'FAILED', failure: { code } } });
    expect(await device.link('trial')).toBeUndefined();
  }, 120_000);

  it.each([['ends', 'ended again and again', {}], ['hangs', 'did not connect and report', { REEF_PROBATION_S: '4' }]] as const)('goes back from a release that %s, and says so', async (name, why, env) => {
    device.start(env);
    const two = await publish(1, '2.0.0');
    await want(1, two);
    await ended(1);
    await want(2, await publish(2, name, '2.0.0'));
    expect(await ended(2)).toMatchObject({ running: two, execution: { state: 'FAILED', failure: { code: 'agent.release_given_up', message: expect.stringContaining(why) } } });
    expect(version()).toMatchObject({ agentVersion: '2.0.0', release: two });
    expect([await device.link('trial'), await device.link('current')]).toEqual([undefined, two]);
  }, 180_000);

  it('goes back without a network', async () => {
    device.start({ REEF_PROBATION_S: '6' });
    const two = await publish(1, '2.0.0');
    await want(1, two, { observeS: 1 });
    await eventually(() => existsSync(join(device.dir, 'agent/trial')), 60_000);
    // Gone before the new release could speak.
    await fleet.stopBroker();
    await eventually(async () => (await device.link('trial')) === undefined && (await device.agent.state()).workloads[workload]?.execution?.state === 'FAILED', 60_000);
    expect(await device.link('current')).toBeUndefined();
    expect((await device.agent.state()).workloads[workload]).toMatchObject({ running: null, execution: { failure: { code: 'agent.release_given_up' } } });
    await fleet.startBroker();
    expect(await ended(1)).toMatchObject({ running: null, execution: { state: 'FAILED' } });
  }, 180_000);

  it('leaves a release that was committed and does not start any more', async () => {
    device.start({ REEF_PROVED_STARTS: '2' });
    const [two, three] = [await publish(1, '2.0.0'), await publish(2, '3.0.0')];
    await want(1, two);
    await ended(1);
    await want(2, three);
    await ended(2);
    await device.cutPower();
    await writeFile(join(device.dir, 'agent/releases', three, 'lib/agent/main.js'), 'process.exit(3)\n');
    device.start({ REEF_PROVED_STARTS: '2' });
    const report = await fleet.reportWhere(({ conditions, workloads }) => conditions.includes('CRASH_LOOP') && workloads[workload]?.running === two, 60_000);
    expect(report.health).toBe('DEGRADED');
    expect(version()?.agentVersion).toBe('2.0.0');
  }, 180_000);

  // The points of a way forward, in order. A kill at any of them ends in the same state as none.
  it.each(['download:effect', 'install:effect', 'golden:enter', 'unpack:effect', 'golden:effect', 'activate:enter', 'activate:effect', 'activate:noted', 'observe:enter', 'observe:effect', 'commit:enter', 'commit:effect', 'commit:noted'])('survives SIGKILL at %s', async (point) => {
    device.start({ REEF_AGENT_CRASH_AT: point });
    const two = await publish(1, '2.0.0');
    await want(1, two);
    await eventually(() => existsSync(join(device.dir, `.crashed-${point.replace(':', '-')}`)), 60_000, () => JSON.stringify(fleet.reports.at(-1)));
    expect(await ended(1)).toMatchObject({ running: two, execution: { state: 'SUCCEEDED' } });
    await eventually(() => version()?.release === two);
    expect([await device.link('trial'), await device.link('current')]).toEqual([undefined, two]);
  }, 120_000);

  it.each(['activate:enter', 'activate:effect', 'activate:noted', 'commit:effect'])('survives SIGKILL at %s on the way back', async (point) => {
    device.start();
    const [two, three] = [await publish(1, '2.0.0'), await publish(2, '3.0.0')];
    await want(1, two);
    await ended(1);
    await want(2, three);
    await ended(2);
    await device.cutPower();
    device.start({ REEF_AGENT_CRASH_AT: point });
    await want(3, two, { rollback: true });
    await eventually(() => existsSync(join(device.dir, `.crashed-${point.replace(':', '-')}`)), 60_000);
    expect(await ended(3)).toMatchObject({ running: two, execution: { state: 'SUCCEEDED' } });
    await eventually(() => version()?.release === two);
  }, 180_000);

  it('survives the power going at moments nobody chose', async () => {
    device.start();
    const two = await publish(1, '2.0.0');
    await want(1, two);
    for (const ms of [400, 900, 1_500, 2_200, 3_000]) {
      await new Promise((resolve) => { setTimeout(resolve, ms); });
      await device.cutPower();
      device.start();
    }
    // Starts that were cut count against a trial; in the end it either runs or has been given up, and both are said.
    const end = await ended(1);
    if (end.execution?.state === 'SUCCEEDED') expect(version()?.release).toBe(two);
    else expect(end).toMatchObject({ running: null, execution: { failure: { code: 'agent.release_given_up' } } });
    expect(JSON.parse(await readFile(join(device.dir, 'state.json'), 'utf8')).workloads[workload].execution.state).toBe(end.execution!.state);
  }, 180_000);
});
