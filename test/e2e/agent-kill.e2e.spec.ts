import { describe, it } from 'vitest';
import { freshAgent, surviveKill } from '../support/agent-process.ts';

const device = freshAgent('reef-k');

const points = (steps: string[], at = ['enter', 'effect', 'noted']) => steps.flatMap((step) => at.map((where) => `${step}:${where}`));

describe('an agent that is killed in an activation ends as if it had not been', () => {
  it.each([...points(['begin'], ['enter', 'noted']), ...points(['download', 'verify', 'install', 'golden', 'activate', 'observe', 'commit'])])('good bundle, killed at %s', async (point) => {
    await surviveKill(device, point, 'good');
  }, 120_000);

  it.each([...points(['rollback']), ...points(['close'], ['enter', 'noted'])])('bundle that fails on live frames, killed at %s', async (point) => {
    await surviveKill(device, point, 'bad');
  }, 120_000);

  it.each([...points(['begin'], ['noted']), ...points(['activate', 'commit'])])('rollback from the own disk, killed at %s', async (point) => {
    await surviveKill(device, point, 'rollback');
  }, 120_000);
});
