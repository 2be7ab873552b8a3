import { expect, it } from 'vitest';
import { inspectCompiled } from './compiled.ts';
import { compiledModel } from '../../../test/support/compiled.ts';

it('reads the compiled models that other tests make', () => {
  expect(inspectCompiled(compiledModel({ minRuntime: 13, token: 0xabcn, parameterBytes: 123 }))).toMatchObject({
    minRuntime: 13, tokens: ['0000000000000abc'], chips: ['beagle'], onChipBytes: 123, streamedBytes: 0, compilerVersions: ['16.0'], inputs: [{ name: 'picture' }],
  });
});
