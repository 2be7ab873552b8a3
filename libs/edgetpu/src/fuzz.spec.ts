import { ReefError } from '@reefkeeper/platform/errors';
import { describe, expect, it } from 'vitest';
import { mutationsOf } from '../../../test/support/mutations.ts';
import { analyze } from './analyze.ts';
import { inspectModel } from './compiled.ts';
import { parseCompilerLog, parseCompilerReport } from './compiler-report.ts';
import { cutModel } from './cut-model.ts';
import { latencyFeatures, predictLatency } from './latency.ts';
import { readModel } from './model.ts';
import { sharedFile, sharedModel, sharedPresent } from './shared.fixture.ts';
import { compiledModel, TfliteBuilder } from './tflite-builder.fixture.ts';

const declared = new Set(['model.not_tflite', 'model.unreadable', 'model.not_compiled', 'model.unwritable']);
/** Of processor time for one answer, so that a busy machine does not count; a hang is seconds. */
const patienceMs = 1000;
function stopwatch(): () => number {
  const begin = process.cpuUsage();
  return () => { const { user, system } = process.cpuUsage(begin); return (user + system) / 1000; };
}

/** Everything that is ever asked about a file from outside. The names of what was answered. */
function ask(bytes: Uint8Array): string[] {
  const answered: string[] = [];
  try {
    const model = readModel(bytes);
    answered.push('read');
    const analysis = analyze(model);
    if (analysis.ops.length !== model.subgraphs[0]!.operators.length) throw new Error('operators were lost');
    if (/undefined|NaN|\[object/.test(analysis.summary)) throw new Error(`the summary is "${analysis.summary}"`);
    const { ms } = predictLatency(latencyFeatures(model, analysis), 'usb3');
    if (!Number.isFinite(ms)) throw new Error(`${ms} ms are predicted`);
    answered.push('analysed');
    if (model.subgraphs[0]!.operators.length > 0) readModel(cutModel(model, { from: 0, to: 1 }));
    answered.push('cut');
    inspectModel(model);
    answered.push('inspected');
  } catch (thrown) {
    if (!(thrown instanceof ReefError && declared.has(thrown.code))) throw thrown;
  }
  return answered;
}

/** Asks about thousands of damaged copies; says how many got how far. */
function fuzz(original: Uint8Array, count: number, seed: number): Record<string, number> {
  const reached: Record<string, number> = {};
  const before = process.memoryUsage.rss();
  for (const { how, bytes } of mutationsOf(original, { count, seed })) {
    const spentMs = stopwatch();
    try {
      for (const step of ask(bytes)) reached[step] = (reached[step] ?? 0) + 1;
    } catch (cause) {
      throw new Error(how, { cause });
    }
    if (spentMs() > patienceMs) throw new Error(`${how}: took ${spentMs()} ms`);
  }
  expect((process.memoryUsage.rss() - before) / 2 ** 20).toBeLessThan(300);
  return reached;
}

function smallNet(): Uint8Array {
  const net = new TfliteBuilder();
  const picture = net.input([1, 16, 16, 3], { shapeSignature: [-1, 16, 16, 3] });
  const features = net.depthwise(net.conv(picture, 8, { stride: 2, perChannel: true }));
  const cut = net.layer('LEAKY_RELU', net.add(features, features), [1, 8, 8, 8]);
  const padded = net.layer('PAD', cut, [1, 10, 10, 8], { version: 2, with: [net.tensor({ shape: [4, 2], type: 'INT32', data: new Uint8Array(Int32Array.from([0, 0, 1, 1, 1, 1, 0, 0]).buffer) })] });
  const mean = net.layer('MEAN', net.layer('RESIZE_BILINEAR', padded, [1, 20, 20, 8], { with: [net.ints([20, 20])] }), [1, 8], { with: [net.ints([1, 2])] });
  net.output(net.softmax(net.dense(mean, 10)));
  net.signatures = [{ key: 'serving_default', subgraph: 0, inputs: [{ name: 'image', tensor: picture }], outputs: [] }];
  net.metadata = [{ name: 'min_runtime_version', bytes: Uint8Array.from([49, 46, 53]) }];
  return net.build();
}

describe('damaged model files: a result or a declared error, in time and memory', () => {
  it('3,000 of a built model', () => {
    const reached = fuzz(smallNet(), 3000, 1);
    // Damage that is never read would prove nothing.
    expect(reached.read).toBeGreaterThan(300);
    expect(reached.read).toBeLessThan(2800);
  });

  it('2,000 of a built compiled model', () => {
    const reached = fuzz(compiledModel({ instructionBytes: 64, onChipBytes: 64 }), 2000, 2);
    expect(reached.inspected).toBeGreaterThan(100);
    expect(reached.inspected).toBeLessThan(1900);
  });

  it.skipIf(!sharedPresent).each([
    'coral/tools/split_concat.tflite', 'coral/keras_lstm_mnist_ptq.tflite', 'libredgetpu/gabor_64x64_p4_edgetpu.tflite', 'coral/tools/split_concat_edgetpu.tflite', 'coral/invalid_models/model_invoking_error.tflite',
  ])('200 of %s', (path) => {
    expect(Object.keys(fuzz(new Uint8Array(sharedModel(path)), 200, 3)).length).toBeGreaterThan(0);
  });
});

const report = `Edge TPU Compiler version 16.0.384591198
Searching for valid delegate with step 1
Try to compile segment with 64 ops
Intermediate tensors: a,b
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 300 ms.

Input model: model.tflite
Input size: 3.42MiB
Output model: model_edgetpu.tflite
Output size: 3.88MiB
On-chip memory used for caching model parameters: 3.33MiB
On-chip memory remaining for caching model parameters: 4.37MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 66
Operation log: model_edgetpu.log

Model successfully compiled but not all operations are supported by the Edge TPU.
Number of operations that will run on Edge TPU: 64
Number of operations that will run on CPU: 2
See the operation log file for individual operation details.

Operator                       Count      Status

CONV_2D                        36         Mapped to Edge TPU
CUSTOM                         1          Operation is working on an unsupported data type
Compilation child process completed within timeout period.
Compilation succeeded! 
`;

describe('damaged compiler reports are always read', () => {
  const texts = sharedPresent ? ['02-partial-s.stdout', '05-cocompile.stdout', '06-segments.stdout', '15-search-delegate.stdout', '09-dynamic.stdout'].map((name) => sharedFile(`edgetpu/compiler-logs/${name}`).toString()) : [];
  it(`2,000 damaged reports (${texts.length + 1} originals)`, () => {
    let good = 0;
    for (const text of [report, ...texts]) {
      for (const { how, bytes } of mutationsOf(new TextEncoder().encode(text), { count: 2000 / (texts.length + 1), seed: 4 })) {
        const damaged = Buffer.from(bytes).toString('latin1');
        const spentMs = stopwatch();
        try {
          const { ok, failure, models } = parseCompilerReport(damaged, '', { exitCode: 0, outputExists: true });
          if (ok !== (failure === null)) throw new Error('neither good nor bad');
          if (!models.every(({ ops, totalOps }) => [totalOps ?? 0, ...ops.map(({ count }) => count)].every(Number.isSafeInteger))) throw new Error('a count is no number');
          good += ok ? 1 : 0;
          parseCompilerReport('', damaged, { exitCode: 1, outputExists: false });
          parseCompilerLog(damaged);
        } catch (cause) {
          throw new Error(how, { cause });
        }
        if (spentMs() > patienceMs) throw new Error(`${how}: took ${spentMs()} ms`);
      }
    }
    expect(good).toBeGreaterThan(100);
  });

  it.each([
    ['one line of a million characters', 'Operator '.repeat(120_000)], ['a million blank lines', '\n'.repeat(1_000_000)], ['a million short lines', 'x\n'.repeat(1_000_000)], ['blanks before the end', `Compilation failed! ${' '.repeat(500_000)}x`],
    ['numbers without an end', `Model compiled successfully in ${'9'.repeat(500_000)} ms.\nOutput size: ${'9'.repeat(400_000)}.00MiB\n`], ['keys without an end', `${'a '.repeat(300_000)}: b\n`],
    ['a table row of blanks', `Operator                       Count      Status\n\nX${' '.repeat(400_000)}1${' '.repeat(400_000)}\n`],
  ])('%s', (_, text) => {
    const spentMs = stopwatch();
    parseCompilerReport(text, text, { exitCode: 1, outputExists: false });
    parseCompilerLog(text);
    expect(spentMs()).toBeLessThan(patienceMs);
  });
});
