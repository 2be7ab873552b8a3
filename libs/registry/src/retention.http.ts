import { Body, Controller, HttpCode, Inject, Post } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { z } from 'zod';
import { Roles } from '@reefkeeper/platform/http';
import { Retention, type Collected } from './retention.ts';

const collect = z.object({ dryRun: z.boolean().default(true), olderThanDays: z.number().min(0).max(36_500).default(30) }).prefault({}).meta({ id: 'CollectGarbage' });

@ApiTags('artifacts')
@Controller('gc')
export class RetentionController {
  constructor(@Inject(Retention) private readonly retention: Retention) {}

  /** Removes stored objects that nothing refers to and that were last used before the retention; with `dryRun`, the default, says which. */
  @Post()
  @HttpCode(200)
  @Roles('admin')
  async collect(@Body({ schema: collect }) { dryRun, olderThanDays }: z.output<typeof collect>): Promise<Collected> {
    return this.retention.collect({ dryRun, olderThanMs: olderThanDays * 24 * 3_600_000 });
  }
}
