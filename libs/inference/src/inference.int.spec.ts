import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { coloursModel, colourLabels } from '../../../test/support/colours.ts';
import { dequantise, Interpreter, openInferenceHost, probeEdgeTpus, quantisePixels, readImage, topK, type InferenceHost } from './index.ts';

const shared = process.env.REEF_SHARED ?? join(import.meta.dirname, '../../../../shared');
const coral = join(shared, 'fixtures/coral');
const noShared = !existsSync(coral);
const labels: readonly string[] = colourLabels;
const colours = coloursModel();
const pureColours: Record<string, [number, number, number]> = { red: [220, 20, 20], green: [20, 200, 30], blue: [20, 30, 220], yellow: [230, 220, 20] };
const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

/** A picture of one colour as the fixture models take it: 32 x 32 x 3, pixel / 255 quantised by the model's own input. */
function picture(colour: string, input: Interpreter['inputs'][number]): Buffer {
  const pixels = Buffer.alloc(32 * 32 * 3);
  for (let at = 0; at < pixels.length; at += 1) pixels[at] = pureColours[colour]![at % 3]!;
  return quantisePixels(pixels, { kind: 'image', width: 32, height: 32, channels: 3, resize: 'stretch', mean: [0], std: [255] }, input);
}

describe('preprocessing', () => {
  it('quantises by round((pixel - mean) / std / scale) + zeroPoint, clamped', () => {
    const wanted = { kind: 'image' as const, width: 2, height: 1, channels: 3 as const, resize: 'stretch' as const, mean: [127.5], std: [127.5] };
    const bytes = quantisePixels(Buffer.from([0, 127, 128, 255, 64, 191]), wanted, { dtype: 'int8', scale: 1 / 128, zeroPoint: 0 });
    // (0-127.5)/127.5*128 = -128; 127: -0.502 -> -1; 128: 0.502 -> 1; 255: 128 clamped to 127; 64: -63.7 -> -64; 191: 63.7 -> 64
    expect([...new Int8Array(bytes.buffer, bytes.byteOffset, 6)]).toEqual([-128, -1, 1, 127, -64, 64]);
  });

  it('takes one mean and std per channel', () => {
    const wanted = { kind: 'image' as const, width: 1, height: 1, channels: 3 as const, resize: 'stretch' as const, mean: [10, 20, 30], std: [1, 2, 5] };
    expect([...quantisePixels(Buffer.from([15, 30, 130]), wanted, { dtype: 'uint8', scale: 1, zeroPoint: 100 })]).toEqual([105, 105, 120]);
  });

  it('refuses pixels of another size', () => {
    const wanted = { kind: 'image' as const, width: 2, height: 2, channels: 3 as const, resize: 'stretch' as const, mean: [0], std: [1] };
    expect(() => quantisePixels(Buffer.alloc(11), wanted, { dtype: 'uint8', scale: 1, zeroPoint: 0 })).toThrow(/12 bytes, not 11/);
  });
});

describe('interpreter', () => {
  it.each(labels)('knows %s', (colour) => {
    const model = Interpreter.load(colours);
    const { outputs } = model.run([picture(colour, model.inputs[0]!)]);
    expect(labels[topK(dequantise(outputs[0]!, model.outputs[0]!), 1)[0]!.index]).toBe(colour);
    model.close();
    model.close();
    expect(() => model.run([Buffer.alloc(1)])).toThrow(/unloaded/);
  });

  it('says what the tensors are', () => {
    const model = Interpreter.load(colours);
    expect(model.inputs).toMatchObject([{ shape: [1, 32, 32, 3], dtype: 'int8', bytes: 3072 }]);
    expect(model.outputs).toMatchObject([{ shape: [1, 4], dtype: 'int8', bytes: 4, scale: 1 / 256, zeroPoint: -128 }]);
    expect(() => model.run([Buffer.alloc(3071)])).toThrow(/takes 3072 bytes, not 3071/);
    model.close();
  });

  it.each([['nothing', Buffer.alloc(0)], ['noise', Buffer.alloc(4_096, 7)], ['a PNG', Buffer.from('\x89PNG\r\n\x1a\n0000', 'latin1')]])('refuses %s', (_, bytes) => {
    expect(() => Interpreter.load(bytes)).toThrow(expect.objectContaining({ code: 'inference.not_a_model' }));
  });

  it.skipIf(noShared)('refuses a compiled model without an Edge TPU (needs shared fixtures)', async () => {
    const bytes = await readFile(join(coral, 'mobilenet_v1_0.25_128_quant_edgetpu.tflite'));
    expect(() => Interpreter.load(bytes)).toThrow(expect.objectContaining({ code: 'inference.needs_edgetpu' }));
  });

  it.skipIf(noShared)('runs a public uint8 model that XNNPACK refuses, and knows the cat (needs shared fixtures)', async () => {
    const model = Interpreter.load(await readFile(join(coral, 'mobilenet_v2_1.0_224_quant.tflite')));
    const wanted = { kind: 'image' as const, width: 224, height: 224, channels: 3 as const, resize: 'stretch' as const, mean: [127.5], std: [127.5] };
    const pixels = await readImage(join(coral, 'cat_720p.jpg'), wanted);
    const { outputs } = model.run([quantisePixels(pixels, wanted, model.inputs[0]!)]);
    const names = (await readFile(join(coral, 'imagenet_labels.txt'), 'utf8')).split('\n');
    expect(names[topK(dequantise(outputs[0]!, model.outputs[0]!), 1)[0]!.index]).toMatch(/cat/i);
    model.close();
  });
});

describe('inference host', () => {
  let host: InferenceHost;
  let digest: string;
  let dir: string;
  let path: string;
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'reef-inference-'));
    path = join(dir, 'colours.tflite');
    await writeFile(path, colours);
    digest = sha256(colours);
    host = openInferenceHost();
  });
  afterAll(async () => { await host.close(); await rm(dir, { recursive: true }); });

  it('gives the same answers with ballast, later', () => {
    const [light, heavy] = [Interpreter.load(colours), Interpreter.load(coloursModel({ ballast: 3 }))];
    const input = picture('blue', light.inputs[0]!);
    expect(heavy.run([input]).outputs).toEqual(light.run([input]).outputs);
    light.close();
    heavy.close();
  });

  it('answers as the interpreter does, and several models at once', async () => {
    const direct = Interpreter.load(colours);
    const [first, second] = await Promise.all([host.load({ path, digest }), host.load({ path, digest })]);
    for (const colour of labels) {
      const input = picture(colour, first.inputs[0]!);
      const wanted = direct.run([input]).outputs[0]!;
      expect(Buffer.from((await first.infer([input])).outputs[0]!)).toEqual(wanted);
      expect(Buffer.from((await second.infer([input])).outputs[0]!)).toEqual(wanted);
    }
    await second.unload();
    await expect(second.infer([picture('red', first.inputs[0]!)])).rejects.toMatchObject({ code: 'inference.closed' });
    direct.close();
  });

  it('never loads bytes with another digest', async () => {
    const bytes = Buffer.from(colours);
    bytes[bytes.length - 200]! ^= 1;
    await writeFile(join(dir, 'damaged.tflite'), bytes);
    await expect(host.load({ path: join(dir, 'damaged.tflite'), digest })).rejects.toMatchObject({ code: 'artifact.checksum_mismatch' });
  });

  it('probes for Edge TPUs without one', async () => {
    expect(await host.probe()).toMatchObject({ tfliteVersion: '2.9.0', devices: [] });
    expect(probeEdgeTpus('/nonexistent/libedgetpu.so')).toEqual({ version: null, runtime: null, devices: [] });
  });

  it('a killed child rejects what is pending and says so once', async () => {
    const doomed = openInferenceHost();
    const model = await doomed.load({ path, digest });
    const exits: string[] = [];
    doomed.on('exit', (reason) => exits.push(reason.code));
    process.kill(doomed.pid!, 'SIGKILL');
    await expect(model.infer([picture('red', model.inputs[0]!)])).rejects.toMatchObject({ code: 'inference.crashed' });
    await expect(model.infer([picture('red', model.inputs[0]!)])).rejects.toMatchObject({ code: 'inference.crashed' });
    await new Promise((resolve) => { setTimeout(resolve, 100); });
    expect(exits).toEqual(['inference.crashed']);
  });

  it('a hanging child is killed at the deadline', async () => {
    const hanging = openInferenceHost({ inferenceDeadlineMs: 300 });
    const model = await hanging.load({ path, digest });
    process.kill(hanging.pid!, 'SIGSTOP');
    await expect(model.infer([picture('red', model.inputs[0]!)])).rejects.toMatchObject({ code: 'inference.hung' });
  });

  it('the deadline is that of the call the child works on, not of those waiting behind it', async () => {
    const slow = openInferenceHost({ inferenceDeadlineMs: 4_000 });
    const model = await slow.load({ path, digest });
    process.kill(slow.pid!, 'SIGSTOP');
    const calls = Array.from({ length: 3 }, () => model.infer([picture('red', model.inputs[0]!)]));
    await new Promise((resolve) => { setTimeout(resolve, 500); });
    process.kill(slow.pid!, 'SIGCONT');
    expect(await Promise.all(calls)).toHaveLength(3);
    await slow.close();
  });

  it('a refused model comes with what TensorFlow Lite said, and the next one without', async () => {
    await writeFile(join(dir, 'noise'), Buffer.alloc(4_096, 7));
    const noise = { path: join(dir, 'noise'), digest: sha256(Buffer.alloc(4_096, 7)) };
    await expect(host.load(noise)).rejects.toMatchObject({ code: 'inference.not_a_model', message: expect.stringContaining('TensorFlow Lite says: The model is not a valid Flatbuffer buffer') });
    await expect(host.load({ path, digest: 'f'.repeat(64) })).rejects.toMatchObject({ message: expect.not.stringContaining('Flatbuffer') });
  });

  it('measures in the child, and counts processor time', async () => {
    const model = await host.load({ path, digest });
    const { totalUs, cpuUs } = await model.bench([picture('red', model.inputs[0]!)], 50);
    expect(totalUs).toHaveLength(50);
    expect(Math.min(...totalUs)).toBeGreaterThan(0);
    expect(cpuUs).toBeGreaterThan(0);
    await model.unload();
  });

  it.skipIf(process.platform !== 'linux')('a child whose parent was killed is gone too, even while it is stopped in native code (Linux)', async () => {
    const parent = spawn(process.execPath, ['--conditions=@reefkeeper/source', '--experimental-transform-types', '--input-type=module', '-e', `
      import { openInferenceHost } from ${JSON.stringify(join(import.meta.dirname, 'index.ts'))};
      const host = openInferenceHost();
      await host.probe();
      console.log(host.pid);
      setInterval(() => {}, 1000);
    `], { stdio: ['ignore', 'pipe', 'ignore'], cwd: import.meta.dirname });
    const orphan = await new Promise<number>((resolve) => { parent.stdout.once('data', (line: Buffer) => resolve(Number(line.toString()))); });
    process.kill(orphan, 'SIGSTOP');
    parent.kill('SIGKILL');
    await expect.poll(() => existsSync(`/proc/${orphan}`) && !/State:\s+Z/.test(readFileSync(`/proc/${orphan}/status`, 'utf8')), { timeout: 10_000 }).toBe(false);
  });

  it('damaged files give an error, an answer or a dead child, and never harm the parent (600 mutations)', async () => {
    const file = join(dir, 'mutant.tflite');
    let seed = 12_345;
    const random = (below: number) => { seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31; return seed % below; };
    let victim = openInferenceHost();
    let ran = 0;
    let crashed = 0;
    for (let round = 0; round < 600; round += 1) {
      const mutant = Buffer.from(colours);
      if (round % 3 === 0) mutant.writeInt32LE(random(2 ** 31) - 2 ** 30, random(mutant.length - 4));
      else if (round % 3 === 1) mutant[random(mutant.length)]! ^= 1 << random(8);
      const kept = round % 3 === 2 ? mutant.subarray(0, random(mutant.length)) : mutant;
      await writeFile(file, kept);
      const outcome = await victim.load({ path: file, digest: sha256(kept) }).then(async (model) => {
        const answer = await model.infer(model.inputs.map((input) => Buffer.alloc(input.bytes))).catch((error: { code: string }) => error);
        await model.unload();
        return answer;
      }).catch((error: { code: string }) => error);
      if ('outputs' in outcome) {
        ran += 1;
      } else if (outcome.code === 'inference.crashed') {
        crashed += 1;
        victim = openInferenceHost();
      } else {
        expect(outcome.code).toMatch(/^inference\.(not_a_model|unsupported_model|failed|input_size)$/);
      }
    }
    await victim.close();
    expect(ran).toBeGreaterThan(0);
    // TFLite's own checks catch nearly all; the digest check keeps such files from ever getting here.
    expect(crashed).toBeLessThan(30);
  }, 120_000);
});
