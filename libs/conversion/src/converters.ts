import type { ReefError } from '@reefkeeper/platform/errors';
import type { Converter } from './job.ts';
import type { StepOutputs } from './steps.ts';

/** What one converter made of a source, as far as it was measured. */
export interface Attempt {
  converter: Converter;
  output?: StepOutputs['convert'];
  /** Why there is no output. */
  error?: ReefError;
  /** Operators that would stay on the CPU. */
  cpuOps?: number;
  agreement?: number | null;
  /** Why the comparison with the original would refuse it; null when it would not. */
  disagrees?: string | null;
}

/** Why another converter is worth a try; null when this result is good. */
export function flawOf({ error, cpuOps, disagrees }: Attempt): string | null {
  if (error) return error.message;
  if (disagrees) return disagrees;
  return cpuOps ? `${cpuOps} operator(s) stay on the CPU` : null;
}

/** The one to keep: a result before none, one that agrees with the original, one with less on the CPU, one that agrees more; else the earlier. */
export function better(one: Attempt, other: Attempt): Attempt {
  const [kept, left] = [scoresOf(one), scoresOf(other)];
  const at = kept.findIndex((score, index) => score !== left[index]);
  return at >= 0 && left[at]! > kept[at]! ? other : one;
}

function scoresOf({ output, cpuOps = 0, agreement, disagrees }: Attempt): number[] {
  return [output ? 1 : 0, disagrees ? 0 : 1, -cpuOps, agreement ?? 0];
}
