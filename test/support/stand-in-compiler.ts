import { existsSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** What one run of the stand-in does. */
export type CompilerAct =
  /** One output for each model on the command line, or with --num_segments one for each segment; `report` replaces the usual text. */
  | { does: 'succeed'; outputs: Buffer | Buffer[]; report?: string }
  | { does: 'fail'; stdout?: string; stderr?: string; exitCode: number }
  /** Starts a child, as the real one does, and never ends. */
  | { does: 'hang' };

export interface StandIn {
  path: string;
  /** The arguments of every run so far. */
  runs(): string[][];
  /** The processes of the run that hangs: itself and its child. */
  hanging(): number[];
}

const version = '16.0.384591198';
export const genericFailure = `Edge TPU Compiler version ${version}\nStarted a compilation timeout timer of 180 seconds.\nCompilation child process completed within timeout period.\nCompilation failed! \n`;

/** What the compiler says of models that all map. */
export function goodReport(models: number, ops = 12): string {
  const blocks = Array.from({ length: models }, (_, index) => `
Input model: model-${index}.tflite
Input size: 513.28KiB
Output model: model-${index}_edgetpu.tflite
Output size: 782.67KiB
On-chip memory used for caching model parameters: 553.62KiB
On-chip memory remaining for caching model parameters: 7.06MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: ${ops}
Operation log: model-${index}_edgetpu.log

Operator                       Count      Status

CONV_2D                        ${`${ops}`.padEnd(10)} Mapped to Edge TPU
`);
  return `Edge TPU Compiler version ${version}\nStarted a compilation timeout timer of 180 seconds.\n\n${models > 1 ? 'Models' : 'Model'} compiled successfully in 412 ms.\n${blocks.join('')}Compilation child process completed within timeout period.\nCompilation succeeded! \n`;
}

/**
 * A program that stands in for the closed `edgetpu_compiler` and behaves by script: the n-th run does the n-th act, and every one
 * after them the last. It understands the options that decide where its output goes.
 */
export async function standInCompiler(dir: string, name: string, acts: readonly CompilerAct[]): Promise<StandIn> {
  const path = join(dir, name);
  const own = `${path}.d`;
  await mkdir(own, { recursive: true });
  for (const [index, act] of acts.entries()) {
    const folder = join(own, `${index + 1}`);
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, 'act'), act.does);
    if (act.does === 'hang') continue;
    const outputs = act.does === 'succeed' ? [act.outputs].flat() : [];
    for (const [at, bytes] of outputs.entries()) await writeFile(join(folder, `output-${at}`), bytes);
    await writeFile(join(folder, 'stdout'), act.does === 'succeed' ? act.report ?? goodReport(outputs.length) : act.stdout ?? '');
    await writeFile(join(folder, 'stderr'), act.does === 'fail' ? act.stderr ?? '' : '');
    await writeFile(join(folder, 'exit'), act.does === 'fail' ? `${act.exitCode}` : '0');
  }
  await writeFile(path, `#!/bin/sh
if [ "$1" = --version ]; then echo "Edge TPU Compiler version ${version}"; exit 0; fi
own='${own}'
printf '%s\\n' "$@" > "$own/run-$$"; mv "$own/run-$$" "$own/run-$(printf %06d $(($(ls "$own" | grep -c '^run-0') + 1)))"
run=$(ls "$own" | grep -c '^run-0'); [ "$run" -gt ${acts.length} ] && run=${acts.length}
out=. segments= models=
while [ $# -gt 0 ]; do
  case "$1" in
    --out_dir) out=$2; shift;; --num_segments) segments=$2; shift;;
    --timeout_sec|--min_runtime_version|--intermediate_tensors|--delegate_search_step) shift;;
    --*) ;; *) models="$models $1";;
  esac
  shift
done
if [ "$(cat "$own/$run/act")" = hang ]; then sleep 600.25 & echo "$$ $!" > "$own/hanging"; wait; fi
at=0
if [ -n "$segments" ]; then
  stem=$(basename $models .tflite)
  while [ -f "$own/$run/output-$at" ]; do cp "$own/$run/output-$at" "$out/\${stem}_segment_\${at}_of_\${segments}_edgetpu.tflite"; at=$((at + 1)); done
else
  for model in $models; do [ -f "$own/$run/output-$at" ] && cp "$own/$run/output-$at" "$out/$(basename "$model" .tflite)_edgetpu.tflite"; at=$((at + 1)); done
fi
cat "$own/$run/stdout"; cat "$own/$run/stderr" >&2
exit "$(cat "$own/$run/exit")"
`, { mode: 0o755 });
  const read = (file: string) => (existsSync(join(own, file)) ? readFileSync(join(own, file), 'utf8') : '');
  return {
    path,
    runs() {
      const made: string[][] = [];
      for (let n = 1; existsSync(join(own, `run-${`${n}`.padStart(6, '0')}`)); n += 1) made.push(read(`run-${`${n}`.padStart(6, '0')}`).split('\n').slice(0, -1));
      return made;
    },
    hanging: () => read('hanging').split(' ').filter(Boolean).map(Number),
  };
}

/** A stand-in that looks at what it gets: it fails on a file that holds all of `words`, and makes `output` of any other. */
export async function pickyCompiler(path: string, words: readonly string[], output: Buffer): Promise<string> {
  await writeFile(`${path}.output`, output);
  await writeFile(`${path}.good`, goodReport(1));
  await writeFile(`${path}.bad`, genericFailure);
  await writeFile(path, `#!/bin/sh
for model; do :; done
while [ $# -gt 1 ]; do [ "$1" = --out_dir ] && out=$2; shift; done
if ${words.map((word) => `grep -q '${word}' "$model"`).join(' && ')}; then cat '${path}.bad'; exit 1; fi
cp '${path}.output' "$out/$(basename "$model" .tflite)_edgetpu.tflite"
cat '${path}.good'
`, { mode: 0o755 });
  return path;
}

/** Whether a process runs; a zombie, which its reaper has not fetched yet, does not. */
export function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}
