import type { EdgeTpuDevice, LoadedModel } from '@reefkeeper/inference';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import type { Tensors } from './answer.ts';
import { InvokeDeadline } from './deadline.ts';
import type { Hosts, Lease } from './hosts.ts';

export interface StageOptions {
  hosts: Hosts;
  edgetpu?: string | undefined;
  /** An invoke that takes longer than its own past allows, but never less than `floorMs`, means that the driver hangs. */
  deadline: { floorMs: number; ceilingMs: number };
  /** Whether an Edge TPU has failed so often that it gets one try. */
  doubts: (device: EdgeTpuDevice) => boolean;
}

/** So many inferences in a row that the Edge TPU does not do mean that it is lost; the child would go on failing for ever. */
const lostAfter = 5;

/** Ends of an inference process, and failures to get one, that say nothing about the model in it. */
export const blameless: ReadonlySet<string> = new Set(['artifact.checksum_mismatch', 'bundle.not_installed', 'inference.no_device', 'inference.accelerator_lost', 'inference.neighbour_ended']);

/** One model file, loaded in a child process which it may share with others of its Edge TPU: a whole model, or one segment of it. */
export class Stage {
  private ended: ReefError | undefined;
  private failuresInARow = 0;
  private lostAfter: number;
  private readonly deadline: InvokeDeadline;
  private readonly listeners: ((why: ReefError) => void)[] = [];

  private constructor(readonly device: EdgeTpuDevice | undefined, private readonly lease: Lease, private readonly model: LoadedModel, { deadline, doubts }: Pick<StageOptions, 'deadline' | 'doubts'>) {
    // Its one try: what it does not do at once says nothing about the model.
    this.lostAfter = device && doubts(device) ? 1 : lostAfter;
    this.deadline = new InvokeDeadline(deadline);
    lease.host.on('exit', this.hostEnded);
  }

  private readonly hostEnded = (why: ReefError): void => {
    const { diedOver } = this.lease.host;
    const ours = diedOver === null || diedOver === this.model.id || blameless.has(why.code);
    this.ended = ours ? why : new ReefError('inference.neighbour_ended', 'unavailable', `Another model on the same Edge TPU took the inference process down (${why.code}).`, { cause: why });
    for (const listener of this.listeners) listener(this.ended);
  };

  /** @throws ReefError `artifact.checksum_mismatch`, `inference.*`, with the Edge TPU's path as `detail.edgetpu` */
  static async load(file: { path: string; digest: string }, device: EdgeTpuDevice | undefined, options: StageOptions): Promise<Stage> {
    const { hosts, edgetpu: library } = options;
    const lease = await hosts.take(device);
    try {
      const edgetpu = device ? { edgetpu: { device, ...(library ? { library } : {}) } } : {};
      return new Stage(device, lease, await lease.host.load({ ...file, ...edgetpu }), options);
    } catch (error) {
      await lease.release();
      const { code, kind, message, detail } = asReefError(error);
      throw new ReefError(code, kind, message, { cause: error, detail: { ...detail, ...(device ? { edgetpu: device.path } : {}) } });
    }
  }

  get pid(): number | undefined {
    return this.lease.host.pid;
  }

  get tensors(): Tensors {
    return this.model;
  }

  get tfliteVersion(): string {
    return this.model.tfliteVersion;
  }

  /** Called once, also where its process has ended already. */
  onExit(listener: (why: ReefError) => void): void {
    if (this.ended) listener(this.ended);
    else this.listeners.push(listener);
  }

  /** After what it was asked before. @throws ReefError `inference.*` */
  async infer(inputs: Uint8Array[]): Promise<{ outputs: Uint8Array[]; invokeUs: number }> {
    try {
      const answer = await this.model.infer(inputs, { deadlineMs: this.deadline.ms });
      this.deadline.note(answer.invokeUs);
      this.failuresInARow = 0;
      this.lostAfter = lostAfter;
      return answer;
    } catch (error) {
      this.noteFailure(asReefError(error).code);
      throw error;
    }
  }

  /** Nothing may be asked of it any more. */
  async close(): Promise<void> {
    if (!this.ended) await this.model.unload().catch(() => {});
    this.lease.host.off('exit', this.hostEnded);
    await this.lease.release();
  }

  private noteFailure(code: string): void {
    if (code !== 'inference.failed' || !this.device || this.ended) return;
    this.failuresInARow += 1;
    if (this.failuresInARow === this.lostAfter) this.lease.host.kill(new ReefError('inference.accelerator_lost', 'unavailable', `The Edge TPU at ${this.device.path} failed ${this.lostAfter === 1 ? 'its first inference after a time out of use' : `${this.lostAfter} inferences in a row`}; its process was ended.`));
  }
}
