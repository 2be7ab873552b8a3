import { afterEach, beforeEach, describe, it } from 'vitest';
import { AgentProcess, surviveKill } from '../support/agent-process.ts';
import { Fleet } from '../support/fleet.ts';

let fleet: Fleet;
let agent: AgentProcess;

beforeEach(async () => {
  fleet = await Fleet.open();
  agent = await AgentProcess.enrolled(fleet, 'reef-k');
});
afterEach(async () => {
  await agent.remove();
  await fleet.close();
});

const points = (steps: string[], at = ['enter', 'effect', 'noted']) => steps.flatMap((step) => at.map((where) => `${step}:${where}`));

describe('an agent that is killed in an activation ends as if it had not been', () => {
  it.each([...points(['begin'], ['enter', 'noted']), ...points(['download', 'verify', 'install', 'golden', 'activate', 'observe', 'commit'])])('good bundle, killed at %s', async (point) => {
    await surviveKill(fleet, point, 'good', agent);
  }, 120_000);

  it.each([...points(['rollback']), ...points(['close'], ['enter', 'noted'])])('bundle that fails on live frames, killed at %s', async (point) => {
    await surviveKill(fleet, point, 'bad', agent);
  }, 120_000);

  it.each([...points(['begin'], ['noted']), ...points(['activate', 'commit'])])('rollback from the own disk, killed at %s', async (point) => {
    await surviveKill(fleet, point, 'rollback', agent);
  }, 120_000);
});
