import { elementsOf, type Operator, type Subgraph } from './model.ts';

export interface ParameterEstimate {
  /** Estimated bytes of parameters in the chip's own layout. */
  bytes: number;
  onChipBytes: number;
  /** Sent to the chip again at every inference. */
  streamedBytes: number;
  /** Whether all stays on the chip. `maybe`: between the sizes where activations decide. */
  fit: 'fits' | 'maybe' | 'streams';
  /** False if an operator whose parameters are not modelled (LSTM) is among them. */
  complete: boolean;
}

/** Below this everything was seen to stay on the chip, above the other it never did: the 8 MB also hold activations. */
export const surelyFitsBytes = Math.round(5.5 * (1 << 20));
export const surelyStreamsBytes = Math.round(7.9 * (1 << 20));
/** What models that stream were reported to keep on the chip: 6.08 MiB of a YOLOv5s, 6.15 of a ResNet-18. */
const typicalCacheBytes = Math.round(6.1 * (1 << 20));

/** Parameters of the operators that map. */
export function estimateParameters(graph: Subgraph, mapped: readonly Operator[]): ParameterEstimate {
  const isFed = fedBy(graph);
  const bytes = mapped.reduce((sum, operator) => sum + parameterBytes(operator, graph, isFed), 0);
  const fit = bytes < surelyFitsBytes ? 'fits' : bytes > surelyStreamsBytes ? 'streams' : 'maybe';
  const longRows = mapped.reduce((sum, operator) => sum + alwaysStreamed(operator, graph), 0);
  const streamedBytes = Math.max(longRows, fit === 'streams' ? bytes - typicalCacheBytes : 0);
  return { bytes, onChipBytes: bytes - streamedBytes, streamedBytes, fit, complete: !mapped.some(({ op }) => op.endsWith('LSTM')) };
}

/** How the chip lays weights out. A test chooses these numbers anew without each family of public models in turn, and gets the same. */
export interface ChipLayout {
  /** Inputs of a row, and channels of a depthwise convolution, are stored in groups of so many. */
  inputGroup: number;
  channelGroup: number;
  /** Rows (outputs) up to `wideAbove` in groups of `rowGroup`, above it of `wideRowGroup`. */
  rowGroup: number;
  wideRowGroup: number;
  wideAbove: number;
}

export const chipLayout: ChipLayout = { inputGroup: 4, channelGroup: 4, rowGroup: 16, wideRowGroup: 64, wideAbove: 64 };

/**
 * Bytes of one operator's parameters as the compiler lays them out, read off the parameter blobs of public compiled models: inputs in
 * groups of 4, outputs padded to 16 (to 64 above 64), a few bytes of bias and scale per
 * output, blocks of 64.
 */
export function parameterBytes(operator: Operator, graph: Subgraph, isFed = fedBy(graph), layout = chipLayout): number {
  const input = graph.tensors[operator.inputs[0] ?? -1];
  const weights = graph.tensors[operator.inputs[1] ?? -1];
  const output = graph.tensors[operator.outputs[0] ?? -1];
  const shape = weights?.shape ?? [];
  // Per output: one offset; with scales of their own, the scale too and a bias that is not zero separately.
  const perChannel = (weights?.quantisation?.scale.length ?? 1) > 1;
  const bias = graph.tensors[operator.inputs[2] ?? -1]?.data;
  const biasBytes = perChannel ? (bias?.some((byte) => byte !== 0) ? 12 : 8) : 4;
  switch (operator.op) {
    case 'CONV_2D': {
      const [cout = 0, kernelH = 0, kernelW = 0, cin = 0] = shape;
      return cin === 1 && cout === 1 ? depthwise(kernelH * kernelW, 1, biasBytes, layout) : dense(kernelH * kernelW * pad(cin, layout.inputGroup), cout, biasBytes, layout);
    }
    case 'DEPTHWISE_CONV_2D': {
      const [, kernelH = 0, kernelW = 0, channels = 0] = shape;
      // One input channel for many outputs is an ordinary convolution to the compiler.
      if (input?.shape.at(-1) === 1 && channels > 1) return dense(kernelH * kernelW * pad(1, layout.inputGroup), channels, biasBytes, layout);
      return depthwise(kernelH * kernelW, channels, biasBytes, layout);
    }
    case 'TRANSPOSE_CONV': {
      const [cout = 0, kernelH = 0, kernelW = 0, cin = 0] = shape;
      return dense(kernelH * kernelW * pad(cin, layout.inputGroup), cout, biasBytes, layout);
    }
    case 'FULLY_CONNECTED': {
      const [out = 0, into = 0] = shape;
      return dense(pad(into, layout.inputGroup), out, biasBytes, layout);
    }
    // Moves of channels that do not lie on the 4-byte groups are small identity matrices.
    case 'CONCATENATION':
      return operator.inputs.some((index) => (graph.tensors[index]?.shape.at(-1) ?? 0) % 4 !== 0) ? 64 : 0;
    case 'SPLIT':
      return operator.outputs.some((index) => (graph.tensors[index]?.shape.at(-1) ?? 0) % 4 !== 0) ? 64 : 0;
    case 'RESHAPE': {
      const [height = 1, width = 1, channels = 0] = input?.shape.slice(-3) ?? [];
      const spread = channels === 1 && height * width > 1 && output !== undefined && output.shape.length < (input?.shape.length ?? 0);
      return spread && !isFed(operator.inputs[0] ?? -1) ? 64 * Math.min(16, elementsOf(input!.shape)) : 0;
    }
    // Seen for uint8 only: three sums over the row.
    case 'SOFTMAX':
      return input?.type === 'UINT8' ? 3 * 16 * pad(input.shape.at(-1) ?? 0, 4) + 64 : 0;
    default: return 0;
  }
}

/** Dense weights over 16,384 inputs were streamed in every public pair although they would have fitted, those over 4,096 never. */
function alwaysStreamed({ op, inputs }: Operator, graph: Subgraph): number {
  const [out = 0, into = 0] = graph.tensors[inputs[1] ?? -1]?.shape ?? [];
  return op === 'FULLY_CONNECTED' && into > 8192 ? pad(into, chipLayout.inputGroup) * rowsOf(out, chipLayout) : 0;
}

/** Whether a tensor is an input of the graph, or requantised from one. */
function fedBy(graph: Subgraph): (tensor: number) => boolean {
  const inputs = new Set(graph.inputs);
  const requantised = new Map(graph.operators.filter(({ op }) => op === 'QUANTIZE').flatMap((operator) => operator.outputs.map((output) => [output, operator.inputs[0]] as const)));
  return (tensor) => inputs.has(requantised.get(tensor) ?? tensor);
}

function dense(into: number, out: number, biasBytes: number, layout: ChipLayout): number {
  const rows = rowsOf(out, layout);
  return pad(into * rows + biasBytes * (out <= 8 ? 8 : rows), 64);
}

function rowsOf(out: number, { rowGroup, wideRowGroup, wideAbove }: ChipLayout): number {
  return pad(out, out <= wideAbove ? rowGroup : wideRowGroup);
}

function depthwise(taps: number, channels: number, biasBytes: number, { channelGroup }: ChipLayout): number {
  return pad((taps * 4 + biasBytes) * pad(channels, channelGroup), 64);
}

function pad(count: number, multiple: number): number {
  return Math.ceil(count / multiple) * multiple;
}
