import { defaultServerConditions } from 'vite';
import { defineConfig } from 'vitest/config';

// Without 'module', and with one copy of graphql, as in ../../vitest.config.ts.
const conditions = ['@reefkeeper/source', ...defaultServerConditions.filter((name) => name !== 'module')];

/** Whole processes, as built: `npm run test:e2e` builds first. One file at a time, since they share two cores and a Python environment. */
export default defineConfig({
  resolve: { conditions, alias: [{ find: /^graphql$/, replacement: 'graphql/index.js' }] },
  ssr: { resolve: { conditions } },
  test: {
    root: import.meta.dirname,
    include: ['**/*.e2e.spec.ts'],
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 300_000,
    hookTimeout: 900_000,
    globalSetup: ['../global-setup.ts'],
  },
});
