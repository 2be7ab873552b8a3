import { metricName } from '@reefkeeper/protocol';
import { z } from 'zod';

/** The conditions on a wave. A gate that is null is off; one that stored settings do not name is off, too. */

/** A setting that is misspelt would leave its limit at the default, and nobody would know. */
const settings = <S extends z.ZodRawShape>(shape: S) => z.strictObject(shape, {
  error: (issue) => (issue.code === 'unrecognized_keys' ? `there is no ${(issue.keys as string[]).join(', ')}; there are ${Object.keys(shape).join(', ')}` : undefined),
});

const percentOf = z.number().min(0).max(100);

const latencyGate = (defaults: { maxIncreasePercent: number; minIncreaseMs: number }) => settings({
  /** This quantile above the same device's own baseline. */
  maxIncreasePercent: z.number().positive().max(10_000).default(defaults.maxIncreasePercent),
  /** A rise below this is not a regression, whatever its percentage: sub-millisecond models jitter by more. */
  minIncreaseMs: z.number().min(0).default(defaults.minIncreaseMs),
  /** Never more than this, whatever the baseline; null = no such limit, and a device without a baseline is not judged. */
  maxMs: z.number().positive().nullable().default(null),
}).nullable();

const customGate = settings({
  /** As the site's own program calls it. */
  metric: metricName,
  better: z.enum(['lower', 'higher']),
  /** Of the mean, above the same device's own baseline. */
  maxIncreasePercent: z.number().positive().max(10_000).optional(),
  /** Of the mean, below the same device's own baseline. */
  maxDropPercent: z.number().positive().max(100).optional(),
  /** Of the mean, whatever the baseline. */
  max: z.number().optional(),
  min: z.number().optional(),
  /** Numbers per device before it is judged. */
  minCount: z.number().int().min(1).default(10),
}).refine(({ better, maxIncreasePercent, maxDropPercent, max, min }) => {
  const [ours, theirs] = better === 'lower' ? [[maxIncreasePercent, max], [maxDropPercent, min]] : [[maxDropPercent, min], [maxIncreasePercent, max]];
  return ours.some((limit) => limit !== undefined) && theirs.every((limit) => limit === undefined);
}, 'better: lower takes maxIncreasePercent, max or both; better: higher takes maxDropPercent, min or both');
export type CustomGate = z.output<typeof customGate>;

export const gates = settings({
  installFailures: settings({
    /** More failed installations than this share of the basis and the wave has failed, at once. */
    maxPercent: percentOf.default(5),
    /** `group`: of all devices of the wave. `executed`: of those that gave an answer. */
    basis: z.enum(['group', 'executed']).default('group'),
    /** Devices that never answer are not failures; more of them than this share of the wave leave it inconclusive. */
    maxUnansweredPercent: percentOf.default(10),
  }).nullable().prefault({}),
  errorRate: settings({
    /** Percentage points above the same device's own baseline. */
    maxIncreasePoints: z.number().min(0).max(100).default(1),
    /** Failed inferences of all, where a device has no baseline. */
    maxPercent: percentOf.default(5),
  }).nullable().prefault({}),
  latencyP50: latencyGate({ maxIncreasePercent: 25, minIncreaseMs: 1 }).default(null),
  latencyP95: latencyGate({ maxIncreasePercent: 50, minIncreaseMs: 2 }).prefault({}),
  latencyP99: latencyGate({ maxIncreasePercent: 100, minIncreaseMs: 5 }).default(null),
  accuracy: settings({
    /** Percentage points below the same device's own baseline. */
    maxDropPoints: z.number().min(0).max(100).default(5),
    /** Right answers of all labelled frames at least, whatever the baseline; null = no floor. */
    minPercent: percentOf.nullable().default(null),
    /** Labelled frames per device before it is judged. */
    minLabelled: z.number().int().min(1).default(20),
    /** Without any labelled frame the gate is inconclusive instead of not applicable. */
    required: z.boolean().default(false),
  }).nullable().prefault({}),
  temperature: settings({
    /** Mean of a device at most; null = no such limit. */
    maxC: z.number().min(-50).max(150).nullable().default(85),
    /** Above the same device's own baseline; null = no such limit. */
    maxIncreaseC: z.number().positive().max(100).nullable().default(10),
  }).refine(({ maxC, maxIncreaseC }) => maxC !== null || maxIncreaseC !== null, 'a temperature gate has maxC, maxIncreaseC or both').nullable().default(null),
  scoreDrift: settings({
    /** Population stability index of the top-1 scores; 0.1 to 0.25 is called moderate, more is called a shift. */
    maxPsi: z.number().positive().max(100).default(0.25),
    /** Scores per device before it is judged: fewer move the index by chance. */
    minScores: z.number().int().min(1).default(100),
  }).nullable().default(null),
  shadowAgreement: settings({
    /** Shadow frames at least on which the version answered as the active model did. */
    minPercent: percentOf.default(95),
    /** Shadow frames per device before it is judged. */
    minFrames: z.number().int().min(1).default(100),
  }).nullable().default(null),
  custom: z.array(customGate).max(16).refine((list) => new Set(list.map(({ metric }) => metric)).size === list.length, 'one gate per metric').default([]),
}).meta({ id: 'RolloutGates' });
export type Gates = z.output<typeof gates>;
export type LatencyGate = 'latencyP50' | 'latencyP95' | 'latencyP99';
