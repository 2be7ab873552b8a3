import { join } from 'node:path';
import type { Command } from 'commander';
import colours from 'picocolors';
import { Authority } from '@reefkeeper/devices';
import { ReefError } from '@reefkeeper/platform/errors';
import { action } from '../context.ts';
import { prepareDemo } from '../demo/assets.ts';
import { playDemo } from '../demo/story.ts';
import type { Output } from '../output.ts';
import { Stack, type StackOptions } from './stack.ts';
import { StatusView } from './view.ts';

interface UpFlags { agents: string; port: string; gatewayPort: string; mqttPort: string; frames?: string; fps: string; telemetryWindow: string; demo?: boolean }

function withStackFlags(command: Command): Command {
  return command
    .option('--agents <n>', 'device agents to run on this machine', '5').option('--port <port>', 'API and console', '8080').option('--gateway-port <port>', 'what devices download from', '8443')
    .option('--mqtt-port <port>', 'embedded broker', '8883').option('--frames <dir>', 'images for the agents, with labels.csv where known').option('--fps <n>', 'frames per second and agent', '3')
    .option('--telemetry-window <seconds>', 'how often these agents report', '5');
}

export function registerUp(program: Command): void {
  withStackFlags(program.command('up').description('everything on this machine: database, broker, controller, worker, device agents'))
    .option('--demo', 'and play the demonstration, then stay up')
    .addHelpText('after', '\nDATABASE_URL, REDIS_URL, MQTT_URL and ARTIFACTS_URL in the environment each replace the embedded part.')
    .action(action(async ({ output, options }, flags: UpFlags) => {
      await runStack(output, options.dir, flags, async (stack) => {
        if (flags.demo) await playDemo(stack.client, output, { dir: options.dir, agents: stack.options.agents }).catch((error: unknown) => output.note(`The demonstration stopped: ${(error as Error).message}`));
        await new Promise(() => {});
        return 0;
      });
    }));
  withStackFlags(program.command('demo').description('the whole line, unattended: convert, roll out, a worse version, back again; exits 1 when a claim fails'))
    .action(action(({ output, options }, flags: UpFlags) => runStack(output, options.dir, { ...flags, demo: true }, async (stack) => playDemo(stack.client, output, { dir: options.dir, agents: stack.options.agents }))));
  program.command('keys').description('make the CA, the signing key and a broker certificate, for a broker of your own')
    .option('--host <name...>', 'names and addresses the broker is reached at', ['localhost', '127.0.0.1'])
    .action(action(async ({ output, options }, flags: { host: string[] }) => {
      const dir = join(options.dir, 'keys');
      const authority = await Authority.loadOrCreate(dir);
      const files = await authority.ownFiles(dir, 'broker', { commonName: 'reef-broker', hosts: flags.host });
      const made = { ca: join(dir, 'ca.pem'), certificate: files.certificateFile, key: files.keyFile };
      output.show(made, () => `CA           ${made.ca}\ncertificate  ${made.certificate}\nkey          ${made.key}`);
    }));
}

/** Starts the stack, runs `work`, and stops it however that ends: by itself, by an error, by Ctrl-C. */
async function runStack(output: Output, dir: string, flags: UpFlags, work: (stack: Stack) => Promise<number>): Promise<number> {
  const frames = flags.demo ? (await prepareDemo(output, dir)).frames : flags.frames;
  const stack = new Stack({ ...numbers(flags), dir, frames, onNote: (text) => output.note(text) } as StackOptions);
  // While the demonstration talks, the table would draw over it.
  const view = output.json ? undefined : new StatusView(stack, Boolean(process.stdout.isTTY) && !flags.demo);
  const interrupted = new Promise<'interrupted'>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => resolve('interrupted'));
  });
  try {
    if (!view) output.note('starting');
    view?.start();
    const early = await Promise.race([stack.start().then(() => 'up' as const), interrupted]);
    if (early === 'interrupted') return 130;
    if (stack.newToken) output.note(`\nFirst administrator's token (shown once, kept in ${dir}/credentials.json): ${stack.newToken}`);
    output.step({ event: 'up', url: stack.url }, `\n${colours.bold('Reefkeeper is up')}: console ${stack.url}/#token=${stack.token}  API ${stack.url}/docs\n`);
    const ended = await Promise.race([work(stack), interrupted]);
    return ended === 'interrupted' ? 0 : ended;
  } finally {
    output.note('stopping');
    await stack.stop();
    view?.stop();
  }
}

function numbers(flags: UpFlags): Pick<StackOptions, 'agents' | 'port' | 'gatewayPort' | 'mqttPort' | 'fps' | 'telemetryWindowS'> {
  const whole = (flag: string, text: string, low: number, high: number) => {
    const value = Number(text);
    if (!Number.isFinite(value) || value < low || value > high) throw new ReefError('option.invalid', 'invalid', `${flag} takes a number from ${low} to ${high}, not "${text}".`);
    return value;
  };
  return {
    agents: whole('--agents', flags.agents, 0, 50), port: whole('--port', flags.port, 1, 65_535), gatewayPort: whole('--gateway-port', flags.gatewayPort, 1, 65_535), mqttPort: whole('--mqtt-port', flags.mqttPort, 1, 65_535),
    fps: whole('--fps', flags.fps, 0.1, 1_000), telemetryWindowS: whole('--telemetry-window', flags.telemetryWindow, 1, 3_600),
  };
}
