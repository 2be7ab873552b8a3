import { bundleDigest, edgeTpuVariant, loadOrCreateSigningKey, signBundle, type Manifest, type ManifestVariant } from '@reefkeeper/bundle';
import type { Analysis } from '@reefkeeper/edgetpu';
import type { Publication } from '@reefkeeper/registry';
import { isLearned, learnedLineage } from './learned-head.ts';
import type { LearningOrigin } from './job.ts';
import { trainingLineage } from './step-train.ts';
import { outputOf, type StepContext, type StepExecutor } from './steps.ts';

/** Writes the manifest, signs it and hands the publication to the pipeline, which makes the version READY with the step itself. */
export function bundleStep(keysDir: string): StepExecutor<'bundle'> {
  return {
    timeoutMs: 5 * 60_000,
    // Names its own version: never the same as an earlier one.
    inputs: async () => null,
    async run(context) {
      const manifest = manifestOf(context, isLearned(context) ? await learnedLineage(context) : null);
      const envelope = signBundle(manifest, await loadOrCreateSigningKey(keysDir));
      const stored = await context.keep(Buffer.from(JSON.stringify(envelope)), { mediaType: 'application/vnd.dsse.envelope.v1+json', role: 'envelope' });
      const digest = bundleDigest(manifest);
      context.log(`bundle ${digest}, variants ${manifest.variants.map(({ name }) => name).join(', ')}`);
      return {
        output: {
          bundleDigest: digest, envelopeDigest: stored.digest, labels: manifest.labels, task: manifest.task, lineage: manifest.lineage, parity: manifest.parity,
          ...compiledParts(context.outputs, manifest.variants), ...(context.request.learning?.hold ? { hold: learnedHold(context.request.learning, manifest) } : {}),
        },
      };
    },
  };
}

/** Nobody but the device has seen its images: somebody says that it may go on. */
function learnedHold({ device, parent }: LearningOrigin, { parity, variants }: Manifest): NonNullable<Publication['hold']> {
  const accuracy = parity?.accuracy;
  return { code: 'learn.unconfirmed', message: `Learnt by ${device} on ${parent}${accuracy ? `; ${(100 * accuracy.int8).toFixed(1)} % right on ${accuracy.labelled} images` : ''}.`, variants: variants.map(({ name }) => name) };
}

/** What the compiler made and failed to make, as the version shows it. The row of a variant in segments has its first one's digest, and the others in its details. */
function compiledParts({ compile, inspect }: StepContext['outputs'], inManifest: ManifestVariant[]): Pick<Publication, 'variants' | 'hold' | 'pipelines' | 'failedVariants'> {
  const doubts = new Map((compile?.compiled ?? []).map(({ model, nondeterministic }) => [model.digest, nondeterministic ?? null]));
  const details = new Map((inspect?.compiled ?? []).map((one) => [one.model.digest, one.details]));
  const pipelines = (inspect?.pipelines ?? []).map(({ minRuntime, segments }, at) => ({
    minRuntime, nondeterministic: compile?.pipelines?.[at]?.nondeterministic ?? null, segments: segments.map(({ model: { digest, bytes }, details: facts }) => ({ digest, bytes, details: facts })),
  }));
  for (const { nondeterministic, segments } of pipelines) doubts.set(segments[0]!.digest, nondeterministic);
  const variants = inManifest.map(({ name, kind, minRuntime, moreSegments, file: { digest, bytes } }) => {
    const nondeterministic = doubts.get(digest);
    const cut = moreSegments && pipelines.find(({ segments }) => segments[0]!.digest === digest);
    const known = { ...(cut ? { ...togetherOf(cut.segments), moreSegments } : details.get(digest)), ...(nondeterministic ? { nondeterministic } : {}) };
    return { name, kind, minRuntime, digest, bytes, details: Object.keys(known).length > 0 ? known : null };
  });
  const held = variants.flatMap(({ name, digest }) => (doubts.get(digest) ? [{ name, why: doubts.get(digest)! }] : []));
  return {
    variants, pipelines,
    hold: held.length === 0 ? null : { code: 'compile.nondeterministic', message: held.map(({ name, why }) => `${name}: ${why}`).join(' '), variants: held.map(({ name }) => name) },
    failedVariants: (compile?.failed ?? []).map(({ runtime, segments, code, message }) => ({ name: edgeTpuVariant(runtime, segments), minRuntime: runtime, code, message })),
  };
}

/** What the segments of a model come to. */
function togetherOf(segments: readonly { details: Record<string, unknown> }[]): Record<string, unknown> {
  const sum = (name: string) => segments.reduce((all, { details }) => all + Number(details[name] ?? 0), 0);
  const cpuOps: Record<string, number> = {};
  for (const { details } of segments) for (const [op, count] of Object.entries((details.cpuOps ?? {}) as Record<string, number>)) cpuOps[op] = (cpuOps[op] ?? 0) + count;
  return { onChipBytes: sum('onChipBytes'), streamedBytes: sum('streamedBytes'), cpuOps };
}

function cacheTokensOf({ tokens }: Record<string, unknown>): Pick<ManifestVariant, 'cacheTokens'> {
  return Array.isArray(tokens) && tokens.length > 0 ? { cacheTokens: tokens as string[] } : {};
}

/** The same for the same outputs: a run that was repeated after a crash signs the same bytes. */
export function manifestOf(context: Pick<StepContext, 'jobId' | 'version' | 'request' | 'outputs'>, learning: Record<string, unknown> | null = null): Manifest {
  const { request, version, outputs } = context;
  const source = outputOf(context, 'import');
  const converted = outputOf(context, 'convert');
  const analysis = outputs.analyze?.analysis as Partial<Analysis> | undefined;
  const variants: ManifestVariant[] = source.kind === 'edgetpu' ? [] : [{ name: 'cpu-int8', kind: 'cpu-int8', minRuntime: null, file: { ...converted.model } }];
  for (const { minRuntime, model, details } of outputs.inspect?.compiled ?? []) {
    // Two wanted runtimes may compile to the same one.
    const name = edgeTpuVariant(minRuntime);
    if (!variants.some((variant) => variant.name === name)) variants.push({ name, kind: 'edgetpu', minRuntime, ...cacheTokensOf(details), file: { ...model } });
  }
  for (const { minRuntime, segments } of outputs.inspect?.pipelines ?? []) {
    const name = edgeTpuVariant(minRuntime, segments.length);
    const [first, ...moreSegments] = segments.map(({ model }) => ({ ...model }));
    if (!variants.some((variant) => variant.name === name)) variants.push({ name, kind: 'edgetpu', minRuntime, file: first!, moreSegments });
  }
  return {
    schema: 1, model: version.model, version: version.version, task: request.task, labels: request.labels,
    inputs: converted.inputs, outputs: converted.outputs, variants,
    golden: outputs.verify?.golden ? { ...outputs.verify.golden } : null,
    lineage: {
      source: request.source, calibration: request.calibration, evaluation: request.evaluation, job: context.jobId, parent: request.learning?.parent ?? version.parent, ...(learning ? { learning } : {}),
      ...(outputs.train ? { training: trainingLineage(outputs.train) } : {}),
      tools: { ...source.tools, ...converted.tools, ...(outputs.compile?.compilerVersion ? { edgetpu_compiler: outputs.compile.compilerVersion } : {}) },
      warnings: [...source.warnings, ...converted.warnings, ...(analysis?.faults ?? []).filter(({ severity }) => severity === 'warning').map(({ message }) => message)],
    },
    parity: outputs.verify?.parity ?? null,
    createdAt: version.createdAt.toISOString(),
  };
}
