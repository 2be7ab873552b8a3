import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ExpectedTensors, TensorInfo } from './tensor.ts';

/** A model as any backend hands it out: in this process, in a child, on a (fake) Edge TPU. */
export interface ConformingModel {
  readonly inputs: readonly TensorInfo[];
  readonly outputs: readonly TensorInfo[];
  readonly backend: 'cpu' | 'edgetpu';
  infer(inputs: Uint8Array[]): Promise<{ outputs: Uint8Array[]; invokeUs: number }>;
  unload(): Promise<void>;
}

export interface Backend {
  load(file: { path: string; bytes: Buffer; digest: string; expect?: ExpectedTensors }): Promise<ConformingModel>;
  close(): Promise<void>;
}

export interface Conformance {
  backend: 'cpu' | 'edgetpu';
  open(): Promise<Backend>;
  /** A model the backend runs, of one input and one output. */
  model(): Buffer;
  /** What it must answer, exactly. */
  answer(input: Buffer, model: ConformingModel): Buffer;
}

/** What every backend promises. Registers its tests under `name`. */
export function conformance(name: string, subject: Conformance): void {
  describe(name, () => {
    let dir: string;
    let backend: Backend;
    let bytes: Buffer;
    const file = async (content: Buffer, at = 'model.tflite') => {
      const path = join(dir, at);
      await writeFile(path, content);
      return { path, bytes: content, digest: createHash('sha256').update(content).digest('hex') };
    };
    const patterns = (model: ConformingModel) => [0, 1, 77, 128, 255].map((seed) => Buffer.from(Array.from({ length: model.inputs[0]!.bytes }, (_, at) => (seed + at * 7) & 0xff)));

    beforeAll(async () => {
      dir = await mkdtemp(join(tmpdir(), 'reef-conformance-'));
      backend = await subject.open();
      bytes = subject.model();
    });
    afterAll(async () => {
      await backend?.close();
      await rm(dir, { recursive: true, force: true });
    });

    it('describes its tensors and says what runs it', async () => {
      const model = await backend.load(await file(bytes));
      expect(model.backend).toBe(subject.backend);
      for (const tensor of [...model.inputs, ...model.outputs]) {
        expect(tensor.bytes).toBe(tensor.shape.reduce((product, dim) => product * dim, 1));
        expect(tensor.dtype).toMatch(/^u?int8$/);
        expect(tensor.name).not.toBe('');
      }
      await model.unload();
    });

    it('answers right, the same each time, and keeps no trace of the input before', async () => {
      const model = await backend.load(await file(bytes));
      const wanted = patterns(model).map((input) => subject.answer(input, model));
      for (let round = 0; round < 2; round += 1) {
        for (const [index, input] of patterns(model).entries()) {
          const { outputs, invokeUs } = await model.infer([input]);
          expect(Buffer.from(outputs[0]!)).toEqual(wanted[index]);
          expect(invokeUs).toBeGreaterThan(0);
        }
      }
      await model.unload();
    });

    it('outputs are the caller\'s own: a later run does not change them', async () => {
      const model = await backend.load(await file(bytes));
      const [one, , other] = patterns(model) as [Buffer, Buffer, Buffer];
      const { outputs } = await model.infer([one]);
      const kept = Buffer.from(outputs[0]!);
      await model.infer([other]);
      await model.unload();
      expect(Buffer.from(outputs[0]!)).toEqual(kept);
    });

    it('runs several models side by side and unloads each alone', async () => {
      const [first, second] = [await backend.load(await file(bytes, 'a')), await backend.load(await file(bytes, 'b'))];
      const input = patterns(first)[2]!;
      await first.unload();
      expect(Buffer.from((await second.infer([input])).outputs[0]!)).toEqual(subject.answer(input, second));
      await second.unload();
    });

    it('refuses inputs of another size or number, and works on', async () => {
      const model = await backend.load(await file(bytes));
      const input = patterns(model)[0]!;
      for (const wrong of [[], [input, input], [input.subarray(1)], [Buffer.concat([input, Buffer.alloc(1)])]]) {
        await expect(model.infer(wrong)).rejects.toMatchObject({ code: 'inference.input_size' });
      }
      expect(Buffer.from((await model.infer([input])).outputs[0]!)).toEqual(subject.answer(input, model));
      await model.unload();
    });

    it('takes an input that is a window into a larger buffer', async () => {
      const model = await backend.load(await file(bytes));
      const input = patterns(model)[1]!;
      const larger = Buffer.concat([Buffer.alloc(13, 1), input, Buffer.alloc(9, 2)]);
      expect(Buffer.from((await model.infer([larger.subarray(13, 13 + input.length)])).outputs[0]!)).toEqual(subject.answer(input, model));
      await model.unload();
    });

    it('an unloaded model answers with an error, not with a crash', async () => {
      const model = await backend.load(await file(bytes));
      const input = patterns(model)[0]!;
      await model.unload();
      await expect(model.infer([input])).rejects.toMatchObject({ code: 'inference.closed' });
    });

    it('refuses a file whose tensors are not the promised ones', async () => {
      const model = await backend.load(await file(bytes));
      const promised = { inputs: [...model.inputs], outputs: [...model.outputs] };
      await model.unload();
      await (await backend.load({ ...await file(bytes), expect: promised })).unload();
      const other = { ...promised, outputs: [{ ...promised.outputs[0]!, shape: [1, 9], scale: 0.5 }] };
      await expect(backend.load({ ...await file(bytes), expect: other })).rejects.toMatchObject({ code: 'inference.tensors_differ', message: expect.stringMatching(/output 0 has shape .* instead of 1x9/) });
    });

    it.each([
      ['an empty file', () => Buffer.alloc(0)], ['one byte', () => Buffer.alloc(1)], ['noise', () => Buffer.alloc(4_096, 7)],
      ['a PNG', () => Buffer.from('\x89PNG\r\n\x1a\n\0\0\0\rIHDR', 'latin1')], ['JSON', () => Buffer.from('{"model": "colours"}')],
      ['the first half', () => bytes.subarray(0, bytes.length >> 1)], ['only the head', () => bytes.subarray(0, 64)],
    ])('refuses %s', async (_, content) => {
      await expect(backend.load(await file(content(), 'bad'))).rejects.toMatchObject({ code: expect.stringMatching(/^inference\.(not_a_model|needs_edgetpu)$/) });
    });
  });
}
