import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

const controller = process.env.REEF_URL ?? 'http://127.0.0.1:8080';

export default defineConfig({
  root: import.meta.dirname,
  plugins: [react()],
  build: { outDir: 'dist', emptyOutDir: true },
  // `npx vite apps/console` while developing: pages from here, data from a running controller.
  server: { proxy: { '/api': controller, '/graphql': { target: controller, ws: true } } },
});
