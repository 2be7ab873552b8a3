import { stripVTControlCharacters } from 'node:util';
import { describe, expect, it } from 'vitest';
import { readModel } from '@reefkeeper/edgetpu';
import { compiledModel, TfliteBuilder } from '@reefkeeper/edgetpu/fixture';
import { inspectFiles, inspectText } from './inspect.ts';
import type { ModelFile } from './model-file.ts';

const file = (path: string, bytes: Uint8Array): ModelFile => ({ path, bytes, model: readModel(bytes) });
const textOf = (...args: Parameters<typeof inspectFiles>): string => stripVTControlCharacters(inspectText(inspectFiles(...args)));

/** What `compiledModel` could have been compiled from. */
function source(input = 'picture', classes = 10): Uint8Array {
  const net = new TfliteBuilder();
  const features = net.conv(net.input([1, 8, 8, 3], { name: input, type: 'UINT8', scale: 1 / 255 }), 8);
  const scores = net.dense(net.flatten(features), classes);
  return net.output(scores).build();
}

describe('a compiled model', () => {
  const compiled = file('model_edgetpu.tflite', compiledModel({ minRuntime: 13, token: 0xabcn, onChipBytes: 4096, streamedBytes: 1500, scratchBytes: 672, instructionBytes: 3000 }));

  it('what is inside', () => {
    const text = textOf([compiled]);
    for (const line of [
      /compiled +for the Edge TPU \(beagle\), runtime 13 and newer/, /token +0000000000000abc/, /compiler +cl\/343520747/, /parameters +4\.1 kB on the chip, 1\.5 kB sent again at every inference/,
      /instructions +3\.0 kB at every inference/, /scratch +672 B/, /on the CPU +nothing/, /input +picture +\[1, 8, 8, 3\] +uint8 +q \* 0\.00392157/, /output +scores +\[1, 10\] +uint8/, /With --source MODEL/,
    ]) expect(text).toMatch(line);
    expect(text).not.toMatch(/warning|models of one token/);
  });

  it('with the model it came from: latency by host class, a quarter up and down', () => {
    const reports = inspectFiles([compiled], [file('whatever.tflite', source())]);
    expect(reports.files[0]).toMatchObject({ compiled: true, latency: [{ hostClass: 'usb3', calibrated: false }, { hostClass: 'usb2' }], latencyNotes: [] });
    const [usb3] = (reports.files[0] as { latency: { ms: number; lowMs: number; highMs: number }[] }).latency;
    expect(usb3!.lowMs / usb3!.ms).toBeCloseTo(0.75);
    expect(usb3!.highMs / usb3!.ms).toBeCloseTo(1.25);
    // 1,500 streamed bytes at 3 ms per MB and 3,000 of instructions are the compiled file's own, not the guesses.
    expect(usb3!.ms).toBeCloseTo(0.281 + 3.02 * 192e-6 + 32 * 10e-6 + 2.16 * 3000e-6 + 3 * 1500e-6, 2);
    expect(stripVTControlCharacters(inspectText(reports))).toMatch(/usb3 +0\.3 ms +0\.2 to 0\.4 ms/);
  });

  it('where the compiler left more on the CPU than the rules say, the prediction says so', () => {
    const net = new TfliteBuilder();
    const picture = net.input([1, 8, 8, 3], { type: 'UINT8' });
    net.output(net.dense(net.flatten(net.layer('LEAKY_RELU', net.conv(picture, 4), [1, 8, 8, 4])), 10));
    expect(inspectFiles([compiled], [file('x.tflite', net.build())]).files[0]).toMatchObject({ latencyNotes: [expect.stringMatching(/3 operator\(s\) run on the CPU/), expect.stringMatching(/left 0 operators on the CPU, the rules say 3/)] });
  });

  it.each<[string, string[], string, RegExp]>([
    ['of another model', ['model_edgetpu.tflite'], 'other.tflite', /other\.tflite is not what model_edgetpu\.tflite was compiled from: its inputs or outputs are uint8 \[1, 8, 8, 3\] to uint8 \[1, 7\], not .*\[1, 10\]/],
    ['of none of several', ['a_edgetpu.tflite', 'b_edgetpu.tflite'], 'c.tflite', /c\.tflite belongs to none of the compiled files/],
  ])('a source %s is refused', (_, compiledPaths, path, says) => {
    expect(() => inspectFiles(compiledPaths.map((one) => file(one, compiledModel())), [file(path, source('picture', 7))])).toThrow(expect.objectContaining({ code: 'option.invalid', message: expect.stringMatching(says) as string }));
  });

  it('of several, each source goes to the one of its name', () => {
    const reports = inspectFiles([file('a_edgetpu.tflite', compiledModel()), file('b_edgetpu.tflite', compiledModel())], [file('sources/b.tflite', source())]);
    expect(reports.files.map((report) => report.compiled && report.latency !== null)).toEqual([false, true]);
  });
});

describe('several compiled models', () => {
  const part = (path: string, token: bigint | null, names: { input?: string; output?: string } = {}): ModelFile => file(path, compiledModel({ token }, names));

  it('one token: co-compiled, no warning', () => {
    expect(inspectFiles([part('a_edgetpu.tflite', 5n), part('b_edgetpu.tflite', 5n)])).toMatchObject({
      sets: [{ kind: 'co-compiled', token: '0000000000000005', files: ['a_edgetpu.tflite', 'b_edgetpu.tflite'], onChipBytes: 8192 }], warnings: [],
    });
  });

  it('one token and a tensor handed on: a pipeline', () => {
    // The same shape goes out of one and into the other.
    const first = part('m_segment_0_of_2_edgetpu.tflite', 9n, { output: 'middle' });
    const graph = first.model.subgraphs[0]!;
    graph.tensors[graph.outputs[0]!]!.shape = [1, 8, 8, 3];
    const second = part('m_segment_1_of_2_edgetpu.tflite', 9n, { input: 'middle' });
    expect(inspectFiles([first, second])).toMatchObject({ sets: [{ kind: 'pipeline' }], warnings: [] });
    expect(inspectFiles([first]).warnings).toEqual(['m is a pipeline of 2 segments; here is only 0.']);
  });

  it('tokens that differ: parameters are loaded at every switch', () => {
    const text = textOf([part('a_edgetpu.tflite', 1n), part('b_edgetpu.tflite', 2n), part('c_edgetpu.tflite', 1n)]);
    expect(text).toMatch(/a_edgetpu\.tflite +co-compiled +0000000000000001/);
    expect(text).toMatch(/warning: These models do not share a parameter-caching token \(a_edgetpu\.tflite \+ c_edgetpu\.tflite \| b_edgetpu\.tflite\)/);
  });
});

describe('a model that is not compiled', () => {
  it('tensors, operators, signatures, and where to go on', () => {
    const net = new TfliteBuilder();
    const picture = net.input([1, 8, 8, 3], { name: 'image', zeroPoint: -1 });
    const scores = net.softmax(net.dense(net.flatten(net.conv(net.conv(picture, 4), 4)), 10));
    net.output(scores);
    net.signatures = [{ key: 'serving_default', subgraph: 0, inputs: [{ name: 'x', tensor: picture }], outputs: [{ name: 'y', tensor: scores }] }];
    net.metadata = [{ name: 'min_runtime_version', bytes: Uint8Array.of(49) }];
    const text = textOf([file('model.tflite', net.build())]);
    for (const line of [/compiled +no/, /made by +built for a test/, /operators +5, of 4 kinds/, /signature +serving_default: x to y/, /metadata +min_runtime_version/, /input +image +\[1, 8, 8, 3\] +int8 +\(q \+ 1\) \* 0\.0078125/, /CONV_2D@3 +2/, /`reef check model\.tflite`/]) {
      expect(text).toMatch(line);
    }
  });

  it('named as compiled: unmasked', () => {
    expect(inspectFiles([file('x_edgetpu.tflite', source())])).toMatchObject({ files: [{ compiled: false, masked: true }], warnings: [expect.stringContaining('holds no edgetpu-custom-op')] });
  });
});
