import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ensurePythonEnv } from '@reefkeeper/conversion';
import { RunningStack } from '../support/stack.ts';

// A real TensorFlow 1 graph with weights trained on ImageNet, through the door that users take. Fetched here and never kept in the project.
const root = join(import.meta.dirname, '../..');
let made: string;
let stack: RunningStack | undefined;
let missing: string | undefined;

beforeAll(async () => {
  made = await mkdtemp(join(tmpdir(), 'reef-mobilenet-'));
  const { python } = await ensurePythonEnv({ root: join(root, '.reef/python') });
  const { exitCode, stderr } = await execa(python, [join(root, 'test/support/mobilenet.py'), made, join(root, '.reef/demo/cache')], { reject: false, env: { PYTHONPATH: join(root, 'libs/conversion/python') } });
  if (exitCode === 3) missing = stderr;
  else if (exitCode !== 0) throw new Error(stderr);
  else stack = await RunningStack.up({ agents: 0 });
});
afterAll(async () => {
  await stack?.remove();
  await rm(made, { recursive: true, force: true });
});

it('a frozen MobileNet v1 with its ImageNet head is converted from the command line, and is right on photographs', async (context) => {
  if (missing) return context.skip(`the graph or the photographs cannot be fetched: ${missing}`);
  const wanted = ['--input-name', 'input', '--output-names', 'MobilenetV1/Predictions/Reshape', '--mean', '127.5', '--std', '127.5'];
  const version = await stack!.json<{ state: string; analysis: { verdict: string; cpuOps: number }; parity: { samples: number; agreement: number; accuracy: { labelled: number; float: number; int8: number }; outputs: { cosine: number }[] } }>(
    'model', 'push', join(made, 'graph.pb'), '--name', 'mobilenet', ...wanted, '--calibration', join(made, 'calibration'), '--evaluation', join(made, 'photos'),
  );
  expect(version.state).toBe('READY');
  const { parity } = version;
  // Every activation is a ReLU6, from 0 to 6 whatever the calibration photographs are: what is left is what eight bits cost.
  expect(parity).toMatchObject({ samples: 20, accuracy: { labelled: 20 } });
  expect(parity.accuracy.float).toBeGreaterThanOrEqual(0.8);
  expect(parity.accuracy.int8).toBeGreaterThanOrEqual(parity.accuracy.float - 0.05);
  expect(parity.agreement).toBeGreaterThanOrEqual(0.9);
  expect(parity.outputs[0]!.cosine).toBeGreaterThan(0.95);
  expect(version.analysis.cpuOps).toBe(0);
}, 600_000);
