import { constantInts, elementsOf, shortName, type Operator, type Subgraph, type Tensor } from './model.ts';
import { generalAdvice, opRules, refusedFromVersion, replacements, type Constraint } from './op-rules.ts';

/** The compiler's own words, so that a forecast and a report can be compared line by line. */
export const status = {
  mapped: 'Mapped to Edge TPU',
  subgraph: 'More than one subgraph is not supported',
  type: 'Operation is working on an unsupported data type',
  unspecified: 'Operation is otherwise supported, but not mapped due to some unspecified limitation',
  unsupported: 'Operation not supported',
  version: 'Operation version not supported',
  rank: 'Tensor has unsupported rank (up to 3 innermost dimensions mapped)',
  notConstant: 'Filter, bias, or other param is not constant at compile-time',
} as const;
export type OpStatus = (typeof status)[keyof typeof status];

export interface Refusal {
  status: OpStatus;
  /** What about this operator is in the way, with its numbers. */
  reason: string;
  /** What to change in the model. */
  advice: string;
}

export interface Judgement {
  /** null = the operator can run on the chip, taken by itself. */
  refusal: Refusal | null;
  version: 'ok' | 'unknown' | 'refused';
  /** Why a "yes" is not backed by anything seen; empty = it is. */
  unverified: string[];
}

/** Judges one operator by itself; which of the mappable ones end up on the chip is the partition's business (partition.ts). */
export function judge(operator: Operator, graph: Subgraph, runtime: number): Judgement {
  const tensor = (index: number): Tensor | null => graph.tensors[index] ?? null;
  const view: OpView = { operator, inputs: operator.inputs.map(tensor), outputs: operator.outputs.map((index) => tensor(index)).filter((found) => found !== null), runtime };
  const version = versionOf(operator);
  const unverified: string[] = [];
  const refusal = refuse(view, version, unverified);
  const rule = opRules[operator.op];
  if (refusal === null && rule?.evidence === 'recalled') unverified.push(`support of ${operator.op} is known only from memory of the vendor's table`);
  if (refusal === null && rule?.provenFrom !== undefined && runtime < rule.provenFrom) unverified.push(`${operator.op} compiles for runtime ${runtime}, but none below ${rule.provenFrom} is known to run it`);
  if (refusal === null && version === 'unknown') unverified.push(`${operator.op} version ${operator.version} was never seen on an Edge TPU (highest: ${rule?.seenVersion})`);
  return { refusal, version, unverified: refusal === null ? unverified : [] };
}

interface OpView {
  operator: Operator;
  /** null = optional input left out. */
  inputs: (Tensor | null)[];
  outputs: Tensor[];
  runtime: number;
}

function versionOf({ op, version }: Operator): Judgement['version'] {
  const refused = refusedFromVersion[op];
  if (refused && version >= refused.version) return 'refused';
  const rule = opRules[op];
  return rule && version > rule.seenVersion ? 'unknown' : 'ok';
}

/** Tensors whose values appear at run time; weights and parameters have rules of their own. */
export function activationsOf(view: { inputs: (Tensor | null)[]; outputs: Tensor[] }): Tensor[] {
  return [...view.inputs.filter((tensor) => tensor !== null && !tensor.isConstant), ...view.outputs] as Tensor[];
}

function refuse(view: OpView, version: Judgement['version'], unverified: string[]): Refusal | null {
  const { operator, runtime } = view;
  const { op } = operator;
  const rule = opRules[op];
  const activations = activationsOf(view);
  // Of several outputs the compiler looks at the first: TOPK_V2 with its INT32 positions is reported as unsupported, not as of a wrong type.
  const others = new Set(view.outputs.slice(1));
  const decisive = activations.filter((tensor) => tensor === view.outputs[0] || !others.has(tensor));
  const wrongType = decisive.find((tensor) => !isEightBit(tensor) && !(rule?.wide && tensor.type === 'INT16'));
  if (wrongType && op === 'QUANTIZE' && wrongType.type === 'FLOAT32') {
    return {
      status: status.unspecified, reason: `It turns the float tensor "${shortName(wrongType.name)}" into 8 bits, which only the CPU does.`,
      advice: 'Convert with inference_input_type int8 or uint8, then nothing is left to quantise; in front of the model it cuts nothing off.',
    };
  }
  if (wrongType) {
    return {
      status: status.type, reason: `"${shortName(wrongType.name)}" is ${wrongType.type}; the Edge TPU computes in INT8 or UINT8${rule?.wide ? ' (INT16 for states)' : ''} only.`,
      advice: replacements[op] ?? (/^(?:U?INT(?:32|64)|BOOL|STRING)$/.test(wrongType.type)
        ? 'It computes positions, counts or conditions, which stay what they are when the model is quantised: leave it out and do it on the host, or move it behind the last layer.'
        : 'Quantise the whole model to int8 with a representative dataset; operators the quantiser cannot do must be replaced or moved to the end.'),
    };
  }
  if (!rule) return { status: status.unsupported, reason: `The Edge TPU has no ${operator.customCode ?? op}.`, advice: replacements[op] ?? generalAdvice };
  if (version === 'refused') {
    return { status: status.version, reason: `${op} version ${operator.version} is newer than the compiler.`, advice: refusedFromVersion[op]!.why };
  }
  if (runtime < rule.since) {
    return {
      status: status.unsupported, reason: `${op} needs runtime ${rule.since}, asked was one that runs on ${runtime}.`,
      advice: `Compile for runtime ${rule.since} or newer, or replace ${op}.`,
    };
  }
  // Before the shapes: weights that are computed are no activation.
  const [known, limits] = [true, false].map((first) => rule.constraints.filter(({ kind }) => (kind === 'constant') === first));
  for (const constraint of known!) {
    const refusal = violates(constraint, view, unverified);
    if (refusal) return refusal;
  }
  const deep = activations.find((tensor) => tensor.shape.slice(0, -3).some((size) => size !== 1));
  if (deep) {
    return {
      status: status.rank, reason: `"${shortName(deep.name)}" is [${deep.shape.join(', ')}]: all but the last three sizes must be 1.`,
      advice: deep.shape.length === 4 ? 'Convert with batch size 1.' : 'Reshape to at most three sizes above 1, or use batch size 1.',
    };
  }
  for (const constraint of limits!) {
    const refusal = violates(constraint, view, unverified);
    if (refusal) return refusal;
  }
  return null;
}

function isEightBit(tensor: Tensor): boolean {
  return tensor.type === 'INT8' || tensor.type === 'UINT8';
}

/** The reason why `constraint` does not hold, or null. Sizes nobody has tried are let through and noted in `unverified`. */
function violates(constraint: Constraint, { operator, inputs, outputs, runtime }: OpView, unverified: string[]): Refusal | null {
  const { op, options } = operator;
  const input = inputs.find((tensor) => tensor !== null && !tensor.isConstant) ?? null;
  const output = outputs[0];
  const refuse = (reason: string, advice: string): Refusal => ({ status: status.unspecified, reason, advice });

  switch (constraint.kind) {
    case 'constant': {
      const open = constraint.inputs.map((index) => inputs[index]).find((tensor) => tensor && !tensor.isConstant);
      return open ? {
        status: status.notConstant, reason: `"${shortName(open.name)}" is computed while the model runs; ${op} needs it fixed in the file.`,
        advice: 'Freeze the model before converting, and make shapes, axes and weights constants.',
      } : null;
    }
    case 'no-fused-activation':
      return options.fusedActivation && options.fusedActivation !== 'NONE'
        ? refuse(`${op} carries a fused ${options.fusedActivation}.`, 'Put the activation in a layer of its own.') : null;
    case 'equal-dilation': {
      const [dilationH, dilationW] = [options.dilationH ?? 1, options.dilationW ?? 1];
      const [, kernelH = 1, kernelW = 1] = inputs[1]?.shape ?? [];
      return dilationH !== dilationW && kernelH > 1 && kernelW > 1
        ? refuse(`Its dilation is ${dilationH}x${dilationW} with a ${kernelH}x${kernelW} kernel.`, 'Use the same dilation in both directions.') : null;
    }
    case 'no-dilation':
      return runtime <= constraint.upToRuntime && ((options.dilationH ?? 1) > 1 || (options.dilationW ?? 1) > 1)
        ? refuse(`Dilation in ${op} needs a runtime above ${constraint.upToRuntime}.`, `Compile for runtime ${constraint.upToRuntime + 1} or newer.`) : null;
    case 'reduce': {
      const axes = axesOf(inputs[1], input?.shape.length ?? 0);
      if (!input || !axes) return null;
      const rank = input.shape.length;
      if (axes.includes(0) && rank > 1 && !isChannelAxis(0, rank)) return refuse(`It reduces over the batch (axis 0 of [${input.shape.join(', ')}]).`, 'Reduce over height, width or channels only.');
      const overChannels = axes.some((axis) => isChannelAxis(axis, rank));
      if (overChannels && constraint.spatialOnlyUpToRuntime !== undefined && runtime <= constraint.spatialOnlyUpToRuntime) {
        return refuse(`It reduces over channels, which needs a runtime above ${constraint.spatialOnlyUpToRuntime}.`, `Compile for runtime ${constraint.spatialOnlyUpToRuntime + 1} or newer.`);
      }
      const channels = input.shape.at(-1)!;
      return overChannels && constraint.channelsMultipleOf !== undefined && channels % constraint.channelsMultipleOf !== 0
        ? refuse(`It reduces over ${channels} channels; their number must be a multiple of ${constraint.channelsMultipleOf}.`, 'Change the number of channels in front of it.') : null;
    }
    case 'axis-not-batch': {
      const rank = Math.max(output?.shape.length ?? 0, input?.shape.length ?? 0);
      const [axis] = constraint.from === 'options' ? [options.axis ?? 0] : constantInts(inputs[constraint.input!] ?? undefined) ?? [];
      return axis !== undefined && rank > 1 && (axis < 0 ? axis + rank : axis) === 0
        ? refuse(`${op} works along the batch axis.`, 'Use another axis than the first.') : null;
    }
    case 'pad': {
      const pads = constantInts(inputs[1] ?? undefined);
      const rank = input?.shape.length ?? 0;
      if (!pads || pads.length < rank * 2) return null;
      const padded = (axis: number): boolean => pads[axis * 2] !== 0 || pads[axis * 2 + 1] !== 0;
      if (rank > 1 && padded(0)) return refuse('It pads the batch.', 'Pad height, width or channels only.');
      return runtime <= constraint.spatialOnlyUpToRuntime && rank > 0 && padded(rank - 1)
        ? refuse(`It pads channels, which needs a runtime above ${constraint.spatialOnlyUpToRuntime}.`, `Compile for runtime ${constraint.spatialOnlyUpToRuntime + 1} or newer.`) : null;
    }
    case 'constant-zeros-of-two': {
      const fixed = inputs.filter((tensor) => tensor?.isConstant);
      if (fixed.length === 0) return null;
      const zero = fixed[0]!.quantisation?.zeroPoint[0] ?? 0;
      return inputs.length > 2 || fixed.length > 1 || !fixed[0]!.data!.every((value) => value === (zero & 0xff))
        ? refuse('It joins a constant that is more than zero padding of one other input.', 'Join computed tensors only, or add the constant with ADD.') : null;
    }
    case 'default-weights':
      return options.weightsFormat ? refuse('Its weights are stored shuffled.', 'Convert again without the shuffled weights format.') : null;
    case 'no-kept-dims':
      return options.keepNumDims ? {
        status: status.version, reason: 'A Dense layer on more than two dimensions makes FULLY_CONNECTED version 5 or newer (keep_num_dims).',
        advice: 'Flatten before the Dense layer, or use a 1x1 convolution.',
      } : null;
    case 'vector-output':
      return output && !isVector(output.shape)
        ? refuse(`Its output is [${output.shape.join(', ')}]; only the last size may be above 1.`, 'Use a 1x1 convolution for more than one row.') : null;
    case 'vector-alpha': {
      const alpha = inputs[1];
      return alpha && !isVector(alpha.shape) ? refuse(`Its slope is [${alpha.shape.join(', ')}].`, 'Share the slope over height and width (shared_axes=[1, 2]).') : null;
    }
    case 'rows': {
      const row = input?.shape.at(-1) ?? 0;
      if (row > constraint.maxRow) return refuse(`Its rows have ${row} elements, at most ${constraint.maxRow} map.`, `Leave ${op} out and do it on the host.`);
      if (input && !isVector(input.shape)) unverified.push(`${op} over [${input.shape.join(', ')}]: one row is documented; several are reported to map, of unknown sizes`);
      return null;
    }
    case 'resize-ratio': {
      const [inH = 1, inW = 1] = input?.shape.slice(-3, -1) ?? [];
      const [outH = 1, outW = 1] = output?.shape.slice(-3, -1) ?? [];
      if (inH === outH && inW === outW) return null;
      const ratio = Math.max(outH / inH, outW / inW);
      const sizes = `${inH}x${inW} to ${outH}x${outW}`;
      if (inH <= 1 || inW <= 1 || ratio > constraint.failsAbove) return refuse(`It resizes ${sizes}; up to twice the size maps.`, `Resize in steps of ${constraint.mapsUpTo}, or on the host.`);
      if (Math.min(outH / inH, outW / inW) < 1) unverified.push(`${op} from ${sizes}: none was seen that makes a picture smaller`);
      if (ratio > constraint.mapsUpTo) unverified.push(`${op} from ${sizes}: between ${constraint.mapsUpTo} and ${constraint.failsAbove} times nothing was seen`);
      return null;
    }
    case 'unit-strides': {
      const strides = constantInts(inputs[3] ?? undefined) ?? [];
      if (strides.some((stride) => stride !== 1)) return refuse(`Its strides are [${strides.join(', ')}]; all must be 1.`, 'Use a strided convolution or pooling instead.');
      return options['ellipsisMask'] || options['newAxisMask'] ? refuse('It uses an ellipsis or a new axis.', 'Write the slice out over every axis.') : null;
    }
    case 'no-relayout': {
      if (runtime > constraint.upToRuntime || !input || !output) return null;
      const rest = input.shape.slice(-output.shape.length);
      return rest.some((size, index) => size !== output.shape[index])
        ? refuse(`Squeezing inner dimensions needs a runtime above ${constraint.upToRuntime}.`, `Squeeze leading dimensions only, or compile for runtime ${constraint.upToRuntime + 1} or newer.`) : null;
    }
    case 'spatial-size': {
      const [height = 1, width = 1] = input?.shape.slice(-3, -1) ?? [];
      if (height * width >= constraint.failsFrom) return refuse(`It averages ${height}x${width} points at once.`, 'Pool in two steps (AVERAGE_POOL_2D first).');
      if (height * width > constraint.mapsUpTo) unverified.push(`${op} over ${height}x${width}: the largest seen is ${constraint.mapsUpTo} points`);
      return null;
    }
    case 'output-points': {
      const [height = 1, width = 1] = output?.shape.slice(-3, -1) ?? [];
      if (height * width >= constraint.failsFrom) return refuse(`Its output is ${height}x${width}, which is too large.`, 'Resize on the host, or leave the last enlargement out.');
      if (height * width > constraint.seenUpTo) unverified.push(`${op} to ${height}x${width}: the largest seen has ${constraint.seenUpTo} points, and large ones are known to stay on the CPU`);
      return null;
    }
    case 'spreads-vector':
      if (input && output && (!isVector(input.shape) || input.shape.at(-1) !== output.shape.at(-1))) unverified.push(`${op} of [${input.shape.join(', ')}] to [${output.shape.join(', ')}]: only one vector spread over a picture was seen`);
      return null;
    case 'known-size': {
      const elements = input ? elementsOf(input.shape) : 0;
      if (elements > constraint.elements) unverified.push(`${op} of ${elements} elements: ${constraint.elements === 0 ? 'no public pair has one' : `the largest seen has ${constraint.elements}`}, and large ones are known to stay on the CPU`);
      return null;
    }
  }
}

function isVector(shape: readonly number[]): boolean {
  return shape.slice(0, -1).every((size) => size === 1);
}

function isChannelAxis(axis: number, rank: number): boolean {
  return axis === rank - 1;
}

function axesOf(tensor: Tensor | null | undefined, rank: number): number[] | null {
  return constantInts(tensor ?? undefined)?.map((axis) => axis < 0 ? axis + rank : axis) ?? null;
}
