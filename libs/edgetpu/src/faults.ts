import { constantInts, elementsOf, shortName, type Operator, type Subgraph, type Tensor, type TfliteModel } from './model.ts';
import { activationsOf, type Judgement } from './rules.ts';
import { refusedFromVersion } from './op-rules.ts';

export type FaultCode =
  | 'quant.not_quantized' | 'quant.float_input' | 'quant.float_output' | 'quant.float_ops' | 'quant.float_weights' | 'quant.wide_activations'
  | 'quant.missing_scale' | 'quant.per_channel_fully_connected' | 'quant.per_channel_axis' | 'quant.bias_type' | 'quant.bias_scale' | 'quant.zero_scale'
  | 'layout.nchw' | 'shape.dynamic' | 'shape.open_signature' | 'shape.batch' | 'size.large_activation' | 'op.version_refused' | 'op.nothing_maps';

export interface TensorRef {
  name: string;
  shape: number[];
  type: string;
}

export interface Fault {
  code: FaultCode;
  /** An error keeps the model from the compiler; a warning goes into the lineage. */
  severity: 'error' | 'warning';
  /** Whether the compiler itself would give up; otherwise only our own rules say no. */
  fatal: boolean;
  message: string;
  tensor?: TensorRef;
  /** Operator index in the main graph. */
  op?: number;
}

export interface FaultOptions {
  /** Float inputs and outputs become a warning. */
  allowFloatIo?: boolean;
}

/** The largest activation in a public model that was compiled, 1.5 times the chip's memory. Much larger ones the compiler is known to give up on. */
const largeActivationBytes = 12_656_736;
const biasScaleTolerance = 0.02;

/** Faults of the model as a whole: what makes the compiler fail or the result wrong whatever the operators are. */
export function findFaults(model: TfliteModel, judgements: readonly Judgement[], { allowFloatIo = false }: FaultOptions): Fault[] {
  const graph = model.subgraphs[0]!;
  const faults: Fault[] = [];
  const compute = graph.operators.map((operator) => ({ operator, ...tensorsOf(operator, graph) }));
  // A model with float islands compiles; "Model not quantized" is one without a single 8-bit operator.
  const quantised = compute.some((view) => {
    // States (of an LSTM) may be wider.
    const activations = activationsOf(view).filter(({ isVariable }) => !isVariable);
    return view.operator.op !== 'QUANTIZE' && view.operator.op !== 'DEQUANTIZE' && activations.length > 1 && activations.every(isQuantised);
  });
  if (!quantised) faults.push(notQuantised(compute.flatMap(activationsOf)));
  const more = [floatBorder(graph, quantised, allowFloatIo), quantised ? floatIslands(compute) : [], compute.flatMap(weightFaults), dynamicShapes(model, compute), sizes(graph), channelsFirst(compute)];
  for (const fault of more.flat()) faults.push(fault);
  for (const [index, { version }] of judgements.entries()) {
    const { op, version: number } = graph.operators[index]!;
    if (version === 'refused') {
      faults.push({ code: 'op.version_refused', severity: 'error', fatal: true, op: index, message: `The compiler cannot read ${op} version ${number} (operator ${index}). ${refusedFromVersion[op]!.why}` });
    }
  }
  return firstOfEach(faults);
}

/** A model with one fault often has it a hundred times; ten show the pattern. */
const mostOfOneCode = 10;

function firstOfEach(faults: readonly Fault[]): Fault[] {
  const counts = new Map<FaultCode, number>();
  for (const { code } of faults) counts.set(code, (counts.get(code) ?? 0) + 1);
  const shown = new Map<FaultCode, number>();
  return faults.flatMap((fault) => {
    const number = (shown.get(fault.code) ?? 0) + 1;
    shown.set(fault.code, number);
    if (number > mostOfOneCode) return [];
    const left = counts.get(fault.code)! - mostOfOneCode;
    return number === mostOfOneCode && left > 0 ? [{ ...fault, message: `${fault.message} And ${left} more like it.` }] : [fault];
  });
}

interface OperatorView {
  operator: Operator;
  inputs: (Tensor | null)[];
  outputs: Tensor[];
}

function tensorsOf(operator: Operator, graph: Subgraph): { inputs: (Tensor | null)[]; outputs: Tensor[] } {
  return {
    inputs: operator.inputs.map((index) => graph.tensors[index] ?? null),
    outputs: operator.outputs.map((index) => graph.tensors[index]).filter((tensor) => tensor !== undefined),
  };
}

const isQuantised = (tensor: Tensor): boolean => (tensor.type === 'INT8' || tensor.type === 'UINT8') && tensor.quantisation !== null;
const isFloat = (tensor: Tensor): boolean => tensor.type === 'FLOAT32' || tensor.type === 'FLOAT16' || tensor.type === 'FLOAT64';
const ref = ({ name, shape, type }: Tensor): TensorRef => ({ name: shortName(name), shape, type });
const named = ({ name, shape, type }: Tensor): string => `"${shortName(name)}" ${type} [${shape.join(', ')}]`;

function notQuantised(activations: Tensor[]): Fault {
  const wide = activations.find((tensor) => tensor.type === 'INT16' && tensor.quantisation);
  const message = wide
    ? `Activations are 16 bits wide (${named(wide)}); the Edge TPU needs 8. Convert with TFLITE_BUILTINS_INT8.`
    : 'The model is not quantised: no operator computes in 8 bits. Convert it with full-integer quantisation: optimizations=[DEFAULT], a representative dataset and supported_ops=[TFLITE_BUILTINS_INT8].';
  return { code: wide ? 'quant.wide_activations' : 'quant.not_quantized', severity: 'error', fatal: true, message };
}

/** Float at the border of an otherwise quantised model: the device would have to convert every frame on its CPU. */
function floatBorder(graph: Subgraph, quantised: boolean, allowed: boolean): Fault[] {
  if (!quantised) return [];
  const makers = new Map(graph.operators.flatMap((operator) => operator.outputs.map((tensor) => [tensor, operator] as const)));
  const border = (indices: number[], code: FaultCode, side: string): Fault[] => indices.map((index) => graph.tensors[index]!).filter(isFloat).map((tensor) => {
    const maker = makers.get(tensor.index);
    // Detection post-processing answers boxes and scores in float by design.
    const byDesign = maker?.op === 'CUSTOM';
    return {
      code, severity: allowed || byDesign ? 'warning' : 'error', fatal: false, tensor: ref(tensor),
      message: byDesign ? `Output ${named(tensor)} is float, made by ${maker.customCode} on the CPU.`
        : `${side} ${named(tensor)} is float although the model is quantised. Convert with inference_${side.toLowerCase()}_type int8 or uint8${allowed ? '' : ', or allow float inputs and outputs'}.`,
    };
  });
  return [...border(graph.inputs, 'quant.float_input', 'Input'), ...border(graph.outputs, 'quant.float_output', 'Output')];
}

function floatIslands(views: OperatorView[]): Fault[] {
  const islands = views.filter((view) => view.operator.op !== 'QUANTIZE' && view.operator.op !== 'DEQUANTIZE' && view.operator.op !== 'CUSTOM' && activationsOf(view).some(isFloat));
  if (islands.length === 0) return [];
  const list = [...new Set(islands.map(({ operator }) => operator.op))].join(', ');
  return [{
    code: 'quant.float_ops', severity: 'warning', fatal: false, op: islands[0]!.operator.index,
    message: `${islands.length} operator(s) stayed float and run on the CPU: ${list}. The converter leaves what it cannot quantise without an error; replace them if they sit inside the model.`,
  }];
}

/** Where an operator's weights lie, along which axis they may have one scale per slice, and where its bias lies. */
const weighted: Readonly<Record<string, { data: number; weights: number; bias: number; axis: number | null }>> = {
  CONV_2D: { data: 0, weights: 1, bias: 2, axis: 0 },
  DEPTHWISE_CONV_2D: { data: 0, weights: 1, bias: 2, axis: 3 },
  TRANSPOSE_CONV: { data: 2, weights: 1, bias: 3, axis: 0 },
  FULLY_CONNECTED: { data: 0, weights: 1, bias: 2, axis: null },
};

function weightFaults({ operator, inputs, outputs }: OperatorView): Fault[] {
  const faults: Fault[] = [];
  const fault = (code: FaultCode, tensor: Tensor, weight: 'fatal' | 'refuse' | 'warn', message: string): void => {
    faults.push({ code, severity: weight === 'warn' ? 'warning' : 'error', fatal: weight === 'fatal', tensor: ref(tensor), op: operator.index, message: `${message} (operator ${operator.index}, ${operator.op})` });
  };
  for (const tensor of [...inputs, ...outputs]) {
    if (tensor?.quantisation?.scale.some((scale) => !(scale > 0) || !Number.isFinite(scale))) {
      // One dead channel of weights is harmless; an activation without a range is not.
      fault('quant.zero_scale', tensor, tensor.isConstant ? 'warn' : 'refuse', `${named(tensor)} has a scale that is zero, negative or not a number: calibrate with data in which it varies`);
    }
  }
  const where = weighted[operator.op];
  const [data, weights, bias] = where ? [inputs[where.data], inputs[where.weights], inputs[where.bias]] : [];
  if (!where || !data || !weights) return faults;
  if (data.type !== 'INT8' && data.type !== 'UINT8') return faults;
  if (isFloat(weights)) fault('quant.float_weights', weights, 'fatal', `Weights ${named(weights)} are float while the activations are 8 bits`);
  if (!data.quantisation || !weights.quantisation) {
    fault('quant.missing_scale', data.quantisation ? weights : data, 'fatal', `${named(data.quantisation ? weights : data)} has no scale: quantise the model again`);
    return faults;
  }
  const scales = weights.quantisation.scale;
  if (where.axis === null && scales.length > 1) {
    // Compilers take it (public pairs show so): it is the CPU variant that goes wrong.
    fault('quant.per_channel_fully_connected', weights, 'refuse',
      `Dense weights ${named(weights)} have ${scales.length} scales: older runtimes load this without an error and answer garbage. Convert with _experimental_disable_per_channel_quantization_for_dense_layers = True`);
    return faults;
  }
  if (where.axis !== null && scales.length > 1 && (weights.quantisation.axis !== where.axis || scales.length !== weights.shape[where.axis])) {
    fault('quant.per_channel_axis', weights, 'fatal', `Weights ${named(weights)} have ${scales.length} scales along axis ${weights.quantisation.axis}, expected one per slice of axis ${where.axis}`);
    return faults;
  }
  if (!bias) return faults;
  if (bias.type !== 'INT32') {
    fault('quant.bias_type', bias, 'fatal', `Bias ${named(bias)} must be INT32`);
    return faults;
  }
  const inputScale = data.quantisation.scale[0] ?? 0;
  const biasScales = bias.quantisation?.scale ?? [];
  const wrong = biasScales.findIndex((scale, index) => {
    const expected = inputScale * (scales.length > 1 ? scales[index] ?? 0 : scales[0] ?? 0);
    return Math.abs(scale - expected) > expected * biasScaleTolerance;
  });
  if (wrong >= 0) {
    const expected = inputScale * (scales[scales.length > 1 ? wrong : 0] ?? 0);
    fault('quant.bias_scale', bias, 'warn', `Bias ${named(bias)} has scale ${biasScales[wrong]} at ${wrong}, input times weights is ${expected}: results will be off`);
  }
  return faults;
}

/** Operators whose output size comes from values: from these inputs if they are not constant, or always (empty list). */
const sizedByInputs: Readonly<Record<string, number[]>> = {
  RESHAPE: [1], TILE: [1], RESIZE_BILINEAR: [1], RESIZE_NEAREST_NEIGHBOR: [1], PAD: [1], PADV2: [1], SLICE: [1, 2], STRIDED_SLICE: [1, 2, 3], FILL: [0],
  BROADCAST_TO: [1], TRANSPOSE_CONV: [0], MEAN: [1], SUM: [1], REDUCE_MAX: [1], REDUCE_MIN: [1], TOPK_V2: [1], ONE_HOT: [1], RANGE: [0, 1, 2], EXPAND_DIMS: [1],
  SPARSE_TO_DENSE: [1], TRANSPOSE: [1], SPACE_TO_BATCH_ND: [1, 2], BATCH_TO_SPACE_ND: [1, 2],
};
const sizedByData = new Set(['WHERE', 'UNIQUE', 'NON_MAX_SUPPRESSION_V4', 'NON_MAX_SUPPRESSION_V5', 'WHILE', 'IF', 'SEGMENT_SUM']);

function dynamicShapes(model: TfliteModel, views: OperatorView[]): Fault[] {
  const graph = model.subgraphs[0]!;
  const faults: Fault[] = [];
  for (const { operator, inputs } of views) {
    const open = sizedByInputs[operator.op]?.map((index) => inputs[index]).find((tensor) => tensor && !tensor.isConstant);
    if (!open && !sizedByData.has(operator.op)) continue;
    faults.push({
      code: 'shape.dynamic', severity: 'error', fatal: true, op: operator.index, ...(open && { tensor: ref(open) }),
      message: `${operator.op} (operator ${operator.index}) makes a tensor whose size is known only while running${open ? `, from ${named(open)}` : ''}; the compiler takes static sizes only. `
        + 'Convert from a concrete function with a fixed input shape [1, ...], and keep control flow and non-maximum suppression out of the model.',
    });
  }
  for (const index of graph.inputs) {
    const tensor = graph.tensors[index]!;
    if (tensor.shape.some((size) => size < 1)) {
      faults.push({ code: 'shape.dynamic', severity: 'error', fatal: true, tensor: ref(tensor), message: `Input ${named(tensor)} has an open size. Convert with a fixed input shape [1, ...].` });
    } else if (tensor.shape.length === 4 && tensor.shape[0]! > 1) {
      faults.push({ code: 'shape.batch', severity: 'warning', fatal: false, tensor: ref(tensor), message: `Input ${named(tensor)} has batch ${tensor.shape[0]}; nothing maps unless it is 1.` });
    }
  }
  // Public pairs with an open batch in the signature but 1 in the shape compile; only other runtimes may resize them.
  const signed = graph.inputs.map((index) => graph.tensors[index]!).find((tensor) => tensor.shapeSignature?.includes(-1) && !tensor.shape.some((size) => size < 1));
  if (signed && faults.length === 0) {
    faults.push({
      code: 'shape.open_signature', severity: 'warning', fatal: false, tensor: ref(signed),
      message: `Input "${shortName(signed.name)}" is [${signed.shapeSignature!.join(', ')}] in the signature; it compiles as [${signed.shape.join(', ')}].`,
    });
  }
  return faults;
}

/** [0, 2, 3, 1] and back: what converters from PyTorch and ONNX leave around every convolution when they do not change the layout. */
function channelsFirst(views: OperatorView[]): Fault[] {
  const turns = views.filter(({ operator, inputs }) => operator.op === 'TRANSPOSE' && ['0,2,3,1', '0,3,1,2'].includes(constantInts(inputs[1] ?? undefined)?.join() ?? ''));
  if (turns.length === 0) return [];
  return [{
    code: 'layout.nchw', severity: 'warning', fatal: false, op: turns[0]!.operator.index,
    message: `${turns.length} TRANSPOSE operator(s) turn pictures between channels first and channels last. Before runtime 14 none of them maps, later only small ones do. `
      + 'Convert with a tool that changes the layout of the whole model (onnx2tf does), then they vanish.',
  }];
}

function sizes(graph: Subgraph): Fault[] {
  const largest = graph.operators.flatMap((operator) => operator.outputs).map((index) => graph.tensors[index]).filter((tensor) => tensor !== undefined && isQuantised(tensor))
    .reduce<Tensor | null>((found, tensor) => found === null || elementsOf(tensor!.shape) > elementsOf(found.shape) ? tensor! : found, null);
  if (largest === null || elementsOf(largest.shape) <= largeActivationBytes) return [];
  return [{
    code: 'size.large_activation', severity: 'warning', fatal: false, tensor: ref(largest),
    message: `${named(largest)} takes ${(elementsOf(largest.shape) / (1 << 20)).toFixed(1)} MiB, more than any public model that was compiled: the compiler may give up with "large activation tensors" or run into its time limit. Use a smaller input.`,
  }];
}
