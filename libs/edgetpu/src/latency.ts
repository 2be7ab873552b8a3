import type { CompiledModel } from './compiled.ts';
import type { Analysis } from './analyze.ts';
import { elementsOf, type Operator, type Subgraph, type TfliteModel } from './model.ts';

/** What an inference costs, in units that do not depend on the machine. MB = 10^6 bytes. */
export interface LatencyFeatures {
  convMcycles: number;
  depthwiseMmac: number;
  inputMb: number;
  outputMb: number;
  instructionMb: number;
  streamedMb: number;
  /** Instructions and streamed bytes are measured in the compiled file, or guessed before it exists. */
  from: 'compiled' | 'source';
  /** Operators left on the CPU: their time is not in the prediction. */
  cpuOps: number;
}

/** What the host and its bus add: fixed per class of host, refined from a device's own runs. */
export interface HostTerms {
  t0Ms: number;
  inputMsPerMb: number;
  outputMsPerMb: number;
  instructionMsPerMb: number;
}

export type HostClass = 'usb3' | 'usb2';

export const hostTerms: Readonly<Record<HostClass, HostTerms>> = {
  usb3: { t0Ms: 0.281, inputMsPerMb: 3.02, outputMsPerMb: 32, instructionMsPerMb: 2.16 },
  usb2: { t0Ms: 0.172, inputMsPerMb: 27.3, outputMsPerMb: 85.7, instructionMsPerMb: 39.4 },
};

/** The bus a device's class of host (`dev-board`, `raspberry-pi-3`) most likely has; PCIe counts as USB 3, which it equals in published times. */
export function busOf(hostClass: string): HostClass {
  return /usb-?2|raspberry-pi-(?:zero|[123](?!\d))|pi-?[123]\b/i.test(hostClass) ? 'usb2' : 'usb3';
}

/** The chip is the same everywhere: fitted once on public timings, never refitted on a few models. */
const chip = { msPerConvMcycle: 2.018, msPerDepthwiseMmac: 0.0576, msPerStreamedMb: 3 } as const;
const uncalibratedSpread = 0.25;
/** Before compiling: about 3 kB of instructions per operator on the chip (public packages hold 1 to 6). */
const instructionBytesPerOp = 3000;

export interface LatencyPrediction {
  ms: number;
  lowMs: number;
  highMs: number;
  calibrated: boolean;
  notes: string[];
}

/** Features of a source model, for the operators that map. With the compiled model, its measured bytes replace the guesses. */
export function latencyFeatures(model: TfliteModel, analysis: Pick<Analysis, 'ops' | 'parameters' | 'cpuOps'>, compiled?: Pick<CompiledModel, 'instructionBytes' | 'streamedBytes'>): LatencyFeatures {
  const graph = model.subgraphs[0]!;
  const onChip = analysis.ops.filter(({ mapped }) => mapped).map(({ index }) => graph.operators[index]!);
  const shapeOf = (index: number | undefined): number[] => graph.tensors[index ?? -1]?.shape ?? [];
  let convCycles = 0;
  let depthwiseMacs = 0;
  for (const operator of onChip) {
    const work = workOf(operator, shapeOf);
    convCycles += work.convCycles;
    depthwiseMacs += work.depthwiseMacs;
  }
  const bytes = (indices: number[]): number => indices.reduce((sum, index) => sum + elementsOf(shapeOf(index)), 0);
  return {
    convMcycles: convCycles / 1e6,
    depthwiseMmac: depthwiseMacs / 1e6,
    inputMb: bytes(entering(onChip, graph)) / 1e6,
    outputMb: bytes(leaving(onChip, graph)) / 1e6,
    instructionMb: (compiled?.instructionBytes ?? onChip.length * instructionBytesPerOp) / 1e6,
    streamedMb: (compiled?.streamedBytes ?? analysis.parameters.streamedBytes) / 1e6,
    from: compiled ? 'compiled' : 'source',
    cpuOps: analysis.cpuOps,
  };
}

/** What the host sends per inference: computed tensors the part on the chip takes but does not make. */
function entering(onChip: Operator[], graph: Subgraph): number[] {
  const made = new Set(onChip.flatMap(({ outputs }) => outputs));
  return [...new Set(onChip.flatMap(({ inputs }) => inputs))].filter((index) => {
    const tensor = graph.tensors[index];
    return tensor !== undefined && !tensor.isConstant && !tensor.isVariable && !made.has(index);
  });
}

/** What comes back: outputs of the model, and what the CPU goes on with. */
function leaving(onChip: Operator[], graph: Subgraph): number[] {
  const mapped = new Set(onChip);
  const needed = new Set([...graph.outputs, ...graph.operators.filter((operator) => !mapped.has(operator)).flatMap(({ inputs }) => inputs)]);
  return onChip.flatMap(({ outputs }) => outputs).filter((tensor) => needed.has(tensor));
}

function workOf({ op, inputs, outputs }: Operator, shapeOf: (index: number | undefined) => number[]): { convCycles: number; depthwiseMacs: number } {
  const weights = shapeOf(inputs[1]);
  const [, height = 1, width = 1] = shapeOf(outputs[0]);
  const [first = 0, kernelH = 0, kernelW = 0, last = 0] = weights;
  switch (op) {
    case 'CONV_2D': return { convCycles: cycles(height * width * kernelH * kernelW * last, first), depthwiseMacs: 0 };
    // Each input point meets every tap.
    case 'TRANSPOSE_CONV': {
      const [, inH = 1, inW = 1] = shapeOf(inputs[2]);
      return { convCycles: cycles(inH * inW * kernelH * kernelW * last, first), depthwiseMacs: 0 };
    }
    case 'DEPTHWISE_CONV_2D': return { convCycles: 0, depthwiseMacs: height * width * kernelH * kernelW * last };
    case 'FULLY_CONNECTED': return { convCycles: cycles(weights[1] ?? 0, first), depthwiseMacs: 0 };
    default: return { convCycles: 0, depthwiseMacs: 0 };
  }
}

/** 64 x 64 multipliers; output channels fill whole columns. */
function cycles(perOutput: number, outputs: number): number {
  return perOutput * Math.ceil(outputs / 64) * 64 / 4096;
}

export function predictLatency(features: LatencyFeatures, host: HostClass | CalibratedHost): LatencyPrediction {
  const { terms, spread } = typeof host === 'string' ? { terms: hostTerms[host], spread: uncalibratedSpread } : host;
  const ms = chipMs(features) + hostMs(features, terms);
  const notes = [
    ...(features.cpuOps > 0 ? [`${features.cpuOps} operator(s) run on the CPU; their time is not included.`] : []),
    ...(features.from === 'source' ? ['Instruction bytes are guessed until the model is compiled.'] : []),
  ];
  return { ms, lowMs: ms * Math.max(0, 1 - spread), highMs: ms * (1 + spread), calibrated: typeof host !== 'string', notes };
}

function chipMs({ convMcycles, depthwiseMmac, streamedMb }: LatencyFeatures): number {
  return chip.msPerConvMcycle * convMcycles + chip.msPerDepthwiseMmac * depthwiseMmac + chip.msPerStreamedMb * streamedMb;
}

function hostMs(features: LatencyFeatures, { t0Ms, inputMsPerMb, outputMsPerMb, instructionMsPerMb }: HostTerms): number {
  return t0Ms + inputMsPerMb * features.inputMb + outputMsPerMb * features.outputMb + instructionMsPerMb * features.instructionMb;
}

export interface CalibratedHost {
  terms: HostTerms;
  /** Half width of the range, relative: what the runs themselves were off, at least 5 %. */
  spread: number;
  runs: number;
}

export interface MeasuredRun {
  features: LatencyFeatures;
  ms: number;
}

/**
 * Host terms from a device's own runs: least squares on what the chip terms leave over, drawn towards the class's terms (ridge), so
 * that one run moves the terms only as far as it must and none can turn negative. Errors count relative to the run's own time.
 */
export function calibrateHost(runs: readonly MeasuredRun[], prior: HostClass): CalibratedHost | null {
  const usable = runs.filter(({ ms }) => Number.isFinite(ms) && ms > 0);
  if (usable.length === 0) return null;
  const start = vectorOf(hostTerms[prior]);
  const rows = usable.map(({ features }) => [1, features.inputMb, features.outputMb, features.instructionMb]);
  // In units of the prior, so that the pull is the same for every term.
  const scaled = rows.map((row, index) => row.map((value, term) => value * start[term]! / usable[index]!.ms));
  const left = usable.map(({ features, ms }) => (ms - chipMs(features) - hostMs(features, hostTerms[prior])) / ms);
  const normal = start.map((_, a) => start.map((_, b) => scaled.reduce((sum, row) => sum + row[a]! * row[b]!, a === b ? pull : 0)));
  const right = start.map((_, term) => scaled.reduce((sum, row, index) => sum + row[term]! * left[index]!, 0));
  const moved = solve(normal, right).map((step, term) => start[term]! * Math.max(0, 1 + step));
  const terms: HostTerms = { t0Ms: moved[0]!, inputMsPerMb: moved[1]!, outputMsPerMb: moved[2]!, instructionMsPerMb: moved[3]! };
  const worst = Math.max(...usable.map(({ features, ms }) => Math.abs(chipMs(features) + hostMs(features, terms) - ms) / ms));
  // One model fits anything: the range narrows only with the number of different runs.
  const distinct = new Set(usable.map(({ features }) => JSON.stringify(features))).size;
  return { terms, spread: Math.max(0.05, worst * 1.5, uncalibratedSpread / (1 + distinct)), runs: usable.length };
}

const pull = 1e-3;

function vectorOf({ t0Ms, inputMsPerMb, outputMsPerMb, instructionMsPerMb }: HostTerms): number[] {
  return [t0Ms, inputMsPerMb, outputMsPerMb, instructionMsPerMb];
}

/** Gaussian elimination with pivoting; the pull keeps the matrix regular. */
function solve(matrix: number[][], right: number[]): number[] {
  const rows = matrix.map((row, index) => [...row, right[index]!]);
  const size = rows.length;
  for (let column = 0; column < size; column += 1) {
    let pivot = column;
    for (let row = column + 1; row < size; row += 1) if (Math.abs(rows[row]![column]!) > Math.abs(rows[pivot]![column]!)) pivot = row;
    [rows[column], rows[pivot]] = [rows[pivot]!, rows[column]!];
    for (let row = column + 1; row < size; row += 1) {
      const factor = rows[row]![column]! / rows[column]![column]!;
      for (let index = column; index <= size; index += 1) rows[row]![index]! -= factor * rows[column]![index]!;
    }
  }
  const answer = Array.from({ length: size }, () => 0);
  for (let row = size - 1; row >= 0; row -= 1) {
    answer[row] = (rows[row]![size]! - rows[row]!.slice(row + 1, size).reduce((sum, value, index) => sum + value * answer[row + 1 + index]!, 0)) / rows[row]![row]!;
  }
  return answer;
}
