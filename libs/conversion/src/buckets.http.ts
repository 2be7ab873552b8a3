import { Body, Controller, Get, HttpCode, Inject, Param, Post } from '@nestjs/common';
import { Field, ID, ObjectType, Query as GraphQuery, Resolver } from '@nestjs/graphql';
import { ApiTags } from '@nestjs/swagger';
import { modelName } from '@reefkeeper/bundle';
import { Actor, JsonScalar, Roles } from '@reefkeeper/platform/http';
import { versionView, type VersionView } from '@reefkeeper/registry';
import { bucketImportRequest, BucketImports, type BucketImportRequest } from './bucket-imports.service.ts';
import { BucketWatch, type WatchedExport } from './bucket-watch.service.ts';
import { jobView, type JobView } from './views.ts';

/** Models that AutoML Vision or Vertex AI wrote into a bucket. */
@ApiTags('models')
@Controller()
export class BucketsController {
  constructor(@Inject(BucketImports) private readonly imports: BucketImports, @Inject(BucketWatch) private readonly watch: BucketWatch) {}

  @Post('models/:name/imports')
  @HttpCode(202)
  async import(@Param('name', { schema: modelName }) name: string, @Body({ schema: bucketImportRequest }) body: BucketImportRequest, @Actor() actor: string): Promise<{ version: VersionView; job: JobView }> {
    const { version, job } = await this.imports.import(name, body, actor);
    return { version: versionView(version), job: jobView(job) };
  }

  /** What the watcher has heard of, newest first, and what each export waits for. */
  @Get('bucket-exports')
  async exports(): Promise<{ items: WatchedExport[]; nextCursor: null }> {
    return { items: await this.watch.list(), nextCursor: null };
  }
}

@ObjectType('BucketExport')
class BucketExportType implements WatchedExport {
  @Field(() => String) bucket!: string;
  @Field(() => String) folder!: string;
  @Field(() => String, { description: 'WAITING, IMPORTED, REFUSED or GIVEN_UP' }) state!: WatchedExport['state'];
  @Field(() => JsonScalar, { nullable: true, description: 'code and message: what it waits for, or why it was refused' }) reason!: WatchedExport['reason'];
  @Field(() => Date) seenAt!: Date;
  @Field(() => ID, { nullable: true, description: 'The job of its newest import' }) jobId!: string | null;
}

@Resolver(() => BucketExportType)
export class BucketsResolver {
  constructor(@Inject(BucketWatch) private readonly watch: BucketWatch) {}

  @GraphQuery(() => [BucketExportType])
  @Roles('viewer')
  async bucketExports(): Promise<BucketExportType[]> {
    return this.watch.list();
  }
}
