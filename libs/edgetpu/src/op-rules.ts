/**
 * Which operators the Edge TPU compiler (16.0) places on the chip, as data. Sources: the vendor's table of supported operations, its
 * change log, public compiler reports, and 197 public pairs of source and compiled model; where documents and pairs disagree the
 * pairs hold. docs/edgetpu-rules.md is the readable form; a test keeps the two in step.
 */
export type Constraint =
  /** Inputs that must be known when compiling; left-out optional inputs are fine. */
  | { kind: 'constant'; inputs: number[] }
  | { kind: 'no-fused-activation' }
  /** Different dilation per axis maps only where one kernel side is 1 (measured: 3x1 kernels dilated along their long side do). */
  | { kind: 'equal-dilation' }
  | { kind: 'no-dilation'; upToRuntime: number }
  /** Reduction axes, from an input or from `axis`. */
  | { kind: 'reduce'; batch: false; spatialOnlyUpToRuntime?: number; channelsMultipleOf?: number }
  | { kind: 'axis-not-batch'; from: 'options' | 'input'; input?: number }
  | { kind: 'pad'; spatialOnlyUpToRuntime: number }
  /** One constant input at most, of two, and it must stand for zeros: zero padding in disguise. */
  | { kind: 'constant-zeros-of-two' }
  | { kind: 'default-weights' }
  | { kind: 'no-kept-dims' }
  | { kind: 'vector-output' }
  | { kind: 'vector-alpha' }
  /** Along the last axis; one row is documented, several were only reported. */
  | { kind: 'rows'; maxRow: number }
  | { kind: 'resize-ratio'; mapsUpTo: number; failsAbove: number }
  /** Points of the output, height times width. */
  | { kind: 'output-points'; seenUpTo: number; failsFrom: number }
  /** Only [1, 1, 1, C] spread over a picture was seen. */
  | { kind: 'spreads-vector' }
  | { kind: 'unit-strides' }
  | { kind: 'no-relayout'; upToRuntime: number }
  | { kind: 'spatial-size'; mapsUpTo: number; failsFrom: number }
  /** Larger ones were seen on the CPU, without a known limit. */
  | { kind: 'known-size'; elements: number };

export interface OpRule {
  /** Lowest runtime that can run it. */
  since: number;
  /** Where the support is known from: seen in a public pair, in a public report of compiler 16 (without its model), in a document, or only remembered. */
  evidence: 'measured' | 'reported' | 'documented' | 'recalled';
  /** Highest version seen on the chip; 1 where none was seen. A report on an int8 model implies 2, where 8 signed bits came with version 2. */
  seenVersion: number;
  constraints: Constraint[];
  /** 16-bit activations are fine too (LSTM cell state). */
  wide?: true;
  /** Compiles for older runtimes, and nobody is known to have run that. */
  provenFrom?: number;
}

export const floorRuntime = 10;

const anyRuntime = floorRuntime;
const seen = (seenVersion: number, constraints: Constraint[] = [], since = anyRuntime): OpRule => ({ since, evidence: 'measured', seenVersion, constraints });
const reported = (seenVersion: number, constraints: Constraint[] = [], since = anyRuntime): OpRule => ({ since, evidence: 'reported', seenVersion, constraints });
const documented = (constraints: Constraint[] = [], since = anyRuntime): OpRule => ({ since, evidence: 'documented', seenVersion: 1, constraints });
const recalled = (since: number, constraints: Constraint[] = []): OpRule => ({ since, evidence: 'recalled', seenVersion: 1, constraints });

const reduce: Constraint[] = [{ kind: 'constant', inputs: [1] }, { kind: 'reduce', batch: false }];
const lstm: OpRule = { since: 12, evidence: 'measured', seenVersion: 1, constraints: [{ kind: 'constant', inputs: [1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 14, 15] }], wide: true, provenFrom: 14 };

export const opRules: Readonly<Record<string, OpRule>> = {
  ADD: seen(2),
  AVERAGE_POOL_2D: seen(2, [{ kind: 'no-fused-activation' }]),
  CONCATENATION: seen(2, [{ kind: 'no-fused-activation' }, { kind: 'constant-zeros-of-two' }]),
  CONV_2D: seen(3, [{ kind: 'constant', inputs: [1, 2] }, { kind: 'equal-dilation' }]),
  DEPTHWISE_CONV_2D: seen(3, [{ kind: 'constant', inputs: [1, 2] }, { kind: 'equal-dilation' }, { kind: 'no-dilation', upToRuntime: 12 }]),
  EXPAND_DIMS: documented([{ kind: 'constant', inputs: [1] }], 13),
  FULLY_CONNECTED: seen(4, [{ kind: 'constant', inputs: [1, 2] }, { kind: 'default-weights' }, { kind: 'no-kept-dims' }, { kind: 'vector-output' }]),
  L2_NORMALIZATION: documented(),
  LOGISTIC: seen(2),
  // Documented from runtime 14 on, which brought variable tensors; a public package with one says 12.
  UNIDIRECTIONAL_SEQUENCE_LSTM: lstm,
  LSTM: lstm,
  MAXIMUM: seen(2),
  MAX_POOL_2D: seen(2, [{ kind: 'no-fused-activation' }]),
  // [1,64,128,3] maps, [1,256,128,3] does not: between the two nobody knows.
  MEAN: seen(2, [{ kind: 'constant', inputs: [1] }, { kind: 'reduce', batch: false, spatialOnlyUpToRuntime: 12, channelsMultipleOf: 4 }, { kind: 'spatial-size', mapsUpTo: 64 * 128, failsFrom: 256 * 128 }]),
  MINIMUM: reported(2),
  MUL: seen(2),
  PACK: documented([{ kind: 'axis-not-batch', from: 'options' }], 13),
  PAD: seen(2, [{ kind: 'constant', inputs: [1] }, { kind: 'pad', spatialOnlyUpToRuntime: 12 }]),
  PRELU: recalled(13, [{ kind: 'constant', inputs: [1] }, { kind: 'vector-alpha' }]),
  // Documented from 13 on, but 8-bit to 8-bit is in packages for 12. Its float form is judged in rules.ts.
  QUANTIZE: seen(2),
  REDUCE_MAX: recalled(14, reduce),
  REDUCE_MIN: recalled(14, reduce),
  RELU: documented(),
  RELU6: documented(),
  RELU_N1_TO_1: documented(),
  RESHAPE: seen(1, [{ kind: 'constant', inputs: [1] }, { kind: 'known-size', elements: 94_400 }]),
  // 24x24 to 48x48 is the largest seen to map; 256x256 to 512x512 is reported not to.
  RESIZE_BILINEAR: seen(3, [{ kind: 'constant', inputs: [1] }, { kind: 'resize-ratio', mapsUpTo: 2, failsAbove: 4 }, { kind: 'output-points', seenUpTo: 48 * 48, failsFrom: 512 * 512 }]),
  // Compilers before 16 took version 2 at most.
  RESIZE_NEAREST_NEIGHBOR: reported(3, [{ kind: 'constant', inputs: [1] }, { kind: 'known-size', elements: 0 }]),
  RSQRT: recalled(14),
  SLICE: documented([{ kind: 'constant', inputs: [1, 2] }]),
  // The documents say one row of 16,000. A row of 16,384 is in a public pair, and YOLOv8 and v9, which take it over thousands of rows of 16, are reported to map.
  SOFTMAX: seen(2, [{ kind: 'rows', maxRow: 16_384 }]),
  SPACE_TO_DEPTH: documented(),
  SPLIT: seen(2, [{ kind: 'constant', inputs: [0] }, { kind: 'axis-not-batch', from: 'input', input: 0 }]),
  SQUARED_DIFFERENCE: recalled(14),
  SQUEEZE: documented([{ kind: 'no-relayout', upToRuntime: 12 }]),
  STRIDED_SLICE: reported(2, [{ kind: 'constant', inputs: [1, 2, 3] }, { kind: 'unit-strides' }]),
  SUB: seen(2),
  SUM: reported(2, reduce, 13),
  TANH: documented(),
  // Of 17 in a YOLOv9 14 are reported to map.
  TRANSPOSE: reported(2, [{ kind: 'constant', inputs: [1] }, { kind: 'known-size', elements: 0 }], 14),
  TRANSPOSE_CONV: documented([{ kind: 'constant', inputs: [0, 1, 3] }], 13),
  // In no document; seen spreading [1,1,1,C] over a picture.
  TILE: seen(1, [{ kind: 'constant', inputs: [1] }, { kind: 'spreads-vector' }], 12),
};

/** What to do about operators that never map; the ones without an entry get the general advice. */
export const replacements: Readonly<Record<string, string>> = {
  ARG_MAX: 'Leave it out and take the largest score on the host; as the last operator it costs little on the CPU.',
  ARG_MIN: 'Leave it out and do it on the host.',
  BATCH_MATMUL: 'Use Dense layers with constant weights, or 1x1 convolutions.',
  CAST: 'Feed the type the model computes in (int8 or uint8), so that no cast is needed.',
  CUSTOM: 'Keep custom operators such as detection post-processing at the very end: all before them still maps.',
  DEPTH_TO_SPACE: 'Upsample with TRANSPOSE_CONV or RESIZE_NEAREST_NEIGHBOR instead.',
  DEQUANTIZE: 'Convert with inference_output_type int8 or uint8 and scale on the host.',
  DIV: 'Multiply by the constant reciprocal (MUL).',
  ELU: 'Use RELU or RELU6 and train again.',
  EXP: 'Use LOGISTIC or TANH where the model allows, else move it behind the last layer.',
  FLOOR_DIV: 'Do this index arithmetic on the host.',
  GATHER: 'Use SPLIT or SLICE with constant ranges.',
  GATHER_ND: 'Do this look-up on the host, behind the last layer.',
  GELU: 'Use RELU or RELU6 and train again.',
  HARD_SWISH: 'Build it from ADD, RELU6 and MUL, or use RELU6.',
  LEAKY_RELU: 'Use RELU or RELU6, or build it as MAXIMUM(x, alpha * x).',
  LOG_SOFTMAX: 'Use SOFTMAX and take the logarithm on the host.',
  MIRROR_PAD: 'Use zero padding (PAD).',
  NEG: 'Multiply by -1 (MUL).',
  PADV2: 'Pad with zeros (PAD).',
  SQRT: 'Use RSQRT with MUL (runtime 14), or do it on the host.',
  UNPACK: 'Use SPLIT, or SLICE with constant ranges.',
};
export const generalAdvice = 'Replace it with operators from the list in docs/edgetpu-rules.md, or move it behind the last layer that should run on the Edge TPU.';

/** Versions that public reports show refused while loading the model, so nothing is compiled at all. */
export const refusedFromVersion: Readonly<Record<string, { version: number; why: string }>> = {
  CONV_2D: { version: 6, why: 'Grouped convolutions make version 6: use groups=1, or split into DEPTHWISE_CONV_2D and 1x1 CONV_2D.' },
  TRANSPOSE_CONV: { version: 4, why: 'A fused activation makes version 4: put the activation in a layer of its own, or convert with TensorFlow 2.15.' },
  EXP: { version: 2, why: 'Quantised EXP is version 2: keep it out of the model.' },
  QUANTIZE: { version: 3, why: 'Convert with TensorFlow 2.15, which writes version 1.' },
  FULLY_CONNECTED: { version: 12, why: 'Per-channel dense weights make version 12: convert with _experimental_disable_per_channel_quantization_for_dense_layers.' },
};
