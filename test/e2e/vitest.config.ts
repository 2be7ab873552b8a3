import { defineConfig } from 'vitest/config';
import base from '../../vitest.config.ts';

/** Whole processes, as built: `npm run test:e2e` builds first. One file at a time, since they share two cores and a Python environment. */
export default defineConfig({
  ...base,
  test: { ...base.test, root: import.meta.dirname, include: ['**/*.e2e.spec.ts'], exclude: ['**/node_modules/**'], fileParallelism: false, testTimeout: 300_000, hookTimeout: 900_000, globalSetup: ['../global-setup.ts'] },
});
