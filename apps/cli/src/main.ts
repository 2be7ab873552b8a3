#!/usr/bin/env node
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { registerAccess } from './commands/access.ts';
import { registerDevices } from './commands/devices.ts';
import { registerJobs } from './commands/jobs.ts';
import { registerModels } from './commands/models.ts';
import { registerRollouts } from './commands/rollouts.ts';
import { registerUp } from './up/up.ts';

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < 22 || (major === 22 && minor < 15)) {
  process.stderr.write(`error: Reefkeeper runs on Node 24; this is ${process.version}. Use \`npx reef\` or an npm script inside the project (they bring their own Node), or install Node 24.\ncode: node.too_old\n`);
  process.exit(2);
}

const { version } = JSON.parse(readFileSync(join(import.meta.dirname, '../package.json'), 'utf8')) as { version: string };
const program = new Command('reef')
  .description('Brings TensorFlow models onto fleets of Coral devices, and back when they are worse.')
  .version(version)
  .option('--url <url>', 'controller; REEF_URL, or the local one of `reef up` where absent')
  .option('--token <token>', 'API token; REEF_TOKEN, or the local one of `reef up` where absent')
  .option('--dir <dir>', 'where `reef up` keeps its data', '.reef')
  .option('--json', 'JSON on stdout and nothing else')
  .showSuggestionAfterError()
  .showHelpAfterError('(--help lists what there is)');

registerUp(program);
registerModels(program);
registerJobs(program);
registerDevices(program);
registerRollouts(program);
registerAccess(program);

await program.parseAsync();
