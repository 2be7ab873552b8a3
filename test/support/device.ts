import { hostname } from 'node:os';
import { openLogger } from '@reefkeeper/platform/logger';
import { Agent, type Tuning } from '../../apps/agent/src/agent.ts';
import { agentSettings } from '../../apps/agent/src/config.ts';
import { enrol, type Identity } from '../../apps/agent/src/identity.ts';
import type { Fleet } from './fleet.ts';

/** Waits between tries that a test bears. */
export const quick = { firstDelayMs: 10, maxDelayMs: 50 };

/** Lets the device whose directory is `dir` join. */
export async function joined(fleet: Pick<Fleet, 'gatewayUrl' | 'token'>, dir: string, id: string): Promise<Identity> {
  return (await enrol(dir, { gateway: fleet.gatewayUrl, token: fleet.token, id, hostname: hostname() })).identity;
}

/** An agent in this process. @param env its settings beside the directory; @param tuning over the quick one */
export function startAgent(dir: string, env: Record<string, string>, tuning: Tuning = {}): Promise<Agent> {
  return Agent.start(agentSettings({ REEF_AGENT_DIR: dir, ...env }), openLogger('agent', process.env.AGENT_LOG ?? 'silent'), { download: { tries: 3, ...quick }, link: quick, serving: quick, ...tuning });
}
