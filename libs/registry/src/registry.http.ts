import { Body, Controller, Get, HttpCode, Inject, Param, Post, Query, StreamableFile } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { z } from 'zod';
import { modelName } from '@reefkeeper/bundle';
import { ReefError, type ObjectStore } from '@reefkeeper/platform';
import { Actor } from '@reefkeeper/platform/http';
import { Deltas } from './deltas.ts';
import { Registry, type ModelSummary, type Page } from './registry.service.ts';
import { mapPage, versionLine, versionView, type VersionView } from './views.ts';

const newModel = z.object({ name: modelName, description: z.string().max(2_000).nullable().optional() }).meta({ id: 'NewModel' });
const pageQuery = z.object({ limit: z.coerce.number().int().min(1).max(500).optional(), cursor: z.string().max(200).optional() });
const number = z.coerce.number().int().min(1).max(999_999_999);
const digest = z.string().regex(/^[0-9a-f]{64}$/, 'a SHA-256 in 64 lower-case hex digits');
const bundlesQuery = z.object({ digest: z.string().max(65 * 200).transform((text) => text.split(',')).pipe(z.array(digest)).describe('several with commas') });
const deltaQuery = z.object({ from: digest });

@ApiTags('models')
@Controller('models')
export class ModelsController {
  constructor(@Inject(Registry) private readonly registry: Registry) {}

  @Get()
  list(@Query({ schema: pageQuery }) query: z.output<typeof pageQuery>): Promise<Page<ModelSummary>> {
    return this.registry.listModels(query);
  }

  @Post()
  create(@Body({ schema: newModel }) body: z.output<typeof newModel>, @Actor() actor: string): Promise<object> {
    return this.registry.createModel({ name: body.name, description: body.description ?? null, createdBy: actor });
  }

  @Get(':name')
  one(@Param('name', { schema: modelName }) name: string): Promise<ModelSummary> {
    return this.registry.findModel(name);
  }

  @Get(':name/versions')
  async versions(@Param('name', { schema: modelName }) name: string, @Query({ schema: pageQuery }) query: z.output<typeof pageQuery>): Promise<Page<VersionView>> {
    return mapPage(await this.registry.listVersions(name, query), versionLine);
  }

  @Get(':name/versions/:number')
  async version(@Param('name', { schema: modelName }) name: string, @Param('number', { schema: number }) version: number): Promise<VersionView> {
    return versionView(await this.registry.versionByRef(`${name}@${version}`));
  }

  /** The signed envelope, as devices get it. */
  @Get(':name/versions/:number/bundle')
  async bundle(@Param('name', { schema: modelName }) name: string, @Param('number', { schema: number }) version: number): Promise<object> {
    const { bundleDigest } = await this.registry.versionByRef(`${name}@${version}`);
    if (!bundleDigest) throw new ReefError('bundle.missing', 'not_found', `${name}@${version} has no bundle yet; only a READY version has one.`, { detail: { version: `${name}@${version}` } });
    return JSON.parse((await this.registry.envelopeOf(bundleDigest)).toString('utf8')) as object;
  }

  /** Takes off what holds the version up: somebody has looked at it. */
  @Post(':name/versions/:number/confirm')
  @HttpCode(200)
  async confirm(@Param('name', { schema: modelName }) name: string, @Param('number', { schema: number }) version: number, @Actor() actor: string): Promise<VersionView> {
    return versionView(await this.registry.confirm(`${name}@${version}`, actor));
  }
}

@ApiTags('models')
@Controller('bundles')
export class BundlesController {
  constructor(@Inject(Registry) private readonly registry: Registry) {}

  /** Which version each of these bundles is; one that is none here is left out. */
  @Get()
  async list(@Query({ schema: bundlesQuery }) { digest }: z.output<typeof bundlesQuery>): Promise<{ items: { bundle: string; version: string }[] }> {
    return { items: [...await this.registry.refsOf(digest)].map(([bundle, version]) => ({ bundle, version })) };
  }
}

@ApiTags('artifacts')
@Controller('artifacts')
export class ArtifactsController {
  constructor(@Inject(Registry) private readonly registry: Registry, @Inject(Deltas) private readonly deltas: Deltas, @Inject('OBJECTS') private readonly objects: ObjectStore) {}

  /** The bytes of a model file, golden pack or upload. */
  @Get(':digest')
  async download(@Param('digest', { schema: digest }) wanted: string): Promise<StreamableFile> {
    const { bytes, mediaType } = await this.registry.artifact(wanted);
    return new StreamableFile(await this.objects.read(wanted), { type: mediaType, length: bytes, disposition: `attachment; filename="${wanted}"` });
  }

  /** How large the delta is that devices get which have `from`; null where they get the whole. It is made where it was not yet. */
  @Get(':digest/delta')
  async delta(@Param('digest', { schema: digest }) to: string, @Query({ schema: deltaQuery }) { from }: z.output<typeof deltaQuery>): Promise<{ from: string; to: string; bytes: number; deltaBytes: number | null }> {
    await this.registry.artifact(from);
    const { bytes } = await this.registry.artifact(to);
    return { from, to, bytes, deltaBytes: (await this.deltas.between(from, to))?.bytes ?? null };
  }
}
