#!/usr/bin/env node
import { hostname } from 'node:os';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { Command, Option } from 'commander';
import { openInferenceHost } from '@reefkeeper/inference';
import { asReefError } from '@reefkeeper/platform/errors';
import { openLogger } from '@reefkeeper/platform/logger';
import { Agent } from './agent.ts';
import { agentVersion } from './capabilities.ts';
import { agentSettings } from './config.ts';
import { enrol, loadIdentity } from './identity.ts';
import { lockDirectory } from './lock.ts';
import { serviceManager } from './service-manager.ts';
import { readState } from './state.ts';

// The supervisor moves little data, and boards have 1 GB. Measured: 105 MB resident instead of 137. (Limits on the young generation
// itself are only heeded on the command line; its growth can still be stopped here.)
setFlagsFromString('--semi-space-growth-factor=1');
setFlagsFromString('--optimize-for-size');

/** EX_TEMPFAIL: the launcher (`deploy/agent/launcher`) chooses a release and starts again. */
const restartCode = 75;

const program = new Command('reef-agent').description('Runs what a Reefkeeper fleet wants on this device.').version(agentVersion);
const dir = () => new Option('--dir <dir>', 'where the agent keeps everything (REEF_AGENT_DIR)');

program.command('enrol').description('bring this device into a fleet; a second run changes nothing')
  .requiredOption('--gateway <url>', 'address of the device gateway, https://...')
  .requiredOption('--token <token>', 'enrolment token, reef1.SECRET.FINGERPRINT')
  .option('--id <id>', 'device id, where the token leaves it open')
  .addOption(dir())
  .action(async (options: { gateway: string; token: string; id?: string; dir?: string }) => {
    const settings = settingsOf({ REEF_AGENT_DIR: options.dir });
    await mkdir(settings.REEF_AGENT_DIR, { recursive: true, mode: 0o700 });
    const { identity, fresh } = await enrol(settings.REEF_AGENT_DIR, { gateway: options.gateway, token: options.token, id: options.id, hostname: hostname() });
    process.stdout.write(`${JSON.stringify({ device: identity.deviceId, enrolled: fresh ? 'now' : 'before' })}\n`);
  });

program.command('run').description('serve, and follow the fleet')
  .addOption(dir())
  .option('--frames <dir>', 'folder of images to infer (FRAMES_DIR)')
  .option('--camera <source>', 'instead: ffmpeg:/dev/video0, rtsp://..., gst:PIPELINE (REEF_CAMERA; docs/cameras.md)')
  .option('--fps <n>', 'frames per second (FRAMES_FPS)')
  .action(async (options: { dir?: string; frames?: string; camera?: string; fps?: string }) => {
    const settings = settingsOf({ REEF_AGENT_DIR: options.dir, FRAMES_DIR: options.frames, REEF_CAMERA: options.camera, FRAMES_FPS: options.fps });
    await mkdir(settings.REEF_AGENT_DIR, { recursive: true, mode: 0o700 });
    const service = await serviceManager(process.env);
    const lock = await lockDirectory(settings.REEF_AGENT_DIR);
    const agent = await Agent.start(settings, openLogger('agent', settings.LOG_LEVEL));
    process.stdout.write(`${JSON.stringify({ ready: true, device: agent.deviceId, localApi: agent.localUrl ?? null })}\n`);
    service.ready();
    service.watch(() => agent.healthy());
    const stop = (code = 0) => {
      // Whoever asks twice does not want to wait.
      process.once('SIGTERM', () => process.exit(1)).once('SIGINT', () => process.exit(1));
      service.close();
      // To be started again by the launcher is no end of the service: systemd would wait for that, and kill.
      if (code !== restartCode) service.stopping();
      void agent.stop().finally(() => {
        lock?.close();
        process.exit(code);
      });
    };
    process.once('SIGTERM', () => stop()).once('SIGINT', () => stop());
    void agent.restarting.then(() => stop(restartCode));
    // Started by a supervisor, we end with it, however it ends.
    process.once('disconnect', () => stop());
    const launcher = process.ppid;
    if (settings.REEF_RELEASE) setInterval(() => { if (process.ppid !== launcher) stop(); }, 1_000).unref();
  });

program.command('self-test', { hidden: true }).description('whether this release could run here; asked before a device switches to it')
  .action(async () => {
    const { REEF_TFLITE_LIBRARY } = settingsOf({});
    const host = openInferenceHost(REEF_TFLITE_LIBRARY ? { library: REEF_TFLITE_LIBRARY } : {});
    host.on('exit', () => {});
    try {
      const { tfliteVersion } = await host.probe();
      process.stdout.write(`${JSON.stringify({ version: agentVersion, tfliteVersion })}\n`);
    } finally {
      await host.close();
    }
  });

program.command('status').description('what this device runs, as the agent last wrote it')
  .addOption(dir())
  .action(async (options: { dir?: string }) => {
    const { REEF_AGENT_DIR } = settingsOf({ REEF_AGENT_DIR: options.dir });
    const { deviceId, gatewayUrl, mqttUrl } = await loadIdentity(REEF_AGENT_DIR);
    const { session, desired, workloads } = await readState(REEF_AGENT_DIR);
    const localApi = await readFile(join(REEF_AGENT_DIR, 'local-api'), 'utf8').then((url) => url.trim(), () => null);
    process.stdout.write(`${JSON.stringify({ device: deviceId, gatewayUrl, mqttUrl, localApi, session, observedRevision: desired?.revision ?? null, workloads }, null, 2)}\n`);
  });

function settingsOf(flags: Record<string, string | undefined>) {
  return agentSettings({ ...process.env, ...Object.fromEntries(Object.entries(flags).filter(([, value]) => value !== undefined)) });
}

try {
  await program.parseAsync();
} catch (thrown) {
  const error = asReefError(thrown);
  process.stderr.write(`${error.code}: ${error.message}\n`);
  process.exit(error.exitCode);
}
