import { describe, expect, it } from 'vitest';
import { freshAgent, surviveKill } from '../../../test/support/agent-process.ts';

const device = freshAgent('reef-k');

// The three cuts that hurt most. Every other one: test/e2e/agent-kill.e2e.spec.ts.
describe('an agent that is killed in an activation', () => {
  it.each([['install:effect', 'good'], ['activate:effect', 'good'], ['rollback:effect', 'bad']] as const)('%s (%s) ends as if it had not been', async (point, kind) => {
    await surviveKill(device, point, kind);
  }, 120_000);

  it('does not run twice on one directory', async () => {
    const { agent } = device;
    await agent.start();
    const { pid } = agent;
    await agent.start();
    expect(agent.pid).not.toBe(pid);
    expect(agent.dead).toBe(true);
    process.kill(pid, 'SIGKILL');
  });
});
