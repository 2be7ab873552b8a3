import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { Command } from 'commander';
import { create as createTar } from 'tar';
import { ReefError } from '@reefkeeper/platform/errors';
import type { Client } from '../client.ts';
import { action } from '../context.ts';
import { numbersOf } from '../options.ts';
import { ago, bytes, facts, percent, table, tone, type Output } from '../output.ts';
import { followJob, type JobView } from './jobs.ts';

export interface PushOptions {
  name?: string; calibration?: string; evaluation?: string; labels?: string; task?: string; inputShape?: string; resize?: string; mean?: string; std?: string;
  signature?: string; inputName?: string; outputNames?: string; minAgreement?: string; maxAccuracyDrop?: string; allowWorse?: boolean; allowFloatOps?: boolean; converter?: string; runtimes?: string; notes?: string; watch?: boolean;
  segments?: string; intermediateTensors?: string; multipleSubgraphs?: boolean; searchDelegate?: boolean; delegateSearchStep?: string; compileTimeout?: string; priority?: string; forceCompile?: boolean;
}

export interface VersionView {
  id: string; model: string; version: number; ref: string; state: string; task: string; createdAt: string; bundleDigest: string | null; error: { code: string; message: string } | null;
  failedVariants: { name: string; code: string; message: string }[]; pipelines: { minRuntime: number; segments: { digest: string; bytes: number; details: { onChipBytes?: number; streamedBytes?: number } }[] }[];
  hold: { code: string; message: string } | null; confirmedAt: string | null; confirmedBy: string | null;
  variants: { name: string; kind: string; minRuntime: number | null; digest: string; bytes: number; segments: number; totalBytes: number }[];
  labels: string[] | null; analysis: { verdict?: string; summary?: string } | null; lineage: Record<string, unknown> | null;
  parity: {
    samples: number; agreement: number | null; accuracy: { float: number; int8: number } | null;
    outputs: { name: string; cosine: number | null; maxError: number | null }[];
    perClass: { label: string; count: number; float: number; int8: number }[];
    confusions?: { truth: string; answer: string; count: number }[];
    boxes?: { original: number; quantised: number; matched: number; meanIou: number | null };
    masks?: { meanIou: number; perClass: { label: string; iou: number; pixels: number }[] };
    findings?: { code: string; severity: string; message: string }[];
  } | null;
}

/** A stored archive or file, as the API takes it. */
export interface Uploaded { digest: string; filename: string; bytes: number }

/** @returns the command `model`, for what else belongs under it */
export function registerModels(program: Command): Command {
  const model = program.command('model').description('models and their versions');

  buildOptions(sampleOptions(model.command('push <path>')
    .description('bring in a model: it is converted to int8, checked against the original, compiled where a compiler is, signed')
    .option('--name <name>', 'model name; the file or folder name where absent')))
    .option('--input-shape <shape>', 'such as 1,224,224,3, where the model leaves it open')
    .option('--signature <name>', 'signature of a SavedModel')
    .option('--input-name <name>', 'input tensor of a frozen graph')
    .option('--output-names <names>', 'output tensors of a frozen graph, separated by commas')
    .addHelpText('after', '\nExample:\n  reef model push ./saved_model --name classifier --calibration photos/ --evaluation held-out/ --labels labels.txt')
    .action(action(async ({ output, client }, path: string, options: PushOptions) => {
      const { version } = await push(await client(), output, path, options);
      return version.state === 'READY' || options.watch === false ? 0 : 1;
    }));

  model.command('ls').description('list models').action(action(async ({ output, client }) => {
    const items = await (await client()).all<{ name: string; latestVersion: number | null; description: string | null; createdAt: string }>('/models');
    output.show(items, () => table(['model', 'latest', 'created', 'description'], items.map((one) => [one.name, one.latestVersion, ago(one.createdAt), one.description])));
  }));

  model.command('show <model>').description('one version (name@3), or all of a model (name)').action(action(async ({ output, client }, ref: string) => {
    const [name = '', number] = ref.split('@');
    const api = await client();
    if (number !== undefined) {
      const version = await api.get<VersionView>(`/models/${encodeURIComponent(name)}/versions/${encodeURIComponent(number)}`);
      output.show(version, () => versionText(version));
      return;
    }
    const items = await api.all<VersionView>(`/models/${encodeURIComponent(name)}/versions`);
    output.show(items, () => table(['version', 'state', 'bundle', 'created', 'error'], items.map((one) => [`${name}@${one.version}`, tone(one.state), one.bundleDigest?.slice(0, 12), ago(one.createdAt), one.error?.code ?? (one.hold && !one.confirmedAt ? `held: ${one.hold.code}` : null)])));
  }));

  model.command('cocompile <versions...>').description('new versions (of a@1, b@2, ...) whose Edge TPU files stay on one Edge TPU together')
    .option('--runtime <number>', 'Edge TPU runtime to compile for')
    .option('--no-watch', 'do not wait for the jobs')
    .addHelpText('after', '\nExample:\n  reef model cocompile detector@3 classifier@7 --runtime 13')
    .action(action(async ({ output, client }, versions: string[], options: { runtime?: string; watch: boolean }) => {
      const api = await client();
      const { items } = await api.post<{ items: { version: VersionView; job: JobView }[] }>('/cocompile', { versions, ...(options.runtime ? { runtime: numbersOf('--runtime', options.runtime)[0] } : {}) });
      for (const { version, job } of items) output.step({ event: 'queued', version: version.ref, job: job.id }, `${version.ref} queued as job ${job.id}`);
      if (!options.watch) return 0;
      const ended = [];
      for (const { job } of items) ended.push(await followJob(api, output, job.id));
      return ended.every(({ state }) => state === 'SUCCEEDED') ? 0 : 1;
    }));

  model.command('download <version>').description('the files of a version (name@3): variants, and the segments of a pipeline')
    .option('--out <dir>', 'folder to write them to', '.')
    .action(action(async ({ output, client }, ref: string, options: { out: string }) => {
      const api = await client();
      const version = await api.get<VersionView>(pathOf(ref));
      const stem = `${version.model}-v${version.version}`;
      const files = [
        ...version.variants.filter(({ segments }) => segments === 1).map((one) => ({ file: `${stem}_${one.name}.tflite`, digest: one.digest, bytes: one.bytes })),
        ...version.pipelines.flatMap(({ minRuntime, segments }) => segments.map((one, at) => ({ file: `${stem}_runtime_${minRuntime}_segment_${at}_of_${segments.length}_edgetpu.tflite`, digest: one.digest, bytes: one.bytes }))),
      ];
      if (files.length === 0) throw new ReefError('version.state_wrong', 'conflict', `${version.ref} is ${version.state} and has no files yet.`);
      await mkdir(options.out, { recursive: true });
      for (const one of files) await api.download(`/artifacts/${one.digest}`, join(options.out, one.file), one.digest);
      output.show(files, () => table(['file', 'size', 'SHA-256'], files.map((one) => [one.file, bytes(one.bytes), one.digest])));
    }));

  model.command('confirm <version>').description('take off what holds a version (name@3) up: you have looked at it').action(action(async ({ output, client }, ref: string) => {
    const version = await (await client()).post<VersionView>(`${pathOf(ref)}/confirm`);
    output.show(version, () => `${version.ref} confirmed by ${version.confirmedBy ?? '-'}`);
  }));
  return model;
}

/** What is known of a source besides itself. */
export function sampleOptions(command: Command): Command {
  return command
    .option('--calibration <path>', 'folder, archive (.tar.gz, .zip) or .npz of real samples, to measure activation ranges on')
    .option('--evaluation <path>', 'held-out samples to compare on, with labels.csv (file,label) for accuracy')
    .option('--labels <file>', 'class names in output order, one a line')
    .option('--task <task>', 'classification, detection, segmentation, embedding or other');
}

/** How a version is built, wherever its source comes from. */
export function buildOptions(command: Command): Command {
  return command
    .option('--resize <how>', 'stretch or center-crop')
    .option('--mean <values>', 'subtracted from pixels 0 to 255; one value or one per channel')
    .option('--std <values>', 'divides them after that')
    .option('--min-agreement <share>', 'least top-1 agreement with the original, 0 to 1')
    .option('--max-accuracy-drop <share>', 'most accuracy the quantisation may cost, 0 to 1')
    .option('--allow-worse', 'publish even when the comparison fails; the numbers stay in the report')
    .option('--converter <which>', 'TensorFlow to convert with: auto, tf2.21 or tf2.15 (Python 3.9 to 3.11)')
    .option('--allow-float-ops', 'keep what cannot be quantised, inputs and outputs too, in float on the CPU; a warning stays in the lineage')
    .option('--runtimes <numbers>', 'Edge TPU runtimes to compile for, such as 13,14')
    .option('--segments <number>', 'cut it into a pipeline for so many Edge TPUs; compiled whole as well, for devices with fewer')
    .option('--intermediate-tensors <names>', 'tensors that become outputs of the part on the chip')
    .option('--multiple-subgraphs', 'map every run of operators that can be (experimental in the compiler)')
    .option('--search-delegate', 'when it does not compile, leave operators off the end and try again')
    .option('--delegate-search-step <number>', 'how many operators at a time')
    .option('--compile-timeout <seconds>', 'for one compilation; 600 where absent')
    .option('--force-compile', 'run the compiler although it is known to fail on these bytes')
    .option('--priority <number>', '-100 to 100; jobs with a higher one go first')
    .option('--notes <text>', 'kept with the version')
    .option('--no-watch', 'do not wait for the job');
}

/** Of one version in the API. Here a bare name does not do: what is meant must not change with the next version. */
export function pathOf(ref: string): string {
  const [name = '', number = ''] = ref.split('@');
  if (!/^\d+$/.test(number)) throw new ReefError('version.ref_invalid', 'invalid', `Name the version with its number, such as ${name || 'classifier'}@3.`);
  return `/models/${encodeURIComponent(name)}/versions/${number}`;
}

function compileBody(options: PushOptions): object {
  const number = (flag: string, text: string | undefined) => (text === undefined ? undefined : numbersOf(flag, text)[0]);
  return {
    numSegments: number('--segments', options.segments), intermediateTensors: options.intermediateTensors?.split(',').map((one) => one.trim()), multipleSubgraphs: options.multipleSubgraphs,
    searchDelegate: options.searchDelegate, delegateSearchStep: number('--delegate-search-step', options.delegateSearchStep), timeoutS: number('--compile-timeout', options.compileTimeout), force: options.forceCompile,
  };
}

/** Uploads what is needed, asks for the version and follows its job to the end. */
export async function push(api: Client, output: Output, path: string, options: PushOptions): Promise<{ version: VersionView; job: JobView }> {
  const source = await uploadPath(api, output, path, 'model');
  const body = { source, ...(await requestBody(api, output, options)), task: options.task ?? 'classification' };
  const name = options.name ?? basename(resolve(path)).replace(/\.(tar\.gz|tgz|zip|keras|h5|pb|tflite|onnx)$/, '').toLowerCase().replaceAll(/[^a-z0-9-]+/g, '-').replaceAll(/^-+|-+$/g, '');
  return followBuild(api, output, await api.post(`/models/${encodeURIComponent(name)}/versions`, body), options.watch);
}

/** All of a request but its source; uploads the samples. */
export async function requestBody(api: Client, output: Output, options: PushOptions): Promise<Record<string, unknown>> {
  const [calibration, evaluation] = [options.calibration, options.evaluation].map((one) => one && resolve(one));
  return {
    calibration: calibration ? await uploadPath(api, output, calibration, 'samples') : null,
    evaluation: evaluation ? await uploadPath(api, output, evaluation, 'held-out') : null,
    ...(options.labels ? { labels: (await readText(options.labels)).split('\n').map((line) => line.trim()).filter(Boolean) } : {}),
    ...(options.task ? { task: options.task } : {}),
    input: { ...(options.inputShape ? { shape: numbersOf('--input-shape', options.inputShape) } : {}), ...(options.inputName ? { name: options.inputName } : {}) },
    ...(options.outputNames ? { outputs: options.outputNames.split(',').map((one) => one.trim()) } : {}),
    preprocessing: {
      ...(options.resize ? { resize: options.resize } : {}),
      ...(options.mean ? { mean: numbersOf('--mean', options.mean) } : {}),
      ...(options.std ? { std: numbersOf('--std', options.std) } : {}),
    },
    ...(options.signature ? { signature: options.signature } : {}),
    thresholds: {
      ...(options.minAgreement ? { agreement: numbersOf('--min-agreement', options.minAgreement)[0] } : {}),
      ...(options.maxAccuracyDrop ? { accuracyDrop: numbersOf('--max-accuracy-drop', options.maxAccuracyDrop)[0] } : {}),
    },
    compile: compileBody(options),
    ...(options.priority ? { priority: numbersOf('--priority', options.priority)[0] } : {}),
    ...(options.runtimes ? { runtimes: numbersOf('--runtimes', options.runtimes) } : {}),
    ...(options.allowWorse ? { allowWorse: true } : {}),
    ...(options.converter ? { converter: options.converter } : {}),
    ...(options.allowFloatOps ? { allowFloatOps: true } : {}),
    ...(options.notes ? { notes: options.notes } : {}),
  };
}

/** Says what was queued and follows the job to its end, unless told not to. */
export async function followBuild(api: Client, output: Output, made: { version: VersionView; job: JobView }, watch: boolean | undefined, ended?: (job: JobView) => Promise<void>): Promise<{ version: VersionView; job: JobView }> {
  const name = made.version.model;
  output.step({ event: 'queued', version: `${name}@${made.version.version}`, job: made.job.id }, `${name}@${made.version.version} queued as job ${made.job.id}`);
  if (watch === false) return made;
  const job = await followJob(api, output, made.job.id);
  await ended?.(job);
  const version = await api.get<VersionView>(`/models/${name}/versions/${made.version.version}`);
  output.show(version, () => versionText(version));
  if (job.state !== 'SUCCEEDED') throw new ReefError(job.error?.code ?? 'job.failed', 'invalid', `${name}@${version.version} was not built: ${job.error?.message ?? job.state}`);
  return { version, job };
}

export function versionText(version: VersionView): string {
  const { parity } = version;
  const parts = [facts([
    ['version', `${version.model}@${version.version}`], ['state', tone(version.state)], ['bundle', version.bundleDigest], ['task', version.task],
    ['labels', version.labels ? `${version.labels.length} (${version.labels.slice(0, 3).join(', ')}${version.labels.length > 3 ? ', ...' : ''})` : null],
    ['Edge TPU', version.analysis ? `${version.analysis.verdict ?? '-'}${version.analysis.summary ? `: ${version.analysis.summary}` : ''}` : null],
    ...(version.error ? [['error', `${version.error.message} (${version.error.code})`] as [string, string]] : []),
  ])];
  if (version.hold) parts.push(`held: ${version.hold.message} ${version.confirmedAt ? `Confirmed by ${version.confirmedBy} ${ago(version.confirmedAt)}.` : `It is not rolled out before: reef model confirm ${version.ref}`}`);
  if (version.variants.length > 0) parts.push(table(['variant', 'min runtime', 'size', 'file'], version.variants.map((one) => [one.name, one.minRuntime, one.segments === 1 ? bytes(one.totalBytes) : `${bytes(one.totalBytes)} in ${one.segments} segments`, one.segments === 1 ? one.digest.slice(0, 12) : 'below'])));
  parts.push(...version.failedVariants.map((one) => `${one.name} was not made: ${one.message} (${one.code})`));
  for (const { minRuntime, segments } of version.pipelines) {
    parts.push(table([`pipeline for runtime ${minRuntime}`, 'size', 'on its chip', 'streamed', 'file'], segments.map((one, at) => [`segment ${at + 1} of ${segments.length}`, bytes(one.bytes), bytes(one.details.onChipBytes ?? 0), bytes(one.details.streamedBytes ?? 0), one.digest.slice(0, 12)])));
  }
  if (parity) parts.push(...parityText(parity));
  parts.push(...((version.lineage?.warnings as string[] | undefined) ?? []).map((warning) => `warning: ${warning}`));
  return parts.join('\n\n');
}

/** Tables of what the comparison found; of classes and confusions the worst, the console has them all. */
function parityText(parity: NonNullable<VersionView['parity']>): string[] {
  const { accuracy, boxes, masks } = parity;
  const agreement = boxes ? 'agreement on boxes' : masks ? 'agreement on pixels' : 'top-1 agreement';
  const lost = parity.perClass.filter((one) => one.int8 < one.float).sort((a, b) => (b.float - b.int8) * b.count - (a.float - a.int8) * a.count).slice(0, 10);
  const confused = (parity.confusions ?? []).filter(({ truth, answer }) => truth !== answer).slice(0, 10);
  return [
    table(['float against int8', 'float', 'int8', 'difference'], [
      ['samples', parity.samples, parity.samples, null],
      [agreement, null, percent(parity.agreement), null],
      ...(accuracy ? [['accuracy on labels', percent(accuracy.float), percent(accuracy.int8), `${((accuracy.int8 - accuracy.float) * 100).toFixed(1)} points`]] : []),
      ...(boxes ? [['boxes found', boxes.original, boxes.quantised, `${boxes.matched} the same, mean overlap ${percent(boxes.meanIou)}`]] : []),
      ...(masks ? [['overlap of areas', null, percent(masks.meanIou), 'mean of the classes']] : []),
      ...parity.outputs.map((one) => [`output ${one.name}`, null, `cosine ${one.cosine?.toFixed(4) ?? '-'}`, `at most ${one.maxError?.toPrecision(2) ?? '-'}`]),
    ]),
    ...(lost.length > 0 ? [table(['classes that lose', 'samples', 'float', 'int8'], lost.map((one) => [one.label, one.count, percent(one.float), percent(one.int8)]))] : []),
    ...(confused.length > 0 ? [table(['confused most often', 'answered as', 'times'], confused.map((one) => [one.truth, one.answer, one.count]))] : []),
    ...(masks ? [table(['area of', 'overlap'], masks.perClass.toSorted((a, b) => a.iou - b.iou).slice(0, 10).map((one) => [one.label, percent(one.iou)]))] : []),
    ...(parity.findings ?? []).map(({ severity, message, code }) => `${severity}: ${message} (${code})`),
  ];
}

/** Folders travel as tar.gz with fixed times and order, so that the same folder is the same upload. */
export async function uploadPath(api: Client, output: Output, path: string, title: string): Promise<Uploaded> {
  const found = await stat(path).catch((cause: unknown) => { throw new ReefError('file.missing', 'not_found', `There is nothing at ${path}.`, { cause }); });
  const scratch = await mkdtemp(join(tmpdir(), 'reef-push-'));
  try {
    let [file, filename] = [resolve(path), basename(resolve(path))];
    if (found.isDirectory()) {
      filename = `${filename}.tar.gz`;
      file = join(scratch, filename);
      const files = (await readdir(path, { recursive: true, withFileTypes: true })).filter((one) => !one.isDirectory()).map((one) => relative(dirname(resolve(path)), join(resolve(one.parentPath), one.name))).sort();
      if (files.length === 0) throw new ReefError('file.missing', 'not_found', `The folder ${path} is empty.`);
      await createTar({ gzip: { level: 1 }, file, cwd: dirname(resolve(path)), portable: true, noMtime: true, follow: true }, files);
    }
    const digest = await digestOf(file);
    const { size } = await stat(file);
    if (await api.knows(digest)) {
      output.note(`${path} is stored already`);
      return { digest, filename, bytes: size };
    }
    const bar = output.bar(title);
    const stored = await api.upload(file, (sent, total) => bar.update((100 * sent) / total, bytes(sent))).finally(() => bar.done());
    if (stored.digest !== digest) throw new ReefError('upload.changed', 'unavailable', `${path} changed while it was uploaded; try again.`);
    return { digest, filename, bytes: size };
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function digestOf(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}

async function readText(file: string): Promise<string> {
  return readFile(file, 'utf8').catch((cause: unknown) => { throw new ReefError('file.missing', 'not_found', `There is no file ${file}.`, { cause }); });
}
