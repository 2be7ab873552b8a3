import { mkdtemp, rm } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach } from 'vitest';
import { openLogger } from '@reefkeeper/platform/logger';
import { Agent, type Tuning } from '../../apps/agent/src/agent.ts';
import { agentSettings } from '../../apps/agent/src/config.ts';
import { enrol, type Identity } from '../../apps/agent/src/identity.ts';
import { Fleet } from './fleet.ts';

/** Waits between tries that a test bears. */
export const quick = { firstDelayMs: 10, maxDelayMs: 50 };
export const quickComeback = { firstMs: 10, maxMs: 50 };

/** Lets the device whose directory is `dir` join. */
export async function joined(fleet: Pick<Fleet, 'gatewayUrl' | 'token'>, dir: string, id: string): Promise<Identity> {
  return (await enrol(dir, { gateway: fleet.gatewayUrl, token: fleet.token, id, hostname: hostname() })).identity;
}

/** A fleet and a device that has joined it, anew for each test of the file or block that asks; what was started is stopped, also where a test went wrong before. */
export function freshDevice(id: string): { readonly fleet: Fleet; readonly dir: string; start(env?: Record<string, string>, tuning?: Tuning): Promise<Agent> } {
  let agent: Agent | undefined;
  let [fleet, dir]: [Fleet | undefined, string] = [undefined, ''];
  beforeEach(async () => {
    fleet = await Fleet.open();
    dir = await mkdtemp(join(tmpdir(), 'reef-device-'));
    await joined(fleet, dir, id);
  });
  afterEach(async () => {
    await agent?.stop();
    agent = undefined;
    await fleet?.close();
    await rm(dir, { recursive: true, force: true });
  });
  return {
    get fleet() { return fleet!; },
    get dir() { return dir; },
    start: async (env = {}, tuning = {}) => (agent = await startAgent(dir, env, tuning)),
  };
}

/** An agent in this process. @param env its settings beside the directory; @param tuning over the quick one */
export function startAgent(dir: string, env: Record<string, string>, tuning: Tuning = {}): Promise<Agent> {
  return Agent.start(agentSettings({ REEF_AGENT_DIR: dir, ...env }), openLogger('agent', process.env.AGENT_LOG ?? 'silent'), { download: { tries: 3, ...quick }, link: { comeback: quickComeback }, serving: quick, ...tuning });
}
