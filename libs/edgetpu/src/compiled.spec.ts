import { describe, expect, it } from 'vitest';
import { inspectCompiled, residencyOf } from './compiled.ts';
import { compiledModel } from './tflite-builder.fixture.ts';

describe('a compiled model read back', () => {
  it('memory, runtime, token, tensors', () => {
    expect(inspectCompiled(compiledModel({ minRuntime: 13, token: 0xabcn, onChipBytes: 4096, streamedBytes: 128, scratchBytes: 672, instructionBytes: 3000 }))).toMatchObject({
      minRuntime: 13, tokens: ['0000000000000abc'], chips: ['beagle'], compilerVersions: ['cl/343520747'], onChipBytes: 4096, streamedBytes: 128, scratchBytes: 672, instructionBytes: 3000,
      executableTypes: ['EXECUTION_ONLY', 'PARAMETER_CACHING'], cpuOps: {}, inputs: [{ name: 'picture', shape: [1, 8, 8, 3], type: 'uint8' }], outputs: [{ name: 'scores', scale: 1 / 256 }],
    });
  });

  it('one that stands alone has no token and streams all its parameters', () => {
    expect(inspectCompiled(compiledModel({ token: null, onChipBytes: 500 }))).toMatchObject({ tokens: [], onChipBytes: 0, streamedBytes: 500, executableTypes: ['STAND_ALONE'] });
  });

  it('models are grouped by token', () => {
    const named = (name: string, token: bigint | null): { name: string; compiled: ReturnType<typeof inspectCompiled> } => ({ name, compiled: inspectCompiled(compiledModel({ token })) });
    expect(residencyOf([named('a', 1n), named('b', 2n), named('c', 1n), named('d', null)])).toEqual({
      reloads: true, groups: [{ token: '0000000000000001', models: ['a', 'c'] }, { token: '0000000000000002', models: ['b'] }, { token: null, models: ['d'] }],
    });
    expect(residencyOf([named('a', 1n), named('c', 1n)]).reloads).toBe(false);
  });
});
