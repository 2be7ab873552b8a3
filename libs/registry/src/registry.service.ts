import { randomUUID } from 'node:crypto';
import type { Readable } from 'node:stream';
import { Inject, Injectable } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { agentModel, modelName, type Lineage, type Parity, type Task, type VariantKind } from '@reefkeeper/bundle';
import { hint, readWhole, ReefError, type Clock, type ObjectStore, type StoredObject, type Tx } from '@reefkeeper/platform';
import { Artifact, Model, Variant, Version, type FailedVariant, type SegmentedModel, type VersionError, type VersionHold } from './registry.entity.ts';
import { parseRef, refOf, versionMoves, type VersionState } from './version.ts';

export interface NewVersion {
  task?: Task;
  labels?: string[] | null;
  notes?: string | null;
  createdBy?: string;
}

export interface Publication {
  bundleDigest: string;
  envelopeDigest: string;
  labels: string[] | null;
  task: Task;
  lineage: Lineage;
  parity: Parity | null;
  variants: { name: string; kind: VariantKind; minRuntime: number | null; digest: string; bytes: number; details?: Record<string, unknown> | null }[];
  /** Somebody has to look at the version before it is rolled out. */
  hold?: VersionHold | null;
  failedVariants?: FailedVariant[];
  pipelines?: SegmentedModel[];
}

export interface Page<T> {
  items: T[];
  nextCursor: string | null;
}

export type ModelSummary = Model & { latestVersion: number | null; versions: number };

/** Models, their versions and what those are made of. */
@Injectable()
export class Registry {
  constructor(
    @Inject(DataSource) private readonly db: DataSource,
    @Inject('CLOCK') private readonly clock: Clock,
    @Inject('OBJECTS') private readonly objects: ObjectStore,
  ) {}

  /** @throws ReefError `model.exists`, `model.name_invalid` */
  async createModel(input: { name: string; description?: string | null; createdBy?: string }): Promise<Model> {
    checkName(input.name);
    const inserted = await this.insertModel(this.db.manager, input);
    if (!inserted) throw new ReefError('model.exists', 'conflict', `There is a model ${input.name} already; choose another name or add a version to it.`, { detail: { model: input.name } });
    return this.findModel(input.name);
  }

  /** @throws ReefError `model.missing` */
  async findModel(name: string): Promise<ModelSummary> {
    const [found] = await this.summaries('WHERE m.name = $1', [name]);
    if (!found) throw new ReefError('model.missing', 'not_found', `There is no model ${name}.`, { detail: { model: name } });
    return found;
  }

  /** By name, ascending. */
  async listModels({ limit = 50, cursor }: { limit?: number | undefined; cursor?: string | undefined } = {}): Promise<Page<ModelSummary>> {
    const items = await this.summaries('WHERE m.name > $1 ORDER BY m.name LIMIT $2', [cursor ?? '', limit + 1]);
    return page(items, limit, (model) => model.name);
  }

  /**
   * The next version of a model, which is created if absent. Numbers are given without gaps: the model's row is locked meanwhile.
   * @throws ReefError `model.name_invalid`, `model.name_reserved`
   */
  async createVersion(model: string, input: NewVersion = {}, tx?: Tx): Promise<Version> {
    checkName(model);
    if ((model === agentModel) !== (input.task === 'agent')) throw new ReefError('model.name_reserved', 'invalid', `${agentModel} holds the releases of the agent and nothing else. Give the model another name; \`reef agent publish\` makes releases.`);
    if (!tx) return this.db.transaction(async (own) => this.createVersion(model, input, own));
    const createdBy = input.createdBy ?? 'system';
    await this.insertModel(tx, { name: model, createdBy });
    await tx.query('SELECT 1 FROM models WHERE name = $1 FOR UPDATE', [model]);
    const [{ next }] = (await tx.query('SELECT coalesce(max(version), 0) + 1 AS next FROM versions WHERE model = $1', [model])) as [{ next: number }];
    const version = tx.create(Version, {
      id: randomUUID(), model, version: next, state: 'DRAFT', task: input.task ?? 'classification', labels: input.labels ?? null, notes: input.notes ?? null,
      lineage: null, parity: null, analysis: null, error: null, bundleDigest: null, envelopeDigest: null, createdAt: this.clock.now(), createdBy, readyAt: null, failedVariants: [], pipelines: [], hold: null, confirmedAt: null, confirmedBy: null,
    });
    await tx.insert(Version, version as object);
    await hint(tx, { kind: 'version', id: version.id });
    version.variants = [];
    return version;
  }

  /** @throws ReefError `version.missing`, `version.state_wrong` */
  async move(versionId: string, to: Exclude<VersionState, 'READY' | 'DRAFT'>, tx: Tx, error: VersionError | null = null): Promise<void> {
    const version = await this.lock(versionId, tx);
    if (version.state === to) return;
    checkMove(version, to);
    await tx.update(Version, { id: versionId }, { state: to, error });
    await hint(tx, { kind: 'version', id: versionId });
  }

  /** Findings that are worth showing before the version is ready, or although it never will be. */
  async record(versionId: string, found: { analysis?: Record<string, unknown>; parity?: Parity }, tx: Tx = this.db.manager): Promise<void> {
    await tx.query('UPDATE versions SET analysis = coalesce($2::jsonb, analysis), parity = coalesce($3::jsonb, parity) WHERE id = $1 AND state <> \'READY\'',
      [versionId, found.analysis ? JSON.stringify(found.analysis) : null, found.parity ? JSON.stringify(found.parity) : null]);
    await hint(tx, { kind: 'version', id: versionId });
  }

  /**
   * BUILDING -> READY with everything devices need. The same publication twice changes nothing.
   * @throws ReefError `version.missing`, `version.state_wrong`, `object.missing`
   */
  async publish(versionId: string, publication: Publication, tx?: Tx): Promise<Version> {
    if (!tx) return this.db.transaction(async (own) => this.publish(versionId, publication, own));
    for (const digest of [publication.envelopeDigest, ...publication.variants.map((variant) => variant.digest), ...(publication.pipelines ?? []).flatMap(({ segments }) => segments.map((segment) => segment.digest))]) await this.objects.stat(digest);
    const version = await this.lock(versionId, tx);
    if (version.state === 'READY' && version.bundleDigest === publication.bundleDigest) return this.versionById(versionId, tx);
    checkMove(version, 'READY');
    const { variants, ...columns } = publication;
    await tx.delete(Variant, { versionId });
    await tx.insert(Variant, variants.map((variant) => ({ ...variant, versionId, details: variant.details ?? null })) as object[]);
    await tx.update(Version, { id: versionId }, { ...columns, state: 'READY', error: null, readyAt: this.clock.now() } as object);
    await hint(tx, { kind: 'version', id: versionId });
    return this.versionById(versionId, tx);
  }

  /**
   * A person has looked at what holds a version up and takes it off. Once is enough: the second time changes nothing.
   * @throws ReefError `version.missing`, `version.not_held`
   */
  async confirm(ref: string, actor: string): Promise<Version> {
    return this.db.transaction(async (tx) => {
      const { id } = await this.versionByRef(ref, tx);
      const version = await this.lock(id, tx);
      if (!version.hold) throw new ReefError('version.not_held', 'conflict', `Nothing holds ${refOf(version)} up; there is nothing to confirm.`, { detail: { version: refOf(version), state: version.state } });
      if (!version.confirmedAt) {
        await tx.update(Version, { id }, { confirmedAt: this.clock.now(), confirmedBy: actor });
        await hint(tx, { kind: 'version', id });
      }
      return this.versionById(id, tx);
    });
  }

  /** @throws ReefError `version.missing` */
  async versionById(id: string, tx: Tx = this.db.manager): Promise<Version> {
    const found = /^[0-9a-f-]{36}$/.test(id) ? await tx.findOne(Version, { where: { id }, relations: { variants: true }, order: { variants: { name: 'ASC' } } }) : null;
    if (!found) throw missing(id);
    return found;
  }

  /** `name@3`; `name` alone is the newest READY version. @throws ReefError `version.missing`, `version.ref_invalid` */
  async versionByRef(ref: string, tx: Tx = this.db.manager): Promise<Version> {
    const parsed = parseRef(ref);
    if (!parsed) throw new ReefError('version.ref_invalid', 'invalid', `"${ref}" does not name a version; write model@3, or model for its newest ready one.`, { detail: { ref } });
    const found = await tx.findOne(Version, {
      where: parsed.version === null ? { model: parsed.model, state: 'READY' } : { model: parsed.model, version: parsed.version },
      relations: { variants: true }, order: { version: 'DESC', variants: { name: 'ASC' } },
    });
    if (!found) throw missing(ref, parsed.version === null ? `The model ${parsed.model} has no ready version, or does not exist.` : undefined);
    return found;
  }

  /** Which READY version a device runs. */
  async versionByBundle(bundleDigest: string, tx: Tx = this.db.manager): Promise<Version | null> {
    return tx.findOne(Version, { where: { bundleDigest, state: 'READY' }, relations: { variants: true } });
  }

  /** `name@3` by bundle digest; what is no version's is not in it. */
  async refsOf(bundles: readonly string[]): Promise<Map<string, string>> {
    const rows = await this.db.query<{ bundle: string; ref: string }[]>("SELECT bundle_digest AS bundle, model || '@' || version AS ref FROM versions WHERE bundle_digest = ANY($1)", [bundles]);
    return new Map(rows.map(({ bundle, ref }) => [bundle, ref]));
  }

  /** The signed envelope of a READY version's bundle, as devices fetch it. @throws ReefError `bundle.missing` */
  async envelopeOf(bundleDigest: string): Promise<Buffer> {
    const version = await this.versionByBundle(bundleDigest);
    if (!version) throw new ReefError('bundle.missing', 'not_found', `No ready version has the bundle ${bundleDigest}.`, { detail: { bundle: bundleDigest } });
    return readWhole(this.objects, version.envelopeDigest!);
  }

  /** Newest first. @throws ReefError `model.missing` */
  async listVersions(model: string, { limit = 50, cursor }: { limit?: number | undefined; cursor?: string | undefined } = {}): Promise<Page<Version>> {
    await this.findModel(model);
    const items = await this.db.getRepository(Version).createQueryBuilder('v').leftJoinAndSelect('v.variants', 'variant')
      .where('v.model = :model AND v.version < :before', { model, before: cursor ? Number(cursor) || 0 : 2_147_483_647 })
      .orderBy('v.version', 'DESC').addOrderBy('variant.name').take(limit + 1).getMany();
    return page(items, limit, (version) => `${version.version}`);
  }

  /** The newest READY version before this one: what a rollout of it would replace. */
  async predecessorOf(version: { model: string; version: number }): Promise<Version | null> {
    return this.db.getRepository(Version).createQueryBuilder('v').where('v.model = :model AND v.version < :version AND v.state = \'READY\'', version).orderBy('v.version', 'DESC').getOne();
  }

  /** Notes what an object is for, and claims it: from here on it stays for the grace time. The first note stays. */
  async recordArtifact(stored: StoredObject, about: { mediaType: string; role: string }, tx: Tx = this.db.manager): Promise<void> {
    await tx.query(`INSERT INTO artifacts (digest, bytes, media_type, role, created_at, touched_at) VALUES ($1, $2, $3, $4, $5, $5)
      ON CONFLICT (digest) DO UPDATE SET touched_at = greatest(artifacts.touched_at, excluded.touched_at)`,
    [stored.digest, stored.bytes, about.mediaType, about.role, this.clock.now()]);
  }

  /** Stores a file or bytes under a claim, so that no collection can come between. */
  async keep(content: Readable | Buffer, about: { mediaType: string; role: string }, options: { limitBytes?: number } = {}): Promise<StoredObject> {
    return this.objects.put(content, { ...options, claim: async (stored) => this.recordArtifact(stored, about) });
  }

  /**
   * To be called before a reference to objects is written, in the same transaction: they then stay, and what is missing is missing for good.
   * @returns the digests that are not stored
   */
  async claim(digests: readonly string[], tx: Tx = this.db.manager): Promise<string[]> {
    if (digests.length === 0) return [];
    // In one order, so that two claims never wait for each other.
    await tx.query('UPDATE artifacts SET touched_at = greatest(touched_at, $2) WHERE digest IN (SELECT digest FROM artifacts WHERE digest = ANY ($1) ORDER BY digest FOR UPDATE)', [digests, this.clock.now()]);
    const missing: string[] = [];
    for (const digest of new Set(digests)) if (!(await this.objects.has(digest))) missing.push(digest);
    return missing;
  }

  /** @throws ReefError `artifact.missing` */
  async artifact(digest: string): Promise<Artifact> {
    const found = await this.db.getRepository(Artifact).findOneBy({ digest });
    // Whoever asks may be about to refer to it. Not at each of many downloads.
    if (found && this.clock.now().getTime() - found.touchedAt.getTime() > 3_600_000) await this.claim([digest]);
    if (!found) throw new ReefError('artifact.missing', 'not_found', `No artifact has the digest ${digest}.`, { detail: { digest } });
    return found;
  }

  /** Whether devices may have these bytes: a variant of a ready version, or a golden pack. Uploads and training data are none of theirs. */
  async openToDevices(digest: string): Promise<boolean> {
    const [found] = (await this.db.query(`
      SELECT 1 WHERE EXISTS (SELECT 1 FROM variants f JOIN versions v ON v.id = f.version_id WHERE f.digest = $1 AND v.state = 'READY')
        OR EXISTS (SELECT 1 FROM artifacts WHERE digest = $1 AND role = 'golden')
        OR EXISTS (SELECT 1 FROM versions WHERE state = 'READY' AND pipelines <> '[]' AND pipelines @> $2::jsonb)`, [digest, JSON.stringify([{ segments: [{ digest }] }])])) as unknown[];
    return found !== undefined;
  }

  private async insertModel(tx: Tx, input: { name: string; description?: string | null; createdBy?: string }): Promise<boolean> {
    const rows = (await tx.query('INSERT INTO models (name, description, created_at, created_by) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO NOTHING RETURNING name',
      [input.name, input.description ?? null, this.clock.now(), input.createdBy ?? 'system'])) as unknown[];
    return rows.length > 0;
  }

  private async summaries(rest: string, values: unknown[]): Promise<ModelSummary[]> {
    return this.db.query(`
      SELECT m.name, m.description, m.created_at AS "createdAt", m.created_by AS "createdBy", v.latest AS "latestVersion", coalesce(v.count, 0)::int AS versions
      FROM models m LEFT JOIN LATERAL (SELECT max(version) AS latest, count(*) AS count FROM versions WHERE model = m.name) v ON true ${rest}`, values);
  }

  private async lock(versionId: string, tx: Tx): Promise<Version> {
    const version = await tx.findOne(Version, { where: { id: versionId }, lock: { mode: 'pessimistic_write' } });
    if (!version) throw missing(versionId);
    return version;
  }
}

function checkMove(version: Version, to: VersionState): void {
  if (versionMoves[version.state].includes(to)) return;
  throw new ReefError('version.state_wrong', 'conflict', `${refOf(version)} is ${version.state} and cannot become ${to}.${version.state === 'READY' ? ' A ready version never changes: create another one.' : ''}`, { detail: { version: refOf(version), state: version.state, to } });
}

function checkName(name: string): void {
  const parsed = modelName.safeParse(name);
  if (!parsed.success) throw new ReefError('model.name_invalid', 'invalid', `"${name}" cannot be a model's name: ${parsed.error.issues[0]!.message}.`, { detail: { name } });
}

function missing(what: string, message = `There is no version ${what}.`): ReefError {
  return new ReefError('version.missing', 'not_found', message, { detail: { version: what } });
}

function page<T>(items: T[], limit: number, cursorOf: (item: T) => string): Page<T> {
  const shown = items.slice(0, limit);
  return { items: shown, nextCursor: items.length > limit ? cursorOf(shown.at(-1)!) : null };
}
