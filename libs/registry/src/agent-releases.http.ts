import { Body, Controller, Inject, Post } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { Actor } from '@reefkeeper/platform/http';
import { z } from 'zod';
import { AgentReleases } from './agent-releases.ts';
import { versionView, type VersionView } from './views.ts';

const newRelease = z.object({
  builds: z.array(z.string().regex(/^[0-9a-f]{64}$/, 'a SHA-256 in 64 lower-case hex digits')).min(1).max(8).describe('digests of uploaded builds, one per architecture'),
  notes: z.string().max(10_000).nullable().optional(),
}).meta({ id: 'NewAgentRelease' });

@ApiTags('agent')
@Controller('agent-releases')
export class AgentReleasesController {
  constructor(@Inject(AgentReleases) private readonly releases: AgentReleases) {}

  /** Makes a version of `reef-agent`, which is then rolled out like a model. */
  @Post()
  async publish(@Body({ schema: newRelease }) { builds, notes }: z.output<typeof newRelease>, @Actor() actor: string): Promise<VersionView> {
    return versionView(await this.releases.publish({ digests: builds, notes }, actor));
  }
}
