export type CompileFailureCode =
  | 'compile.not_quantized' | 'compile.not_parsed' | 'compile.op_version' | 'compile.dynamic_tensors' | 'compile.not_loadable' | 'compile.large_activations'
  | 'compile.timeout' | 'compile.internal' | 'compile.crashed' | 'compile.intermediate_tensors' | 'compile.killed' | 'compile.output_missing' | 'compile.incomplete'
  | 'compile.nothing_mapped' | 'compile.runtime_ignored' | 'compile.usage' | 'compile.not_started';

/**
 * How a retry can help. `again`: some compilers answer differently on the same bytes, so a repeat or two are worth it. `changed`: only with
 * other flags (segments, a longer time limit, -d). `never`: the model must change.
 */
export type RetryClass = 'again' | 'changed' | 'never';

export interface OpCount {
  op: string;
  count: number;
  /** The compiler's text, also where it is new to us. */
  status: string;
  mapped: boolean;
}

export interface CompiledModelReport {
  input: string | null;
  output: string | null;
  log: string | null;
  inputBytes: number | null;
  outputBytes: number | null;
  onChipBytes: number | null;
  /** On-chip memory left for parameters; compiler 1 and 2 call it `available` and mean the same line. */
  onChipFreeBytes: number | null;
  streamedBytes: number | null;
  edgeTpuSubgraphs: number | null;
  totalOps: number | null;
  mappedOps: number | null;
  cpuOps: number | null;
  ops: OpCount[];
  /** Lines `key: value` with a key not known here. */
  other: Record<string, string>;
}

export interface CompileAttempt {
  /** Operators tried, with --search_delegate. */
  segmentOps: number | null;
  intermediateTensors: string[];
  timeoutS: number | null;
  compileMs: number | null;
  models: CompiledModelReport[];
  errors: string[];
  failure: { code: CompileFailureCode; text: string } | null;
  succeeded: boolean;
}

export interface CompileFailure {
  code: CompileFailureCode;
  retry: RetryClass;
  message: string;
  /** The lines that decided. */
  evidence: string[];
}

export interface CompilerReport {
  ok: boolean;
  failure: CompileFailure | null;
  compilerVersion: string | null;
  /** All attempts in order (one per segment, or per step of a delegate search). */
  attempts: CompileAttempt[];
  /** The models of the attempts that succeeded. */
  models: CompiledModelReport[];
  warnings: string[];
}

export interface CompilerExit {
  exitCode: number | null;
  signal?: string | null;
  /** Whether the file named by --out_dir and the input exists and parses as a model: look before asking. */
  outputExists: boolean;
  /** It parses, but holds nothing for the Edge TPU. */
  nothingInOutput?: boolean;
  /** The runtime that was asked for with -m, and the one that the output needs. */
  askedRuntime?: number | null;
  needsRuntime?: number;
}

const sizeUnits: Record<string, number> = { B: 1, KiB: 1 << 10, MiB: 1 << 20, GiB: 1 << 30 };

/** `553.62KiB` in bytes; null for anything else. */
export function parseSize(text: string): number | null {
  const [, number, unit] = /^(\d{1,12}(?:\.\d{1,12})?) ?(B|KiB|MiB|GiB)$/.exec(text.trim()) ?? [];
  return number === undefined ? null : Math.round(Number(number) * sizeUnits[unit!]!);
}

type NumberField = 'inputBytes' | 'outputBytes' | 'onChipBytes' | 'onChipFreeBytes' | 'streamedBytes' | 'edgeTpuSubgraphs' | 'totalOps' | 'mappedOps' | 'cpuOps';
type TextField = 'input' | 'output' | 'log';
const numberLines: Record<string, NumberField> = {
  'Input size': 'inputBytes',
  'Output size': 'outputBytes',
  'On-chip memory used for caching model parameters': 'onChipBytes',
  'On-chip memory remaining for caching model parameters': 'onChipFreeBytes',
  'On-chip memory available for caching model parameters': 'onChipFreeBytes',
  'Off-chip memory used for streaming uncached model parameters': 'streamedBytes',
  'Number of Edge TPU subgraphs': 'edgeTpuSubgraphs',
  'Total number of operations': 'totalOps',
  'Number of operations that will run on Edge TPU': 'mappedOps',
  'Number of operations that will run on CPU': 'cpuOps',
};
const textLines: Record<string, TextField> = { 'Input model': 'input', 'Output model': 'output', 'Operation log': 'log', Input: 'input', Output: 'output' };

/** Failures by what the compiler says, the more telling ones first: the generic last line follows all of them. */
const failureTexts: { pattern: RegExp; code: CompileFailureCode }[] = [
  { pattern: /^Model not quantized/, code: 'compile.not_quantized' },
  { pattern: /Didn't find op for builtin opcode/, code: 'compile.op_version' },
  { pattern: /^Model could not be parsed/, code: 'compile.not_parsed' },
  { pattern: /only supports static-sized tensors/, code: 'compile.dynamic_tensors' },
  { pattern: /large activation tensors/, code: 'compile.large_activations' },
  { pattern: /^Compilation timeout/, code: 'compile.timeout' },
  { pattern: /Model failed in Tflite interpreter/, code: 'compile.not_loadable' },
  { pattern: /number of lists given to intermediate_tensors/, code: 'compile.intermediate_tensors' },
  { pattern: /Segmentation fault|Aborted \(core dumped\)|libc\+\+abi: terminating|terminate called/, code: 'compile.crashed' },
  { pattern: /Internal compiler error|Internal error/, code: 'compile.internal' },
  { pattern: /^(?:Invalid|Unknown|Unrecognized|Missing).*(?:flag|option|argument)|^ERROR: (?:Unknown|unrecognized) (?:flag|option|command)/i, code: 'compile.usage' },
  { pattern: /^Invalid model/, code: 'compile.not_parsed' },
  { pattern: /^Compilation failed/, code: 'compile.internal' },
];

const explained: Record<CompileFailureCode, { retry: RetryClass; message: string }> = {
  'compile.not_quantized': { retry: 'never', message: 'The model is not quantised. Convert it to full int8 with a representative dataset.' },
  'compile.not_parsed': { retry: 'never', message: 'The compiler cannot read the model. Check that it is a TensorFlow Lite file written for this compiler\'s age.' },
  'compile.op_version': { retry: 'never', message: 'The model uses an operator version newer than the compiler. Convert with TensorFlow 2.15 or avoid the feature that needs it.' },
  'compile.dynamic_tensors': { retry: 'never', message: 'The model has tensors whose size is open. Convert it with a fixed input shape [1, ...].' },
  'compile.not_loadable': { retry: 'never', message: 'The model does not load in the compiler\'s TensorFlow Lite interpreter: run it on the CPU first, and look for custom operators.' },
  'compile.large_activations': { retry: 'changed', message: 'Activations are too large for the chip. Use a smaller input, or compile with --search_delegate or in segments.' },
  'compile.timeout': { retry: 'changed', message: 'The compiler ran into its own time limit, usually because of large activations. Use a smaller input, or a longer --timeout_sec.' },
  'compile.internal': { retry: 'again', message: 'The compiler failed without a reason. Some versions succeed on a second try; otherwise `reef check MODEL --explain` finds the operator.' },
  'compile.crashed': { retry: 'again', message: 'The compiler crashed. Some versions succeed on a second try; otherwise `reef check MODEL --explain` finds the operator.' },
  'compile.intermediate_tensors': { retry: 'changed', message: 'The lists of intermediate tensors do not match the models: one list per model, separated by ":" (tensor names must not contain one).' },
  'compile.killed': { retry: 'again', message: 'The compiler was stopped from outside.' },
  'compile.output_missing': { retry: 'again', message: 'The compiler reported success but left no readable output file. Check the output directory and its free space.' },
  'compile.incomplete': { retry: 'again', message: 'The compiler\'s report breaks off before its end.' },
  'compile.nothing_mapped': { retry: 'changed', message: 'Nothing was mapped to the Edge TPU: the output would run wholly on the CPU. Check the operators, and whether the minimum runtime is too old for them.' },
  'compile.runtime_ignored': { retry: 'changed', message: 'The output needs a newer Edge TPU runtime than was asked for. Compile for the newer one, or use another version of the compiler.' },
  'compile.usage': { retry: 'changed', message: 'The compiler did not understand its command line.' },
  'compile.not_started': { retry: 'changed', message: 'The compiler could not be started. Check its path, and that it is an x86-64 Linux machine.' },
};

/**
 * Reads what `edgetpu_compiler` printed, any version from 1.0 to 16. Success needs all of: exit code 0, an output that exists, a
 * "compiled successfully", from 16 on a closing "Compilation succeeded!", at least one operator on the chip, and no newer runtime than asked.
 */
export function parseCompilerReport(stdout: string, stderr: string, exit: CompilerExit): CompilerReport {
  const lines = linesOf(stdout);
  const compilerVersion = /^Edge TPU Compiler version (\S+)/m.exec(stdout)?.[1] ?? null;
  const attempts = splitAttempts(lines).map(readAttempt);
  const models = attempts.filter(({ succeeded }) => succeeded).flatMap((attempt) => attempt.models);
  const failure = judge(lines, stderr, exit, compilerVersion, attempts, models);
  return { ok: failure === null, failure, compilerVersion, attempts, models, warnings: warningsOf(attempts, models) };
}

/** The compiler's own `.log` file: the operator table without memory figures. */
export function parseCompilerLog(text: string): { compilerVersion: string | null; input: string | null; output: string | null; ops: OpCount[] } {
  const { input, output, ops } = readModels(linesOf(text))[0] ?? emptyModel();
  return { compilerVersion: /^Edge TPU Compiler version (\S+)/m.exec(text)?.[1] ?? null, input, output, ops };
}

/** No report is as long, and no line of one; what a crashed program dumps may, and then only its beginning and its end tell anything. */
const [mostText, longestLine] = [256 * 1024, 4096];

function linesOf(text: string): string[] {
  const told = text.length <= mostText ? text : `${text.slice(0, mostText / 2)}\n${text.slice(-mostText / 2)}`;
  return told.split(/\r?\n/).filter((line) => line.trim() !== '').map((line) => line.slice(0, longestLine));
}

/** An attempt starts at its first own line; older compilers have one attempt and no marker. */
function splitAttempts(lines: string[]): string[][] {
  const attempts: string[][] = [[]];
  let ended = false;
  for (const line of lines) {
    const starts = /^Try to compile segment with|^Started a compilation timeout timer/.test(line);
    if (starts && ended) {
      attempts.push([]);
      ended = false;
    }
    attempts.at(-1)!.push(line);
    if (/^Compilation (succeeded|failed)! ?$/.test(line)) ended = true;
  }
  return attempts.filter((attempt) => attempt.some((line) => !line.startsWith('Edge TPU Compiler version')));
}

function readAttempt(lines: string[]): CompileAttempt {
  const find = (pattern: RegExp): string | null => lines.map((line) => pattern.exec(line)?.[1]).find((found) => found !== undefined) ?? null;
  const number = (pattern: RegExp): number | null => { const found = find(pattern); return found === null ? null : Number(found); };
  const failure = failureIn(lines);
  const compiled = lines.some((line) => /^Models? compiled successfully/.test(line));
  const succeeded = compiled && !lines.some((line) => line.startsWith('Compilation failed'));
  return {
    segmentOps: number(/^Try to compile segment with (\d{1,9}) ops/),
    intermediateTensors: find(/^Intermediate tensors: (.*)$/)?.split(',').map((name) => name.trim()).filter(Boolean) ?? [],
    timeoutS: number(/^Started a compilation timeout timer of (\d{1,9}) seconds/),
    compileMs: number(/^Models? compiled successfully in (\d{1,12}) ms/),
    models: compiled ? readModels(lines) : [],
    errors: lines.filter((line) => line.startsWith('ERROR: ')).map((line) => line.slice(7).trim()),
    failure: succeeded ? null : failure,
    succeeded,
  };
}

function failureIn(lines: string[]): CompileAttempt['failure'] {
  for (const { pattern, code } of failureTexts) {
    const line = lines.find((candidate) => pattern.test(candidate) || pattern.test(candidate.replace(/^Compilation failed: /, '')));
    if (line) return { code, text: line.trim() };
  }
  return null;
}

function readModels(lines: string[]): CompiledModelReport[] {
  const models: CompiledModelReport[] = [];
  let inTable = false;
  for (const line of lines) {
    if (/^Operator\s+Count\s+Status\s*$/.test(line)) {
      inTable = true;
      continue;
    }
    const row = inTable ? /^(\S+)\s+(\d{1,9})\s+(\S.*)$/.exec(line.trimEnd()) : null;
    if (row) {
      models.at(-1)?.ops.push({ op: row[1]!, count: Number(row[2]), status: row[3]!, mapped: row[3] === 'Mapped to Edge TPU' });
      continue;
    }
    inTable = false;
    const [, key, value] = /^([A-Z][^:]*): (.*)$/.exec(line) ?? [];
    if (key === undefined || key === 'ERROR') continue;
    const textField = textLines[key];
    if (textField === 'input') models.push(emptyModel());
    const model = models.at(-1);
    if (!model) continue;
    if (textField) model[textField] = value!.trim();
    else if (numberLines[key]) model[numberLines[key]] = parseSize(value!) ?? numeric(value!);
    else if (key !== 'Compilation failed' && key !== 'Intermediate tensors' && !key.startsWith('Model successfully compiled')) model.other[key] = value!.trim();
  }
  for (const model of models) complete(model);
  return models;
}

/** The counts of mapped operators are printed only when some are not; the table, where present, tells as well. */
function complete(model: CompiledModelReport): void {
  const inTable = model.ops.length > 0;
  const mapped = model.ops.filter((row) => row.mapped).reduce((sum, { count }) => sum + count, 0);
  if (model.mappedOps === null) model.mappedOps = inTable ? mapped : model.edgeTpuSubgraphs === 0 ? 0 : model.totalOps;
  if (model.cpuOps === null && model.mappedOps !== null && model.totalOps !== null) model.cpuOps = model.totalOps - model.mappedOps;
}

function judge(lines: string[], stderr: string, exit: CompilerExit, version: string | null, attempts: CompileAttempt[], models: CompiledModelReport[]): CompileFailure | null {
  const say = (code: CompileFailureCode, evidence: (string | null | undefined)[]): CompileFailure =>
    ({ code, ...explained[code], evidence: [...new Set(evidence.map((line) => line?.trim().replace(/^ERROR: /, '')).filter((line): line is string => line !== undefined && line !== ''))] });
  const last = attempts.at(-1);
  const crash = failureIn(linesOf(stderr));
  const lastLine = lines.at(-1);
  // A delegate search fails several times before it succeeds: only its end counts. Segments must all succeed.
  const searching = attempts.some(({ segmentOps }) => segmentOps !== null);
  const failed = searching ? (last && !last.succeeded ? last : undefined) : attempts.find(({ succeeded }) => !succeeded);

  if (failed?.failure && failed.failure.code !== 'compile.internal') return say(failed.failure.code, [...failed.errors, failed.failure.text]);
  if (crash?.code === 'compile.crashed') return say('compile.crashed', [crash.text]);
  if (exit.exitCode === 139 || exit.exitCode === 134 || ['SIGSEGV', 'SIGABRT', 'SIGBUS', 'SIGILL', 'SIGFPE'].includes(exit.signal ?? '')) {
    return say('compile.crashed', [lastLine, `exit ${exit.signal ?? exit.exitCode}`]);
  }
  if (exit.signal || exit.exitCode === 137 || exit.exitCode === 143) return say('compile.killed', [`exit ${exit.signal ?? exit.exitCode}`]);
  if (exit.exitCode === 126 || exit.exitCode === 127 || (exit.exitCode === null && attempts.length === 0)) return say('compile.not_started', [linesOf(stderr)[0]]);
  if (failed?.failure) return say(failed.failure.code, [...failed.errors, failed.failure.text]);
  if (crash) return say(crash.code, [crash.text]);
  if (exit.exitCode !== 0) return say('compile.internal', [lastLine, `exit ${exit.exitCode}`]);
  if (failed || models.length === 0) return say('compile.incomplete', [lastLine]);
  if (majorVersion(version) >= 16 && lastLine?.trim() !== 'Compilation succeeded!') return say('compile.incomplete', [lastLine]);
  if (!exit.outputExists) return say('compile.output_missing', models.map(({ output }) => output));
  const empty = models.find(({ mappedOps, edgeTpuSubgraphs }) => mappedOps === 0 || edgeTpuSubgraphs === 0);
  if (empty) return say('compile.nothing_mapped', [`Number of Edge TPU subgraphs: ${empty.edgeTpuSubgraphs}`, ...empty.ops.slice(0, 5).map(({ op, status }) => `${op}: ${status}`)]);
  if (exit.nothingInOutput) return say('compile.nothing_mapped', ['The output holds no edgetpu-custom-op.']);
  const { askedRuntime: asked, needsRuntime: needs } = exit;
  return asked && needs && needs > asked ? say('compile.runtime_ignored', [`asked for ${asked}, needs ${needs}`]) : null;
}

function warningsOf(attempts: CompileAttempt[], models: CompiledModelReport[]): string[] {
  const warnings = models.flatMap((model) => [
    ...(model.cpuOps ? [`${model.cpuOps} of ${model.totalOps} operators of ${model.output ?? 'the model'} run on the CPU.`] : []),
    ...(model.streamedBytes ? [`${model.streamedBytes} bytes of parameters are sent to the chip at every inference.`] : []),
    ...((model.edgeTpuSubgraphs ?? 1) > 1 ? [`The model has ${model.edgeTpuSubgraphs} parts on the Edge TPU, with copies between them.`] : []),
  ]);
  const failed = attempts.filter(({ succeeded }) => !succeeded).length;
  return failed > 0 && models.length > 0 ? [`${failed} attempt(s) failed before one succeeded.`, ...warnings] : warnings;
}

function emptyModel(): CompiledModelReport {
  return {
    input: null, output: null, log: null, inputBytes: null, outputBytes: null, onChipBytes: null, onChipFreeBytes: null, streamedBytes: null,
    edgeTpuSubgraphs: null, totalOps: null, mappedOps: null, cpuOps: null, ops: [], other: {},
  };
}

function numeric(text: string): number | null {
  return /^\d{1,12}$/.test(text.trim()) ? Number(text) : null;
}

function majorVersion(version: string | null): number {
  return Number(/^(\d+)/.exec(version ?? '')?.[1] ?? 16);
}
