import { defineConfig } from 'vitest/config';
import base from './vitest.config.ts';

/** Integration tests that mostly wait: hangs, time limits, periods, cameras, disks, kills at every step. `npm run test:slow`; apart, so that `npm test` stays short. */
export default defineConfig({ ...base, test: { ...base.test, include: ['{apps,libs}/*/src/**/*.slow.spec.ts'], exclude: ['**/node_modules/**'] } });
