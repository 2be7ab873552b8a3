import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import koffi from 'koffi';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { coloursModel } from '../../../test/support/colours.ts';
import { compiledModel } from '../../../test/support/compiled.ts';
import { conformance, type Backend } from './conformance.fixture.ts';
import { buildFakeEdgeTpu, canBuildFakeEdgeTpu, fakeAnswer, fakeDevices } from './fake-edgetpu.fixture.ts';
import { Interpreter, openInferenceHost, probeEdgeTpus, type InferenceHost, type InterpreterOptions } from './index.ts';

const coral = join(process.env.REEF_SHARED ?? join(import.meta.dirname, '../../../../shared'), 'fixtures/coral');
const noShared = !existsSync(coral);

function inProcess(options: InterpreterOptions = {}): Backend {
  return {
    load: async ({ bytes, expect: promised }) => {
      const model = Interpreter.load(bytes, { ...options, ...(promised ? { expect: promised } : {}) });
      return { inputs: model.inputs, outputs: model.outputs, backend: model.backend, infer: async (inputs) => model.run(inputs), unload: async () => model.close() };
    },
    close: async () => {},
  };
}

function inChild(edgetpu?: InterpreterOptions['edgetpu']): Backend {
  const host = openInferenceHost();
  return {
    load: ({ path, digest, expect: promised }) => host.load({ path, digest, ...(promised ? { expect: promised } : {}), ...(edgetpu ? { edgetpu } : {}) }),
    close: () => host.close(),
  };
}

/** All ways in must agree to the bit; that the answers are right colours is shown in inference.int.spec.ts. */
let reference: Interpreter | undefined;
const onCpu = { backend: 'cpu' as const, model: () => coloursModel(), answer: (input: Buffer) => (reference ??= Interpreter.load(coloursModel())).run([input]).outputs[0]! };
conformance('CPU, in this process', { ...onCpu, open: async () => inProcess() });
conformance('CPU, in a child process', { ...onCpu, open: async () => inChild() });

describe.skipIf(!canBuildFakeEdgeTpu)('with a stand-in for libedgetpu (needs gcc)', () => {
  const fake = canBuildFakeEdgeTpu ? buildFakeEdgeTpu() : { library: '', remove: () => {} };
  afterAll(() => fake.remove());
  const on = (mood: keyof typeof fakeDevices) => ({ device: fakeDevices[mood], library: fake.library });
  const onTpu = { backend: 'edgetpu' as const, model: compiledModel, answer: (input: Buffer) => fakeAnswer([input], 10) };

  conformance('Edge TPU, in this process', { ...onTpu, open: async () => inProcess({ edgetpu: on('good') }) });
  conformance('Edge TPU, in a child process', { ...onTpu, open: async () => inChild(on('good')) });

  describe('devices and their moods', () => {
    let host: InferenceHost;
    let dir: string;
    let file: { path: string; digest: string };
    const store = async (name: string, bytes: Buffer) => {
      await writeFile(join(dir, name), bytes);
      return { path: join(dir, name), digest: createHash('sha256').update(bytes).digest('hex') };
    };
    beforeAll(async () => {
      dir = await mkdtemp(join(tmpdir(), 'reef-edgetpu-'));
      file = await store('compiled', compiledModel());
      host = openInferenceHost({ inferenceDeadlineMs: 5_000 });
    });
    afterAll(async () => { await host.close(); await rm(dir, { recursive: true }); });

    it('the probe tells version, runtime and devices', async () => {
      const found = { version: 'BuildLabel(FAKE), RuntimeVersion(14)', runtime: 14, devices: Object.values(fakeDevices) };
      expect(probeEdgeTpus(fake.library)).toEqual(found);
      expect(await host.probe(fake.library)).toEqual({ ...found, tfliteVersion: '2.9.0' });
    });

    it('every delegate is given back, also where loading fails', () => {
      const open = koffi.load(fake.library).func('int fake_open_delegates()') as () => number;
      const model = Interpreter.load(compiledModel(), { edgetpu: on('good') });
      expect(open()).toBe(1);
      model.close();
      for (const refused of [
        () => Interpreter.load(compiledModel(), { edgetpu: on('old') }),
        () => Interpreter.load(compiledModel(), { edgetpu: on('good'), expect: { inputs: [], outputs: [] } }),
        () => Interpreter.load(Buffer.alloc(2_000, 1), { edgetpu: on('good') }),
      ]) expect(refused).toThrow(/./);
      expect(open()).toBe(0);
    });

    it('without an Edge TPU a compiled model says that it needs one', async () => {
      await expect(host.load(file)).rejects.toMatchObject({ code: 'inference.needs_edgetpu' });
    });

    it('a path that is not listed is never opened; one that does not answer gives no device', async () => {
      await expect(host.load({ ...file, edgetpu: { device: { type: 'usb', path: '/sys/bus/usb/devices/9-9' }, library: fake.library } })).rejects.toMatchObject({ code: 'inference.no_device' });
      await expect(host.load({ ...file, edgetpu: on('dead') })).rejects.toMatchObject({ code: 'inference.no_device' });
    });

    it('an old runtime refuses the model, in its own words', async () => {
      await expect(host.load({ ...file, edgetpu: on('old') })).rejects.toMatchObject({ code: 'inference.edgetpu_refused', message: expect.stringContaining('Package requires runtime version (15)') });
    });

    it('a device lost while running fails that inference, and the child lives', async () => {
      const model = await host.load({ ...file, edgetpu: on('lost') });
      await expect(model.infer([Buffer.alloc(192)])).rejects.toMatchObject({ code: 'inference.failed', retryable: true });
      await model.unload();
      await (await host.load({ ...file, edgetpu: on('good') })).unload();
    });

    it('a driver that hangs is killed at the deadline of the call, and it is known whose call that was', async () => {
      const hanging = openInferenceHost();
      const [good, model] = [await hanging.load({ ...file, edgetpu: on('good') }), await hanging.load({ ...file, edgetpu: on('hang') })];
      const ended = new Promise((resolve) => { hanging.on('exit', resolve); });
      const behind = model.infer([Buffer.alloc(192)], { deadlineMs: 300 });
      const waiting = good.infer([Buffer.alloc(192)]);
      await expect(behind).rejects.toMatchObject({ code: 'inference.hung' });
      await expect(waiting).rejects.toMatchObject({ code: 'inference.hung' });
      await ended;
      expect(hanging.diedOver).toBe(model.id);
    });

    it.skipIf(noShared).each([
      'mobilenet_v1_0.25_128_quant_edgetpu.tflite', 'keras_lstm_mnist_ptq_edgetpu.tflite', 'tools/split_concat_edgetpu.tflite',
      'mobilenet_v1_1.0_224_quant_embedding_extractor_edgetpu.tflite', 'pipeline/ssd_mobilenet_v2_coco_quant_postprocess_segment_0_of_2_edgetpu.tflite',
    ])('loads and runs the public compiled model %s (needs shared fixtures)', async (name) => {
      const model = await host.load({ ...await store('public', await readFile(join(coral, name))), edgetpu: on('good') });
      expect(model.backend).toBe('edgetpu');
      const { outputs } = await model.infer(model.inputs.map(({ bytes }) => Buffer.alloc(bytes, 1)));
      expect(outputs.map(({ byteLength }) => byteLength)).toEqual(model.outputs.map(({ bytes }) => bytes));
      await model.unload();
    });
  });
});
