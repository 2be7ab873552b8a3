import colours from 'picocolors';
import { ReefError } from '@reefkeeper/platform/errors';
import { prepareDemo } from '../demo/assets.ts';
import { playDemo } from '../demo/story.ts';
import type { Output } from '../output.ts';
import { Stack, type StackOptions } from './stack.ts';
import { StatusView } from './view.ts';

export interface UpFlags { agents: string | false; port: string; gatewayPort: string; mqttPort: string; frames?: string; fps: string; telemetryWindow: string; demo?: boolean }

/** Stays until it is told to stop. */
export async function up(output: Output, dir: string, flags: UpFlags): Promise<number> {
  return runStack(output, dir, flags, async (stack) => {
    if (flags.demo) {
      await playDemo(stack.client, output, { dir, agents: stack.options.agents }).catch((error: unknown) => output.note(`The demonstration stopped: ${(error as Error).message}`));
      output.note('Reefkeeper stays up; Ctrl-C stops it.');
    }
    return new Promise(() => {});
  });
}

export async function demo(output: Output, dir: string, flags: UpFlags): Promise<number> {
  return runStack(output, dir, { ...flags, demo: true }, async (stack) => playDemo(stack.client, output, { dir, agents: stack.options.agents }));
}

/** Starts the stack, runs `work`, and stops it however that ends: by itself, by an error, by Ctrl-C. */
async function runStack(output: Output, dir: string, flags: UpFlags, work: (stack: Stack) => Promise<number>): Promise<number> {
  const settings = settingsOf(flags);
  const interrupted = new Promise<'interrupted'>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      let times = 0;
      // Whoever asks three times does not want to wait; the children notice that we are gone.
      process.on(signal, () => { resolve('interrupted'); if (++times === 3) process.exit(130); });
    }
  });
  const prepared = await Promise.race([flags.demo ? prepareDemo(output, dir).then(({ frames }) => frames) : Promise.resolve(flags.frames), interrupted.then(() => null)]);
  if (prepared === null) return 130;
  const stack = new Stack({ ...settings, dir, frames: prepared, onNote: (text) => output.note(text) });
  // While the demonstration talks, the table would draw over it.
  const view = output.json ? undefined : new StatusView(stack, Boolean(process.stdout.isTTY) && !flags.demo);
  try {
    view?.start();
    const begin = Date.now();
    const early = await Promise.race([stack.start().then(() => 'up' as const), interrupted]);
    if (early === 'interrupted') return 130;
    view?.draw();
    view?.interrupted();
    const tookS = Math.round((Date.now() - begin) / 1_000);
    output.step(
      { event: 'up', url: stack.url, dir, tookS, ...(stack.newToken ? { token: stack.newToken } : {}) },
      [
        '', `${colours.bold('Reefkeeper is up')} ${colours.dim(`after ${tookS} s`)}`, `  console  ${stack.url}/#token=${stack.token}`, `  API      ${stack.url}/docs`, `  logs     ${dir}/logs`,
        ...(stack.newToken ? [`  token    ${stack.newToken}`, colours.dim(`           the first administrator's; shown once, kept for this machine's \`reef\` in ${dir}/credentials.json`)] : []), '',
      ].join('\n'),
    );
    const ended = await Promise.race([work(stack), interrupted]);
    return ended === 'interrupted' ? 0 : ended;
  } finally {
    await stack.stop();
    view?.stop();
    output.note('stopped; data stays');
  }
}

function settingsOf(flags: UpFlags): Pick<StackOptions, 'agents' | 'port' | 'gatewayPort' | 'mqttPort' | 'fps' | 'telemetryWindowS'> {
  const number = (flag: string, text: string, low: number, high: number, whole = true) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value) || value < low || value > high || (whole && !Number.isInteger(value))) throw new ReefError('option.invalid', 'invalid', `${flag} takes a ${whole ? 'whole ' : ''}number from ${low} to ${high}, not "${text}".`);
    return value;
  };
  const settings = {
    agents: flags.agents === false ? 0 : number('--agents', flags.agents, 0, 50),
    port: number('--port', flags.port, 1, 65_535), gatewayPort: number('--gateway-port', flags.gatewayPort, 1, 65_535), mqttPort: number('--mqtt-port', flags.mqttPort, 1, 65_535),
    fps: number('--fps', flags.fps, 0.1, 1_000, false), telemetryWindowS: number('--telemetry-window', flags.telemetryWindow, 1, 3_600),
  };
  if (new Set([settings.port, settings.gatewayPort, settings.mqttPort]).size < 3) throw new ReefError('option.invalid', 'invalid', '--port, --gateway-port and --mqtt-port must differ.');
  return settings;
}
