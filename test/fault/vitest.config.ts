import { defaultServerConditions } from 'vite';
import { defineConfig } from 'vitest/config';

// Without 'module', as in ../../vitest.config.ts.
const conditions = ['@reefkeeper/source', ...defaultServerConditions.filter((name) => name !== 'module')];

/** Whole fleets under faults, on built processes: `npm run test:fault` builds first. One file at a time, since each brings its own database, broker and controller. */
export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: { root: import.meta.dirname, include: ['**/*.fault.spec.ts'], pool: 'forks', fileParallelism: false, testTimeout: 600_000, hookTimeout: 300_000 },
});
