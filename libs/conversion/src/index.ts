import type { SchemaSlice } from '@reefkeeper/platform';
import { CompileAttempt } from './attempts.ts';
import { Job, JobLogLine, JobStep } from './job.entity.ts';
import { BucketImports1764000003020 } from './bucket-migrations.ts';
import { CompileAttempts1764000003010, CompiledTogether1764000003021, JobPriority1764000003011, Jobs1764000003001 } from './migrations.ts';

export * from './attempts.ts';
export * from './compile-options.ts';
export * from './bucket-imports.service.ts';
export * from './bucket-layout.ts';
export * from './bucket-subscription.ts';
export * from './bucket-watch.service.ts';
export * from './conversion.module.ts';
export * from './executors.ts';
export * from './job.entity.ts';
export * from './job.ts';
export * from './jobs.service.ts';
export * from './pipeline.service.ts';
export * from './python-child.ts';
export * from './python-env.ts';
export * from './python-tools.ts';
export * from './roots.ts';
export * from './steps.ts';
export type { TrainingReport, VertexReport } from './training-report.ts';
export * from './trainings.service.ts';
export * from './vertex.ts';
export * from './views.ts';

export const conversionSchema: SchemaSlice = { entities: [Job, JobStep, JobLogLine, CompileAttempt], migrations: [Jobs1764000003001, CompileAttempts1764000003010, JobPriority1764000003011, BucketImports1764000003020, CompiledTogether1764000003021] };
