import colours from 'picocolors';
import { analyze, edgeTpuOp, inspectModel, opStatus, opTable, type Analysis, type Fault, type OpForecast, type OpTableRow } from '@reefkeeper/edgetpu';
import { bytes, counted, facts, table, tone } from '../output.ts';
import { namedAsCompiled, namingFile, type ModelFile } from './model-file.ts';

/** What must hold for exit code 0; each one asks for more than the one before. */
export const demands = ['partial', 'full', 'verified'] as const;
export type Demand = (typeof demands)[number];

/** Operators of one kind with one fate. */
export interface OpRow {
  /** `CONV_2D@3` */
  op: string;
  count: number;
  /** In the compiler's words. */
  status: string;
  mapped: boolean;
  reason: string | null;
  /** What to change. */
  advice: string | null;
  /** Their numbers in the file. */
  operators: number[];
}

export interface CheckReport extends Omit<Analysis, 'ops'> {
  file: string;
  bytes: number;
  ops: OpRow[];
  /** Named as compiled, and is not. */
  masked: boolean;
  /** Whether it meets the demand; decides the exit code. */
  passed: boolean;
}

export interface CheckOptions {
  minRuntime?: number;
  allowFloatIo?: boolean;
  require?: Demand;
}

/** What the compiler will make of a model file, without the compiler. */
export function checkModel({ path, model }: Pick<ModelFile, 'path' | 'model'>, { require = 'full', ...options }: CheckOptions = {}): CheckReport {
  const analysis = analyze(model, options);
  // A part that was compiled must also be one that can be read.
  if (analysis.verdict === 'already_compiled') namingFile(path, () => inspectModel(model));
  const masked = analysis.verdict !== 'already_compiled' && namedAsCompiled(path);
  const report = { ...analysis, file: path, bytes: model.bytes, ops: opRows(analysis.ops), masked };
  return { ...report, passed: meets(report, require) };
}

function meets({ forecast, verdict, refused, masked, cpuOps }: Pick<CheckReport, 'forecast' | 'verdict' | 'refused' | 'masked' | 'cpuOps'>, demand: Demand): boolean {
  if (refused || masked || forecast === 'will_not_compile') return false;
  const full = forecast === 'fully_mapped' || (forecast === 'already_compiled' && cpuOps === 0);
  return demand === 'partial' || (full && (demand === 'full' || verdict !== 'not_verified'));
}

/** One row per kind of operator and fate, mapped ones first, in the order of the file. */
export function opRows(ops: readonly OpForecast[]): OpRow[] {
  const rows = new Map<string, OpRow>();
  for (const { index, op, version, status, mapped, reason, advice } of ops) {
    // Custom operators have no version of their own.
    const name = op === edgeTpuOp ? op : `${op}@${version}`;
    const key = `${name} ${status} ${advice}`;
    const row = rows.get(key);
    if (row) {
      row.count += 1;
      row.operators.push(index);
    } else rows.set(key, { op: name, count: 1, status, mapped, reason, advice, operators: [index] });
  }
  return [...rows.values()].sort((one, other) => Number(other.mapped) - Number(one.mapped));
}

export function checkText(report: CheckReport): string {
  const { file, bytes: size, verdict, runtime, ops, mappedOps, cpuOps, masked, faults, unverified } = report;
  const total = mappedOps + cpuOps;
  const parts = [facts([
    ['file', `${file} (${bytes(size)})`], ['verdict', `${tone(verdictWords(report))}`], ['operators', `${mappedOps} of ${total} on the Edge TPU`],
    ...(verdict === 'already_compiled' ? [] : [['runtime', `${runtime} and newer`], ['parameters', parametersText(report)]] as [string, string][]),
  ])];
  if (masked) parts.push(`${colours.yellow('warning:')} The name says that it is compiled, but it holds no ${edgeTpuOp}: on a device all of it runs on the CPU. Compile it, or find the right file.`);
  // Rows that differ in the advice only are one line here and several below.
  const lines = new Map<string, OpRow>();
  for (const row of ops) {
    const key = `${row.op} ${row.status}`;
    const line = lines.get(key);
    lines.set(key, line ? { ...line, count: line.count + row.count } : row);
  }
  parts.push(table(['operator', 'count', 'status'], [...lines.values()].map(({ op, count, status, mapped }) => [op, count, mapped ? colours.green(status) : colours.yellow(status)])));
  // Of a float model every operator would say the same as the fault does.
  const changes = verdict === 'already_compiled' || faults.some(({ code }) => code === 'quant.not_quantized') ? [] : changesOf(ops);
  if (changes.length > 0) parts.push(listed('What to change', changes));
  if (faults.length > 0) parts.push(listed('Faults', faults.map(faultText)));
  if (unverified.length > 0) parts.push(listed('Not backed by any public model', unverified.map(({ message }) => message)));
  if (verdict === 'already_compiled') parts.push(`\`reef inspect ${file}\` shows what is inside.`);
  return parts.join('\n\n');
}

/** One line per cause. What only stands behind a cause changes when that does. */
function changesOf(ops: readonly OpRow[]): string[] {
  const behind = ops.filter(({ status }) => status === opStatus.subgraph).flatMap(({ operators }) => operators).sort((one, other) => one - other);
  const causes = ops.filter(({ mapped, status }) => !mapped && status !== opStatus.subgraph);
  return [
    ...causes.map(({ op, operators, reason, advice }) => `${op} (${operatorList(operators)}): ${reason} ${advice ?? ''}`.trim()),
    ...(behind.length > 0 ? [`${behind.length === 1 ? '1 operator' : `${behind.length} operators`} (${operatorList(behind)}) would map, but not in the one connected part that the compiler takes: ${causes.length > 0 ? 'they take what the operators above make' : 'join the parts, or split the model'}.`] : []),
  ];
}

export function verdictWords({ verdict, forecast, cpuOps, refused }: Pick<Analysis, 'verdict' | 'forecast' | 'cpuOps' | 'refused'>): string {
  const partly = `partly mapped, ${counted(cpuOps, 'operator')} on the CPU`;
  const words = {
    fully_mapped: 'fully mapped', partly_mapped: partly, will_not_compile: 'will not compile',
    already_compiled: cpuOps === 0 ? 'already compiled' : `already compiled, ${counted(cpuOps, 'operator')} on the CPU`,
  }[forecast];
  const said = verdict === 'not_verified' ? `not verified; by the rules ${words}` : words;
  return refused && forecast !== 'will_not_compile' ? `refused (see the faults); otherwise ${said}` : said;
}

export function rules(): OpTableRow[] {
  return opTable();
}

export function rulesText(): string {
  return table(['operator', 'runtime from', 'version up to', 'known from', 'limits'], opTable().map(({ op, since, highestVersionSeen, evidence, limits }) => [op, since ?? 'any', highestVersionSeen, evidence, limits.join('; ')]));
}

function parametersText({ parameters: { bytes: all, onChipBytes, streamedBytes, fit, complete } }: Pick<Analysis, 'parameters'>): string {
  const about = `${complete ? 'about' : 'at least'} ${bytes(all)}`;
  const split = `${bytes(onChipBytes)} on the chip, ${bytes(streamedBytes)} sent again at every inference`;
  if (fit === 'fits') return streamedBytes > 0 ? `${about}: ${split}` : `${about}, all of it stays on the chip`;
  return fit === 'streams' ? `${about}, more than the chip holds: ${split}` : `${about}: whether all of it stays on the chip depends on the activations`;
}

function faultText({ severity, message, code }: Fault): string {
  return `${severity === 'error' ? colours.red('error') : colours.yellow('warning')} ${message} ${colours.dim(code)}`;
}

function listed(title: string, lines: string[]): string {
  return `${colours.bold(title)}\n${lines.map((line) => `- ${line}`).join('\n')}`;
}

/** `operator 3`, `operators 3, 5-9 and 12 more` */
export function operatorList(operators: readonly number[]): string {
  const runs: { from: number; to: number }[] = [];
  for (const index of operators) {
    const last = runs.at(-1);
    if (last && last.to + 1 === index) last.to = index;
    else runs.push({ from: index, to: index });
  }
  const shown = runs.slice(0, 6);
  const left = runs.slice(6).reduce((sum, { from, to }) => sum + to - from + 1, 0);
  return `operator${operators.length === 1 ? '' : 's'} ${shown.map(({ from, to }) => from === to ? from : `${from}-${to}`).join(', ')}${left > 0 ? ` and ${left} more` : ''}`;
}
