import type { Operator, Subgraph } from './model.ts';

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

/** Parameters of the operators that map. The formulas are measured: 8 bytes of bias and scale per output channel, channels in groups. */
export function estimateParameters(graph: Subgraph, mapped: readonly Operator[]): ParameterEstimate {
  const bytes = mapped.reduce((sum, operator) => sum + parameterBytes(operator, graph), 0);
  const fit = bytes < surelyFitsBytes ? 'fits' : bytes > surelyStreamsBytes ? 'streams' : 'maybe';
  const streamedBytes = fit === 'streams' ? bytes - surelyStreamsBytes : 0;
  return { bytes, onChipBytes: bytes - streamedBytes, streamedBytes, fit, complete: !mapped.some(({ op }) => op.endsWith('LSTM')) };
}

export function parameterBytes(operator: Operator, graph: Subgraph): number {
  const shape = graph.tensors[operator.inputs[1] ?? -1]?.shape ?? [];
  switch (operator.op) {
    case 'CONV_2D': {
      const [cout = 0, kernelH = 0, kernelW = 0, cin = 0] = shape;
      return pad(cin, 16) * kernelH * kernelW * pad(cout, 32) + 8 * pad(cout, 32);
    }
    case 'DEPTHWISE_CONV_2D': {
      const [, kernelH = 0, kernelW = 0, channels = 0] = shape;
      return kernelH * kernelW * 4 * pad(channels, 64) + 8 * pad(channels, 64);
    }
    case 'FULLY_CONNECTED': {
      const [out = 0, into = 0] = shape;
      const rows = out <= 16 ? 16 : pad(out, 64);
      return into * rows + 8 * rows;
    }
    default: return 0;
  }
}

function pad(count: number, multiple: number): number {
  return Math.ceil(count / multiple) * multiple;
}
