import { defineConfig } from 'vitest/config';
import base from '../../vitest.config.ts';

/** Whole fleets under faults, on built processes: `npm run test:fault` builds first. One file at a time, since each brings its own database, broker and controller: hence no global setup. */
export default defineConfig({
  ...base,
  test: { ...base.test, root: import.meta.dirname, include: ['**/*.fault.spec.ts'], exclude: ['**/node_modules/**'], fileParallelism: false, testTimeout: 600_000, hookTimeout: 300_000, globalSetup: [] },
});
