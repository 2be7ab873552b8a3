import { defaultServerConditions } from 'vite';
import { defineConfig } from 'vitest/config';

// Tests read the libraries' sources, never their build output. Do not add 'import' to the conditions: TypeORM then cannot find pg.
// Nor 'module': vitest hands the conditions on to Node, which cannot load the build that @opentelemetry/api has for bundlers.
const conditions = ['@reefkeeper/source', ...defaultServerConditions.filter((name) => name !== 'module')];

export default defineConfig({
  // graphql has a second copy for bundlers; its classes are compared by identity, and @nestjs/graphql loads the first.
  resolve: { conditions, alias: [{ find: /^graphql$/, replacement: 'graphql/index.js' }] },
  ssr: { resolve: { conditions } },
  test: {
    include: ['{apps,libs}/*/src/**/*.spec.ts', 'test/*.spec.ts'],
    exclude: ['**/node_modules/**', '**/*.slow.spec.ts'],
    pool: 'forks',
    // The default leaves one core to the watcher. Most of these tests wait for processes and brokers.
    maxWorkers: '100%',
    testTimeout: 60_000,
    hookTimeout: 180_000,
    globalSetup: ['./test/global-setup.ts'],
  },
});
