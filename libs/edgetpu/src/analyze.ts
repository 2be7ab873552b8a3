import { findFaults, type Fault, type FaultOptions } from './faults.ts';
import type { Operator, Subgraph, TfliteModel } from './model.ts';
import { estimateParameters, type ParameterEstimate } from './parameters.ts';
import { partition } from './partition.ts';
import { judge, status, type Judgement, type OpStatus } from './rules.ts';

export type Verdict = 'fully_mapped' | 'partly_mapped' | 'will_not_compile' | 'not_verified' | 'already_compiled';

export interface OpForecast {
  index: number;
  /** `CONV_2D`; a custom operator's own name. */
  op: string;
  version: number;
  /** In the compiler's words. */
  status: OpStatus;
  mapped: boolean;
  /** Why it stays on the CPU; null if it does not. */
  reason: string | null;
  advice: string | null;
  versionSupport: Judgement['version'];
}

export interface Unverified {
  code: 'op' | 'model_size' | 'activation_size' | 'post_process' | 'subgraphs';
  message: string;
}

export interface Analysis {
  verdict: Verdict;
  /** What the rules say, also where `verdict` is `not_verified`. */
  forecast: Exclude<Verdict, 'not_verified'>;
  /** At least one error among the faults: do not compile. */
  refused: boolean;
  summary: string;
  runtime: number;
  ops: OpForecast[];
  mappedOps: number;
  cpuOps: number;
  faults: Fault[];
  /** What of the forecast no public model backs. */
  unverified: Unverified[];
  parameters: ParameterEstimate;
}

export interface AnalyzeOptions extends FaultOptions {
  /** Lowest runtime the compiled model must run on; default 14, compiler 16's own. */
  minRuntime?: number;
}

export const defaultRuntime = 14;
export const edgeTpuOp = 'edgetpu-custom-op';
/** No public pair is larger. */
const verifiedModelBytes = 4 << 20;
const mostDoubts = 20;

/** Says before the compiler runs what it will do with a model, operator by operator, and what to change. Never throws on a model that `readModel` gave. */
export function analyze(model: TfliteModel, { minRuntime = defaultRuntime, ...options }: AnalyzeOptions = {}): Analysis {
  const graph = model.subgraphs[0]!;
  const compiled = graph.operators.some(({ customCode }) => customCode === edgeTpuOp);
  const judgements = graph.operators.map((operator) => judge(operator, graph, minRuntime));
  const ops = compiled ? graph.operators.map((operator) => asCompiled(operator)) : forecast(graph, judgements);
  const mappedOps = ops.filter(({ mapped }) => mapped).length;
  const faults = compiled ? [] : findFaults(model, judgements, options);
  if (!compiled && mappedOps === 0 && !faults.some(({ fatal }) => fatal)) {
    faults.push({ code: 'op.nothing_maps', severity: 'error', fatal: true, message: `No operator would run on the Edge TPU${ops[0]?.reason ? `: ${ops.find(({ reason }) => reason)!.reason}` : '.'} Change the model, or serve it as cpu-int8.` });
  }
  const unverified = compiled ? [] : evidenceGaps(model, ops, judgements, faults);
  const outlook = compiled ? 'already_compiled' : faults.some(({ fatal }) => fatal) ? 'will_not_compile' : mappedOps === ops.length ? 'fully_mapped' : 'partly_mapped';
  const verdict = unverified.length > 0 && (outlook === 'fully_mapped' || outlook === 'partly_mapped') ? 'not_verified' : outlook;
  const result = { verdict, forecast: outlook, refused: faults.some(({ severity }) => severity === 'error'), mappedOps, cpuOps: ops.length - mappedOps, faults, unverified, ops } as const;
  return {
    ...result,
    faults,
    runtime: minRuntime,
    ops,
    unverified,
    summary: summarise(result),
    parameters: estimateParameters(graph, ops.filter(({ mapped }) => mapped && !compiled).map(({ index }) => graph.operators[index]!)),
  };
}

function forecast(graph: Subgraph, judgements: Judgement[]): OpForecast[] {
  const subsets = partition(graph, judgements.map(({ refusal }) => refusal === null));
  const onChip = new Set(subsets.find(({ mappable }) => mappable)?.operators);
  const before = new Set(subsets.slice(0, subsets.findIndex(({ mappable }) => mappable)).flatMap(({ operators }) => operators));
  const cuts = nearestCut(graph, graph.operators.map(({ index }) => index).filter((index) => judgements[index]!.refusal !== null && !before.has(index)));
  return graph.operators.map((operator): OpForecast => {
    const { refusal, version } = judgements[operator.index]!;
    const base = { index: operator.index, op: operator.customCode ?? operator.op, version: operator.version, versionSupport: version };
    if (onChip.has(operator.index)) return { ...base, status: status.mapped, mapped: true, reason: null, advice: null };
    if (refusal) return { ...base, mapped: false, ...refusal };
    const cut = cuts.get(operator.index) ?? null;
    return {
      ...base, status: status.subgraph, mapped: false,
      reason: cut === null ? 'It does not hang together with the part that maps.' : `It comes after operator ${cut} (${graph.operators[cut]!.customCode ?? graph.operators[cut]!.op}), which runs on the CPU; only one connected part maps.`,
      advice: cut === null ? 'Join the parts, or split the model in two.' : `Make operator ${cut} mappable (see its own line), or move it behind this one.`,
    };
  });
}

/** For every operator the nearest one upstream that is among `cuts`, and the tensors' makers and takers walked once for all of them. */
function nearestCut(graph: Subgraph, cuts: readonly number[]): Map<number, number> {
  const takers = new Map<number, number[]>();
  for (const { index, inputs } of graph.operators) {
    for (const tensor of new Set(inputs)) {
      const known = takers.get(tensor);
      if (known) known.push(index);
      else takers.set(tensor, [index]);
    }
  }
  const nearest = new Map<number, number>();
  let front = cuts.map((cut) => ({ from: cut, cut }));
  while (front.length > 0) {
    const next: typeof front = [];
    for (const { from, cut } of front) {
      for (const taker of graph.operators[from]!.outputs.flatMap((tensor) => takers.get(tensor) ?? [])) {
        if (nearest.has(taker)) continue;
        nearest.set(taker, cut);
        next.push({ from: taker, cut });
      }
    }
    front = next;
  }
  return nearest;
}

function asCompiled(operator: Operator): OpForecast {
  const mapped = operator.customCode === edgeTpuOp;
  return {
    index: operator.index, op: operator.customCode ?? operator.op, version: operator.version, status: mapped ? status.mapped : status.unspecified, mapped,
    reason: mapped ? null : 'The compiler left it on the CPU.', advice: null, versionSupport: 'ok',
  };
}

function evidenceGaps(model: TfliteModel, ops: OpForecast[], judgements: Judgement[], faults: Fault[]): Unverified[] {
  // Of what stays on the CPU anyway no doubt can move the cut.
  const doubts = new Set(judgements.flatMap(({ unverified }, index) => ops[index]!.mapped ? unverified : []));
  const gaps: Unverified[] = [...doubts].slice(0, mostDoubts).map((message) => ({ code: 'op', message }));
  if (model.bytes > verifiedModelBytes) gaps.push({ code: 'model_size', message: `The file has ${(model.bytes / (1 << 20)).toFixed(1)} MiB; the rules are checked on models up to 4 MiB.` });
  if (faults.some(({ code }) => code === 'size.large_activation')) gaps.push({ code: 'activation_size', message: 'Its activations are larger than any seen compiled.' });
  if (ops.some(({ op }) => op === 'TFLite_Detection_PostProcess')) gaps.push({ code: 'post_process', message: 'No public pair ends in TFLite_Detection_PostProcess.' });
  if (model.subgraphs.length > 1) gaps.push({ code: 'subgraphs', message: `It has ${model.subgraphs.length} graphs; only the first is judged.` });
  return gaps;
}

function summarise({ forecast, verdict, mappedOps, ops, faults, unverified }: Pick<Analysis, 'forecast' | 'verdict' | 'mappedOps' | 'ops' | 'faults' | 'unverified'>): string {
  const fatal = faults.find((fault) => fault.fatal);
  const doubt = verdict === 'not_verified' ? ` Not verified: ${unverified[0]!.message}` : '';
  const refusal = faults.find(({ severity, fatal }) => severity === 'error' && !fatal);
  const also = refusal ? ` Refused: ${refusal.message}` : '';
  switch (forecast) {
    case 'already_compiled': return 'This model is compiled for the Edge TPU already.';
    case 'will_not_compile': return fatal!.message;
    case 'fully_mapped': return `All ${ops.length} operators map to the Edge TPU.${doubt}${also}`;
    case 'partly_mapped': {
      const first = ops.find(({ mapped, op, reason }) => !mapped && op !== 'QUANTIZE' && reason) ?? ops.find(({ mapped }) => !mapped)!;
      return `${mappedOps} of ${ops.length} operators map to the Edge TPU. The first that does not: operator ${first.index}, ${first.op}. ${first.reason}${doubt}${also}`;
    }
  }
}
