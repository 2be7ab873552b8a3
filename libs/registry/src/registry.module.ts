import { Module, type DynamicModule } from '@nestjs/common';
import { Deltas } from './deltas.ts';
import { Registry } from './registry.service.ts';
import { Retention, type Roots } from './retention.ts';

@Module({ providers: [Registry, Deltas], exports: [Registry, Deltas] })
export class RegistryModule {}

/** Removing what nothing refers to: only for processes that know everything that may refer to an object. */
@Module({})
export class RetentionModule {
  static forRoot(roots: Roots): DynamicModule {
    return { module: RetentionModule, providers: [Retention, { provide: 'ROOTS', useValue: roots }], exports: [Retention] };
  }
}
