import { buffer } from 'node:stream/consumers';
import { Inject, Injectable } from '@nestjs/common';
import { z } from 'zod';
import { parseBucketAddress, ReefError, type BucketObject, type Buckets, type ObjectStore } from '@reefkeeper/platform';
import { Registry, type Version } from '@reefkeeper/registry';
import { buildRequest, trainingOptions, uploadedFile, type SourceOrigin, type UploadedFile } from './job.ts';
import { Jobs, type JobWithSteps } from './jobs.service.ts';
import { bucketRows, csvOf, csvRows } from './training-images.ts';

/** A new last layer on a known network. `input`, `outputs` and `signature` are the base model's. */
export const trainingRequest = buildRequest.omit({ source: true, calibration: true, evaluation: true, labels: true, task: true, training: true }).extend({
  /** An archive with a folder per class or a table (file,label); a table of gs:// objects; or the address of either, or of a folder per class, in a bucket. */
  images: z.union([uploadedFile, z.string().max(1_400).regex(/^gs:\/\//, 'an uploaded file, or an address like gs://bucket/folder/')]),
  ...trainingOptions.shape,
}).meta({ id: 'TrainingRequest' });
export type TrainingRequest = z.infer<typeof trainingRequest>;

const imageName = /\.(?:jpe?g|png|bmp|gif|webp|tiff?)$/i;
const archiveName = /\.(?:zip|tar|tgz|tar\.gz|tar\.bz2|tar\.xz)$/i;
const maxImages = 100_000;
const maxTableBytes = 64 * 1024 ** 2;

/** Jobs that train before they build. */
@Injectable()
export class Trainings {
  constructor(
    @Inject('OBJECTS') private readonly objects: ObjectStore,
    @Inject('BUCKETS') private readonly buckets: Buckets,
    @Inject(Registry) private readonly registry: Registry,
    @Inject(Jobs) private readonly jobs: Jobs,
  ) {}

  /** @throws ReefError `source.missing`, `bucket.*`, `train.images_missing` */
  async create(model: string, input: z.input<typeof trainingRequest>, createdBy = 'system'): Promise<{ version: Version; job: JobWithSteps }> {
    const { images, base, epochs, holdout, seed, vertex, ...rest } = trainingRequest.parse(input);
    // Before anything is copied, let alone paid for.
    if (vertex && (typeof images !== 'string' || !images.toLowerCase().endsWith('.csv'))) throw new ReefError('train.table_needed', 'invalid', 'Vertex AI reads its images by a table in a bucket: give the address of one as images (gs://bucket/import.csv, rows gs://bucket/image.jpg,label).');
    const { origin, ...source } = typeof images === 'string' ? await this.fromBucket(images) : { ...images, origin: undefined };
    return this.jobs.create(model, { ...rest, source, training: { base, epochs, holdout, seed, vertex } }, createdBy, origin ? { origin } : {});
  }

  /** Images in a bucket become a table that names them by generation, so that the same table is always the same images. */
  private async fromBucket(address: string): Promise<UploadedFile & { origin: SourceOrigin }> {
    const { bucket, path } = parseBucketAddress(address);
    if (archiveName.test(path)) {
      const object = await this.buckets.stat(bucket, path);
      const stored = await this.objects.put(await this.buckets.read(bucket, path, object.generation));
      await this.registry.recordArtifact(stored, { mediaType: 'application/octet-stream', role: 'upload' });
      return { digest: stored.digest, filename: path.split('/').at(-1)!, origin: { address, objects: [{ name: path, generation: object.generation, ...stored }] } };
    }
    const rows = path.toLowerCase().endsWith('.csv') ? await this.pinned(bucket, path) : await this.folders(address, bucket, path.endsWith('/') || path === '' ? path : `${path}/`);
    const stored = await this.objects.put(Buffer.from(csvOf(rows)));
    await this.registry.recordArtifact(stored, { mediaType: 'text/csv', role: 'upload' });
    return { digest: stored.digest, filename: 'images.csv', origin: { address, objects: [] } };
  }

  private async folders(address: string, bucket: string, prefix: string): Promise<string[][]> {
    const rows = (await this.buckets.list(bucket, prefix, maxImages)).filter(({ name }) => imageName.test(name) && name.slice(prefix.length).includes('/'))
      .map(({ name, generation }) => [`gs://${bucket}/${name}#${generation}`, name.slice(prefix.length).split('/')[0]!]);
    if (rows.length === 0) throw new ReefError('train.images_missing', 'not_found', `No image lies in a folder below ${address}. Give the folder that holds a folder per class, a table (.csv) or an archive.`, { detail: { address } });
    return rows;
  }

  /** A table in AutoML's import format with the generation behind every name. Lists each folder once instead of asking for every object. */
  private async pinned(bucket: string, path: string): Promise<string[][]> {
    const object = await this.buckets.stat(bucket, path);
    if (object.bytes > maxTableBytes) throw new ReefError('train.table_unreadable', 'invalid', `gs://${bucket}/${path} has ${object.bytes} bytes, too many for a table of images.`);
    const text = (await buffer(await this.buckets.read(bucket, path, object.generation))).toString('utf8');
    const wanted = bucketRows(text);
    if (wanted.length === 0) throw new ReefError('train.images_missing', 'not_found', `gs://${bucket}/${path} names no gs:// object. Its rows are gs://bucket/image.jpg,label, perhaps with TRAIN, VALIDATION or TEST before.`);
    const known = new Map<string, BucketObject>();
    for (const folder of new Set(wanted.map((row) => `${row.bucket}/${row.name.slice(0, row.name.lastIndexOf('/') + 1)}`))) {
      const [at, ...rest] = folder.split('/');
      for (const one of await this.buckets.list(at!, rest.join('/'), maxImages)) known.set(`${at}/${one.name}`, one);
    }
    return csvRows(text).map((cells) => cells.map((cell) => {
      const found = known.get(cell.replace(/^gs:\/\//, ''));
      return cell.startsWith('gs://') && found ? `${cell}#${found.generation}` : cell;
    }));
  }
}
