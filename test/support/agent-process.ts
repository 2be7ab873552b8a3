import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect } from 'vitest';
import { colourFrames, eventually, Fleet } from './fleet.ts';

export const fromSources = [process.execPath, '--conditions=@reefkeeper/source', '--experimental-transform-types', '--disable-warning=ExperimentalWarning', join(import.meta.dirname, '../../apps/agent/src/main.ts')];

/** The agent as a process of its own, as an operator would start it: from the sources, or by another command. */
export class AgentProcess {
  private child: ChildProcess | undefined;

  private constructor(readonly device: string, readonly dir: string, private readonly command: readonly string[]) {}

  static async enrolled(fleet: Pick<Fleet, 'gatewayUrl' | 'token'>, device: string, command: readonly string[] = fromSources, dir?: string): Promise<AgentProcess> {
    dir ??= await mkdtemp(join(tmpdir(), 'reef-agent-'));
    await colourFrames(join(dir, 'frames'));
    const agent = new AgentProcess(device, dir, command);
    const child = agent.spawn(['enrol', '--gateway', fleet.gatewayUrl, '--token', fleet.token, '--id', device, '--dir', dir]);
    const [code] = await once(child, 'exit') as [number];
    if (code !== 0) throw new Error(`enrolment ended with ${code}`);
    return agent;
  }

  /** @returns when it is ready, or has died on the way there */
  async start(crashAt?: string): Promise<void> {
    const child = this.spawn(['run', '--dir', this.dir, '--frames', join(this.dir, 'frames'), '--fps', '20'], crashAt ? { REEF_AGENT_CRASH_AT: crashAt } : {});
    this.child = child;
    await Promise.race([once(child.stdout!, 'data'), once(child, 'exit')]);
  }

  get pid(): number {
    return this.child!.pid!;
  }

  get dead(): boolean {
    return this.child === undefined || this.child.exitCode !== null || this.child.signalCode !== null;
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    const { child } = this;
    if (!child || this.dead) return child?.exitCode ?? null;
    child.kill(signal);
    await once(child, 'exit');
    return child.exitCode;
  }

  async remove(): Promise<void> {
    await this.stop('SIGKILL');
    await rm(this.dir, { recursive: true, force: true });
  }

  async state(): Promise<{ workloads: Record<string, { running: { bundle: string } | null; previous: { bundle: string } | null; execution: { revision: number; state: string; failure: { code: string } | null } | null }> }> {
    return JSON.parse(await readFile(join(this.dir, 'state.json'), 'utf8'));
  }

  private spawn(args: string[], env: Record<string, string> = {}): ChildProcess {
    return spawn(this.command[0]!, [...this.command.slice(1), ...args], {
      env: { PATH: process.env.PATH, LOG_LEVEL: 'warn', REEF_DISK_RESERVE: '0', REEF_LOCAL_API: 'off', ...env }, stdio: ['ignore', 'pipe', process.env.AGENT_LOG ? 'inherit' : 'ignore'],
    });
  }
}

/** A fleet and an enrolled agent, anew for each test of the file that asks. */
export function freshAgent(device: string): { readonly fleet: Fleet; readonly agent: AgentProcess } {
  const now = {} as { fleet: Fleet; agent: AgentProcess };
  beforeEach(async () => {
    now.fleet = await Fleet.open();
    now.agent = await AgentProcess.enrolled(now.fleet, device);
  });
  afterEach(async () => {
    await now.agent.remove();
    await now.fleet.close();
  });
  return now;
}

/**
 * One activation (revision 2, over a good revision 1) with a SIGKILL at `point`; then a new start. However it was cut, the end must be
 * the same: what was wanted is settled, it was installed once, and the controller hears of one end.
 */
export async function surviveKill({ fleet, agent }: { fleet: Fleet; agent: AgentProcess }, point: string, kind: 'good' | 'bad' | 'rollback'): Promise<void> {
  const { device, dir } = agent;
  const [one, two] = [fleet.publish(1), kind === 'bad' ? fleet.publish(2, { alter: (manifest) => ({ ...manifest, inputs: [{ ...manifest.inputs[0]!, preprocessing: { kind: 'image', width: 16, height: 16, channels: 3, resize: 'stretch', mean: [0], std: [255] } }] }) }) : fleet.publish(2)];
  const observe = { policy: { observeS: kind === 'bad' ? 30 : 0.2 } };
  const end = (revision: number) => fleet.reportWhere(({ workloads }) => workloads.w?.execution?.revision === revision && workloads.w.execution.state !== 'IN_PROGRESS');
  await agent.start();
  await fleet.want(device, 1, { w: { bundle: one.bundle, policy: { observeS: 0 } } });
  await end(1);
  if (kind === 'rollback') {
    await fleet.want(device, 2, { w: { bundle: two.bundle, policy: { observeS: 0 } } });
    await end(2);
  }
  await agent.stop();

  const revision = kind === 'rollback' ? 3 : 2;
  const [wanted, other] = kind === 'rollback' ? [one, two] : [two, one];
  await fleet.want(device, revision, { w: { bundle: wanted.bundle, rollback: kind === 'rollback', ...observe } });
  const installed = join(dir, 'store/bundles', wanted.bundle);
  await agent.start(point);
  await eventually(() => agent.dead, 30_000, () => `${point} was never reached: ${JSON.stringify(fleet.reports.at(-1))}`);
  const markAtKill = existsSync(installed) ? (await stat(installed)).ino : undefined;

  await agent.start(point);
  // The same message once more: the broker does not know whether the first one got through.
  await fleet.want(device, revision, { w: { bundle: wanted.bundle, rollback: kind === 'rollback', ...observe } });
  await end(revision);
  const { running, execution } = (await agent.state()).workloads.w!;
  expect(execution).toMatchObject({ revision, state: kind === 'bad' ? 'FAILED' : 'SUCCEEDED' });
  expect(running?.bundle).toBe(kind === 'bad' ? other.bundle : wanted.bundle);
  // Renamed into place once, and never again.
  if (markAtKill !== undefined) expect((await stat(installed)).ino).toBe(markAtKill);
  await eventually(async () => (await agent.state()).workloads.w?.execution?.state === execution!.state && !agent.dead);
  expect(await agent.stop()).toBe(0);

  // As the controller sees it: states in order of (session, seq), and past an end there is only that same end.
  const heard = fleet.reports.filter(({ workloads }) => workloads.w?.execution?.revision === revision).sort((a, b) => a.session - b.session || a.seq - b.seq).map(({ workloads }) => workloads.w!.execution!);
  const ends = heard.findIndex(({ state }) => state !== 'IN_PROGRESS' && state !== 'QUEUED');
  const distinct = new Set(heard.slice(ends).map(({ state, failure }) => JSON.stringify({ state, failure })));
  expect([...distinct]).toHaveLength(1);
}
