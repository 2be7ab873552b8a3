import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AgentProcess, surviveKill } from '../../../test/support/agent-process.ts';
import { Fleet } from '../../../test/support/fleet.ts';

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

// The three cuts that hurt most. Every other one: test/e2e/agent-kill.e2e.spec.ts.
describe('an agent that is killed in an activation', () => {
  it.each([['install:effect', 'good'], ['activate:effect', 'good'], ['rollback:effect', 'bad']] as const)('%s (%s) ends as if it had not been', async (point, kind) => {
    await surviveKill(fleet, point, kind, agent);
  }, 120_000);

  it('does not run twice on one directory', async () => {
    await agent.start();
    const { pid } = agent;
    await agent.start();
    expect(agent.pid).not.toBe(pid);
    expect(agent.dead).toBe(true);
    process.kill(pid, 'SIGKILL');
  });
});
