import { decodeGolden, judgeGolden, type Manifest } from '@reefkeeper/bundle';
import { quantisePixels, readImage, resizePixels, type EdgeTpuDevice, type LoadedModel } from '@reefkeeper/inference';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import { readFile } from 'node:fs/promises';
import type { Question, Tensors } from './answer.ts';
import { InvokeDeadline } from './deadline.ts';
import type { Hosts, Lease } from './hosts.ts';
import type { Store } from './store.ts';
import type { Slot } from './workload.ts';

export interface RunnerOptions {
  hosts: Hosts;
  edgetpu?: string | undefined;
  /** For a slot on the Edge TPU. */
  device?: EdgeTpuDevice | undefined;
  /** An invoke that takes longer than its own past allows, but never less than `floorMs`, means that the driver hangs. */
  deadline?: { floorMs: number; ceilingMs: number };
}

/** So many inferences in a row that the Edge TPU does not do mean that it is lost; the child would go on failing for ever. */
const lostAfter = 5;

/** Ends of an inference process, and failures to get one, that say nothing about the model in it. */
export const blameless: ReadonlySet<string> = new Set(['artifact.checksum_mismatch', 'bundle.not_installed', 'inference.no_device', 'inference.accelerator_lost', 'inference.neighbour_ended']);

/** One loaded model: perhaps proved, perhaps serving. It lives in a child process, which models of one Edge TPU share. */
export class Runner {
  private inFlight: Promise<unknown> = Promise.resolve();
  private readonly uses = new Set<Promise<unknown>>();
  private ended: ReefError | undefined;
  private failuresInARow = 0;
  private readonly deadline: InvokeDeadline;

  private constructor(readonly slot: Slot, readonly device: EdgeTpuDevice | undefined, readonly manifest: Manifest, private readonly lease: Lease, private readonly model: LoadedModel, deadline: RunnerOptions['deadline']) {
    this.deadline = new InvokeDeadline(deadline ?? { floorMs: 5_000, ceilingMs: 10_000 });
    lease.host.on('exit', this.hostEnded);
  }

  private readonly exitListeners: ((why: ReefError) => void)[] = [];
  private readonly hostEnded = (why: ReefError): void => {
    const { diedOver } = this.lease.host;
    const ours = diedOver === null || diedOver === this.model.id || blameless.has(why.code);
    const ended = ours ? why : new ReefError('inference.neighbour_ended', 'unavailable', `Another model on the same Edge TPU took the inference process down (${why.code}).`, { cause: why });
    this.ended = ended;
    for (const listener of this.exitListeners) listener(ended);
  };

  /** @throws ReefError `bundle.not_installed`, `artifact.checksum_mismatch`, `inference.*` */
  static async start(store: Store, slot: Slot, options: RunnerOptions): Promise<Runner> {
    const manifest = await store.manifest(slot.bundle);
    const variant = manifest?.variants.find(({ name }) => name === slot.variant);
    if (!manifest || !variant) throw new ReefError('bundle.not_installed', 'not_found', `Bundle ${slot.bundle} with variant ${slot.variant} is not on this device.`);
    const { digest } = variant.file;
    const device = slot.backend === 'edgetpu' ? options.device : undefined;
    if (slot.backend === 'edgetpu' && !device) throw new ReefError('inference.no_device', 'unavailable', 'No Edge TPU answers.');
    const lease = await options.hosts.take(device);
    try {
      const edgetpu = device ? { edgetpu: { device, ...(options.edgetpu ? { library: options.edgetpu } : {}) } } : {};
      const model = await lease.host.load({ path: store.blobPath(digest), digest, ...edgetpu });
      return new Runner(slot, device, manifest, lease, model, options.deadline);
    } catch (error) {
      await lease.release();
      throw error;
    }
  }

  get pid(): number | undefined {
    return this.lease.host.pid;
  }

  get crashed(): ReefError | undefined {
    return this.ended;
  }

  onExit(listener: (why: ReefError) => void): void {
    this.exitListeners.push(listener);
  }

  /** @throws ReefError `golden.failed`, `golden.malformed`, or `inference.*` when the model cannot even run */
  async proveGolden(store: Store, onCase: (percent: number) => void, signal: AbortSignal): Promise<void> {
    if (!this.manifest.golden) return;
    const { cases } = decodeGolden(await readFile(store.blobPath(this.manifest.golden.digest)));
    for (const [index, golden] of cases.entries()) {
      signal.throwIfAborted();
      const { outputs } = await this.infer(golden.input).catch((error: unknown) => {
        const { code, message } = asReefError(error);
        throw new ReefError('golden.failed', 'invalid', `Golden case ${index + 1} of ${cases.length} did not run (${code}): ${message}`, { cause: error });
      });
      const verdict = judgeGolden(golden, outputs);
      if (!verdict.ok) throw new ReefError('golden.failed', 'invalid', `Golden case ${index + 1} of ${cases.length}: ${verdict.reason}.`, { detail: { case: index } });
      onCase(Math.round((100 * (index + 1)) / cases.length));
    }
  }

  get tensors(): Tensors {
    return this.model;
  }

  get tfliteVersion(): string {
    return this.model.tfliteVersion;
  }

  /** From the first look at this runner to the last: `close` waits for `job`, so what has begun here is also finished here. */
  use<T>(job: () => Promise<T>): Promise<T> {
    const used = job();
    this.uses.add(used);
    void used.catch(() => {}).finally(() => this.uses.delete(used));
    return used;
  }

  /** @throws ReefError `inference.*` */
  infer(inputs: Uint8Array[]): ReturnType<LoadedModel['infer']> {
    const answer = this.model.infer(inputs, { deadlineMs: this.deadline.ms });
    this.inFlight = answer;
    answer.then(({ invokeUs }) => {
      this.deadline.note(invokeUs);
      this.failuresInARow = 0;
    }, (error: unknown) => {
      if (asReefError(error).code !== 'inference.failed' || this.slot.backend !== 'edgetpu' || this.ended) return;
      this.failuresInARow += 1;
      if (this.failuresInARow === lostAfter) this.lease.host.kill(new ReefError('inference.accelerator_lost', 'unavailable', `The Edge TPU at ${this.device?.path} failed ${lostAfter} inferences in a row; its process was ended.`));
    });
    return answer;
  }

  /** Latencies of `runs` inferences of one and the same input, microseconds, in order. */
  async bench(runs: number, image: string | Pixels | undefined): Promise<number[]> {
    const inputs = image && this.manifest.inputs[0]!.preprocessing.kind === 'image' ? [await imageInput(this, image)] : this.model.inputs.map(({ bytes }) => Buffer.alloc(bytes));
    const invokes: number[] = [];
    for (let run = 0; run < runs; run += 1) invokes.push((await this.infer(inputs)).invokeUs);
    return invokes;
  }

  /** After what is in flight; a second call does nothing. */
  async close(): Promise<void> {
    await Promise.allSettled([...this.uses, this.inFlight]);
    if (!this.ended) await this.model.unload().catch(() => {});
    this.lease.host.off('exit', this.hostEnded);
    await this.lease.release();
  }
}

export interface Prepared { inputs: Uint8Array[]; preprocessUs: number }

/** @throws what `prepare` throws: the question, not the model, is wrong then */
export async function prepared(question: Question, runner: Runner): Promise<Prepared> {
  const begin = performance.now();
  const inputs = await question.prepare(runner);
  return { inputs, preprocessUs: (performance.now() - begin) * 1_000 };
}

/** A phone's photo has 12 to 50 million pixels; an image that claims far more only fills the memory. */
const maxPixels = 64_000_000;

/** Raw pixels, row by row. */
export interface Pixels { pixels: Uint8Array; width: number; height: number; channels: 1 | 3 }

/**
 * An image as the input tensor of a model that takes one.
 * @param image path or bytes of a file, or pixels
 * @throws ReefError `image.unreadable`, `inference.input_size`, `frame.not_an_image_model`
 */
export async function imageInput({ manifest, tensors }: { manifest: Manifest; tensors: Tensors }, image: string | Buffer | Pixels): Promise<Buffer> {
  const { preprocessing } = manifest.inputs[0]!;
  if (preprocessing.kind !== 'image' || manifest.inputs.length !== 1) throw new ReefError('frame.not_an_image_model', 'invalid', 'This model does not take one image; give it tensors.');
  const wanted = { ...preprocessing, kind: 'image' as const };
  const pixels = typeof image === 'string' || Buffer.isBuffer(image) ? await readImage(image, wanted, maxPixels) : resizePixels(image.pixels, image, wanted);
  return quantisePixels(pixels, wanted, tensors.inputs[0]!);
}
