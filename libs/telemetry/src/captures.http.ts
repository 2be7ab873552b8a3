import { Body, Controller, Delete, Get, Header, HttpCode, Inject, Param, Patch, Query, StreamableFile } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { ObjectStore } from '@reefkeeper/platform';
import { Actor, anId, Roles } from '@reefkeeper/platform/http';
import { deviceId, workloadName } from '@reefkeeper/protocol';
import { z } from 'zod';
import type { Capture } from './captures.entity.ts';
import { Captures } from './captures.service.ts';

const listQuery = z.object({
  selector: z.string().max(2_000).optional().describe('labels of the devices'), device: deviceId.optional(), workload: workloadName.optional(),
  label: z.string().max(100).optional().describe('* = labelled, - = not yet, else this one'), limit: z.coerce.number().int().min(1).max(500).default(50), cursor: z.coerce.number().int().positive().optional(),
});
/** It names a folder when the pictures are exported. */
const label = z.string().trim().min(1).max(100).regex(/^(?!\.)[^/\\\p{Cc}]+$/u, 'a label has no / and no control characters, and does not begin with .');
const labelBody = z.object({ label: label.nullable() }).meta({ id: 'LabelCapture' });

@ApiTags('captures')
@Controller('captures')
export class CapturesController {
  constructor(@Inject(Captures) private readonly captures: Captures, @Inject('OBJECTS') private readonly objects: ObjectStore) {}

  @Get()
  list(@Query({ schema: listQuery }) { cursor, ...query }: z.output<typeof listQuery>): Promise<{ items: Capture[]; nextCursor: string | null }> {
    return this.captures.list({ ...query, before: cursor });
  }

  @Get(':id')
  one(@Param('id', { schema: anId }) id: string): Promise<Capture> {
    return this.captures.get(id);
  }

  @Get(':id/image')
  @Header('cache-control', 'private, max-age=86400, immutable')
  async image(@Param('id', { schema: anId }) id: string): Promise<StreamableFile> {
    const { digest, bytes } = await this.captures.get(id);
    return new StreamableFile(await this.objects.read(digest), { type: 'image/jpeg', length: bytes });
  }

  @Patch(':id')
  @Roles('operator')
  label(@Param('id', { schema: anId }) id: string, @Body({ schema: labelBody }) body: z.output<typeof labelBody>, @Actor() actor: string): Promise<Capture> {
    return this.captures.label(id, body.label, actor);
  }

  @Delete(':id')
  @HttpCode(204)
  @Roles('operator')
  remove(@Param('id', { schema: anId }) id: string): Promise<void> {
    return this.captures.remove(id);
  }
}
