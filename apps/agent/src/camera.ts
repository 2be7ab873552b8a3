import { spawn, type ChildProcess } from 'node:child_process';
import type { Manifest } from '@reefkeeper/bundle';
import type { Logger } from '@reefkeeper/platform/logger';
import { Backoff, sleep } from './backoff.ts';
import { cameraCommand, masked, rowBytes, type CameraSource, type FrameShape } from './camera-source.ts';
import { FrameParser } from './frame-parser.ts';
import type { Frame } from './frames.ts';

export interface CameraOptions {
  source: Exclude<CameraSource, { kind: 'folder' }>;
  /** Frames per second that the child makes at most. */
  fps: number;
  log: Logger;
  /** The camera was lost, or gives frames again. */
  onChange: () => void;
  /** No frame for this long means that it hangs; counted from the start of the child, too. */
  silenceMs?: number;
  firstDelayMs?: number;
  maxDelayMs?: number;
}

/**
 * Becomes the program, after leaving a guard in its process group that waits on our end of a pipe: when this process dies, even by SIGKILL, the pipe closes and the
 * guard takes the group with it. A camera that hangs writes nothing, so it would never notice by itself.
 */
const guarded = 'exec 3<&0 0</dev/null; ( (read -r _ <&3; kill -9 0) >/dev/null 2>&1 & ); exec 3<&-; exec "$@"';
/** A camera that held this long starts anew with the shortest delay. */
const steadyMs = 10_000;
const waitForFrameMs = 1_000;

/**
 * One camera for all workloads, as a child that scales to what the models want to see and writes raw frames. Always the newest frame is handed out, each once per
 * workload; what nobody took in time is dropped. A camera that ends or falls silent is lost: told, and started again with back-off.
 */
export class Camera {
  private readonly wanted = new Map<string, FrameShape>();
  private readonly waiters = new Set<() => void>();
  private readonly stopped = new AbortController();
  private readonly backoff: Backoff;
  private running: Promise<void> | undefined;
  private child: ChildProcess | undefined;
  private shape: FrameShape | undefined;
  private newest: { frame: Frame; number: number } | undefined;
  private number = 0;
  private missing = false;
  private turned = false;

  constructor(private readonly options: CameraOptions) {
    this.backoff = new Backoff({ firstMs: options.firstDelayMs ?? 500, maxMs: options.maxDelayMs ?? 30_000 });
  }

  /** It gives no frames although it should. */
  get lost(): boolean {
    return this.missing;
  }

  get pid(): number | undefined {
    return this.child?.pid;
  }

  /** Frames for one workload. */
  view(workload: string): { next(model?: { manifest: Manifest }): Promise<Frame | undefined> } {
    let last = 0;
    return {
      next: async (model) => {
        if (model) this.want(workload, model.manifest);
        if (this.newest === undefined || this.newest.number === last) await this.frame();
        if (this.newest === undefined || this.newest.number === last) return undefined;
        last = this.newest.number;
        return this.newest.frame;
      },
    };
  }

  /** A workload is gone; without any the camera is let go, too. */
  forget(workload: string): void {
    if (!this.wanted.delete(workload) || this.wanted.size > 0) return;
    this.shape = undefined;
    this.kill();
  }

  async stop(): Promise<void> {
    this.stopped.abort(new Error('stopped'));
    this.kill();
    await this.running;
  }

  /** A workload's model wants to see this from now on. */
  private want(workload: string, { inputs: [input] }: Manifest): void {
    const preprocessing = input?.preprocessing;
    if (preprocessing?.kind !== 'image') return;
    const { width, height, channels, resize } = preprocessing;
    const before = this.wanted.get(workload);
    if (before?.width !== width || before.height !== height || before.channels !== channels || before.resize !== resize) this.wanted.set(workload, { width, height, channels, resize });
    // The largest one: what others want smaller is scaled from it.
    const shape = [...this.wanted.values()].reduce((one, other) => (area(other) > area(one) ? other : one));
    if (this.shape && sameShape(shape, this.shape)) return;
    this.shape = shape;
    this.turned = this.child !== undefined;
    // What is there of the old size is scaled until the new one comes.
    if (this.child) this.kill();
    this.running ??= this.keepUp();
  }

  private async keepUp(): Promise<void> {
    const { signal } = this.stopped;
    const { log, source } = this.options;
    while (!signal.aborted) {
      const began = performance.now();
      const { shape } = this;
      if (!shape) {
        this.running = undefined;
        return this.become(false);
      }
      const { why, frames } = await this.watch(shape);
      if (signal.aborted) return;
      if (!this.shape) continue;
      if (this.turned) {
        this.turned = false;
        log.info({ width: this.shape!.width, height: this.shape!.height }, 'the camera starts again at another size');
        continue;
      }
      if (frames > 0 && performance.now() - began > steadyMs) this.backoff.reset();
      const told = this.missing;
      this.become(true);
      const waitMs = this.backoff.next();
      // Once, not at every attempt: an unplugged camera stays unplugged for days.
      log[told ? 'debug' : 'warn']({ camera: masked(source.kind === 'gst' ? source.pipeline : source.input), reason: masked(why), againInMs: waitMs }, 'the camera is lost');
      await sleep(waitMs, signal).catch(() => {});
    }
  }

  /** Runs the child until it ends, by itself or because it fell silent. @returns why, in words */
  private watch(shape: FrameShape): Promise<{ why: string; frames: number }> {
    const { source, fps, silenceMs = Math.max(5_000, 10_000 / fps) } = this.options;
    const command = cameraCommand(source, shape, fps);
    return new Promise((resolve) => {
      const parser = new FrameParser(shape.width * shape.channels, shape.height, rowBytes(source, shape));
      const child = spawn('/bin/sh', ['-c', guarded, 'sh', ...command], { detached: true, stdio: ['pipe', 'pipe', 'pipe'], env: { PATH: process.env.PATH ?? '', HOME: process.env.HOME ?? '/', LC_ALL: 'C' } });
      this.child = child;
      let said = '';
      let silent = false;
      const overslept = () => {
        silent = true;
        this.kill();
      };
      let watch = setTimeout(overslept, silenceMs);
      child.stdin.on('error', () => {});
      child.stderr.on('data', (chunk: Buffer) => { said = (said + chunk.toString('utf8')).slice(-2_000); });
      child.stdout.on('data', (chunk: Buffer) => {
        const pixels = parser.push(chunk);
        if (!pixels || this.child !== child) return;
        clearTimeout(watch);
        watch = setTimeout(overslept, silenceMs);
        this.take({ pixels: { pixels, width: shape.width, height: shape.height, channels: shape.channels }, label: null });
      });
      const end = (how: string) => {
        clearTimeout(watch);
        // The guard, and whatever else is left of the group.
        killGroup(child);
        if (this.child === child) this.child = undefined;
        const reason = silent ? `it gave no frame for ${silenceMs / 1_000} s and was ended` : how;
        resolve({ why: `${reason}${said.trim() ? `: ${said.trim().split('\n').slice(-2).join('; ')}` : ''}`, frames: parser.seen });
      };
      child.on('error', ({ message }) => end(message));
      child.on('exit', (code, signal) => end(code === 127 ? `${command[0]} is not installed on this device` : `${command[0]} ended with ${signal ?? `code ${code}`}`));
    });
  }

  private take(frame: Frame): void {
    this.number += 1;
    this.newest = { frame, number: this.number };
    this.become(false);
    for (const waiter of this.waiters) waiter();
  }

  private become(missing: boolean): void {
    if (missing) this.newest = undefined;
    if (this.missing === missing) return;
    this.missing = missing;
    if (!missing) this.options.log.info('the camera gives frames again');
    this.options.onChange();
  }

  /** The next frame, or a while without one. */
  private frame(): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.waiters.delete(done);
        this.stopped.signal.removeEventListener('abort', done);
        resolve();
      };
      const timer = setTimeout(done, waitForFrameMs);
      this.waiters.add(done);
      this.stopped.signal.addEventListener('abort', done, { once: true });
    });
  }

  private kill(): void {
    if (this.child) killGroup(this.child);
  }
}

function killGroup({ pid }: ChildProcess): void {
  try {
    if (pid) process.kill(-pid, 'SIGKILL');
  } catch {
    // Gone already.
  }
}

function area({ width, height }: FrameShape): number {
  return width * height;
}

function sameShape(one: FrameShape, other: FrameShape): boolean {
  return one.width === other.width && one.height === other.height && one.channels === other.channels && one.resize === other.resize;
}
