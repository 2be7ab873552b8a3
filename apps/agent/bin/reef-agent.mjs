#!/usr/bin/env node
// Checked in, and not built, so that `npm ci` finds it and links it; and old enough in its ways to tell an old Node what it wants.
import { existsSync } from 'node:fs';

const [major, minor] = process.versions.node.split('.').map(Number);
const main = new URL('../dist/main.js', import.meta.url);
if (major < 22 || (major === 22 && minor < 15)) {
  process.stderr.write(`error: Reefkeeper runs on Node 24; this is ${process.version}. Use \`npx reef-agent\` or an npm script inside the project (they bring their own Node), or install Node 24.\ncode: node.too_old\n`);
  process.exitCode = 2;
} else if (!existsSync(main)) {
  process.stderr.write('error: Reefkeeper is not built yet. Run `npm run build` first.\ncode: not_built\n');
  process.exitCode = 2;
} else {
  await import(main.href);
}
