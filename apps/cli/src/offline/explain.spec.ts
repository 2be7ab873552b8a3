import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readModel } from '@reefkeeper/edgetpu';
import { compiledModel, TfliteBuilder } from '@reefkeeper/edgetpu/fixture';
import { genericFailure, goodReport, pickyCompiler, standInCompiler } from '../../../../test/support/stand-in-compiler.ts';
import { explain, explanationText, type ExplainOptions, type Explanation } from './explain.ts';

let dir: string;
beforeAll(async () => { dir = await mkdtemp(join(tmpdir(), 'reef-explain-spec-')); });
afterAll(async () => rm(dir, { recursive: true }));

/** Twelve convolutions; the biases of the 5th and 7th carry names that the stand-in looks for. */
function model(): Uint8Array {
  const net = new TfliteBuilder();
  let last = net.input([1, 4, 4, 4]);
  for (let index = 0; index < 12; index += 1) {
    const weights = net.tensor({ shape: [4, 1, 1, 4], scale: 1 / 64, data: true });
    const bias = net.tensor({ name: index === 4 ? 'first_guilty' : index === 6 ? 'second_guilty' : `bias${index}`, shape: [4], type: 'INT32', scale: [1 / 64 / 128], data: true });
    last = net.layer('CONV_2D', last, [1, 4, 4, 4], { with: [weights, bias], version: 3, padding: 'SAME', strideH: 1, strideW: 1 });
  }
  return net.output(last).build();
}

async function explained(compiler: string, options: Partial<ExplainOptions> = {}): Promise<Explanation> {
  const bytes = model();
  return explain({ path: 'model.tflite', bytes, model: readModel(bytes) }, { compiler, runtime: 14, timeoutS: 20, signal: new AbortController().signal, ...options });
}

describe('reef check --explain', () => {
  it('finds the smallest part that fails, says it in words, and keeps it', async () => {
    const compiler = await pickyCompiler(join(dir, 'picky'), ['first_guilty', 'second_guilty'], Buffer.from(compiledModel()));
    const told: string[] = [];
    const saved = join(dir, 'part.tflite');
    const found = await explained(compiler, { savePart: saved, onProgress: (text) => told.push(text) });
    expect(found).toMatchObject({ compiled: false, failure: { code: 'compile.internal' }, part: { from: 4, to: 7, smallest: true, of: 12 }, saved });
    expect(readModel(readFileSync(saved)).subgraphs[0]!.operators).toHaveLength(3);
    expect(told[0]).toBe('compiling the whole model (12 operators)');
    expect(told.some((text) => /^operators \d+ to \d+: fails$/.test(text)) && told.some((text) => text.endsWith(': not there'))).toBe(true);
    const text = explanationText(found);
    expect(text).toMatch(/The compiler fails: .*compile\.internal/);
    expect(text).toMatch(/The smallest part that fails so: operators 4 to 6 of 12\n {2}4 CONV_2D@3\n {6}takes "conv_2d3" INT8 \[1, 4, 4, 4\], .*"first_guilty" INT32 \[4\]\n {6}makes "conv_2d4" INT8 \[1, 4, 4, 4\]/);
    expect(text).toMatch(/Without its first or its last operator it does not fail so \(\d+ runs\)/);
    // The scratch folder is gone with its copies.
    expect((await readdir(tmpdir())).filter((name) => name.startsWith('reef-explain-') && existsSync(join(tmpdir(), name, '1.tflite')))).toEqual([]);
  });

  it('a model that compiles', async () => {
    expect(await explained(await pickyCompiler(join(dir, 'easy'), ['nowhere'], Buffer.from(compiledModel())))).toEqual({ compiled: true, failure: null, part: null, runs: 1, saved: null });
  });

  it('one that fails once and then compiles is no failure to narrow down', async () => {
    const { path } = await standInCompiler(dir, 'flips', [{ does: 'fail', stdout: genericFailure, exitCode: 1 }, { does: 'succeed', outputs: Buffer.from(compiledModel()), report: goodReport(1) }]);
    expect(await explained(path)).toMatchObject({ compiled: true, runs: 2 });
  });

  it('pieces that fail for another reason do not count', async () => {
    const another = genericFailure.replace('Compilation failed!', 'Invalid model: x.tflite\nModel not quantized\nCompilation failed!');
    const { path } = await standInCompiler(dir, 'moody', [{ does: 'fail', stdout: genericFailure, exitCode: 1 }, { does: 'fail', stdout: genericFailure, exitCode: 1 }, { does: 'fail', stdout: another, exitCode: 1 }]);
    const found = await explained(path);
    expect(found).toMatchObject({ compiled: false, part: null });
    expect(explanationText(found)).toContain('No piece of it fails in the same way');
  });

  it('without a compiler it says how to get one', async () => {
    await expect(explained('', { compiler: join(dir, 'nowhere') })).rejects.toMatchObject({ code: 'compile.not_started' });
  });

  it('stops at once', async () => {
    const { path } = await standInCompiler(dir, 'hangs', [{ does: 'hang' }]);
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 300);
    await expect(explained(path, { signal: stop.signal })).rejects.toMatchObject({ code: 'check.stopped' });
  });
});
