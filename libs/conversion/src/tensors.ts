import { dtype, type Dtype, type Preprocessing, type Task, type TensorSpec } from '@reefkeeper/bundle';
import type { Tensor, TfliteModel } from '@reefkeeper/edgetpu';
import { ReefError } from '@reefkeeper/platform/errors';
import type { BuildRequest } from './job.ts';

/** A model's inputs and outputs, in the order of its main graph. @throws ReefError `model.tensor_type` */
export function bordersOf(model: TfliteModel): { inputs: TensorSpec[]; outputs: TensorSpec[] } {
  const graph = model.subgraphs[0]!;
  return {
    inputs: graph.inputs.map((index) => specOf(graph.tensors[index]!)),
    outputs: graph.outputs.map((index) => specOf(graph.tensors[index]!)),
  };
}

function specOf({ name, shape, type, quantisation }: Tensor): TensorSpec {
  const kind = dtype.safeParse(type.toLowerCase());
  if (!kind.success) throw new ReefError('model.tensor_type', 'invalid', `The tensor "${name}" is of type ${type}, which devices cannot be given. Export the model with numeric inputs and outputs.`, { detail: { tensor: name, type } });
  const perTensor = quantisation && quantisation.scale.length === 1 ? quantisation : null;
  return { name, shape: [...shape], dtype: kind.data, scale: perTensor?.scale[0] ?? null, zeroPoint: perTensor?.zeroPoint[0] ?? null };
}

/** Pixels 0 to 255 become -1 to 1, as most TensorFlow image models are trained; a wrong guess shows up as a bad accuracy in verify. */
const defaultMean = [127.5];
const defaultStd = [127.5];

/** How an input is made from a frame: an image where the shape is one, raw bytes otherwise. */
export function preprocessingFor(shape: readonly (number | null)[], wanted: BuildRequest['preprocessing']): Preprocessing {
  const [, height, width, channels] = shape;
  if (shape.length !== 4 || !height || !width || (channels !== 1 && channels !== 3)) return { kind: 'raw' };
  return { kind: 'image', width, height, channels, resize: wanted.resize ?? 'center-crop', mean: perChannel(wanted.mean) ?? defaultMean, std: perChannel(wanted.std) ?? defaultStd };
}

function perChannel(value: number | number[] | undefined): number[] | undefined {
  return value === undefined ? undefined : Array.isArray(value) ? value : [value];
}

/** Classes a classifier tells apart: the last dimension of its first output. */
export function classesOf(outputs: readonly { shape: readonly (number | null)[] }[]): number | null {
  return outputs[0]?.shape.at(-1) ?? null;
}

/** @throws ReefError `labels.mismatch` */
export function checkLabels(labels: readonly string[] | null, task: Task, outputs: readonly { shape: readonly (number | null)[] }[]): void {
  const classes = classesOf(outputs);
  if (labels === null || task !== 'classification' || classes === null || classes === labels.length) return;
  const background = classes === labels.length + 1 ? ' Models trained with a background class need it as the first label.' : '';
  throw new ReefError('labels.mismatch', 'invalid', `The model tells ${classes} classes apart, but ${labels.length} labels were given. Give one label per class, in the order of the outputs.${background}`, { detail: { classes, labels: labels.length } });
}

/** Real numbers as the tensor's bytes: q = round(real / scale) + zeroPoint, clamped. */
export function quantise(values: ArrayLike<number>, spec: { dtype: Dtype | string; scale: number | null; zeroPoint: number | null; name?: string }): Buffer {
  if (spec.dtype === 'float32') return Buffer.from(Float32Array.from(values).buffer);
  if ((spec.dtype !== 'int8' && spec.dtype !== 'uint8') || spec.scale === null) throw new ReefError('verify.input_type', 'invalid', `The input "${spec.name ?? ''}" is ${spec.dtype}; int8, uint8 and float32 inputs can be verified.`);
  const [low, high] = spec.dtype === 'int8' ? [-128, 127] : [0, 255];
  const out = Buffer.allocUnsafe(values.length);
  for (let at = 0; at < values.length; at += 1) {
    out[at] = Math.min(high, Math.max(low, Math.round(values[at]! / spec.scale) + (spec.zeroPoint ?? 0))) & 0xff;
  }
  return out;
}
