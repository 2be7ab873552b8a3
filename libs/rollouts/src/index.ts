import type { SchemaSlice } from '@reefkeeper/platform';
import { ExecutionTransfer1764000005120, ExecutionWaitsAndFaults1764000005130, ExecutionsSkipped1764000005101, LateJoiners1764000005111, RolloutPacing1764000005110, Rollouts1764000005001, SiteLimits1764000005140 } from './migrations.ts';
import { ExecutionRow, FreezeRow, RolloutEvent, RolloutRow, WaveRow } from './rollout.entity.ts';

export * from './alerts.ts';
export * from './decide.ts';
export * from './engine.ts';
export * from './explain.ts';
export * from './fleet.ts';
export * from './follow.ts';
export * from './freezes.service.ts';
export * from './gates.ts';
export * from './loop.ts';
export * from './pacing.ts';
export * from './plan.ts';
export * from './rollback.ts';
export * from './rollout.entity.ts';
export * from './rollout.ts';
export * from './rollouts.module.ts';
export * from './rollouts.service.ts';
export * from './site-limits.service.ts';
export * from './statistics.ts';
export * from './verdict.ts';
export * from './views.ts';
export * from './windows.ts';

export const rolloutsSchema: SchemaSlice = { entities: [RolloutRow, WaveRow, ExecutionRow, RolloutEvent, FreezeRow], migrations: [Rollouts1764000005001, ExecutionsSkipped1764000005101, RolloutPacing1764000005110, LateJoiners1764000005111, ExecutionTransfer1764000005120, ExecutionWaitsAndFaults1764000005130, SiteLimits1764000005140] };

/** SQL of one column: every bundle that a rollout brings or takes back. */
export const bundlesInRollouts: readonly string[] = ['SELECT bundle FROM rollouts', 'SELECT previous_bundle FROM rollout_executions WHERE previous_bundle IS NOT NULL'];
