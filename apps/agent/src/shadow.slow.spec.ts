import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, expect, it } from 'vitest';
import { Sketch } from '@reefkeeper/protocol';
import { freshDevice } from '../../../test/support/device.ts';
import { colourFrames, eventually, type Fleet } from '../../../test/support/fleet.ts';
import type { Agent } from './agent.ts';

const device = 'reef-d';
const window = { telemetryWindowS: 1 };
let fleet: Fleet;
let dir: string;
let agent: Agent;

const made = freshDevice(device);
beforeEach(async () => {
  ({ fleet, dir } = made);
  await colourFrames(join(dir, 'frames'));
});

const start = async (env: Record<string, string> = {}) => {
  agent = await made.start({ FRAMES_DIR: join(dir, 'frames'), FRAMES_FPS: '50', REEF_LOCAL_API: '127.0.0.1:0', REEF_DISK_RESERVE: '0', ...env });
};
const ended = async (revision: number) => (await fleet.reportWhere(({ workloads }) => workloads.classifier?.execution?.revision === revision && !['QUEUED', 'IN_PROGRESS'].includes(workloads.classifier.execution.state), 60_000)).workloads.classifier!;
const want = (revision: number, bundle: string, shadow?: object) => fleet.want(device, revision, { classifier: { bundle, policy: { observeS: 0, ...(shadow ? { shadow: shadow as never } : {}) } } }, window);
const shadowed = (bundle: string) => fleet.windows.flatMap(({ shadow, bundle: active }) => (shadow?.bundle === bundle ? [{ ...shadow, active, activeCount: Sketch.fromBase64(shadow.active).count }] : []));

it('a candidate sees live frames beside the model that serves, and only then takes its place', async () => {
  await start();
  const [one, two, wrong] = [fleet.publish(1), fleet.publish(2), fleet.publish(3, { wrong: true })];
  await want(1, one.bundle);
  await ended(1);

  // Frames of the folder and a client's tensors, alike.
  const asking = new AbortController();
  const tensor = Buffer.alloc(32 * 32 * 3, Buffer.from([100, 156, 156]));
  const client = (async () => {
    const seen: string[] = [];
    while (!asking.signal.aborted) {
      const header = Buffer.from(JSON.stringify({ inputs: [{ name: 'picture', shape: [1, 32, 32, 3], datatype: 'INT8', parameters: { binary_data_size: tensor.length } }] }));
      const response = await fetch(`${agent.localUrl}/v2/models/classifier/infer`, { method: 'POST', body: Buffer.concat([header, tensor]), headers: { 'inference-header-content-length': `${header.length}` } });
      seen.push(`${response.status} ${response.headers.get('x-reef-bundle')}`);
    }
    return seen;
  })();
  await want(2, two.bundle, { everyN: 2, frames: 40, maxAddedPercent: 1_000, maxS: 50 });
  expect(await ended(2)).toMatchObject({ running: two.bundle, execution: { state: 'SUCCEEDED' } });
  asking.abort();
  const seen = await client;
  expect(seen.filter((line) => !line.startsWith('200 '))).toEqual([]);
  expect(seen.map((line) => [one.bundle, two.bundle].indexOf(line.slice(4)))).toEqual(seen.map((line) => [one.bundle, two.bundle].indexOf(line.slice(4))).toSorted());
  const steps = fleet.reports.map(({ workloads }) => workloads.classifier?.execution).filter((execution) => execution?.revision === 2).map((execution) => execution!.step);
  expect(steps.indexOf('shadow')).toBeGreaterThan(-1);
  expect((await ended(2)).execution!.notes).toBeUndefined();

  const total = await eventually(() => {
    const windows = shadowed(two.bundle);
    return windows.reduce((sum, { frames }) => sum + frames, 0) >= 40 && windows;
  });
  // Told in the windows of what served, never as answers of the candidate.
  expect(new Set(total.map(({ active }) => active))).toEqual(new Set([one.bundle]));
  expect(total.reduce((sum, { agreed }) => sum + agreed, 0)).toBe(total.reduce((sum, { frames }) => sum + frames, 0));
  for (const { latency, frames, activeCount } of total) expect([Sketch.fromBase64(latency).count, activeCount]).toEqual([frames, frames]);

  // One that always answers another class disagrees on every frame. It is the rollout's gate that judges this.
  await want(3, wrong.bundle, { everyN: 1, frames: 20, maxAddedPercent: 1_000, maxS: 50 });
  expect(await ended(3)).toMatchObject({ running: wrong.bundle });
  const disagreed = await eventually(() => shadowed(wrong.bundle).reduce((sum, { frames }) => sum + frames, 0) >= 20 && shadowed(wrong.bundle));
  expect(disagreed.reduce((sum, { agreed }) => sum + agreed, 0)).toBe(0);
}, 120_000);

it('one that cannot do the live frames never serves, and too few frames are said', async () => {
  await start();
  const one = fleet.publish(1);
  const unfit = fleet.publish(2, { alter: (manifest) => ({ ...manifest, inputs: [{ ...manifest.inputs[0]!, preprocessing: { kind: 'image', width: 16, height: 16, channels: 3, resize: 'stretch', mean: [0], std: [255] } }] }) });
  await want(1, one.bundle);
  await ended(1);
  const before = agent.children.classifier;
  await want(2, unfit.bundle, { everyN: 1, frames: 40, maxAddedPercent: 1_000, maxS: 50 });
  expect(await ended(2)).toMatchObject({ running: one.bundle, execution: { state: 'FAILED', step: 'shadow', failure: { code: 'shadow.errors' } } });
  expect(agent.children.classifier).toBe(before);
  // All of them failed; a window's end may lie in between.
  await eventually(() => shadowed(unfit.bundle).reduce((sum, { errors }) => sum + errors, 0) >= 5);
  expect(shadowed(unfit.bundle).every(({ errors, frames }) => errors === frames)).toBe(true);

  const three = fleet.publish(3);
  await want(3, three.bundle, { everyN: 1, frames: 100_000, maxAddedPercent: 1_000, maxS: 1 });
  const late = await ended(3);
  expect(late).toMatchObject({ running: three.bundle, execution: { state: 'SUCCEEDED', notes: [{ code: 'shadow.too_few_frames', message: expect.stringMatching(/^\d+ of 100000 frames/) }] } });
  expect(JSON.parse(await readFile(join(dir, 'state.json'), 'utf8')).workloads.classifier.execution.notes).toHaveLength(1);
}, 120_000);
