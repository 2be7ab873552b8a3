import { Module, type DynamicModule } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { openBuckets, type Buckets } from './buckets.ts';
import type { Clock } from './clock.ts';
import type { ChangeFeed } from './events.ts';
import type { Logger } from './logger.ts';
import type { ObjectStore } from './objects.ts';
import type { QueueHost } from './queue.ts';

export interface PlatformParts {
  db: DataSource;
  clock: Clock;
  log: Logger;
  objects: ObjectStore;
  queues: QueueHost;
  feed: ChangeFeed;
  /** Google's own where absent. */
  buckets?: Buckets;
}

/** The outside world of a process, opened by its `main.ts` and handed to every service by token. */
@Module({})
export class PlatformModule {
  static forRoot(parts: PlatformParts): DynamicModule {
    const providers = [
      { provide: DataSource, useValue: parts.db },
      { provide: 'CLOCK', useValue: parts.clock },
      { provide: 'LOG', useValue: parts.log },
      { provide: 'OBJECTS', useValue: parts.objects },
      { provide: 'QUEUES', useValue: parts.queues },
      { provide: 'FEED', useValue: parts.feed },
      { provide: 'BUCKETS', useValue: parts.buckets ?? openBuckets() },
    ];
    return { module: PlatformModule, global: true, providers, exports: providers.map(({ provide }) => provide) };
  }
}
