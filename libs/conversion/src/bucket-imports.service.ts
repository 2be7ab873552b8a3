import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { Inject, Injectable } from '@nestjs/common';
import { create as createTar } from 'tar';
import { DataSource } from 'typeorm';
import { z } from 'zod';
import { modelTask } from '@reefkeeper/bundle';
import { metadataOf, readModel } from '@reefkeeper/edgetpu';
import { meter, parseBucketAddress, readWhole, ReefError, type BucketObject, type Buckets, type Clock, type ObjectStore, type StoredObject, type Tx } from '@reefkeeper/platform';
import { Registry, type Version } from '@reefkeeper/registry';
import { exportAt, exportFolderOf, type BucketExport } from './bucket-layout.ts';
import { exportPreprocessing } from './bucket-preprocessing.ts';
import { buildRequest, type SourceOrigin } from './job.ts';
import { Jobs, type JobWithSteps } from './jobs.service.ts';
import { bordersOf } from './tensors.ts';

/** A version from an export in a bucket; all else as for an uploaded source. */
export const bucketImportRequest = buildRequest.omit({ source: true, training: true }).extend({
  /** Of the export's folder, or of the model file in it. */
  address: z.string().max(1_400).regex(/^gs:\/\//, 'an address like gs://bucket/folder/'),
  /** Told from the model where absent. */
  task: modelTask.optional(),
}).meta({ id: 'BucketImportRequest' });
export type BucketImportRequest = z.infer<typeof bucketImportRequest>;

export interface Imported {
  version: Version;
  job: JobWithSteps;
}

const maxBytes = 4 * 1024 ** 3;
const maxTextBytes = 8 * 1024 ** 2;
const tflite = 'application/vnd.tensorflow.lite';

/** Copies exported models out of buckets and has them built. What is read is named by generation, so half of one export and half of the next never meet. */
@Injectable()
export class BucketImports {
  constructor(
    @Inject(DataSource) private readonly db: DataSource,
    @Inject('CLOCK') private readonly clock: Clock,
    @Inject('OBJECTS') private readonly objects: ObjectStore,
    @Inject('BUCKETS') private readonly buckets: Buckets,
    @Inject(Registry) private readonly registry: Registry,
    @Inject(Jobs) private readonly jobs: Jobs,
  ) {}

  /**
   * Once, now, because someone said so: importing the same export again makes another version.
   * @throws ReefError `bucket.*`, `export.missing`, `export.ambiguous`, `export.incomplete`, `export.mixed`
   */
  async import(model: string, input: z.input<typeof bucketImportRequest>, createdBy = 'system'): Promise<Imported> {
    const request = bucketImportRequest.parse(input);
    const { bucket, path } = parseBucketAddress(request.address);
    const found = exportAt(request.address, path, await this.objectsAt(bucket, path));
    if (found.missing.length > 0) throw incomplete(bucket, found, found.missing);
    return this.take(model, bucket, found, request, createdBy, async (tx, { job }) => { await this.note(tx, bucket, found, job); });
  }

  /** All objects that may belong to the export at a path. */
  async objectsAt(bucket: string, path: string): Promise<BucketObject[]> {
    return this.buckets.list(bucket, exportFolderOf(path) ?? path, 20_000);
  }

  /** The row that makes an export known. @returns whether this state of it was new */
  async note(tx: Tx, bucket: string, found: BucketExport, job: string): Promise<boolean> {
    const rows = (await tx.query('INSERT INTO bucket_imports (bucket, folder, fingerprint, job_id, imported_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING job_id',
      [bucket, found.folder, fingerprintOf(found), job, this.clock.now()])) as unknown[];
    return rows.length > 0;
  }

  /** The job that this very state of an export was imported by. */
  async known(bucket: string, found: BucketExport): Promise<string | null> {
    const [row] = (await this.db.query('SELECT job_id FROM bucket_imports WHERE bucket = $1 AND folder = $2 AND fingerprint = $3', [bucket, found.folder, fingerprintOf(found)])) as { job_id: string }[];
    return row?.job_id ?? null;
  }

  /** Copies an export and creates version and job in one transaction with `within`. */
  async take(model: string, bucket: string, found: BucketExport, request: Omit<BucketImportRequest, 'address'>, createdBy: string, within: (tx: Tx, made: { job: string }) => Promise<void>): Promise<Imported> {
    const total = found.files.reduce((sum, { bytes }) => sum + bytes, 0);
    if (total > maxBytes) throw new ReefError('export.too_large', 'invalid', `The export has ${total} bytes; at most ${maxBytes} are taken. Export a smaller model, or one without its training state.`);
    const copied = found.layout === 'saved_model' ? await this.savedModel(bucket, found) : await this.file(bucket, found);
    const dict = found.labels && linesOf(await this.text(bucket, found.labels, copied.origin));
    const json = found.metadata && found.layout !== 'saved_model' ? await this.text(bucket, found.metadata, copied.origin) : null;
    const about = found.layout === 'saved_model' ? { labels: null, task: undefined, preprocessing: {}, warnings: [] } : await this.readTflite(copied.stored, json);
    const labels = request.labels ?? dict ?? about.labels;
    const kind = request.task ?? about.task ?? 'classification';
    // A classifier's answers mean nothing without names; a SavedModel export has none of its own.
    if (!labels && found.layout !== 'saved_model' && kind === 'classification') throw incomplete(bucket, found, ['dict.txt']);
    const address = `gs://${bucket}/${found.folder}`;
    const origin: SourceOrigin = { address, objects: copied.origin };
    const { address: _address, ...rest } = request as BucketImportRequest;
    return this.jobs.create(model, {
      ...rest, source: { digest: copied.stored.digest, filename: copied.filename }, labels, task: kind, preprocessing: { ...about.preprocessing, ...rest.preprocessing }, notes: rest.notes ?? `imported from ${address}`,
    }, createdBy, {
      origin,
      log: [
        `copied from ${address}: ${copied.origin.map(({ name, generation }) => `${name.slice(found.folder.length)}#${generation}`).join(', ')}`,
        labels ? `${labels.length} labels ${request.labels ? 'as given' : dict ? `of ${basename(found.labels!.name)}` : 'of the metadata in the file'}` : 'no labels',
        ...about.warnings,
      ],
      within,
    });
  }

  private async file(bucket: string, found: BucketExport): Promise<Copied> {
    const stored = await this.registry.keep(await this.buckets.read(bucket, found.model.name, found.model.generation), { mediaType: tflite, role: 'upload' }, { limitBytes: maxBytes });
    return { stored, filename: basename(found.model.name), origin: [originOf(found.model, stored)] };
  }

  /** As a tar with fixed order and times: the same export is the same source. */
  private async savedModel(bucket: string, found: BucketExport): Promise<Copied> {
    const scratch = await mkdtemp(join(tmpdir(), 'reef-import-'));
    try {
      const origin: SourceOrigin['objects'] = [];
      const names: string[] = [];
      for (const object of found.files.filter(({ name }) => name !== found.labels?.name && name !== found.metadata?.name)) {
        const name = object.name.slice(found.folder.length);
        // Object names may be anything; these become paths.
        if (name.split('/').some((part) => part === '..' || part === '.' || part === '')) throw new ReefError('export.unsafe', 'invalid', `The export holds an object named ${object.name}, which is no path.`);
        const path = join(scratch, 'saved_model', name);
        await mkdir(dirname(path), { recursive: true });
        const { through, result } = meter();
        await pipeline(await this.buckets.read(bucket, object.name, object.generation), through, createWriteStream(path));
        origin.push(originOf(object, result()));
        names.push(`saved_model/${name}`);
      }
      const stored = await this.registry.keep(createTar({ cwd: scratch, portable: true, noMtime: true }, names.sort()) as never, { mediaType: 'application/x-tar', role: 'upload' }, { limitBytes: maxBytes });
      return { stored, filename: 'saved_model.tar', origin };
    } finally {
      await rm(scratch, { recursive: true, force: true });
    }
  }

  private async readTflite(stored: StoredObject, json: string | null) {
    const bytes = await readWhole(this.objects, stored.digest);
    const model = readModel(bytes);
    const metadata = metadataOf(model, bytes);
    const detects = model.subgraphs[0]!.operators.some(({ customCode }) => customCode === 'TFLite_Detection_PostProcess');
    return { labels: metadata?.labels ?? null, task: detects ? 'detection' as const : undefined, ...exportPreprocessing(bordersOf(model).inputs[0], json, metadata) };
  }

  private async text(bucket: string, object: BucketObject, origin: SourceOrigin['objects']): Promise<string> {
    const { through, result } = meter(maxTextBytes);
    const chunks: Buffer[] = [];
    await pipeline(await this.buckets.read(bucket, object.name, object.generation), through, async (source: AsyncIterable<Buffer>) => { for await (const chunk of source) chunks.push(chunk); });
    origin.push(originOf(object, result()));
    return Buffer.concat(chunks).toString('utf8').replace(/^\uFEFF/, '');
  }
}

interface Copied {
  stored: StoredObject;
  filename: string;
  origin: SourceOrigin['objects'];
}

/** Names the state of an export's folder: any file written again makes it another one. */
export function fingerprintOf({ files }: Pick<BucketExport, 'files'>): string {
  return createHash('sha256').update(files.map(({ name, generation }) => `${name}#${generation}\n`).sort().join('')).digest('hex');
}

function originOf({ name, generation }: BucketObject, { digest, bytes }: StoredObject): SourceOrigin['objects'][number] {
  return { name, generation, digest, bytes };
}

function linesOf(text: string): string[] | null {
  const lines = text.split('\n').map((line) => line.trim()).filter(Boolean);
  return lines.length > 0 ? lines : null;
}

function incomplete(bucket: string, found: BucketExport, missing: string[]): ReefError {
  return new ReefError('export.incomplete', 'unavailable', `The export in gs://${bucket}/${found.folder} is not whole: ${missing.join(', ')} ${missing.length === 1 ? 'is' : 'are'} missing. Wait for it to be written, or export again${missing.includes('dict.txt') ? '; labels can also be given (--labels)' : ''}.`, { detail: { bucket, folder: found.folder, missing } });
}
