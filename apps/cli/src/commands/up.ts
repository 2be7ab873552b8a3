import { join } from 'node:path';
import type { Command } from 'commander';
import { action } from '../context.ts';
import type { UpFlags } from '../up/run.ts';

function withStackFlags(command: Command): Command {
  return command
    .option('--agents <n>', 'device agents to run on this machine', '5').option('--no-agents', 'none; devices come from elsewhere').option('--agent-name <name>', 'they are called <name>-1, <name>-2, ...', 'coral')
    .option('--port <port>', 'API and console', '8080').option('--gateway-port <port>', 'what devices download from', '8443').option('--mqtt-port <port>', 'embedded broker', '8883')
    .option('--frames <dir>', 'images for the agents, with labels.csv where known').option('--fps <n>', 'frames per second and agent', '3')
    .option('--telemetry-window <seconds>', 'how often these agents report', '5');
}

/** What is behind these commands is large and is loaded when one of them runs: `reef device ls` shall not wait for it. */
export function registerUp(program: Command): void {
  withStackFlags(program.command('up').description('everything on this machine: database, broker, controller, worker, device agents'))
    .option('--demo', 'and play the demonstration, then stay up')
    .addHelpText('after', '\nDATABASE_URL, REDIS_URL, MQTT_URL and ARTIFACTS_URL in the environment each replace the embedded part (a broker of your own takes the\ncertificates that `reef keys` makes). PYTHON names the interpreter, PYTHON_ENV_DIR the environment for conversions.\n\nExamples:\n  reef up --agents 2 --frames ./photos\n  reef up --no-agents --port 9000')
    .action(action(async ({ output, options }, flags: UpFlags) => (await import('../up/run.ts')).up(output, options.dir, flags)));
  withStackFlags(program.command('demo').description('the whole line, unattended: convert, roll out, a worse version, back again; exits 1 when a claim fails'))
    .action(action(async ({ output, options }, flags: UpFlags) => (await import('../up/run.ts')).demo(output, options.dir, flags)));
  program.command('keys').description('make the CA, the signing key and a broker certificate, for a broker of your own')
    .option('--host <name...>', 'names and addresses the broker is reached at', ['localhost', '127.0.0.1'])
    .action(action(async ({ output, options }, flags: { host: string[] }) => {
      const { Authority } = await import('@reefkeeper/devices');
      const dir = process.env.KEYS_DIR ?? join(options.dir, 'keys');
      const authority = await Authority.loadOrCreate(dir);
      const files = await authority.ownFiles(dir, 'broker', { commonName: 'reef-broker', hosts: flags.host });
      const made = { ca: join(dir, 'ca.pem'), certificate: files.certificateFile, key: files.keyFile };
      output.show(made, () => `CA           ${made.ca}\ncertificate  ${made.certificate}\nkey          ${made.key}`);
    }));
}
