import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { compile, compileOptions, findCompiler, type CompileRun } from '@reefkeeper/conversion/compiler';
import { describePart, findFailingPart, type CompileFailure, type DescribedOperator, type OperatorRange } from '@reefkeeper/edgetpu';
import { ReefError } from '@reefkeeper/platform/errors';
import { counted } from '../output.ts';
import type { ModelFile } from './model-file.ts';

export interface Explanation {
  compiled: boolean;
  /** Null where it compiled. */
  failure: Pick<CompileFailure, 'code' | 'message' | 'evidence'> | null;
  /** Null where it compiled, or where no piece fails in the same way as the whole. */
  part: (OperatorRange & { smallest: boolean; operators: DescribedOperator[]; of: number }) | null;
  runs: number;
  /** Where the part was written to. */
  saved: string | null;
}

export interface ExplainOptions {
  compiler?: string;
  runtime: number;
  timeoutS: number;
  savePart?: string;
  onProgress?: (text: string) => void;
  signal: AbortSignal;
}

/**
 * Runs the compiler on a model and, where it fails, on ever smaller pieces, until the smallest is found that fails in the same way.
 * @throws ReefError `compile.no_compiler`, `check.stopped`
 */
export async function explain({ model, bytes }: ModelFile, { compiler, runtime, timeoutS, savePart, onProgress = () => {}, signal }: ExplainOptions): Promise<Explanation> {
  const command = await findCompiler(compiler);
  if (!command) throw new ReefError('compile.no_compiler', 'not_found', 'There is no edgetpu_compiler on the search path. Install it from Coral\'s apt repository (x86-64 Linux), or name one with --compiler or REEF_EDGETPU_COMPILER; a command with arguments, such as a container, will do.');
  const scratch = await mkdtemp(join(tmpdir(), 'reef-explain-'));
  const options = compileOptions.parse({ timeoutS });
  let runs = 0;
  const run = async (content: Uint8Array): Promise<CompileRun> => {
    runs += 1;
    const file = join(scratch, `${runs}.tflite`);
    await writeFile(file, content);
    const made = await compile(command, [file], join(scratch, `run-${runs}`), options, runtime, signal);
    if (signal.aborted) throw new ReefError('check.stopped', 'unavailable', 'Stopped; nothing is known beyond what was said.');
    await rm(join(scratch, `run-${runs}`), { recursive: true, force: true });
    return made;
  };
  try {
    onProgress(`compiling the whole model (${counted(model.subgraphs[0]!.operators.length, 'operator')})`);
    let whole = await run(bytes);
    // Some versions fail and then succeed on the same bytes; what flips cannot be narrowed down.
    if (whole.report.failure?.retry === 'again') whole = await run(bytes);
    const { failure } = whole.report;
    if (!failure) return { compiled: true, failure: null, part: null, runs, saved: null };
    const { code, message, evidence } = failure;
    onProgress(`it fails: ${message} (${code})`);
    const found = await findFailingPart(model, async (piece) => (await run(piece)).report.failure?.code !== code, {
      onRun: ({ from, to, compiled }) => onProgress(`${rangeText(from, to)}: ${compiled ? 'not there' : 'fails'}`),
    });
    if (found && savePart) await writeFile(savePart, found.bytes);
    const { from, to, smallest } = found ?? { from: 0, to: 0, smallest: false };
    return {
      compiled: false, failure: { code, message, evidence }, runs, saved: found && savePart ? savePart : null,
      part: found && { from, to, smallest, operators: describePart(model, { from, to }), of: model.subgraphs[0]!.operators.length },
    };
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

function rangeText(from: number, to: number): string {
  return to - from === 1 ? `operator ${from}` : `operators ${from} to ${to - 1}`;
}

export function explanationText({ compiled, failure, part, runs, saved }: Explanation): string {
  if (compiled) return `The compiler takes it (${counted(runs, 'run')}).`;
  const lines = [`The compiler fails: ${failure!.message} (${failure!.code})`, ...failure!.evidence.slice(0, 5).map((line) => `  ${line}`), ''];
  if (!part) return [...lines, 'No piece of it fails in the same way: the failure comes from the model as a whole, or changes from run to run.'].join('\n');
  const tensors = (list: DescribedOperator['inputs']): string => list.map(({ name, shape, type }) => `"${name}" ${type} [${shape.join(', ')}]`).join(', ') || 'nothing';
  lines.push(`The smallest part that fails so: ${rangeText(part.from, part.to)} of ${part.of}`);
  for (const { index, op, version, inputs, outputs } of part.operators.slice(0, 12)) lines.push(`  ${index} ${op}@${version}`, `      takes ${tensors(inputs)}`, `      makes ${tensors(outputs)}`);
  if (part.operators.length > 12) lines.push(`  and ${part.operators.length - 12} more`);
  const proof = part.operators.length === 1 ? 'Cut out alone it fails, too' : 'Without its first or its last operator it does not fail so';
  lines.push(part.smallest ? `${proof} (${counted(runs, 'run')}).` : `The runs were used up before it was sure to be the smallest (${counted(runs, 'run')}).`);
  if (saved) lines.push(`Written to ${saved}, for a report.`);
  return lines.join('\n');
}
