import type { SchemaSlice } from '@reefkeeper/platform';
import { AgentVariants1764000002030, ArtifactsTouched1764000002012, CompiledParts1764000002011, Deltas1764000002020, Registry1764000002001, VersionHold1764000002010 } from './migrations.ts';
import { Artifact, Model, Variant, Version } from './registry.entity.ts';

export * from './agent-releases.ts';
export * from './deltas.ts';
export * from './registry.entity.ts';
export * from './registry.module.ts';
export * from './registry.service.ts';
export * from './retention.ts';
export * from './version.ts';
export * from './views.ts';

export const registrySchema: SchemaSlice = { entities: [Model, Version, Variant, Artifact], migrations: [Registry1764000002001, VersionHold1764000002010, CompiledParts1764000002011, ArtifactsTouched1764000002012, Deltas1764000002020, AgentVariants1764000002030] };
