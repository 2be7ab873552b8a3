import { Module, type DynamicModule } from '@nestjs/common';
import { RegistryModule } from '@reefkeeper/registry';
import { BucketImports } from './bucket-imports.service.ts';
import { BucketWatch } from './bucket-watch.service.ts';
import { Jobs } from './jobs.service.ts';
import { Learnings } from './learnings.service.ts';
import { Trainings } from './trainings.service.ts';
import { Pipeline, type PipelineOptions } from './pipeline.service.ts';

/** Creating, watching and cancelling jobs: what the controller needs. */
@Module({ imports: [RegistryModule], providers: [Jobs, BucketImports, BucketWatch, Trainings, Learnings], exports: [Jobs, BucketImports, BucketWatch, Trainings, Learnings] })
export class ConversionModule {}

/** Running them: what the worker needs. */
@Module({})
export class PipelineModule {
  static forRoot(options: PipelineOptions): DynamicModule {
    return { module: PipelineModule, imports: [RegistryModule, ConversionModule], providers: [Pipeline, { provide: 'PIPELINE', useValue: options }], exports: [Pipeline] };
  }
}
