import { fork, type ChildProcess } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { ReefError, type ErrorKind } from '@reefkeeper/platform/errors';
import type { EdgeTpuDevice } from './edgetpu.ts';
import type { TensorInfo } from './tensor.ts';
import type { Answers, Reply, Request } from './wire.ts';

export interface HostOptions {
  /** Path of libtensorflowlite_c; the one npm ships by default. */
  library?: string;
  /** An inference that takes longer means the accelerator or driver hangs: the child is killed. */
  inferenceDeadlineMs?: number;
  /** The same for loading and probing. */
  loadDeadlineMs?: number;
}

export interface LoadedModel {
  readonly inputs: TensorInfo[];
  readonly outputs: TensorInfo[];
  readonly backend: 'cpu' | 'edgetpu';
  readonly tfliteVersion: string;
  /**
   * @param inputs raw tensor bytes, one per input
   * @returns raw output bytes; `invokeUs` the native call alone, `totalUs` with the way to the child and back, microseconds
   * @throws ReefError `inference.crashed`, `inference.hung`, `inference.failed`, `inference.input_size`
   */
  infer(inputs: Uint8Array[]): Promise<{ outputs: Uint8Array[]; invokeUs: number; totalUs: number }>;
  unload(): Promise<void>;
}

interface Pending { resolve(answer: never): void; reject(error: ReefError): void; timer: NodeJS.Timeout }

/**
 * A child process that runs models. When it dies, every pending call is rejected with `inference.crashed`, `exit` is emitted, and
 * the host is done: whoever owns it decides whether and when to open another. Models of one Edge TPU belong in one host.
 */
export class InferenceHost extends EventEmitter<{ exit: [ReefError] }> {
  private readonly pending = new Map<number, Pending>();
  private readonly child: ChildProcess;
  private nextId = 0;
  private stderr = '';
  private ended: ReefError | undefined;
  private closing = false;

  constructor(private readonly options: HostOptions = {}) {
    super();
    // From sources (tests) the child runs on Node's own type stripping; from a build it is plain JavaScript.
    const fromSource = import.meta.filename.endsWith('.ts');
    this.child = fork(new URL(fromSource ? './child-main.ts' : './child-main.js', import.meta.url), [options.library ?? ''], {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      execArgv: ['--max-old-space-size=64', '--max-semi-space-size=1', ...(fromSource ? ['--conditions=@reefkeeper/source', '--experimental-transform-types', '--disable-warning=ExperimentalWarning'] : [])],
    });
    this.child.on('message', (reply: Reply) => this.settle(reply));
    this.child.on('error', (cause) => this.end(new ReefError('inference.crashed', 'unavailable', `The inference process could not be started: ${cause.message}`, { cause })));
    this.child.on('exit', (code, signal) => this.end(this.ended ?? new ReefError('inference.crashed', 'unavailable', `The inference process ended with ${signal ?? `code ${code}`}.${this.stderr && ` It last said: ${this.stderr.trim().split('\n').at(-1)}`}`, { detail: { code, signal, stderr: this.stderr } })));
    this.child.stderr!.on('data', (chunk: Buffer) => { this.stderr = (this.stderr + chunk.toString('utf8')).slice(-8_192); });
  }

  get pid(): number | undefined {
    return this.child.pid;
  }

  /**
   * @param model.digest SHA-256 of the file, checked before loading
   * @throws ReefError as `Interpreter.load`, and `artifact.checksum_mismatch`, `inference.crashed`, `inference.hung`
   */
  async load(model: { path: string; digest: string; threads?: number; edgetpu?: { device: EdgeTpuDevice; library?: string } }): Promise<LoadedModel> {
    const { model: id, ...facts } = await this.ask({ kind: 'load', path: model.path, digest: model.digest, threads: model.threads ?? 1, edgetpu: model.edgetpu ?? null });
    return {
      ...facts,
      infer: async (inputs) => {
        const begin = performance.now();
        const answer = await this.ask({ kind: 'infer', model: id, inputs });
        return { ...answer, totalUs: (performance.now() - begin) * 1_000 };
      },
      unload: async () => { await this.ask({ kind: 'unload', model: id }); },
    };
  }

  async probe(library?: string): Promise<Answers['probe']> {
    return this.ask({ kind: 'probe', ...(library ? { library } : {}) });
  }

  async close(): Promise<void> {
    if (this.ended) return;
    this.closing = true;
    const exited = new Promise((resolve) => { this.child.once('exit', resolve); });
    if (this.child.connected) this.child.disconnect();
    const timer = setTimeout(() => this.child.kill('SIGKILL'), 2_000);
    await exited;
    clearTimeout(timer);
  }

  private ask<K extends Request['kind']>(request: Extract<Request, { kind: K }>): Promise<Answers[K]> {
    if (this.ended) return Promise.reject(this.ended);
    const id = (this.nextId += 1);
    const limitMs = request.kind === 'infer' ? (this.options.inferenceDeadlineMs ?? 10_000) : (this.options.loadDeadlineMs ?? 60_000);
    return new Promise<Answers[K]>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.ended = new ReefError('inference.hung', 'unavailable', `The inference process did not answer a ${request.kind} within ${limitMs} ms and was killed.`);
        this.child.kill('SIGKILL');
      }, limitMs);
      this.pending.set(id, { resolve, reject, timer });
      this.child.send({ ...request, id }, (error) => { if (error) this.end(new ReefError('inference.crashed', 'unavailable', `The inference process cannot be reached: ${error.message}`, { cause: error })); });
    });
  }

  private settle(reply: Reply): void {
    const waiting = this.pending.get(reply.id);
    if (!waiting) return;
    this.pending.delete(reply.id);
    clearTimeout(waiting.timer);
    if (reply.ok) waiting.resolve(reply.answer as never);
    else waiting.reject(new ReefError(reply.code, reply.kind as ErrorKind, reply.message));
  }

  private end(reason: ReefError): void {
    const first = this.ended === undefined || this.pending.size > 0;
    this.ended ??= reason;
    for (const waiting of this.pending.values()) {
      clearTimeout(waiting.timer);
      waiting.reject(this.ended);
    }
    this.pending.clear();
    if (first && !this.closing) this.emit('exit', this.ended);
  }
}

export function openInferenceHost(options: HostOptions = {}): InferenceHost {
  return new InferenceHost(options);
}
