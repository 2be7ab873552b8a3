import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { colourFolders, embeddingModel } from '../support/embeddings.ts';
import { colourFrames, eventually } from '../support/fleet.ts';
import { RunningStack } from '../support/stack.ts';

// A device is taught two colours, then two more, from the command line; each time a version comes of it that goes through the fleet like any other, and can be taken back.
let stack: RunningStack;
let dir: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'reef-learn-story-'));
  await colourFrames(join(dir, 'frames'));
  await colourFolders(join(dir, 'first'), 6, ['red', 'green']);
  await colourFolders(join(dir, 'second'), 6, ['blue', 'yellow']);
  await writeFile(join(dir, 'extractor.tflite'), embeddingModel());
  stack = await RunningStack.up({ agents: 1, frames: join(dir, 'frames'), fps: 20 });
});
afterAll(async () => {
  await stack?.remove();
  await rm(dir, { recursive: true, force: true });
});

const device = () => stack.agent(1);
const running = async () => (await stack.json<{ reported: { workloads: Record<string, { running: string }> } }>('device', 'show', device())).reported.workloads.classifier!.running;
const version = async (number: number) => stack.json<{ bundleDigest: string; state: string; labels: string[] | null; lineage: Record<string, any>; hold: { code: string } | null; confirmedBy: string | null }>('model', 'show', `colours@${number}`);

it('learns on a device, adds to it, and takes it back', async () => {
  const pushed = await stack.reef('model', 'push', join(dir, 'extractor.tflite'), '--name', 'colours', '--task', 'embedding', '--mean', '0', '--std', '255');
  expect(pushed, pushed.stderr).toMatchObject({ exitCode: 0 });
  const quick = ['--soak', '1', '--deadline', '60', '--min-samples', '1', '--observe', '1'];
  expect(await stack.reef('rollout', 'create', 'colours@1', '--workload', 'classifier', ...quick, '--watch')).toMatchObject({ exitCode: 0 });

  // Held up until somebody has looked.
  const first = await stack.reef('learn', '--device', device(), '--workload', 'classifier', '--images', join(dir, 'first'));
  expect(first, first.stderr).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(/held-out accuracy\s+100\.0 % of 2 images[\s\S]*colours@2 queued/) });
  expect(await version(2)).toMatchObject({ state: 'READY', labels: ['green', 'red'], hold: { code: 'learn.unconfirmed' }, confirmedBy: null, lineage: { parent: 'colours@1', learning: { device: device(), workload: 'classifier', method: 'imprinting' } } });
  const held = await stack.reef('rollout', 'create', 'colours@2', '--workload', 'classifier');
  expect(held).toMatchObject({ exitCode: 5, stderr: expect.stringContaining('reef model confirm colours@2') });
  expect(await stack.reef('model', 'confirm', 'colours@2')).toMatchObject({ exitCode: 0 });
  expect(await stack.reef('rollout', 'create', 'colours@2', '--workload', 'classifier', '--device', device(), ...quick, '--watch')).toMatchObject({ exitCode: 0 });
  expect(await running()).toBe((await version(2)).bundleDigest);

  // Two more, without forgetting the first; confirmed and rolled out in one go.
  const second = await stack.reef('learn', '--device', device(), '--workload', 'classifier', '--images', join(dir, 'second'), '--rollout');
  expect(second, second.stderr).toMatchObject({ exitCode: 0 });
  expect(await version(3)).toMatchObject({ labels: ['green', 'red', 'blue', 'yellow'], lineage: { parent: 'colours@2' } });
  expect(await running()).toBe((await version(3)).bundleDigest);
  // It serves, and is right: the frames have labels.
  const { token } = JSON.parse(await readFile(join(stack.dir, 'credentials.json'), 'utf8')) as { token: string };
  const taught = (await version(3)).bundleDigest;
  await eventually(async () => {
    const answer = await fetch(`${stack.url}/api/v1/telemetry/series?device=${device()}&workload=classifier&by=bundle`, { headers: { authorization: `Bearer ${token}` } });
    const { points } = (await answer.json()) as { points: { bundle: string; labelled: number; accuracy: number | null }[] };
    return points.some(({ bundle, labelled, accuracy }) => bundle === taught && labelled >= 4 && accuracy === 1);
  }, 60_000);

  // Pictures that it was not sure of (here: any), once somebody has said what they are.
  expect(await stack.reef('device', 'configure', device(), '--capture', '3600', '--capture-below', '1')).toMatchObject({ exitCode: 0 });
  const captured = await eventually(async () => {
    const found = await stack.json<{ id: string; prediction: string }[]>('capture', 'ls', '--unlabelled');
    return found.length >= 2 && found;
  }, 90_000);
  for (const { id, prediction } of captured) await stack.reef('capture', 'label', id, prediction);
  const third = await stack.reef('learn', '--device', device(), '--workload', 'classifier', '--captures');
  expect(third, third.stderr).toMatchObject({ exitCode: 0 });
  expect(await version(4)).toMatchObject({ state: 'READY', labels: ['green', 'red', 'blue', 'yellow'], lineage: { parent: 'colours@3' } });

  const undone = await stack.reef('learn', 'undo', '--device', device(), '--workload', 'classifier');
  expect(undone, undone.stderr).toMatchObject({ exitCode: 0 });
  expect(await running()).toBe((await version(2)).bundleDigest);

  const refused = await stack.reef('learn', '--device', device(), '--workload', 'classifier', '--images', join(dir, 'first/red'), '--no-add');
  expect(refused).toMatchObject({ exitCode: 2, stderr: expect.stringContaining('code: learn.one_class') });
});
