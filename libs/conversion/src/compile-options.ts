import { z } from 'zod';

/** The compiler separates tensors by `,` and models by `:`, and has no way to quote either. */
const tensorName = z.string().min(1).max(512).refine((name) => !/[,:\s]/.test(name), 'a tensor name without comma, colon or space: the compiler cannot take others');

/** How `edgetpu_compiler` is called, apart from the runtimes. */
export const compileOptions = z.object({
  /** Cut the model into a pipeline for so many Edge TPUs. */
  numSegments: z.number().int().min(2).max(16).optional(),
  /** Tensors that become outputs of the part on the chip. */
  intermediateTensors: z.array(tensorName).min(1).max(64).optional(),
  /** Map every run of operators that can be, not just the first (experimental in the compiler). */
  multipleSubgraphs: z.boolean().optional(),
  /** On failure leave operators off the end, `delegateSearchStep` more each time, and try again (compiler 16). */
  searchDelegate: z.boolean().optional(),
  delegateSearchStep: z.number().int().min(1).max(10_000).optional(),
  /** For one compilation; the compiler itself would stop after 180 s. */
  timeoutS: z.number().int().min(1).max(6 * 3_600).default(600),
  /** Models compiled on one command line, this version's own among them: their parameters then stay on the chip together. Digests of int8 files. */
  together: z.array(z.object({ ref: z.string().max(100), digest: z.string().regex(/^[0-9a-f]{64}$/) })).min(2).max(8).optional(),
  /** Run the compiler although it has failed on the same bytes with the same flags before. */
  force: z.boolean().default(false),
})
  .refine(({ numSegments, intermediateTensors }) => numSegments === undefined || intermediateTensors === undefined, 'numSegments and intermediateTensors exclude each other: the compiler cuts segments by itself')
  .refine(({ together, numSegments, intermediateTensors }) => together === undefined || (numSegments === undefined && intermediateTensors === undefined), 'models that are compiled together are neither cut into segments nor given outputs of their own')
  .refine(({ searchDelegate, delegateSearchStep }) => delegateSearchStep === undefined || searchDelegate === true, 'delegateSearchStep needs searchDelegate');
export type CompileOptions = z.infer<typeof compileOptions>;

/** A search compiles again and again, each with its own time; it must end somewhere. */
const searchRuns = 10;

/** How long a run of the compiler may take in all. The compiler's own limit comes first, because it then says why. */
export function hardLimitMs({ timeoutS, numSegments, searchDelegate }: CompileOptions): number {
  return timeoutS * 1_000 * (numSegments ?? 1) * (searchDelegate ? searchRuns : 1) + 3_000;
}

/** What the result depends on: the command line without paths. `runtime` null = the compiler's own default. */
export function compilerFlags(options: CompileOptions, runtime: number | null): string[] {
  const { numSegments, intermediateTensors, multipleSubgraphs, searchDelegate, delegateSearchStep, timeoutS } = options;
  return [
    '--show_operations',
    ...(runtime === null ? [] : ['--min_runtime_version', `${runtime}`]),
    ...(numSegments === undefined ? [] : ['--num_segments', `${numSegments}`]),
    ...(intermediateTensors ? ['--intermediate_tensors', intermediateTensors.join(',')] : []),
    ...(multipleSubgraphs ? ['--enable_multiple_subgraphs'] : []),
    ...(searchDelegate ? ['--search_delegate'] : []),
    ...(delegateSearchStep === undefined ? [] : ['--delegate_search_step', `${delegateSearchStep}`]),
    '--timeout_sec', `${timeoutS}`,
  ];
}
