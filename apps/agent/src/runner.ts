import { decodeGolden, judgeGolden, type Manifest } from '@reefkeeper/bundle';
import { dequantise, openInferenceHost, quantisePixels, readImage, type EdgeTpuDevice, type InferenceHost, type LoadedModel } from '@reefkeeper/inference';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import { readFile } from 'node:fs/promises';
import type { Frame } from './frames.ts';
import type { Store } from './store.ts';
import type { Sample } from './window.ts';
import type { Slot } from './workload.ts';

export interface RunnerOptions {
  tflite?: string | undefined;
  edgetpu?: string | undefined;
  device?: EdgeTpuDevice | undefined;
}

/** One model in a fresh child process of its own: loaded, perhaps proved, perhaps serving. Native code can crash; only the child dies. */
export class Runner {
  private inFlight: Promise<unknown> = Promise.resolve();
  private ended: ReefError | undefined;

  private constructor(readonly slot: Slot, readonly manifest: Manifest, private readonly host: InferenceHost, private readonly model: LoadedModel) {
    host.on('exit', (why) => { this.ended = why; });
  }

  /** @throws ReefError `bundle.not_installed`, `artifact.checksum_mismatch`, `inference.*` */
  static async start(store: Store, slot: Slot, options: RunnerOptions): Promise<Runner> {
    const manifest = await store.manifest(slot.bundle);
    const variant = manifest?.variants.find(({ name }) => name === slot.variant);
    if (!manifest || !variant) throw new ReefError('bundle.not_installed', 'not_found', `Bundle ${slot.bundle} with variant ${slot.variant} is not on this device.`);
    const { digest } = variant.file;
    if (slot.backend === 'edgetpu' && !options.device) throw new ReefError('inference.no_device', 'unavailable', 'No Edge TPU answers.');
    const host = openInferenceHost(options.tflite ? { library: options.tflite } : {});
    // Without a listener Node would throw the event; the pending load is rejected anyway.
    host.on('exit', () => {});
    try {
      const edgetpu = slot.backend === 'edgetpu' ? { edgetpu: { device: options.device!, ...(options.edgetpu ? { library: options.edgetpu } : {}) } } : {};
      const model = await host.load({ path: store.blobPath(digest), digest, ...edgetpu });
      return new Runner(slot, manifest, host, model);
    } catch (error) {
      await host.close();
      throw error;
    }
  }

  get pid(): number | undefined {
    return this.host.pid;
  }

  get crashed(): ReefError | undefined {
    return this.ended;
  }

  onExit(listener: (why: ReefError) => void): void {
    this.host.on('exit', listener);
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

  /** @throws ReefError `image.unreadable`, `inference.*`, `frame.not_an_image_model` */
  async serve(frame: Frame): Promise<Sample & { top1: number | null }> {
    const begin = performance.now();
    const input = await this.inputOf(frame);
    const preprocessUs = (performance.now() - begin) * 1_000;
    const { outputs, invokeUs } = await this.infer([input]);
    const totalUs = (performance.now() - begin) * 1_000;
    if (this.manifest.task !== 'classification') return { preprocessUs, invokeUs, totalUs, score: null, correct: null, top1: null };
    const scores = dequantise(outputs[0]!, this.model.outputs[0]!);
    let top1 = 0;
    for (let at = 1; at < scores.length; at += 1) if (scores[at]! > scores[top1]!) top1 = at;
    const correct = frame.label === null ? null : frame.label === this.manifest.labels?.[top1] || frame.label === String(top1);
    return { preprocessUs, invokeUs, totalUs, score: scores[top1]!, correct, top1 };
  }

  /** Latencies of `runs` inferences of one and the same input, microseconds, in order. */
  async bench(runs: number, frame: Frame | undefined): Promise<number[]> {
    const image = frame && this.manifest.inputs[0]!.preprocessing.kind === 'image';
    const inputs = image ? [await this.inputOf(frame)] : this.model.inputs.map(({ bytes }) => Buffer.alloc(bytes));
    const invokes: number[] = [];
    for (let run = 0; run < runs; run += 1) invokes.push((await this.infer(inputs)).invokeUs);
    return invokes;
  }

  /** After what is in flight; a second call does nothing. */
  async close(): Promise<void> {
    await this.inFlight.catch(() => {});
    await this.host.close();
  }

  private async inputOf(frame: Frame): Promise<Buffer> {
    const { preprocessing } = this.manifest.inputs[0]!;
    if (preprocessing.kind !== 'image' || this.manifest.inputs.length !== 1) throw new ReefError('frame.not_an_image_model', 'invalid', 'This model does not take one image; frames cannot be given to it.');
    const wanted = { ...preprocessing, kind: 'image' as const };
    return quantisePixels(await readImage(frame.path, wanted), wanted, this.model.inputs[0]!);
  }

  private infer(inputs: Uint8Array[]): ReturnType<LoadedModel['infer']> {
    const answer = this.model.infer(inputs);
    this.inFlight = answer;
    return answer;
  }
}
