import { fork, type ChildProcess } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { ReefError, type ErrorKind } from '@reefkeeper/platform/errors';
import type { EdgeTpuDevice } from './edgetpu.ts';
import type { ExpectedTensors, TensorInfo } from './tensor.ts';
import { stderrMark, type Answers, type Reply, type Request } from './wire.ts';

export interface HostOptions {
  /** Path of libtensorflowlite_c; the one npm ships by default. */
  library?: string;
  /** An inference that takes longer, counted from when the child can begin it, means that the accelerator or driver hangs: the child is killed. */
  inferenceDeadlineMs?: number;
  /** The same for loading and probing. */
  loadDeadlineMs?: number;
}

export interface LoadedModel {
  /** Within its host. */
  readonly id: number;
  readonly inputs: TensorInfo[];
  readonly outputs: TensorInfo[];
  readonly backend: 'cpu' | 'edgetpu';
  readonly tfliteVersion: string;
  /**
   * @param inputs raw tensor bytes, one per input
   * @param options.deadlineMs instead of the host's own
   * @returns raw output bytes; `invokeUs` the native call alone, `totalUs` with the way to the child and back, microseconds
   * @throws ReefError `inference.crashed`, `inference.hung`, `inference.failed`, `inference.input_size`
   */
  infer(inputs: Uint8Array[], options?: { deadlineMs?: number }): Promise<{ outputs: Uint8Array[]; invokeUs: number; totalUs: number }>;
  /**
   * The same inference `runs` times in a row inside the child, so that the way there is not measured with it.
   * @returns `totalUs` of each: copying in, the native call, copying out; `cpuUs` the processor time of all threads over all runs
   */
  bench(inputs: Uint8Array[], runs: number): Promise<{ totalUs: Float64Array; cpuUs: number }>;
  unload(): Promise<void>;
}

interface Pending { kind: Request['kind']; model: number | null; limitMs: number; resolve(answer: never): void; reject(error: ReefError): void }

/** A busy event loop runs a due timer before it reads the answer that is already there; this much longer tells the two apart. */
const graceMs = 50;
const unkillableMs = 3_000;

/**
 * A child process that runs models. When it dies, every pending call is rejected with `inference.crashed`, `exit` is emitted, and
 * the host is done: whoever owns it decides whether and when to open another. Models of one Edge TPU belong in one host.
 */
export class InferenceHost extends EventEmitter<{ exit: [ReefError] }> {
  /** In the order sent, which is the order the child works and answers in; only the first is running. */
  private readonly pending = new Map<number, Pending>();
  private deadline: NodeJS.Timeout | undefined;
  private readonly child: ChildProcess;
  /** The process is no more; a device that it held can be opened by another. */
  readonly gone: Promise<void>;
  private nextId = 0;
  private stderr = '';
  private ended: ReefError | undefined;
  private closing = false;
  private over = false;
  private culprit: number | 'loading' | null = null;

  constructor(private readonly options: HostOptions = {}) {
    super();
    // From sources (tests) the child runs on Node's own type stripping; from a build it is plain JavaScript.
    const fromSource = import.meta.filename.endsWith('.ts');
    this.child = fork(new URL(fromSource ? './child-main.ts' : './child-main.js', import.meta.url), [options.library ?? ''], {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      execArgv: ['--max-old-space-size=64', '--max-semi-space-size=1', ...(fromSource ? ['--conditions=@reefkeeper/source', '--experimental-transform-types', '--disable-warning=ExperimentalWarning'] : [])],
    });
    this.gone = new Promise((resolve) => { this.child.once('exit', () => resolve()).once('error', () => resolve()); });
    this.child.on('message', (reply: Reply) => this.settle(reply));
    this.child.on('error', (cause) => this.end(new ReefError('inference.crashed', 'unavailable', `The inference process could not be started: ${cause.message}`, { cause })));
    // 'close' and not 'exit': only then has stderr been read to its end.
    this.child.on('close', (code, signal) => this.end(this.ended ?? new ReefError('inference.crashed', 'unavailable', `The inference process ended with ${signal ?? `code ${code}`}.${this.stderr.trim() && ` It last said: ${this.stderr.trim().split('\n').at(-1)}`}`, { detail: { code, signal, stderr: this.stderr } })));
    this.child.stderr!.on('data', (chunk: Buffer) => { this.stderr = (this.stderr + chunk.toString('utf8')).slice(-8_192); });
  }

  get pid(): number | undefined {
    return this.child.pid;
  }

  /**
   * @param model.digest SHA-256 of the file, checked before loading
   * @param model.expect the manifest's tensors; a file with others is refused (`inference.tensors_differ`)
   * @throws ReefError as `Interpreter.load`, and `artifact.checksum_mismatch`, `inference.crashed`, `inference.hung`
   */
  async load(model: { path: string; digest: string; threads?: number; expect?: ExpectedTensors; edgetpu?: { device: EdgeTpuDevice; library?: string } }): Promise<LoadedModel> {
    const { model: id, ...facts } = await this.ask({ kind: 'load', path: model.path, digest: model.digest, threads: model.threads ?? 1, expect: model.expect ?? null, edgetpu: model.edgetpu ?? null });
    return {
      ...facts, id,
      infer: async (inputs, { deadlineMs } = {}) => {
        const begin = performance.now();
        const answer = await this.ask({ kind: 'infer', model: id, inputs }, deadlineMs);
        return { ...answer, totalUs: (performance.now() - begin) * 1_000 };
      },
      bench: (inputs, runs) => this.ask({ kind: 'bench', model: id, inputs, runs }),
      unload: async () => { await this.ask({ kind: 'unload', model: id }); },
    };
  }

  async probe(library?: string): Promise<Answers['probe']> {
    return this.ask({ kind: 'probe', ...(library ? { library } : {}) });
  }

  async close(): Promise<void> {
    if (this.ended) return;
    this.closing = true;
    if (this.child.connected) this.child.disconnect();
    const timer = setTimeout(() => this.child.kill('SIGKILL'), 2_000);
    await this.gone;
    clearTimeout(timer);
  }

  /** Ends the child on the spot, for a reason that its owner has seen. */
  kill(reason: ReefError): void {
    this.end(reason);
  }

  /** Whose call the child died over: a model's id, `loading` for one that was not loaded yet, null where it did nothing (or did not die). */
  get diedOver(): number | 'loading' | null {
    return this.culprit;
  }

  private ask<K extends Request['kind']>(request: Extract<Request, { kind: K }>, deadlineMs?: number): Promise<Answers[K]> {
    if (this.ended) return Promise.reject(this.ended);
    const id = (this.nextId += 1);
    const { inferenceDeadlineMs = 10_000, loadDeadlineMs = 60_000 } = this.options;
    const limitMs = request.kind === 'infer' ? deadlineMs ?? inferenceDeadlineMs : request.kind === 'bench' ? inferenceDeadlineMs * (request as Extract<Request, { kind: 'bench' }>).runs : loadDeadlineMs;
    return new Promise<Answers[K]>((resolve, reject) => {
      this.pending.set(id, { kind: request.kind, model: 'model' in request ? (request as { model: number }).model : null, limitMs, resolve, reject });
      if (this.pending.size === 1) this.watchFirst();
      this.child.send({ ...request, id }, (error) => { if (error) this.end(new ReefError('inference.crashed', 'unavailable', `The inference process cannot be reached: ${error.message}`, { cause: error })); });
    });
  }

  /** Only the running call has a deadline: those behind it have not begun. */
  private watchFirst(): void {
    clearTimeout(this.deadline);
    const [first] = this.pending;
    if (!first) return;
    const [id, { kind, limitMs }] = first;
    this.deadline = setTimeout(() => {
      this.deadline = setTimeout(() => {
        if (!this.pending.has(id)) return;
        this.ended = new ReefError('inference.hung', 'unavailable', `The inference process did not answer a ${kind} within ${limitMs} ms and was killed.`);
        this.child.kill('SIGKILL');
        // A process that a driver holds in the kernel does not even die of that; nobody is to wait for it.
        this.deadline = setTimeout(() => this.end(this.ended!), unkillableMs);
      }, graceMs);
      // A bench of many runs may be longer than a timer can be.
    }, Math.min(limitMs, 2 ** 31 - 1));
  }

  private settle(reply: Reply): void {
    const waiting = this.pending.get(reply.id);
    if (!waiting) return;
    this.pending.delete(reply.id);
    this.watchFirst();
    if (reply.ok) {
      waiting.resolve(reply.answer as never);
      return;
    }
    void this.saidBefore(stderrMark(reply.id)).then((said) => {
      const reason = [...new Set(said.filter((line) => line.startsWith('ERROR:')).map((line) => line.slice(6).trim()))].join('; ').slice(0, 500);
      waiting.reject(new ReefError(reply.code, reply.kind as ErrorKind, reason ? `${reply.message} TensorFlow Lite says: ${reason}` : reply.message, said.length > 0 ? { detail: { stderr: said.join('\n') } } : {}));
    });
  }

  /** The lines that the child wrote to stderr before `mark`, or what there is of them after a second. */
  private async saidBefore(mark: string): Promise<string[]> {
    for (let waited = 0; !this.stderr.includes(mark) && !this.ended && waited < 1_000; waited += 5) await new Promise((resolve) => { setTimeout(resolve, 5); });
    const [said = '', ...rest] = this.stderr.split(mark);
    this.stderr = rest.join(mark);
    return said.split('\n').filter((line) => line !== '' && !line.startsWith('INFO:') && !line.startsWith('<end of call'));
  }

  private end(reason: ReefError): void {
    const first = !this.over;
    this.over = true;
    const [running] = this.pending.values();
    if (first && running) this.culprit = running.kind === 'load' ? 'loading' : running.model;
    this.ended ??= reason;
    clearTimeout(this.deadline);
    this.child.kill('SIGKILL');
    for (const waiting of this.pending.values()) waiting.reject(this.ended);
    this.pending.clear();
    if (first && !this.closing) this.emit('exit', this.ended);
  }
}

export function openInferenceHost(options: HostOptions = {}): InferenceHost {
  return new InferenceHost(options);
}
