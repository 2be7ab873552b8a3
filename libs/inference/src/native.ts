import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import koffi, { type LibraryHandle, type TypeObject } from 'koffi';
import { ReefError } from '@reefkeeper/platform/errors';

/** An opaque pointer of the C API; null where the library returned NULL. */
export type Pointer = unknown;

/** The part of the TensorFlow Lite 2.9 C API that we call (tensorflow/lite/c/c_api.h, delegates/xnnpack/xnnpack_delegate.h). */
export type Native = ReturnType<typeof bind>;

/**
 * The TFLite C library beside this code (the packaged agent), or the one that npm ships for this machine: 2.9, the newest whose delegate ABI
 * stock libedgetpu understands.
 * @throws ReefError `inference.unsupported_machine`
 */
export function tfliteLibraryPath(): string {
  const beside = join(import.meta.dirname, 'libtensorflowlite_c.so');
  if (existsSync(beside)) return beside;
  const folder = new Map([['linux-x64', 'linux_amd64'], ['linux-arm64', 'linux_arm64'], ['darwin-arm64', 'darwin_arm64']]).get(`${process.platform}-${process.arch}`);
  const root = dirname(createRequire(import.meta.url).resolve('tfjs-tflite-node/package.json'));
  const path = folder && ['libtensorflowlite_c.so', 'libtensorflowlite_c.dylib'].map((file) => join(root, 'cc_deps', folder, file)).find((file) => existsSync(file));
  if (path) return path;
  throw new ReefError('inference.unsupported_machine', 'invalid', `No TensorFlow Lite library is known for ${process.platform}-${process.arch}; give the path of a libtensorflowlite_c yourself.`);
}

const loaded = new Map<string, Native>();

/** @throws ReefError `inference.library_missing` */
export function loadNative(path = tfliteLibraryPath()): Native {
  let native = loaded.get(path);
  if (!native) {
    try {
      native = bind(koffi.load(path));
    } catch (cause) {
      throw new ReefError('inference.library_missing', 'invalid', `The TensorFlow Lite library ${path} cannot be loaded: ${(cause as Error).message}`, { cause });
    }
    loaded.set(path, native);
  }
  return native;
}

function bind(lib: LibraryHandle) {
  // Struct by value, returned by TfLiteTensorQuantizationParams. A name may be given to koffi only once per process.
  const Quantisation = quantisationStruct();
  return {
    version: lib.func('const char *TfLiteVersion()') as () => string,
    modelCreate: lib.func('void *TfLiteModelCreate(const uint8_t *data, size_t size)') as (data: Buffer, size: number) => Pointer,
    modelDelete: lib.func('void TfLiteModelDelete(void *model)') as (model: Pointer) => void,
    optionsCreate: lib.func('void *TfLiteInterpreterOptionsCreate()') as () => Pointer,
    optionsDelete: lib.func('void TfLiteInterpreterOptionsDelete(void *options)') as (options: Pointer) => void,
    optionsSetThreads: lib.func('void TfLiteInterpreterOptionsSetNumThreads(void *options, int32_t threads)') as (options: Pointer, threads: number) => void,
    optionsAddDelegate: lib.func('void TfLiteInterpreterOptionsAddDelegate(void *options, void *delegate)') as (options: Pointer, delegate: Pointer) => void,
    interpreterCreate: lib.func('void *TfLiteInterpreterCreate(void *model, void *options)') as (model: Pointer, options: Pointer) => Pointer,
    interpreterDelete: lib.func('void TfLiteInterpreterDelete(void *interpreter)') as (interpreter: Pointer) => void,
    allocate: lib.func('int TfLiteInterpreterAllocateTensors(void *interpreter)') as (interpreter: Pointer) => number,
    invoke: lib.func('int TfLiteInterpreterInvoke(void *interpreter)') as (interpreter: Pointer) => number,
    inputCount: lib.func('int32_t TfLiteInterpreterGetInputTensorCount(void *interpreter)') as (interpreter: Pointer) => number,
    outputCount: lib.func('int32_t TfLiteInterpreterGetOutputTensorCount(void *interpreter)') as (interpreter: Pointer) => number,
    input: lib.func('void *TfLiteInterpreterGetInputTensor(void *interpreter, int32_t index)') as (interpreter: Pointer, index: number) => Pointer,
    output: lib.func('void *TfLiteInterpreterGetOutputTensor(void *interpreter, int32_t index)') as (interpreter: Pointer, index: number) => Pointer,
    tensorType: lib.func('int TfLiteTensorType(void *tensor)') as (tensor: Pointer) => number,
    tensorRank: lib.func('int32_t TfLiteTensorNumDims(void *tensor)') as (tensor: Pointer) => number,
    tensorDim: lib.func('int32_t TfLiteTensorDim(void *tensor, int32_t dim)') as (tensor: Pointer, dim: number) => number,
    tensorBytes: lib.func('size_t TfLiteTensorByteSize(void *tensor)') as (tensor: Pointer) => number,
    copyFrom: lib.func('int TfLiteTensorCopyFromBuffer(void *tensor, const void *data, size_t size)') as (tensor: Pointer, data: Uint8Array, size: number) => number,
    copyTo: lib.func('int TfLiteTensorCopyToBuffer(void *tensor, void *data, size_t size)') as (tensor: Pointer, data: Uint8Array, size: number) => number,
    tensorName: lib.func('const char *TfLiteTensorName(void *tensor)') as (tensor: Pointer) => string | null,
    tensorQuantisation: lib.func('TfLiteTensorQuantizationParams', Quantisation, ['void *']) as (tensor: Pointer) => { scale: number; zero_point: number },
    xnnpackCreate: lib.func('void *TfLiteXNNPackDelegateCreate(const void *options)') as (options: Buffer) => Pointer,
    xnnpackDelete: lib.func('void TfLiteXNNPackDelegateDelete(void *delegate)') as (delegate: Pointer) => void,
  };
}

let quantisation: TypeObject | undefined;
function quantisationStruct(): TypeObject {
  quantisation ??= koffi.struct('TfLiteQuantizationParams', { scale: 'float', zero_point: 'int32_t' });
  return quantisation;
}
