import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { beforeEach, describe, expect, it } from 'vitest';
import type { Manifest } from '@reefkeeper/bundle';
import { decodeLearned } from '@reefkeeper/bundle/learned';
import { appendHead, readModel } from '@reefkeeper/edgetpu';
import { dequantise, Interpreter, quantisePixels, readImage } from '@reefkeeper/inference';
import { colourArchive, embeddingModel } from '../../../test/support/embeddings.ts';
import { freshDevice } from '../../../test/support/device.ts';
import { colourFrames, eventually, type Fleet } from '../../../test/support/fleet.ts';

const device = 'reef-learner';
let fleet: Fleet;
let dir: string;

const made = freshDevice(device);
beforeEach(async () => {
  ({ fleet, dir } = made);
  await colourFrames(join(dir, 'frames'));
  await made.start({ FRAMES_DIR: join(dir, 'frames'), FRAMES_FPS: '20' });
});

/** Brings a bundle onto the device and waits until it serves. */
async function serve(revision: number, bundle: string): Promise<void> {
  await fleet.want(device, revision, { classifier: { bundle, policy: { observeS: 0.2 } } }, { telemetryWindowS: 1 });
  await fleet.reportWhere(({ workloads }) => workloads.classifier?.execution?.revision === revision && workloads.classifier.execution.state === 'SUCCEEDED');
}

function publishModel(version: number, model: Buffer, about: Partial<Manifest>): { bundle: string; manifest: Manifest } {
  const interpreter = Interpreter.load(model);
  const outputs = interpreter.outputs.map(({ name, shape, scale, zeroPoint }) => ({ name, shape, dtype: 'int8' as const, scale, zeroPoint }));
  interpreter.close();
  return fleet.publish(version, { alter: (manifest) => ({ ...manifest, ...about, outputs, golden: null, variants: [{ name: 'cpu-int8', kind: 'cpu-int8', minRuntime: null, file: fleet.put(model) }] }) });
}

const extractor = () => publishModel(1, embeddingModel(), { task: 'embedding', labels: null });

async function learn(id: string, archive: Buffer, more: Record<string, unknown> = {}) {
  await fleet.command(device, { id, kind: 'learn', args: { workload: 'classifier', images: fleet.put(archive), ...more } });
  return eventually(() => fleet.results.find((result) => result.id === id));
}

/** What the model with the learnt head answers to frames that nobody has learnt from. */
async function answersOf(model: Buffer, manifest: Manifest, head: Parameters<typeof appendHead>[1]): Promise<Record<string, string>> {
  const interpreter = Interpreter.load(Buffer.from(appendHead(readModel(model), head)));
  const { preprocessing } = manifest.inputs[0]!;
  const answers: Record<string, string> = {};
  for (const file of (await readdir(join(dir, 'frames'))).filter((name) => name.endsWith('.png'))) {
    const wanted = preprocessing as Parameters<typeof quantisePixels>[1];
    const scores = dequantise(interpreter.run([quantisePixels(await readImage(join(dir, 'frames', file), wanted), wanted, interpreter.inputs[0]!)]).outputs[0]!, interpreter.outputs[0]!);
    answers[file] = `${head.labels[scores.indexOf(Math.max(...scores))]}.png`;
  }
  interpreter.close();
  return answers;
}

describe('learning on the device', () => {
  it.each(['imprinting', 'softmax-regression'])('%s: learns on the extractor it serves, tests itself, offers the head, and goes on serving', async (method) => {
    const { bundle, manifest } = extractor();
    await serve(1, bundle);
    const result = await learn('learn-1', await colourArchive(10, undefined, { 'red/broken.png': 'no picture', 'notes.txt': 'not an image' }), { method });
    expect(result).toMatchObject({ ok: true, result: { version: 'colours@9', job: 'job-1', labels: ['blue', 'green', 'red', 'yellow'], accuracy: 1, heldOut: true, images: 8, unreadable: ['red/broken.png'] } });
    const [offered] = fleet.learned;
    const learned = decodeLearned(offered!.content);
    expect(offered!.command).toBe('learn-1');
    expect(learned).toMatchObject({ bundle, variant: 'cpu-int8', backend: 'cpu', report: { method, selfTest: { images: 8, accuracy: 1 }, tools: { tensorflowLite: expect.stringMatching(/^2\.9/) } } });
    expect(learned.cases).toHaveLength(8);
    expect(new Set(learned.cases.map(({ label }) => label)).size).toBe(4);
    expect(await answersOf(embeddingModel(), manifest, learned.head)).toEqual({ 'red.png': 'red.png', 'green.png': 'green.png', 'blue.png': 'blue.png', 'yellow.png': 'yellow.png' });
    // It said where it was, serves what it served, and kept nothing.
    expect(fleet.reports.some(({ workloads }) => workloads.classifier?.learning?.command === 'learn-1')).toBe(true);
    const after = await fleet.reportWhere(({ workloads }) => workloads.classifier !== undefined && !workloads.classifier.learning);
    expect(after.workloads.classifier).toMatchObject({ running: bundle, execution: { revision: 1, state: 'SUCCEEDED' } });
    expect(existsSync(join(dir, 'learning/learn-1'))).toBe(false);
    const windows = fleet.windows.length;
    await eventually(() => fleet.windows.length > windows);
    expect(fleet.windows.at(-1)).toMatchObject({ bundle, errors: {} });
  });

  it('adds a class to what the running version was taught before', async () => {
    const { bundle } = extractor();
    await serve(1, bundle);
    await learn('first', await colourArchive(4, ['red', 'green']));
    const first = decodeLearned(fleet.learned[0]!.content);
    const { bundle: second, manifest } = publishModel(2, Buffer.from(appendHead(readModel(embeddingModel()), first.head)), { labels: first.head.labels });
    await serve(2, second);
    expect(await learn('second', await colourArchive(4, ['blue', 'yellow']))).toMatchObject({ ok: true, result: { labels: ['green', 'red', 'blue', 'yellow'] } });
    const { head, report } = decodeLearned(fleet.learned[1]!.content);
    expect(report.classes.map(({ label, before }) => `${label} ${before}`)).toEqual(['green 3', 'red 3', 'blue 0', 'yellow 0']);
    expect(head.sums!.slice(0, 2)).toEqual(first.head.sums);
    expect(await answersOf(embeddingModel(), manifest, head)).toEqual({ 'red.png': 'red.png', 'green.png': 'green.png', 'blue.png': 'blue.png', 'yellow.png': 'yellow.png' });
  });

  it('still answers a ping, and an answer that could not be sent comes with the next connection', async () => {
    await serve(1, extractor().bundle);
    let release = () => {};
    const archive = await colourArchive(6);
    const { digest } = fleet.put(archive);
    const held = new Promise<void>((resolve) => { release = resolve; });
    fleet.faults.set(digest, async () => { await held; return true; });
    const result = learn('slow', archive);
    await fleet.command(device, { id: 'ping', kind: 'ping' });
    expect(await eventually(() => fleet.results.find(({ id }) => id === 'ping'))).toMatchObject({ ok: true });
    expect(fleet.results.some(({ id }) => id === 'slow')).toBe(false);
    await fleet.stopBroker();
    release();
    await eventually(() => fleet.learned.length === 1);
    await fleet.startBroker();
    expect(await result).toMatchObject({ ok: true, result: { version: 'colours@9' } });
  });

  it('says what is wrong, offers nothing, and serves on', async () => {
    const { bundle } = extractor();
    await serve(1, bundle);
    const picture = await sharp({ create: { width: 40, height: 40, channels: 3, background: '#a03' } }).png().toBuffer();
    const alike = Object.fromEntries(['one', 'other'].flatMap((label) => Array.from({ length: 6 }, (_, at) => [`${label}/${at}.png`, picture])));
    const told: [string, Buffer, Record<string, unknown>, string, RegExp][] = [
      ['one-class', await colourArchive(3, ['red']), {}, 'learn.one_class', /one class \(red\)/],
      ['unreadable', await colourArchive(2, ['red'], { 'green/a.jpg': 'x', 'green/b.jpg': 'y' }), {}, 'learn.unreadable', /green\/a\.jpg, green\/b\.jpg/],
      ['no-image', await colourArchive(0, [], { 'red/readme.txt': 'x' }), {}, 'learn.no_classes', /no image/],
      ['no-archive', Buffer.from('not a tar'), {}, 'learn.archive_unreadable', /cannot be unpacked/],
      ['not-good', await colourArchive(0, [], alike), { minAccuracy: 0.9 }, 'learn.not_good_enough', /50\.0 % on 2 images/],
      ['too-few', await colourArchive(1), { method: 'softmax-regression' }, 'learn.too_few', /two images of every class/],
      ['arguments', await colourArchive(2), { method: 'magic' }, 'command.args_wrong', /method/],
      ['workload', await colourArchive(2), { workload: 'other' }, 'command.no_workload', /other/],
    ];
    for (const [id, archive, more, code, said] of told) expect(await learn(id, archive, more)).toMatchObject({ id, ok: false, failure: { code, message: expect.stringMatching(said) } });
    await serve(2, fleet.publish(2).bundle);
    expect(await learn('classifier', await colourArchive(2))).toMatchObject({ ok: false, failure: { code: 'learn.no_extractor', message: expect.stringContaining('embedding') } });
    expect(fleet.learned).toEqual([]);
    expect(existsSync(join(dir, 'learning'))).toBe(true);
    expect(await readdir(join(dir, 'learning'))).toEqual([]);
  });
});
