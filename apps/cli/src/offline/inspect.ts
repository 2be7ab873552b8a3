import { basename } from 'node:path';
import colours from 'picocolors';
import {
  analyze, describeTensor, edgeTpuOp, inspectModel, latencyFeatures, predictLatency, residencyOf, type CompiledModel, type CompiledTensor, type HostClass, type LatencyPrediction, type TfliteModel,
} from '@reefkeeper/edgetpu';
import { ReefError } from '@reefkeeper/platform/errors';
import { bytes, counted, facts, table } from '../output.ts';
import { namedAsCompiled, namingFile, type ModelFile } from './model-file.ts';

export interface PredictedLatency extends LatencyPrediction {
  hostClass: HostClass;
}

interface FileReport {
  file: string;
  bytes: number;
}

export interface CompiledReport extends FileReport, Omit<CompiledModel, 'parts'> {
  compiled: true;
  /** With the source model only: what the chip computes cannot be read back from its instructions. */
  latency: PredictedLatency[] | null;
  latencyNotes: string[];
}

export interface SourceReport extends FileReport {
  compiled: false;
  /** Named as compiled, and is not. */
  masked: boolean;
  description: string;
  tensors: number;
  constantBytes: number;
  operators: { op: string; count: number }[];
  inputs: CompiledTensor[];
  outputs: CompiledTensor[];
  signatures: { key: string; inputs: string[]; outputs: string[] }[];
  metadata: string[];
}

export type InspectReport = CompiledReport | SourceReport;

/** Compiled models that keep their parameters on the chip together. */
export interface ResidentSet {
  kind: 'alone' | 'co-compiled' | 'pipeline';
  token: string | null;
  files: string[];
  onChipBytes: number;
}

export interface InspectReports {
  files: InspectReport[];
  sets: ResidentSet[];
  warnings: string[];
}

const hostClasses: HostClass[] = ['usb3', 'usb2'];

/** What is in model files, and how compiled ones get along on one Edge TPU. `sources` are the models that some of them were compiled from. */
export function inspectFiles(files: readonly ModelFile[], sources: readonly ModelFile[] = []): InspectReports {
  const isCompiled = ({ model }: ModelFile): boolean => model.subgraphs[0]!.operators.some(({ customCode }) => customCode === edgeTpuOp);
  const sourceFor = matchSources(files.filter(isCompiled), sources);
  const reports = files.map((file) => isCompiled(file) ? compiledReport(file, sourceFor.get(file)) : sourceReport(file));
  const compiled = reports.filter((report) => report.compiled);
  const sets = setsOf(compiled);
  return { files: reports, sets, warnings: warningsOf(reports, sets) };
}

/** One source for one compiled file; of several, the one with the same name but for `_edgetpu`. */
function matchSources(compiled: readonly ModelFile[], sources: readonly ModelFile[]): Map<ModelFile, ModelFile> {
  const matched = new Map<ModelFile, ModelFile>();
  for (const source of sources) {
    const stem = basename(source.path).replace(/\.tflite$/, '');
    const found = compiled.length === 1 ? compiled[0] : compiled.find(({ path }) => basename(path) === `${stem}_edgetpu.tflite`);
    if (!found) throw new ReefError('option.invalid', 'invalid', `--source ${source.path} belongs to none of the compiled files: of several, it must be called like one of them without "_edgetpu".`);
    const [one, other] = [found, source].map(({ model }) => borderOf(model));
    if (one !== other) {
      throw new ReefError('option.invalid', 'invalid', `${source.path} is not what ${found.path} was compiled from: its inputs or outputs are ${other}, not ${one}.`);
    }
    matched.set(found, source);
  }
  return matched;
}

function borderOf(model: TfliteModel): string {
  const graph = model.subgraphs[0]!;
  const side = (indices: number[]): string => indices.map((index) => tensorWords(describeTensor(graph.tensors[index]!))).sort().join(', ');
  return `${side(graph.inputs)} to ${side(graph.outputs)}`;
}

function compiledReport({ path, model }: ModelFile, source: ModelFile | undefined): CompiledReport {
  const { parts: _, ...compiled } = namingFile(path, () => inspectModel(model));
  return { file: path, bytes: model.bytes, compiled: true, ...compiled, ...predict(compiled, source) };
}

function predict(compiled: Omit<CompiledModel, 'parts'>, source: ModelFile | undefined): Pick<CompiledReport, 'latency' | 'latencyNotes'> {
  if (!source) return { latency: null, latencyNotes: [] };
  const analysis = analyze(source.model, { minRuntime: compiled.minRuntime });
  const features = latencyFeatures(source.model, analysis, compiled);
  const latency = hostClasses.map((hostClass) => ({ hostClass, ...predictLatency(features, hostClass) }));
  const left = Object.values(compiled.cpuOps).reduce((sum, count) => sum + count, 0);
  return {
    latency,
    latencyNotes: [
      ...latency[0]!.notes,
      ...(left !== analysis.cpuOps ? [`The compiler left ${counted(left, 'operator')} on the CPU, the rules say ${analysis.cpuOps}: the prediction follows the rules.`] : []),
    ],
  };
}

function sourceReport({ path, model }: ModelFile): SourceReport {
  const graph = model.subgraphs[0]!;
  const counts = new Map<string, number>();
  for (const { op, customCode, version } of graph.operators) {
    const name = customCode ?? `${op}@${version}`;
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  const tensors = (indices: number[]): CompiledTensor[] => indices.map((index) => describeTensor(graph.tensors[index]!));
  return {
    file: path, bytes: model.bytes, compiled: false, masked: namedAsCompiled(path), description: model.description, tensors: graph.tensors.length,
    // Tensors may share a buffer.
    constantBytes: [...new Set(graph.tensors.map(({ data }) => data))].reduce((sum, data) => sum + (data?.byteLength ?? 0), 0),
    operators: [...counts].map(([op, count]) => ({ op, count })).sort((one, other) => other.count - one.count),
    inputs: tensors(graph.inputs), outputs: tensors(graph.outputs),
    signatures: model.signatures.map(({ key, inputs, outputs }) => ({ key, inputs: inputs.map(({ name }) => name), outputs: outputs.map(({ name }) => name) })),
    metadata: model.metadata.map(({ name }) => name),
  };
}

function setsOf(compiled: readonly CompiledReport[]): ResidentSet[] {
  return residencyOf(compiled.map((report) => ({ name: report.file, compiled: report }))).groups.map(({ token, models }) => {
    const members = models.map((name) => compiled.find(({ file }) => file === name)!);
    return { kind: members.length === 1 ? 'alone' : feeds(members) ? 'pipeline' : 'co-compiled', token, files: models, onChipBytes: members.reduce((sum, { onChipBytes }) => sum + onChipBytes, 0) };
  });
}

/** Segments of one pipeline hand tensors on under their names; models that were compiled together do not. */
function feeds(members: readonly CompiledReport[]): boolean {
  const key = ({ name, shape }: CompiledTensor): string => `${name} ${shape.join()}`;
  return members.some((one) => members.some((other) => one !== other && one.outputs.some((output) => other.inputs.some((input) => key(input) === key(output)))));
}

function warningsOf(reports: readonly InspectReport[], sets: readonly ResidentSet[]): string[] {
  const masked = reports.filter((report) => !report.compiled && report.masked).map(({ file }) => `${file} is named as compiled, but holds no ${edgeTpuOp}: on a device all of it runs on the CPU.`);
  const apart = sets.filter(({ token }) => token !== null);
  const reload = apart.length < 2 ? [] : [
    `These models do not share a parameter-caching token (${apart.map(({ files }) => files.map((file) => basename(file)).join(' + ')).join(' | ')}). On one Edge TPU the parameters are loaded again at every switch between them; `
    + '2.3 ms became 13 ms in a reported case. Compile them in one run (`edgetpu_compiler a.tflite b.tflite`), or give each an Edge TPU of its own.',
  ];
  const segments = sets.flatMap(({ files }) => missingSegments(files));
  return [...masked, ...reload, ...segments];
}

/** `model_segment_0_of_2_edgetpu.tflite` alone is half a model. */
function missingSegments(files: readonly string[]): string[] {
  const found = new Map<string, { of: number; have: Set<number> }>();
  for (const file of files) {
    const [, stem, index, of] = /^(.*)_segment_(\d+)_of_(\d+)_edgetpu\.tflite$/.exec(basename(file)) ?? [];
    if (stem === undefined) continue;
    const entry = found.get(stem) ?? { of: Number(of), have: new Set<number>() };
    found.set(stem, { ...entry, have: entry.have.add(Number(index)) });
  }
  return [...found].filter(([, { of, have }]) => have.size < of).map(([stem, { of, have }]) => `${stem} is a pipeline of ${of} segments; here ${have.size === 1 ? 'is' : 'are'} only ${[...have].join(', ')}.`);
}

export function inspectText({ files, sets, warnings }: InspectReports): string {
  const parts = files.map((report) => report.compiled ? compiledText(report) : sourceText(report));
  if (sets.length > 1 || sets.some(({ files }) => files.length > 1)) {
    parts.push(table(['models of one token', 'kind', 'token', 'parameters on the chip'], sets.map(({ kind, token, files, onChipBytes }) => [files.map((file) => basename(file)).join('\n'), kind, token, bytes(onChipBytes)])));
  }
  parts.push(...warnings.map((warning) => `${colours.yellow('warning:')} ${warning}`));
  return parts.join('\n\n');
}

function compiledText(report: CompiledReport): string {
  const { file, minRuntime, tokens, chips, compilerVersions, onChipBytes, streamedBytes, scratchBytes, instructionBytes, executableTypes, cpuOps, inputs, outputs, latency, latencyNotes } = report;
  const left = Object.entries(cpuOps);
  const parts = [facts([
    ['file', `${file} (${bytes(report.bytes)})`], ['compiled', `for the Edge TPU${chips.length > 0 ? ` (${chips.join(', ')})` : ''}, runtime ${minRuntime} and newer`],
    ['token', tokens.length > 0 ? tokens.join(', ') : 'none: it stands alone'], ['compiler', compilerVersions.filter((version) => version !== 'cl/').join(', ') || 'not recorded in the file'],
    ['parameters', `${bytes(onChipBytes)} on the chip, ${streamedBytes === 0 ? 'nothing' : bytes(streamedBytes)} sent again at every inference`],
    ['instructions', `${bytes(instructionBytes)} at every inference`], ['scratch', bytes(scratchBytes)], ['executables', executableTypes.join(', ')],
    ['on the CPU', left.length === 0 ? 'nothing' : left.map(([op, count]) => count === 1 ? op : `${count} ${op}`).join(', ')],
  ]), tensorTable(inputs, outputs)];
  if (latency) {
    parts.push(table(['host', 'predicted', 'range'], latency.map(({ hostClass, ms, lowMs, highMs }) => [hostClass, `${ms.toFixed(1)} ms`, `${lowMs.toFixed(1)} to ${highMs.toFixed(1)} ms`])));
    parts.push(...latencyNotes.map((note) => colours.dim(note)));
  } else parts.push(colours.dim('With --source MODEL, the .tflite file it was compiled from, its latency can be predicted.'));
  return parts.join('\n\n');
}

function sourceText({ file, bytes: size, description, tensors, constantBytes, operators, inputs, outputs, signatures, metadata }: SourceReport): string {
  const total = operators.reduce((sum, { count }) => sum + count, 0);
  return [
    facts([
      ['file', `${file} (${bytes(size)})`], ['compiled', 'no'], ['made by', description || null], ['operators', `${total}, of ${operators.length} kinds`], ['tensors', `${tensors}, constants ${bytes(constantBytes)}`],
      ...signatures.map(({ key, inputs, outputs }): [string, string] => ['signature', `${key}: ${inputs.join(', ') || '-'} to ${outputs.join(', ') || '-'}`]),
      ...(metadata.length > 0 ? [['metadata', metadata.join(', ')] as [string, string]] : []),
    ]),
    tensorTable(inputs, outputs),
    table(['operator', 'count'], operators.map(({ op, count }) => [op, count])),
    `\`reef check ${file}\` says what of it will run on the Edge TPU.`,
  ].join('\n\n');
}

function tensorTable(inputs: readonly CompiledTensor[], outputs: readonly CompiledTensor[]): string {
  const row = (side: string) => ({ name, shape, type, scale, zeroPoint }: CompiledTensor): (string | null)[] =>
    [side, shortName(name), `[${shape.join(', ')}]`, type, scale === null ? null : quantisationWords(scale, zeroPoint ?? 0)];
  return table(['tensor', 'name', 'shape', 'type', 'real value'], [...inputs.map(row('input')), ...outputs.map(row('output'))]);
}

function quantisationWords(scale: number, zeroPoint: number): string {
  const shifted = zeroPoint === 0 ? 'q' : `(q ${zeroPoint < 0 ? '+' : '-'} ${Math.abs(zeroPoint)})`;
  return `${shifted} * ${Number(scale.toPrecision(6))}`;
}

/** The compiler joins the names of all operators it fused. */
function shortName(name: string): string {
  const [first = '', ...others] = name.split(';');
  const cut = first.length > 60 ? `...${first.slice(-57)}` : first;
  return others.length > 0 ? `${cut} (+${others.length})` : cut;
}

function tensorWords({ type, shape }: CompiledTensor): string {
  return `${type} [${shape.join(', ')}]`;
}
