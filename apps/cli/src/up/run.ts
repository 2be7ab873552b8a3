import colours from 'picocolors';
import { ReefError } from '@reefkeeper/platform/errors';
import { prepareDemo } from '../demo/assets.ts';
import { playDemo } from '../demo/story.ts';
import type { Output } from '../output.ts';
import { numberWithin } from '../options.ts';
import { Stack, type StackOptions } from './stack.ts';
import { StatusView } from './view.ts';

export interface UpFlags { agents: string | false; agentName: string; port: string; gatewayPort: string; mqttPort: string; frames?: string; fps: string; telemetryWindow: string; demo?: boolean }

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
  const begin = Date.now();
  return runStack(output, dir, { ...flags, demo: true }, async (stack) => playDemo(stack.client, output, { dir, agents: stack.options.agents, begin }));
}

/** Starts the stack, runs `work`, and stops it however that ends: by itself, by an error, by Ctrl-C. */
async function runStack(output: Output, dir: string, flags: UpFlags, work: (stack: Stack) => Promise<number>): Promise<number> {
  const settings = settingsOf(flags);
  const stopped = new AbortController();
  const interrupted = new Promise<'interrupted'>((resolve) => {
    stopped.signal.addEventListener('abort', () => resolve('interrupted'));
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      let times = 0;
      // Whoever asks three times does not want to wait; the children notice that we are gone.
      process.on(signal, () => { stopped.abort(); if (++times === 3) process.exit(130); });
    }
  });
  const frames = flags.demo ? (await prepareDemo(output, dir, stopped.signal)).frames : flags.frames;
  let view: StatusView | undefined;
  const stack = new Stack({
    ...settings, dir, frames,
    onNote: (text) => { output.note(text); view?.interrupted(); },
    onChange: () => view?.changed(),
  });
  // While the demonstration talks, the table would draw over it.
  view = output.json ? undefined : new StatusView(stack, Boolean(process.stdout.isTTY) && !flags.demo);
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
    output.note('stopping; data stays');
    view?.interrupted();
    return ended === 'interrupted' ? 0 : ended;
  } finally {
    await stack.stop();
    view?.stop();
  }
}

function settingsOf(flags: UpFlags): Pick<StackOptions, 'agents' | 'agentName' | 'port' | 'gatewayPort' | 'mqttPort' | 'fps' | 'telemetryWindowS'> {
  const whole = (flag: string, text: string, low: number, high: number) => numberWithin(flag, text, [low, high], { whole: true });
  if (!/^[A-Za-z0-9_-]{1,60}$/.test(flags.agentName)) throw new ReefError('option.invalid', 'invalid', `--agent-name takes 1 to 60 of A-Z a-z 0-9 _ -, not "${flags.agentName}".`);
  const settings = {
    agentName: flags.agentName,
    agents: flags.agents === false ? 0 : whole('--agents', flags.agents, 0, 50),
    port: whole('--port', flags.port, 1, 65_535), gatewayPort: whole('--gateway-port', flags.gatewayPort, 1, 65_535), mqttPort: whole('--mqtt-port', flags.mqttPort, 1, 65_535),
    fps: numberWithin('--fps', flags.fps, [0.1, 1_000]), telemetryWindowS: whole('--telemetry-window', flags.telemetryWindow, 1, 3_600),
  };
  if (new Set([settings.port, settings.gatewayPort, settings.mqttPort]).size < 3) throw new ReefError('option.invalid', 'invalid', '--port, --gateway-port and --mqtt-port must differ.');
  return settings;
}
