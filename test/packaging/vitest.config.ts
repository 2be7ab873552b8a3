import { defineConfig } from 'vitest/config';
import base from '../../vitest.config.ts';

/** What devices get: packages, service, launcher, arm64 in emulation. `npm run test:packaging`; tools that are absent skip their tests by name. */
export default defineConfig({
  ...base,
  test: { ...base.test, root: import.meta.dirname, include: ['**/*.spec.ts'], exclude: ['**/node_modules/**'], fileParallelism: false, testTimeout: 300_000, hookTimeout: 900_000, globalSetup: ['../global-setup.ts'] },
});
