import { Inject, Injectable } from '@nestjs/common';
import { agentModel, bundleDigest, signBundle, type Manifest, type SigningKey } from '@reefkeeper/bundle';
import { ReefError, type ObjectStore } from '@reefkeeper/platform';
import { Parser, type ReadEntry } from 'tar';
import { DataSource } from 'typeorm';
import { z } from 'zod';
import type { Version } from './registry.entity.ts';
import { Registry } from './registry.service.ts';
import { agentVariant, refOf } from './version.ts';

/** What a build says of itself, in `release.json`; written by the packaging (`deploy/agent/tree.ts`). */
const release = z.object({ schema: z.literal(1), version: z.string().regex(/^\d+\.\d+\.\d+[0-9A-Za-z.+-]{0,40}$/, 'a version such as 1.2.3'), architecture: z.enum(['amd64', 'arm64']), minNode: z.string() });

interface Build { digest: string; bytes: number; version: string; architecture: string }

const mostReleaseJsonBytes = 64 * 1024;

/** Releases of the agent: versions of a reserved model, made without a pipeline, rolled out like any other. */
@Injectable()
export class AgentReleases {
  constructor(@Inject(DataSource) private readonly db: DataSource, @Inject('OBJECTS') private readonly objects: ObjectStore, @Inject(Registry) private readonly registry: Registry, @Inject('SIGNING_KEY') private readonly key: Pick<SigningKey, 'keyId' | 'privateKey'>) {}

  /**
   * Signs and publishes builds of one version. The same builds again are the version that was made of them.
   * @param digests uploads: what `npm run package:agent` makes, one per architecture
   * @throws ReefError `artifact.missing`, `agent_release.malformed`, `agent_release.mixed`, `agent_release.exists`
   */
  async publish({ digests, notes }: { digests: readonly string[]; notes?: string | null | undefined }, actor: string): Promise<Version> {
    const builds = await Promise.all([...new Set(digests)].map((digest) => this.buildOf(digest)));
    const [first] = builds;
    if (new Set(builds.map(({ architecture }) => architecture)).size !== builds.length || builds.some(({ version }) => version !== first!.version)) {
      throw new ReefError('agent_release.mixed', 'invalid', `A release has one build per architecture, all of one version; these are ${builds.map(({ version, architecture }) => `${version} for ${architecture}`).join(', ')}.`, { detail: { builds } });
    }
    return this.db.transaction(async (tx) => {
      const missing = await this.registry.claim(builds.map(({ digest }) => digest), tx);
      if (missing.length > 0) throw new ReefError('artifact.missing', 'not_found', `${missing.join(', ')} is not stored any more. Upload it again.`);
      const { id, version, createdAt } = await this.registry.createVersion(agentModel, { task: 'agent', notes: notes ?? null, createdBy: actor }, tx);
      // Behind the lock that the new version's number has taken: two of the same release cannot both be first.
      const same = (await tx.query(`SELECT id, lineage->'tools'->>$2 AS label FROM versions WHERE model = $1 AND state = 'READY' AND lineage->'tools'->>$2 = $3 LIMIT 1`, [agentModel, agentModel, first!.version])) as { id: string }[];
      if (same[0]) throw new AlreadyThere(same[0].id);
      await this.registry.move(id, 'BUILDING', tx);
      const variants = builds.sort((a, b) => (a.architecture < b.architecture ? -1 : 1)).map(({ digest, bytes, architecture }) => ({ name: agentVariant(architecture), kind: 'agent' as const, minRuntime: null, file: { digest, bytes } }));
      const manifest: Manifest = {
        schema: 1, model: agentModel, version, task: 'agent', labels: null, inputs: [], outputs: [], variants, golden: null,
        lineage: { source: { digest: variants[0]!.file.digest, filename: `reef-agent_${first!.version}.tar` }, calibration: null, evaluation: null, job: null, parent: null, tools: { [agentModel]: first!.version } },
        parity: null, createdAt: createdAt.toISOString(),
      };
      const envelope = await this.registry.keep(Buffer.from(JSON.stringify(signBundle(manifest, this.key))), { mediaType: 'application/vnd.dsse.envelope.v1+json', role: 'envelope' });
      return this.registry.publish(id, {
        bundleDigest: bundleDigest(manifest), envelopeDigest: envelope.digest, labels: null, task: 'agent', lineage: manifest.lineage, parity: null,
        variants: variants.map(({ file, ...one }) => ({ ...one, ...file, details: null })),
      }, tx);
    }).catch(async (thrown: unknown) => {
      if (!(thrown instanceof AlreadyThere)) throw thrown;
      const there = await this.registry.versionById(thrown.id);
      if (there.variants.length === builds.length && there.variants.every(({ digest }) => builds.some((build) => build.digest === digest))) return there;
      throw new ReefError('agent_release.exists', 'conflict', `Version ${first!.version} of the agent is ${refOf(there)}, made of other builds. Give the new ones another version (npm run package:agent -- --version X.Y.Z).`, { detail: { version: refOf(there) } });
    });
  }

  /** @throws ReefError `artifact.missing`, `agent_release.malformed` */
  private async buildOf(digest: string): Promise<Build> {
    const { bytes } = await this.registry.artifact(digest);
    let text: Promise<Buffer> | undefined;
    const parser = new Parser({
      strict: true, filter: (path) => path.replace(/^\.\//, '') === 'release.json',
      onReadEntry: (entry: ReadEntry) => {
        if (entry.size > mostReleaseJsonBytes) return void entry.resume();
        text ??= entry.concat() as Promise<Buffer>;
      },
    });
    try {
      for await (const chunk of await this.objects.read(digest)) parser.write(chunk as Buffer);
      parser.end();
      const parsed = release.parse(JSON.parse((await text)!.toString('utf8')));
      return { digest, bytes, version: parsed.version, architecture: parsed.architecture };
    } catch (cause) {
      throw new ReefError('agent_release.malformed', 'invalid', `${digest} is not a build of the agent: a tar with a release.json, as \`npm run package:agent\` makes it.`, { cause });
    }
  }
}

/** Takes the transaction back; the number of the new version is free again. */
class AlreadyThere extends Error {
  constructor(readonly id: string) {
    super('this release is there already');
  }
}
