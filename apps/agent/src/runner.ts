import { decodeGolden, judgeGolden, segmentsOf, type Manifest } from '@reefkeeper/bundle';
import { quantisePixels, readImage, resizePixels, type EdgeTpuDevice } from '@reefkeeper/inference';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import { readFile } from 'node:fs/promises';
import type { Question, Tensors } from './answer.ts';
import { wired, type Source } from './segments.ts';
import { Stage, type StageOptions } from './stage.ts';
import type { Store } from './store.ts';
import type { Slot } from './workload.ts';

export interface RunnerOptions extends StageOptions {
  /** For a slot on Edge TPUs: one for each segment. */
  devices: readonly EdgeTpuDevice[];
}

/**
 * One loaded model: perhaps proved, perhaps serving. It runs in one stage, or, cut into segments, in one after the other: each segment's Edge TPU works on
 * what the one before has given, so that as many questions as there are segments may be under way at once. They are answered in the order asked.
 */
export class Runner {
  private readonly uses = new Set<Promise<unknown>>();
  private ended: ReefError | undefined;
  private closing: Promise<void> | undefined;
  private readonly exitListeners: ((why: ReefError) => void)[] = [];

  private constructor(readonly slot: Slot, readonly manifest: Manifest, private readonly stages: readonly Stage[], private readonly sources: readonly Source[][]) {
    for (const stage of stages) stage.onExit((why) => this.stageEnded(why));
  }

  /** @throws ReefError `bundle.not_installed`, `artifact.checksum_mismatch`, `inference.*` */
  static async start(store: Store, slot: Slot, options: RunnerOptions): Promise<Runner> {
    const manifest = await store.manifest(slot.bundle);
    const variant = manifest?.variants.find(({ name }) => name === slot.variant);
    if (!manifest || !variant) throw new ReefError('bundle.not_installed', 'not_found', `Bundle ${slot.bundle} with variant ${slot.variant} is not on this device.`);
    const files = segmentsOf(variant);
    const devices = slot.backend === 'edgetpu' ? options.devices : files.map(() => undefined);
    if (devices.length < files.length) throw new ReefError('inference.no_device', 'unavailable', files.length === 1 ? 'No Edge TPU answers.' : `The model has ${files.length} segments, each for an Edge TPU of its own, and not so many answer.`);
    const stages: Stage[] = [];
    try {
      for (const [at, { digest }] of files.entries()) stages.push(await Stage.load({ path: store.blobPath(digest), digest }, devices[at], options));
      return new Runner(slot, manifest, stages, wired(stages.map(({ tensors }) => tensors)));
    } catch (error) {
      await Promise.all(stages.map((stage) => stage.close()));
      throw error;
    }
  }

  /** Of the child that it asks first. */
  get pid(): number | undefined {
    return this.stages[0]!.pid;
  }

  /** Where it runs, in the order of its segments; none on the CPU. */
  get devices(): EdgeTpuDevice[] {
    return this.stages.flatMap(({ device }) => device ?? []);
  }

  /** How many questions may be under way at once. */
  get width(): number {
    return this.stages.length;
  }

  get crashed(): ReefError | undefined {
    return this.ended;
  }

  /** Called once, also where it has ended already. */
  onExit(listener: (why: ReefError) => void): void {
    const { ended } = this;
    if (ended) queueMicrotask(() => listener(ended));
    else this.exitListeners.push(listener);
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
    return { inputs: this.stages[0]!.tensors.inputs, outputs: this.stages.at(-1)!.tensors.outputs };
  }

  get tfliteVersion(): string {
    return this.stages[0]!.tfliteVersion;
  }

  /** From the first look at this runner to the last: `close` waits for `job`, so what has begun here is also finished here. */
  use<T>(job: () => Promise<T>): Promise<T> {
    const used = job();
    this.uses.add(used);
    void used.catch(() => {}).finally(() => this.uses.delete(used));
    return used;
  }

  /** What has begun here is over. */
  async idle(): Promise<void> {
    await Promise.allSettled(this.uses);
  }

  /** @returns `invokeUs` of all stages together, `stagesUs` of each @throws ReefError `inference.*` */
  infer(inputs: Uint8Array[]): Promise<{ outputs: Uint8Array[]; invokeUs: number; stagesUs: number[] }> {
    return this.use(async () => {
      const given: Uint8Array[][] = [inputs];
      const stagesUs: number[] = [];
      for (const [at, stage] of this.stages.entries()) {
        const { outputs, invokeUs } = await stage.infer(at === 0 ? inputs : this.sources[at]!.map(({ from, tensor }) => given[from]![tensor]!));
        given.push(outputs);
        stagesUs.push(invokeUs);
      }
      return { outputs: given.at(-1)!, invokeUs: stagesUs.reduce((sum, us) => sum + us, 0), stagesUs };
    });
  }

  /** `runs` inferences of one and the same input, as many at once as it has stages. @returns microseconds of each, in order, and how many it did a second */
  async bench(runs: number, image: string | Pixels | undefined): Promise<{ invokesUs: number[]; stages: { edgetpu: string | null; invokesUs: number[] }[]; perSecond: number }> {
    const inputs = image && this.manifest.inputs[0]!.preprocessing.kind === 'image' ? [await imageInput(this, image)] : this.tensors.inputs.map(({ bytes }) => Buffer.alloc(bytes));
    const answers: { invokeUs: number; stagesUs: number[] }[] = [];
    const begin = performance.now();
    let left = runs;
    await Promise.all(this.stages.map(async () => {
      while (left > 0) {
        left -= 1;
        const { invokeUs, stagesUs } = await this.infer(inputs);
        answers.push({ invokeUs, stagesUs });
      }
    }));
    return {
      invokesUs: answers.map(({ invokeUs }) => invokeUs), perSecond: (1_000 * runs) / (performance.now() - begin),
      stages: this.stages.map(({ device }, at) => ({ edgetpu: device?.path ?? null, invokesUs: answers.map(({ stagesUs }) => stagesUs[at]!) })),
    };
  }

  /** After what is in flight; a second call waits for the first. */
  close(): Promise<void> {
    this.closing ??= this.idle().then(async () => { await Promise.all(this.stages.map((stage) => stage.close())); });
    return this.closing;
  }

  private stageEnded(why: ReefError): void {
    if (this.ended) return;
    this.ended = why;
    for (const listener of this.exitListeners) listener(why);
    // The other segments are of no use without it, and in the way of what comes up next.
    void this.close();
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
