import { Inject } from '@nestjs/common';
import { Args, Field, Float, ID, Int, ObjectType, Parent, Query, ResolveField, Resolver } from '@nestjs/graphql';
import { JsonScalar, Roles } from '@reefkeeper/platform/http';
import { Registry, type Page } from './registry.service.ts';
import { mapPage, versionView, type ModelView, type VersionView } from './views.ts';

@ObjectType('Variant')
class VariantType {
  @Field(() => String) name!: string;
  @Field(() => String, { description: 'cpu-int8 or edgetpu' }) kind!: string;
  @Field(() => Int, { nullable: true, description: 'Lowest Edge TPU runtime that runs it' }) minRuntime!: number | null;
  @Field(() => String) digest!: string;
  @Field(() => Float, { description: 'Of its file; in segments, of the first' }) bytes!: number;
  @Field(() => Int, { description: 'Files that it is run from, one for each Edge TPU' }) segments!: number;
  @Field(() => Float, { description: 'What its segments come to' }) totalBytes!: number;
  @Field(() => JsonScalar, { nullable: true }) details!: Record<string, unknown> | null;
}

@ObjectType('VersionError')
class VersionErrorType {
  @Field(() => String) code!: string;
  @Field(() => String) message!: string;
  @Field(() => String, { nullable: true }) step?: string;
}

@ObjectType('FailedVariant', { description: 'Asked for and not made, while others were' })
class FailedVariantType {
  @Field(() => String) name!: string;
  @Field(() => Int, { nullable: true }) minRuntime!: number | null;
  @Field(() => String) code!: string;
  @Field(() => String) message!: string;
}

@ObjectType('Segment')
class SegmentType {
  @Field(() => String) digest!: string;
  @Field(() => Float) bytes!: number;
  @Field(() => JsonScalar) details!: Record<string, unknown>;
}

@ObjectType('SegmentedModel', { description: 'The model cut into segments, one for each of several Edge TPUs; devices that have as many run the variant edgetpu-N-xM from them' })
class SegmentedModelType {
  @Field(() => Int) minRuntime!: number;
  @Field(() => String, { nullable: true }) nondeterministic!: string | null;
  @Field(() => [SegmentType]) segments!: VersionView['pipelines'][number]['segments'];
}

@ObjectType('VersionHold', { description: 'Why a version is not rolled out before somebody confirms it' })
class VersionHoldType {
  @Field(() => String) code!: string;
  @Field(() => String) message!: string;
  @Field(() => [String]) variants!: string[];
}

@ObjectType('Version')
export class VersionType implements VersionView {
  @Field(() => ID) id!: string;
  @Field(() => String) model!: string;
  @Field(() => Int) version!: number;
  @Field(() => String, { description: 'model@number' }) ref!: string;
  @Field(() => String) state!: VersionView['state'];
  @Field(() => String) task!: string;
  @Field(() => [String], { nullable: true }) labels!: string[] | null;
  @Field(() => String, { nullable: true }) notes!: string | null;
  @Field(() => String, { nullable: true }) bundleDigest!: string | null;
  @Field(() => [VariantType]) variants!: VersionView['variants'];
  @Field(() => JsonScalar, { nullable: true }) parity!: VersionView['parity'];
  @Field(() => JsonScalar, { nullable: true }) lineage!: VersionView['lineage'];
  @Field(() => JsonScalar, { nullable: true }) analysis!: VersionView['analysis'];
  @Field(() => VersionErrorType, { nullable: true }) error!: VersionView['error'];
  @Field(() => Date) createdAt!: Date;
  @Field(() => String) createdBy!: string;
  @Field(() => Date, { nullable: true }) readyAt!: Date | null;
  @Field(() => [FailedVariantType]) failedVariants!: VersionView['failedVariants'];
  @Field(() => [SegmentedModelType]) pipelines!: VersionView['pipelines'];
  @Field(() => VersionHoldType, { nullable: true }) hold!: VersionView['hold'];
  @Field(() => Date, { nullable: true }) confirmedAt!: Date | null;
  @Field(() => String, { nullable: true }) confirmedBy!: string | null;
}

@ObjectType('VersionPage')
class VersionPageType {
  @Field(() => [VersionType]) items!: VersionView[];
  @Field(() => String, { nullable: true }) nextCursor!: string | null;
}

@ObjectType('Model')
export class ModelType implements ModelView {
  @Field(() => ID) name!: string;
  @Field(() => String, { nullable: true }) description!: string | null;
  @Field(() => Date) createdAt!: Date;
  @Field(() => String) createdBy!: string;
  @Field(() => Int, { nullable: true }) latestVersion!: number | null;
  @Field(() => Int, { name: 'versionCount' }) versions!: number;
}

@ObjectType('ModelPage')
class ModelPageType {
  @Field(() => [ModelType]) items!: ModelView[];
  @Field(() => String, { nullable: true }) nextCursor!: string | null;
}

const atMost = (limit: number | null | undefined): number | undefined => (limit ? Math.min(500, Math.max(1, limit)) : undefined);

@Resolver(() => ModelType)
export class ModelsResolver {
  constructor(@Inject(Registry) private readonly registry: Registry) {}

  @Query(() => ModelPageType)
  @Roles('viewer')
  models(@Args('limit', { type: () => Int, nullable: true }) limit?: number, @Args('cursor', { type: () => String, nullable: true }) cursor?: string): Promise<Page<ModelView>> {
    return this.registry.listModels({ limit: atMost(limit), cursor: cursor ?? undefined });
  }

  @Query(() => ModelType)
  @Roles('viewer')
  model(@Args('name', { type: () => ID }) name: string): Promise<ModelView> {
    return this.registry.findModel(name);
  }

  @ResolveField('versions', () => VersionPageType)
  async versionsOf(@Parent() model: ModelView, @Args('limit', { type: () => Int, nullable: true }) limit?: number, @Args('cursor', { type: () => String, nullable: true }) cursor?: string): Promise<Page<VersionView>> {
    return mapPage(await this.registry.listVersions(model.name, { limit: atMost(limit), cursor: cursor ?? undefined }), versionView);
  }

  /** `model@3`, or `model` for its newest ready version. */
  @Query(() => VersionType)
  @Roles('viewer')
  async version(@Args('ref', { type: () => String }) ref: string): Promise<VersionView> {
    return versionView(await this.registry.versionByRef(ref));
  }
}
