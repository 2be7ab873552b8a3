import { ReefError } from '@reefkeeper/platform/errors';
import { openDelegate, type Delegate, type EdgeTpuDevice } from './edgetpu.ts';
import { loadNative, type Native, type Pointer } from './native.ts';
import { differences, typeName, type ExpectedTensors, type TensorInfo } from './tensor.ts';

export interface InterpreterOptions {
  /** Path of libtensorflowlite_c; the one npm ships by default. */
  library?: string;
  /** Threads of the CPU kernels. More than one only after measuring: on busy cores two were 2 to 7 times slower. */
  threads?: number;
  /** Run on this Edge TPU. Without it, on the CPU. */
  edgetpu?: { device: EdgeTpuDevice; library?: string };
  /** What the manifest promises; a file with other tensors is refused. */
  expect?: ExpectedTensors;
}

/** XNNPACK's switch for signed 8-bit kernels: 6.5 ms instead of 54 ms for MobileNet v2 on x86-64. */
const qs8 = 1;

/**
 * One loaded model. Not safe for two invokes at once; all calls are synchronous and block the thread, so a service runs this in a
 * child process (`host.ts`). Invariants that keep native code from crashing:
 * - the model's bytes stay referenced while the interpreter lives (TFLite reads them in place), in memory nobody else writes to;
 * - no NULL pointer is ever passed on; every status is checked;
 * - data crosses through TfLiteTensorCopyFrom/ToBuffer with the true length of our buffer: TFLite compares it with the tensor's, and no
 *   view of native memory exists that could outlive it.
 */
export class Interpreter {
  readonly inputs: TensorInfo[];
  readonly outputs: TensorInfo[];
  readonly backend: 'cpu' | 'edgetpu';

  private constructor(
    private readonly native: Native,
    /** Kept so that the garbage collector does not take the bytes from under TFLite. */
    private bytes: Buffer | undefined,
    private readonly model: Pointer,
    private handle: Pointer,
    private readonly xnnpack: Pointer,
    private readonly delegate: Delegate | undefined,
  ) {
    this.backend = delegate ? 'edgetpu' : 'cpu';
    this.inputs = Array.from({ length: native.inputCount(handle) }, (_, index) => this.info(native.input(handle, index)));
    this.outputs = Array.from({ length: native.outputCount(handle) }, (_, index) => this.info(native.output(handle, index)));
  }

  /**
   * @throws ReefError `inference.not_a_model`, `inference.unsupported_model` (an operator or version this runtime lacks),
   *   `inference.needs_edgetpu` (compiled for the Edge TPU, and none was given), `inference.no_device`, `inference.edgetpu_refused`
   *   (libedgetpu does not take this model), `inference.tensors_differ`
   */
  static load(given: Buffer, options: InterpreterOptions = {}): Interpreter {
    const native = loadNative(options.library);
    const compiled = given.includes('edgetpu-custom-op');
    if (compiled && !options.edgetpu) throw new ReefError('inference.needs_edgetpu', 'invalid', 'This model is compiled for the Edge TPU and cannot run on the CPU; use its cpu-int8 variant.');
    const bytes = ownMemory(given);
    const model = bytes.length > 0 ? native.modelCreate(bytes, bytes.length) : null;
    if (!model) throw new ReefError('inference.not_a_model', 'invalid', 'These bytes are not a TensorFlow Lite model.');
    let delegate: Delegate | undefined;
    let loaded: Interpreter | undefined;
    try {
      delegate = options.edgetpu ? openDelegate(options.edgetpu.device, options.edgetpu.library) : undefined;
      // With the Edge TPU no other delegate may take nodes away. Some models make 2.9 return NULL with XNNPACK's QS8: then without.
      for (const flags of delegate ? [null] : [qs8, null]) {
        const xnnpack = flags === null ? null : native.xnnpackCreate(xnnpackOptions(options.threads ?? 1, flags));
        const handle = create(native, model, options.threads ?? 1, delegate?.pointer ?? xnnpack);
        if (handle) {
          if (native.allocate(handle) === 0) {
            loaded = new Interpreter(native, bytes, model, handle, xnnpack, delegate);
            loaded.check(options.expect);
            return loaded;
          }
          native.interpreterDelete(handle);
        }
        if (xnnpack) native.xnnpackDelete(xnnpack);
      }
      if (delegate) throw new ReefError('inference.edgetpu_refused', 'invalid', 'The Edge TPU runtime refuses this model. Often the model needs a newer libedgetpu than this device has: update it, or compile the version for an older minimum runtime.');
      throw new ReefError('inference.unsupported_model', 'invalid', `TensorFlow Lite ${native.version()} cannot prepare this model: it uses an operator or an operator version that this runtime lacks.`);
    } catch (error) {
      if (loaded) loaded.close();
      else {
        delegate?.close();
        native.modelDelete(model);
      }
      throw error;
    }
  }

  private check(expect: ExpectedTensors | undefined): void {
    for (const [index, { dtype, bytes, shape, name }] of this.inputs.entries()) {
      if (dtype === 'string' || dtype === 'none' || bytes === 0) throw new ReefError('inference.unsupported_model', 'invalid', `Input ${index} (${name}) is ${dtype} ${shape.join('x')}; only numbers of a fixed shape can be fed. Convert the model with a static input shape.`);
    }
    const faults = expect ? differences(this, expect) : [];
    if (faults.length > 0) throw new ReefError('inference.tensors_differ', 'invalid', `The model file does not match its manifest: ${faults.join('; ')}. Publish the version again from the file that was verified.`, { detail: { faults } });
  }

  private info(tensor: Pointer): TensorInfo {
    const { native } = this;
    const { scale, zero_point: zeroPoint } = native.tensorQuantisation(tensor);
    return {
      name: native.tensorName(tensor) ?? '',
      shape: Array.from({ length: native.tensorRank(tensor) }, (_, dim) => native.tensorDim(tensor, dim)),
      dtype: typeName(native.tensorType(tensor)),
      // TFLite writes scale 0 where a tensor is not quantised (or is, per channel).
      scale: scale === 0 ? null : scale,
      zeroPoint: scale === 0 ? null : zeroPoint,
      bytes: native.tensorBytes(tensor),
    };
  }

  /**
   * Copies the inputs in, runs once and copies the outputs out.
   * @param inputs raw bytes, one per input tensor, each exactly `inputs[i].bytes` long
   * @returns raw output bytes, and the time of the native call alone in microseconds
   * @throws ReefError `inference.input_size`, `inference.failed`, `inference.closed`
   */
  run(inputs: readonly Uint8Array[]): { outputs: Buffer[]; invokeUs: number } {
    const { native, handle } = this;
    if (!handle) throw new ReefError('inference.closed', 'bug', 'The model has been unloaded.');
    if (inputs.length !== this.inputs.length) throw new ReefError('inference.input_size', 'invalid', `The model takes ${this.inputs.length} inputs, not ${inputs.length}.`);
    for (const [index, content] of inputs.entries()) {
      const { bytes, name } = this.inputs[index]!;
      if (content.byteLength !== bytes) throw new ReefError('inference.input_size', 'invalid', `Input ${index} (${name}) takes ${bytes} bytes, not ${content.byteLength}.`);
      if (native.copyFrom(native.input(handle, index), content, bytes) !== 0) throw new ReefError('inference.failed', 'unavailable', `TensorFlow Lite did not take input ${index} (${name}).`);
    }
    const begin = process.hrtime.bigint();
    const status = native.invoke(handle);
    const invokeUs = Number(process.hrtime.bigint() - begin) / 1_000;
    if (status !== 0) throw new ReefError('inference.failed', 'unavailable', `The inference failed with status ${status}.`);
    return { outputs: this.outputs.map((_, index) => this.read(native.output(handle, index), index)), invokeUs };
  }

  private read(tensor: Pointer, index: number): Buffer {
    // Asked again each time: an output of dynamic shape changes its size, and its memory, with every run.
    const bytes = Buffer.allocUnsafeSlow(this.native.tensorBytes(tensor));
    if (bytes.length > 0 && this.native.copyTo(tensor, bytes, bytes.length) !== 0) throw new ReefError('inference.failed', 'unavailable', `TensorFlow Lite did not give output ${index}.`);
    return bytes;
  }

  /** Frees all native memory; the second call does nothing. */
  close(): void {
    if (!this.handle) return;
    this.native.interpreterDelete(this.handle);
    if (this.xnnpack) this.native.xnnpackDelete(this.xnnpack);
    this.delegate?.close();
    this.native.modelDelete(this.model);
    this.handle = null;
    this.bytes = undefined;
  }
}

/** The same bytes in memory of their own: aligned for the flatbuffer, and not part of a pool or a larger buffer others may write to. */
function ownMemory(given: Buffer): Buffer {
  if (given.byteOffset === 0 && given.buffer.byteLength === given.byteLength) return given;
  const own = Buffer.allocUnsafeSlow(given.byteLength);
  given.copy(own);
  return own;
}

function create(native: Native, model: Pointer, threads: number, delegate: Pointer): Pointer {
  const options = native.optionsCreate();
  native.optionsSetThreads(options, threads);
  if (delegate) native.optionsAddDelegate(options, delegate);
  const handle = native.interpreterCreate(model, options);
  native.optionsDelete(options);
  return handle;
}

/** TfLiteXNNPackDelegateOptions: int32 num_threads, uint32 flags, then pointers that stay NULL. */
function xnnpackOptions(threads: number, flags: number): Buffer {
  const options = Buffer.alloc(64);
  options.writeInt32LE(threads, 0);
  options.writeUInt32LE(flags, 4);
  return options;
}
