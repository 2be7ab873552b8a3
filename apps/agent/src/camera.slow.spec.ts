import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import getPort from 'get-port';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Manifest } from '@reefkeeper/bundle';
import { openLogger, type Logger } from '@reefkeeper/platform/logger';
import { joined, startAgent } from '../../../test/support/device.ts';
import { eventually, Fleet } from '../../../test/support/fleet.ts';
import type { Agent } from './agent.ts';
import { parseCamera, type CameraSource, type FrameShape } from './camera-source.ts';
import { Camera } from './camera.ts';
import type { Frame } from './frames.ts';
import type { Pixels } from './runner.ts';

const has = (command: string, ...args: string[]) => {
  try {
    execFileSync(command, args, { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
};
const hasFfmpeg = has('ffmpeg', '-version');
const rtspServer = join(import.meta.dirname, '../../../test/support/rtsp_server.py');
const systemPython = '/usr/bin/python3';
const hasRtsp = hasFfmpeg && has(systemPython, '-c', 'import gi; gi.require_version("GstRtspServer", "1.0"); from gi.repository import GstRtspServer');
const hasGst = has('gst-inspect-1.0', 'videotestsrc') && has('gst-inspect-1.0', 'aspectratiocrop');

const cameras: Camera[] = [];
const others: ChildProcess[] = [];
afterEach(async () => {
  await Promise.all(cameras.splice(0).map((camera) => camera.stop()));
  for (const child of others.splice(0)) child.kill('SIGKILL');
});

function open(text: string, options: Partial<ConstructorParameters<typeof Camera>[0]> = {}): Camera {
  const camera = new Camera({ source: parseCamera(text) as Exclude<CameraSource, { kind: 'folder' }>, fps: 20, log: openLogger('camera', 'silent'), onChange: () => {}, firstDelayMs: 20, maxDelayMs: 100, ...options });
  cameras.push(camera);
  return camera;
}

const seeing = (shape: Partial<FrameShape> = {}) => ({ manifest: { inputs: [{ preprocessing: { kind: 'image', width: 32, height: 32, channels: 3, resize: 'stretch', mean: [0], std: [255], ...shape } }] } as unknown as Manifest });
const pixelsOf = (frame: Frame): Pixels => ('pixels' in frame ? frame.pixels : expect.fail('a file'));
const next = async (view: ReturnType<Camera['view']>, model = seeing()) => pixelsOf(await eventually(() => view.next(model)));
const at = ({ pixels, width, channels }: Pixels, x: number, y: number) => [...pixels.subarray((y * width + x) * channels, (y * width + x + 1) * channels)];
const near = (colour: number[], wanted: number[]) => colour.every((value, index) => Math.abs(value - wanted[index]!) < 12);
const alive = (pid: number) => existsSync(`/proc/${pid}`) && !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));

describe.runIf(hasFfmpeg)('a camera through ffmpeg', () => {
  it('gives frames of the model\'s size, each once, and always the newest', async () => {
    // The picture is as bright as the frame is late: some 3 more for every one.
    const camera = open('ffmpeg:lavfi:color=c=black:size=64x48:rate=50,geq=lum=\'24+mod(N*3,192)\':cb=128:cr=128', { fps: 50 });
    const view = camera.view('classifier');
    const first = await next(view);
    expect(first).toMatchObject({ width: 32, height: 32, channels: 3 });
    expect(first.pixels).toHaveLength(32 * 32 * 3);
    const brightness: number[] = [at(first, 1, 1)[0]!];
    for (let n = 0; n < 5; n += 1) brightness.push(at(await next(view), 1, 1)[0]!);
    // Each once: no two neighbours are the same.
    expect(brightness.every((one, index) => index === 0 || one !== brightness[index - 1])).toBe(true);
    const before = brightness.at(-1)!;
    await sleep(400);
    // Some twenty frames later, not the next in a queue; at 223 it begins anew.
    const now = at(await next(view), 1, 1)[0]!;
    expect(now > before ? now - before : now - before + 223).toBeGreaterThan(20);
    expect(camera.lost).toBe(false);
  });

  it('crops to the middle where the model does, and is grey where the model is', async () => {
    // Blue with a red edge of 40 columns, which a centred square does not reach.
    const text = 'ffmpeg:lavfi:color=c=blue:size=320x240:rate=20,drawbox=x=0:y=0:w=40:h=240:color=red:t=fill';
    const [cropped, stretched] = [await next(open(text).view('a'), seeing({ resize: 'center-crop' })), await next(open(text).view('a'))];
    expect(near(at(stretched, 1, 16), [254, 0, 0])).toBe(true);
    expect(near(at(cropped, 1, 16), [0, 0, 254])).toBe(true);
    const grey = await next(open(text).view('a'), seeing({ channels: 1, width: 31, height: 17 }));
    expect(grey).toMatchObject({ width: 31, height: 17, channels: 1 });
    expect(grey.pixels).toHaveLength(31 * 17);
  });

  it('one camera for all: it makes the largest size, starts again when a model of another size comes, and ends with the last', async () => {
    const camera = open('ffmpeg:lavfi:testsrc=size=320x240:rate=20');
    const [one, other] = [camera.view('one'), camera.view('other')];
    expect(await next(one)).toMatchObject({ width: 32, height: 32 });
    const { pid } = camera;
    // The frame at hand may still be of the size before.
    await eventually(async () => { const frame = await other.next(seeing({ width: 96, height: 64 })); return frame && pixelsOf(frame).width === 96; });
    expect(camera.pid).not.toBe(pid);
    await eventually(() => !alive(pid!));
    expect(camera.lost).toBe(false);
    expect(await next(one)).toMatchObject({ width: 96, height: 64 });
    camera.forget('other');
    await eventually(async () => { const frame = await one.next(seeing()); return frame && pixelsOf(frame).width === 32; });
    const last = camera.pid!;
    camera.forget('one');
    await eventually(() => !alive(last));
    expect(await next(one)).toMatchObject({ width: 32 });
  });

  it.each([['dies', 'SIGKILL'], ['hangs', 'SIGSTOP']] as const)('one that %s is lost, told once, and comes back by itself', async (_, signal) => {
    const changes: boolean[] = [];
    const camera = open('ffmpeg:lavfi:testsrc=rate=20', { silenceMs: 1_500, onChange: () => changes.push(camera.lost) });
    const view = camera.view('classifier');
    await next(view);
    const pid = camera.pid!;
    process.kill(-pid, signal);
    await eventually(() => changes.length === 2);
    expect(changes).toEqual([true, false]);
    expect(alive(pid)).toBe(false);
    expect(await next(view)).toMatchObject({ width: 32 });
  });

  it('a stream over the network; when its sender goes the camera is lost, and no password is in the log', async () => {
    const port = await getPort({ host: '127.0.0.1' });
    const sender = spawn('ffmpeg', ['-nostdin', '-loglevel', 'error', '-re', '-f', 'lavfi', '-i', 'color=c=red:size=160x120:rate=20', '-c:v', 'mjpeg', '-f', 'mpjpeg', '-listen', '1', `http://127.0.0.1:${port}/live`], { stdio: 'ignore' });
    others.push(sender);
    const lines: string[] = [];
    const note = (...said: unknown[]) => void lines.push(JSON.stringify(said));
    const log = { warn: note, info: note, debug: note } as unknown as Logger;
    const camera = open(`http://admin:hunter2@127.0.0.1:${port}/live`, { log, silenceMs: 8_000 });
    const frame = await next(camera.view('classifier'));
    expect(near(at(frame, 16, 16), [254, 0, 0])).toBe(true);
    sender.kill('SIGKILL');
    await eventually(() => lines.filter((line) => line.includes('"the camera is lost"')).length > 1);
    expect(camera.lost).toBe(true);
    expect(lines.join('\n')).toMatch(/the camera is lost/);
    expect(lines.join('\n')).toContain(`http://***@127.0.0.1:${port}/live`);
    expect(lines.join('\n')).not.toContain('hunter2');
  });

  it('dies with the agent, even when both are killed or hang', async () => {
    const script = `
      import { Camera } from ${JSON.stringify(join(import.meta.dirname, 'camera.ts'))};
      const log = { warn() {}, info() {}, debug() {} };
      const camera = new Camera({ source: { kind: 'ffmpeg', input: 'testsrc', format: 'lavfi', live: false }, fps: 10, log, onChange() {} });
      const frame = await camera.view('a').next({ manifest: { inputs: [{ preprocessing: { kind: 'image', width: 32, height: 32, channels: 3, resize: 'stretch' } }] } });
      console.log(camera.pid);`;
    const agent = spawn(process.execPath, ['--conditions=@reefkeeper/source', '--experimental-transform-types', '--disable-warning=ExperimentalWarning', '--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'], cwd: import.meta.dirname });
    others.push(agent);
    const [said] = (await once(agent.stdout, 'data')) as [Buffer];
    const pid = Number(said.toString());
    expect(alive(pid)).toBe(true);
    // It hangs, so it will never notice that nobody reads.
    process.kill(pid, 'SIGSTOP');
    agent.kill('SIGKILL');
    await eventually(() => !alive(pid), 5_000);
  });
});

describe.runIf(hasGst)('a camera through GStreamer', () => {
  it.each([['three channels', { width: 30, height: 20, channels: 3 as const }], ['grey', { width: 29, height: 20, channels: 1 as const }]])('%s, with rows that are padded', async (_, shape) => {
    const frame = await next(open('gst:videotestsrc is-live=true pattern=red').view('a'), seeing(shape));
    expect(frame).toMatchObject(shape);
    expect(frame.pixels).toHaveLength(shape.width * shape.height * shape.channels);
    for (const [x, y] of [[0, 0], [shape.width - 1, 0], [0, 19], [shape.width - 1, 19]] as const) expect(shape.channels === 1 ? true : near(at(frame, x, y), [255, 0, 0]), `${x},${y}: ${at(frame, x, y).join()}`).toBe(true);
    // One colour is one grey, to the last pixel.
    if (shape.channels === 1) expect(new Set(frame.pixels).size).toBe(1);
  });

  it('crops to the middle', async () => {
    const source = 'gst:videotestsrc is-live=true pattern=blue ! video/x-raw,width=320,height=240 ! videobox left=40 right=40 ! videobox left=-40 right=-40 fill=red';
    expect(near(at(await next(open(source).view('a'), seeing({ resize: 'stretch' })), 0, 16), [255, 0, 0])).toBe(true);
    expect(near(at(await next(open(source).view('a'), seeing({ resize: 'center-crop' })), 1, 16), [0, 0, 255])).toBe(true);
  });

  it('a pipeline that cannot be is lost, with its own words', async () => {
    const lines: string[] = [];
    const camera = open('gst:nosuchelement', { log: { warn: (...said: unknown[]) => lines.push(JSON.stringify(said)), info() {}, debug() {} } as unknown as Logger });
    await camera.view('a').next(seeing());
    expect(camera.lost).toBe(true);
    expect(lines.join()).toMatch(/nosuchelement/);
  });
});

describe.runIf(hasRtsp)('a camera over RTSP', () => {
  /** The server's JPEGs hold the narrow range of television and say nothing of it, so that every decoder takes it for the full one. */
  const red = [238, 14, 14];
  let port: number;
  let lines: string[];
  const said = () => lines.join('\n');
  const log = () => {
    const note = (...words: unknown[]) => void lines.push(JSON.stringify(words));
    return { warn: note, info: note, debug: note } as unknown as Logger;
  };
  const serve = async () => {
    const server = spawn(systemPython, [rtspServer, `${port}`, 'admin', 'hunter2'], { stdio: ['ignore', 'pipe', 'ignore'] });
    others.push(server);
    await once(server.stdout, 'data');
    return server;
  };

  beforeEach(async () => {
    port = await getPort({ host: '127.0.0.1' });
    lines = [];
  });

  it.each([['whose server dies', 'SIGKILL', /the camera is lost/], ['that hangs with the connection open', 'SIGSTOP', /it gave no frame for 4 s and was ended/]] as const)('one %s is lost, told once, and comes back by itself', async (_, signal, why) => {
    const server = await serve();
    const changes: boolean[] = [];
    const camera = open(`rtsp://admin:hunter2@127.0.0.1:${port}/live`, { log: log(), silenceMs: 4_000, onChange: () => changes.push(camera.lost) });
    const view = camera.view('classifier');
    expect(near(at(await next(view), 16, 16), red)).toBe(true);
    const gone = once(server, 'exit');
    server.kill(signal);
    await eventually(() => camera.lost, 15_000);
    expect(said()).toMatch(why);
    server.kill('SIGKILL');
    await gone;
    await serve();
    await eventually(() => !camera.lost, 20_000);
    expect(near(at(await next(view), 16, 16), red)).toBe(true);
    expect(changes).toEqual([true, false]);
    expect(said()).toContain(`rtsp://***@127.0.0.1:${port}/live`);
    expect(said()).not.toContain('hunter2');
  });

  it('a wrong password is said in words, and is in no log', async () => {
    await serve();
    const camera = open(`rtsp://admin:hunter3@127.0.0.1:${port}/live`, { log: log() });
    await camera.view('a').next(seeing());
    await eventually(() => camera.lost, 15_000);
    expect(said()).toMatch(/401 Unauthorized/);
    expect(said()).not.toContain('hunter3');
  });

  it.runIf(hasGst)('the same through GStreamer', async () => {
    await serve();
    const camera = open(`gst:rtspsrc location=rtsp://127.0.0.1:${port}/live user-id=admin user-pw=hunter2 protocols=tcp latency=0 ! rtpjpegdepay ! jpegdec`, { log: log() });
    expect(near(at(await next(camera.view('a')), 16, 16), red)).toBe(true);
  });
});

describe('a camera that is not to be had', () => {
  it('a missing program is named', async () => {
    const lines: string[] = [];
    const path = process.env.PATH;
    process.env.PATH = '/nowhere';
    try {
      const camera = open('ffmpeg:/dev/video0', { log: { warn: (...said: unknown[]) => lines.push(JSON.stringify(said)), info() {}, debug() {} } as unknown as Logger });
      await camera.view('a').next(seeing());
      expect(camera.lost).toBe(true);
    } finally {
      process.env.PATH = path;
    }
    expect(lines.join()).toMatch(/ffmpeg is not installed on this device/);
  });
});

describe.runIf(hasFfmpeg)('an agent with a camera', () => {
  it('serves its frames, says when it is lost, and serves on when it is back', async () => {
    const fleet = await Fleet.open();
    const dir = await mkdtemp(join(tmpdir(), 'reef-camera-'));
    let agent: Agent | undefined;
    try {
      await joined(fleet, dir, 'reef-eye');
      agent = await startAgent(dir, { REEF_CAMERA: 'ffmpeg:lavfi:color=c=red:size=320x240:rate=20', FRAMES_FPS: '20', REEF_LOCAL_API: 'off' }, { camera: { silenceMs: 1_500, firstDelayMs: 3_000, maxDelayMs: 3_000 } });
      const { bundle } = fleet.publish(1);
      await fleet.want('reef-eye', 1, { classifier: { bundle, policy: { observeS: 0.3 } } }, { telemetryWindowS: 1 });
      const served = await eventually(() => fleet.windows.find(({ inferences }) => inferences > 5));
      expect(served).toMatchObject({ bundle, errors: {}, labelled: 0 });
      process.kill(-agent.cameraPid!, 'SIGSTOP');
      expect(await fleet.reportWhere(({ conditions }) => conditions.includes('CAMERA_LOST'))).toMatchObject({ health: 'DEGRADED', workloads: { classifier: { running: bundle } } });
      await fleet.reportWhere(({ conditions, seq }) => !conditions.includes('CAMERA_LOST') && seq > fleet.reports.find((one) => one.conditions.includes('CAMERA_LOST'))!.seq);
      const windows = fleet.windows.length;
      await eventually(() => fleet.windows.slice(windows + 1).some(({ inferences }) => inferences > 5));
    } finally {
      await agent?.stop();
      await fleet.close();
      await rm(dir, { recursive: true, force: true });
    }
  });
});
