import { defaultServerConditions } from 'vite';
import { defineConfig } from 'vitest/config';

// Without 'module', as in ../../vitest.config.ts.
const conditions = ['@reefkeeper/source', ...defaultServerConditions.filter((name) => name !== 'module')];

/** What devices get: packages, service, launcher, arm64 in emulation. `npm run test:packaging`; tools that are absent skip their tests by name. */
export default defineConfig({
  // As in ../../vitest.config.ts.
  resolve: { conditions, alias: [{ find: /^graphql$/, replacement: 'graphql/index.js' }] },
  ssr: { resolve: { conditions } },
  test: {
    root: import.meta.dirname,
    include: ['**/*.spec.ts'],
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 300_000,
    hookTimeout: 900_000,
    globalSetup: ['../global-setup.ts'],
  },
});
