import { Inject, Injectable } from '@nestjs/common';
import { decodeLearned } from '@reefkeeper/bundle/learned';
import { ReefError } from '@reefkeeper/platform';
import { Registry, refOf, type Version } from '@reefkeeper/registry';
import { DataSource } from 'typeorm';
import { Jobs, type JobWithSteps } from './jobs.service.ts';

export interface OfferedHead {
  device: string;
  workload: string;
  /** The command it answers; it can be answered once. */
  command: string;
  /** Who sent it. */
  askedBy: string;
  images: string;
  model?: string | undefined;
  /** Whether somebody has to look at the version before it is rolled out. */
  hold: boolean;
  /** As `encodeLearned` wrote it. */
  content: Buffer;
}

/** What devices have learnt becomes a version like any other: built, verified, signed. */
@Injectable()
export class Learnings {
  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject(Registry) private readonly registry: Registry, @Inject(Jobs) private readonly jobs: Jobs) {}

  /**
   * A version and the job that builds it. The same offer twice is the same version.
   * @throws ReefError `learn.malformed`, `learn.parent_unknown`
   */
  async offer({ content, ...offer }: OfferedHead): Promise<{ version: Version; job: JobWithSteps }> {
    const learned = decodeLearned(content);
    const before = await this.known(offer.command);
    if (before) return before;
    const parent = await this.registry.versionByBundle(learned.bundle);
    if (!parent?.envelopeDigest) throw new ReefError('learn.parent_unknown', 'not_found', `No ready version has the bundle ${learned.bundle} that the device has learnt on.`, { detail: { bundle: learned.bundle } });
    const source = await this.registry.keep(content, { mediaType: 'application/gzip', role: 'learned' });
    const learning = { parent: refOf(parent), envelope: parent.envelopeDigest, files: parent.variants.map(({ digest }) => digest), device: offer.device, workload: offer.workload, command: offer.command, images: offer.images, hold: offer.hold };
    const notes = `Learnt by ${offer.device} from labelled images, on ${refOf(parent)} (${learned.report.method})`;
    try {
      return await this.jobs.create(offer.model ?? parent.model, { source: { digest: source.digest, filename: `${offer.command}.learned.json.gz` }, labels: learned.head.labels, notes }, offer.askedBy, { learning });
    } catch (thrown) {
      // Twice at the same time: the other one was first.
      const other = isDouble(thrown) ? await this.known(offer.command) : null;
      if (!other) throw thrown;
      return other;
    }
  }

  private async known(command: string): Promise<{ version: Version; job: JobWithSteps } | null> {
    const [found] = (await this.db.query("SELECT id, version_id AS version FROM jobs WHERE request #>> '{learning,command}' = $1", [command])) as { id: string; version: string }[];
    return found ? { version: await this.registry.versionById(found.version), job: await this.jobs.find(found.id) } : null;
  }
}

/** SQLSTATE 23505, unique_violation. */
function isDouble(thrown: unknown): boolean {
  return (thrown as { driverError?: { code?: string } }).driverError?.code === '23505';
}
