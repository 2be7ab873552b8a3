import type { ChildProcess } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { openPipelineWorld, smallNet, type PipelineWorld } from '../../libs/conversion/src/pipeline-world.fixture.ts';
import { compiledModel } from '../support/compiled.ts';
import { isAlive, standInCompiler } from '../support/stand-in-compiler.ts';
import { ended, startWorker } from '../support/worker.ts';

// The built worker as a process: only so can it be killed while the compiler runs.
let world: PipelineWorld;
const workers: ChildProcess[] = [];

beforeAll(async () => { world = await openPipelineWorld(); });
afterAll(async () => {
  await Promise.all(workers.map(async (one) => ended(one, 'SIGTERM')));
  await world.close();
});

const newWorker = async (compiler: string) => startWorker(world.database.url, world.dir, { PYTHON_ENV_DIR: join(world.dir, 'python'), REEF_EDGETPU_COMPILER: compiler }, workers);

async function until(what: () => boolean, limitMs: number): Promise<void> {
  for (const end = Date.now() + limitMs; !what(); await sleep(25)) if (Date.now() > end) throw new Error(`never came: ${what}`);
}

it('case 3: a worker killed while the compiler hangs leaves no orphan, and the next one ends the job', async () => {
  const stand = await standInCompiler(world.dir, 'edgetpu_compiler', [{ does: 'hang' }, { does: 'succeed', outputs: compiledModel() }]);
  const first = await newWorker(stand.path);
  const id = await world.push('killed', smallNet(5));
  await until(() => stand.hanging().length === 2, 60_000);
  expect(stand.hanging().map(isAlive)).toEqual([true, true]);
  first.kill('SIGKILL');
  await until(() => !stand.hanging().some(isAlive), 5_000);
  expect((await world.jobs.find(id)).state).toBe('RUNNING');

  await newWorker(stand.path);
  expect(await world.settled(id)).toMatchObject({ state: 'SUCCEEDED', error: null });
  expect(await world.jobs.attempts(id)).toMatchObject([{ result: null, durationMs: null }, { result: 'ok' }]);
  expect((await world.registry.versionByRef('killed')).variants.map(({ name }) => name)).toEqual(['cpu-int8', 'edgetpu-14']);
  // What the dead one had on disk is gone, too.
  const left = await readdir(join(world.dir, 'work'));
  expect(left).toHaveLength(1);
  expect(await readdir(join(world.dir, 'work', left[0]!))).toEqual([]);
}, 120_000);
