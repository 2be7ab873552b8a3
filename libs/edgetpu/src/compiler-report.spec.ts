import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseCompilerLog, parseCompilerReport, parseSize, type CompileFailureCode } from './compiler-report.ts';
import { sharedFile, sharedPresent } from './shared.fixture.ts';

const failed = { exitCode: 1, outputExists: false };
const fine = { exitCode: 0, outputExists: true };
const log = (name: string): string => sharedFile(`edgetpu/compiler-logs/${name}`).toString('utf8');

const success = [
  'Edge TPU Compiler version 16.0.384591198', 'Started a compilation timeout timer of 180 seconds.', '', 'Model compiled successfully in 98 ms.', '', 'Input model: a.tflite',
  'Input size: 1.00MiB', 'Output model: a_edgetpu.tflite', 'Output size: 1.25MiB', 'Number of Edge TPU subgraphs: 1', 'Total number of operations: 12', 'Operation log: a_edgetpu.log',
  'See the operation log file for individual operation details.', 'Compilation child process completed within timeout period.', 'Compilation succeeded! ', '',
].join('\n');

describe('sizes', () => {
  it.each([['0.00B', 0], ['12B', 12], ['1.50KiB', 1536], ['2.00MiB', 2_097_152], ['1.00GiB', 1_073_741_824]])('%s is %i bytes', (text, bytes) => expect(parseSize(text)).toBe(bytes));
  it.each(['', 'B', '1.0', '1.0 parsecs', '-1.00KiB', 'NaNB'])('%j is no size', (text) => expect(parseSize(text)).toBeNull());
});

describe('success is decided by everything together', () => {
  it('all signs good', () => expect(parseCompilerReport(success, '', fine)).toMatchObject({ ok: true, failure: null, models: [{ totalOps: 12, mappedOps: 12, cpuOps: 0 }] }));
  it('an older runtime than asked for is better, not worse', () => expect(parseCompilerReport(success, '', { ...fine, askedRuntime: 14, needsRuntime: 12 })).toMatchObject({ ok: true }));
  it.each<[string, string, string, Parameters<typeof parseCompilerReport>[2], CompileFailureCode]>([
    ['the exit code is 1', success, '', { exitCode: 1, outputExists: true }, 'compile.internal'],
    ['the output is missing', success, '', { exitCode: 0, outputExists: false }, 'compile.output_missing'],
    ['the last line is not the closing one', success.replace('Compilation succeeded! ', ''), '', fine, 'compile.incomplete'],
    ['the report stops in the middle', success.slice(0, 120), '', fine, 'compile.incomplete'],
    ['nothing was mapped', success.replace('subgraphs: 1', 'subgraphs: 0'), '', fine, 'compile.nothing_mapped'],
    ['the output holds nothing for the chip, whatever the report says', success, '', { ...fine, nothingInOutput: true }, 'compile.nothing_mapped'],
    ['the output needs a newer runtime than was asked for', success, '', { ...fine, askedRuntime: 12, needsRuntime: 14 }, 'compile.runtime_ignored'],
    ['there is no output at all', '', '', fine, 'compile.incomplete'],
    ['it never started', '', 'sh: edgetpu_compiler: not found', { exitCode: 127, outputExists: false }, 'compile.not_started'],
    ['a signal ended it', '', '', { exitCode: null, signal: 'SIGSEGV', outputExists: false }, 'compile.crashed'],
    ['somebody stopped it', success.slice(0, 100), '', { exitCode: null, signal: 'SIGKILL', outputExists: false }, 'compile.killed'],
    ['the wrapper says 139', '', '', { exitCode: 139, outputExists: false }, 'compile.crashed'],
    ['an exception ended it', 'Edge TPU Compiler version 16.0.384591198\n', 'libc++abi: terminating with uncaught exception of type std::bad_alloc', { exitCode: 134, outputExists: false }, 'compile.crashed'],
    ['it fails although the exit code is 0', `${success}\nCompilation failed! `, '', fine, 'compile.internal'],
    ['an internal error is named', 'Edge TPU Compiler version 16.0.384591198\nStarted a compilation timeout timer of 180 seconds.\nCompilation failed: Internal error.\nCompilation failed! ', '', failed, 'compile.internal'],
  ])('no success when %s', (_, stdout, stderr, exit, code) => {
    const report = parseCompilerReport(stdout, stderr, exit);
    expect(report).toMatchObject({ ok: false, failure: { code } });
    expect(report.failure!.message.length).toBeGreaterThan(20);
  });

  it('before 16 there is no closing line to wait for', () => {
    const old = success.replace('16.0.384591198', '15.0.340273435').split('\n').filter((line) => !/timer|child|succeeded!/.test(line)).join('\n');
    expect(parseCompilerReport(old, '', fine)).toMatchObject({ ok: true, compilerVersion: '15.0.340273435' });
  });

  it('an unknown status and an unknown line are kept as they are', () => {
    const report = parseCompilerReport(success.replace('See the operation', 'Novel figure: 7 parsecs\n\nOperator                       Count      Status\n\nCONV_2D                        2          Brand new status\nSee the operation'), '', fine);
    expect(report.models[0]).toMatchObject({ other: { 'Novel figure': '7 parsecs' }, ops: [{ op: 'CONV_2D', count: 2, status: 'Brand new status', mapped: false }] });
  });

  it('any text gives a report', () => {
    const words = fc.constantFrom(...success.split('\n'), 'Compilation failed! ', 'Operator                       Count      Status', 'CONV_2D   1   Mapped to Edge TPU', 'Try to compile segment with 9 ops');
    fc.assert(fc.property(fc.array(fc.oneof(words, fc.string())), fc.string(), fc.boolean(), (lines, stderr, outputExists) => {
      const report = parseCompilerReport(lines.join('\n'), stderr, { exitCode: 0, outputExists });
      expect(report.ok).toBe(report.failure === null);
      if (report.ok) expect(outputExists && report.models.length > 0).toBe(true);
    }));
  });
});

describe.skipIf(!sharedPresent)('the reports of every shape', () => {
  it.each<[string, object]>([
    ['01-full.stdout', { models: [{ onChipBytes: 566_907, streamedBytes: 0, mappedOps: 31, cpuOps: 0, edgeTpuSubgraphs: 1 }], compilerVersion: '16.0.384591198' }],
    ['02-partial-s.stdout', { models: [{ mappedOps: 36, cpuOps: 4, streamedBytes: 2304, ops: [{ op: 'CONV_2D', count: 34 }, { op: 'QUANTIZE', mapped: false }, { op: 'QUANTIZE', count: 2, mapped: true }, {}, {}, { status: 'More than one subgraph is not supported' }] }] }],
    ['03-multi-subgraph.stdout', { models: [{ edgeTpuSubgraphs: 2, mappedOps: 28, onChipFreeBytes: 0 }] }],
    ['05-cocompile.stdout', { models: [{ input: 'a.tflite', totalOps: 57 }, { input: 'b.tflite', output: 'b_edgetpu.tflite', totalOps: 6 }] }],
    ['06-segments.stdout', { attempts: [{ succeeded: true }, { succeeded: true }], models: [{ input: 'demo_segment_0_of_2.tflite' }, { input: 'demo_segment_1_of_2.tflite' }] }],
    ['15-search-delegate.stdout', { attempts: [{ segmentOps: 120, succeeded: false, failure: { code: 'compile.large_activations' } }, { segmentOps: 110, succeeded: true, intermediateTensors: ['head/Reshape_1', 'head/Reshape_2'] }], models: [{ mappedOps: 110 }] }],
    ['17-old-available.stdout', { compilerVersion: '1.0.249710469', models: [{ onChipFreeBytes: 7_990_149, onChipBytes: 5_934_940 }] }],
  ])('%s succeeds', (name, expected) => expect(parseCompilerReport(log(name), '', fine)).toMatchObject({ ok: true, ...expected }));

  it.each<[string, CompileFailureCode, string]>([
    ['04-none.stdout', 'compile.nothing_mapped', 'changed'],
    ['07-not-quantized.stdout', 'compile.not_quantized', 'never'],
    ['08-not-parsed.stdout', 'compile.op_version', 'never'],
    ['09-dynamic.stdout', 'compile.dynamic_tensors', 'never'],
    ['10-large-activation.stdout', 'compile.large_activations', 'changed'],
    ['11-timeout.stdout', 'compile.timeout', 'changed'],
    ['12-internal-error-v14.stdout', 'compile.internal', 'again'],
    ['13-silent-failure.stdout', 'compile.internal', 'again'],
    ['16-bad-intermediate.stdout', 'compile.intermediate_tensors', 'changed'],
  ])('%s fails as %s', (name, code, retry) => {
    expect(parseCompilerReport(log(name), '', name.startsWith('04') ? fine : failed)).toMatchObject({ ok: false, failure: { code, retry } });
  });

  it('14-segfault.stderr is a crash', () => {
    expect(parseCompilerReport('', log('14-segfault.stderr'), { exitCode: 139, outputExists: false })).toMatchObject({ ok: false, failure: { code: 'compile.crashed', retry: 'again' } });
  });

  it('01-full.log: the table without memory figures', () => {
    expect(parseCompilerLog(log('01-full.log'))).toMatchObject({ input: 'demo_full.tflite', output: 'demo_full_edgetpu.tflite', ops: [{ op: 'CONV_2D', count: 15, mapped: true }, {}, {}, {}, {}] });
  });
});
