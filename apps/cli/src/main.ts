import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command, CommanderError } from 'commander';
import { registerAccess } from './commands/access.ts';
import { registerAgent } from './commands/agent.ts';
import { registerAlerts } from './commands/alerts.ts';
import { registerBundles } from './commands/bundles.ts';
import { registerCompletion } from './commands/completion.ts';
import { registerDevices } from './commands/devices.ts';
import { registerFreezes } from './commands/freezes.ts';
import { registerConfigRules } from './commands/config-rules.ts';
import { registerSites } from './commands/sites.ts';
import { registerGc } from './commands/gc.ts';
import { registerJobs } from './commands/jobs.ts';
import { registerLearn } from './commands/learn.ts';
import { registerImport } from './commands/model-import.ts';
import { registerModels } from './commands/models.ts';
import { registerOffline } from './commands/offline.ts';
import { registerRollouts } from './commands/rollouts.ts';
import { registerStatus } from './commands/status.ts';
import { registerCaptures } from './commands/captures.ts';
import { registerTrain } from './commands/train.ts';
import { registerUp } from './commands/up.ts';

const { version } = JSON.parse(readFileSync(join(import.meta.dirname, '../package.json'), 'utf8')) as { version: string };
const program = new Command('reef')
  .description('Brings TensorFlow models onto fleets of Coral devices, and back when they are worse.')
  .version(version)
  .option('--url <url>', 'controller; REEF_URL, or the local one of `reef up` where absent')
  .option('--token <token>', 'API token; REEF_TOKEN, or the local one of `reef up` where absent')
  .option('--dir <dir>', 'where `reef up` keeps its data', '.reef')
  .option('--json', 'JSON on stdout and nothing else');

program.addHelpText('after', '\nExamples:\n  reef up                                      everything on this machine\n  reef model push ./saved_model --name classifier --calibration photos/\n  reef rollout create classifier@2 --workload classifier --watch\n\nExit codes: 0 done, 1 it ended badly (a job failed, a rollout went back), 2 invalid, 3 not allowed, 4 not found, 5 conflict, 6 unavailable, 70 our fault.');

registerUp(program);
registerStatus(program);
registerImport(registerModels(program));
registerTrain(program);
registerCaptures(program);
registerLearn(program);
registerJobs(program);
registerGc(program);
registerDevices(program);
registerAgent(program);
registerRollouts(program);
registerFreezes(program);
registerAlerts(program);
registerSites(program);
registerConfigRules(program);
registerOffline(program);
registerBundles(program);
registerAccess(program);
registerCompletion(program);

// Subcommands inherit it only when they are made after this; these are not.
const everyCommand = (command: Command): Command[] => [command, ...command.commands.flatMap(everyCommand)];
for (const command of everyCommand(program)) command.exitOverride().showSuggestionAfterError().showHelpAfterError('(--help lists what there is)');

// A reader that has seen enough (`| head`) is not a fault.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof CommanderError)) throw error;
  // Help and version come as errors, too; what is wrong with a command line is `invalid`.
  process.exitCode = error.exitCode === 0 || error.code === 'commander.help' ? 0 : 2;
}
