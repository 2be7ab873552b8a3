import { openBuckets, type Buckets } from '@reefkeeper/platform';
import type { PythonTools } from './python-tools.ts';
import { analyzeStep } from './step-analyze.ts';
import { bundleStep } from './step-bundle.ts';
import { compileStep } from './step-compile.ts';
import { convertStep } from './step-convert.ts';
import { importStep } from './step-import.ts';
import { inspectStep } from './step-inspect.ts';
import { trainStep } from './step-train.ts';
import { verifyStep } from './step-verify.ts';
import { VertexTraining } from './vertex.ts';
import type { Executors } from './steps.ts';

export interface ExecutorOptions {
  python: PythonTools;
  /** Where labelled images may lie; Google's own where absent. */
  buckets?: Buckets;
  /** Google's own where absent. */
  vertex?: VertexTraining;
  /** Folder of `signing-key.pem`, made when absent. */
  keysDir: string;
  /** Path of `edgetpu_compiler`; looked for on the search path where absent. */
  compiler?: string | undefined;
}

/** The product's own steps. */
export function openExecutors({ python, keysDir, compiler, buckets = openBuckets(), vertex = new VertexTraining() }: ExecutorOptions): Executors {
  return {
    train: trainStep(python, buckets, vertex), import: importStep(python), convert: convertStep(python), analyze: analyzeStep, verify: verifyStep(python),
    compile: compileStep(compiler), inspect: inspectStep, bundle: bundleStep(keysDir),
  };
}
