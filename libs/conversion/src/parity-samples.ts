import type { Task } from '@reefkeeper/bundle';

/** What float original and quantised model answered to one sample; inputs and outputs as real numbers, one array per tensor. */
export interface SamplePair {
  inputs: ArrayLike<number>[];
  float: ArrayLike<number>[];
  int8: ArrayLike<number>[];
  /** Index of the true class; null where it is not known. */
  label: number | null;
}

/** The real numbers a quantised tensor can hold, `step` apart. */
export interface QuantisedRange { low: number; high: number; step: number }

export interface ComparedTensor { name: string; shape: readonly number[]; range: QuantisedRange | null }

/** What is compared, and what is known about it. */
export interface ParityOptions {
  task: Task;
  inputs: readonly ComparedTensor[];
  outputs: readonly ComparedTensor[];
  labels: readonly string[] | null;
  /** The samples also measured the activation ranges, so the comparison is kinder than real life. */
  sameAsCalibration: boolean;
  /** What the conversion said, of the calibration set for example. */
  conversionWarnings: readonly string[];
}

/** A sample whose true class is known, with what both models answered. */
export interface Labelled { float: number; int8: number; label: number }

/** Below this many samples a share says little. */
export const fewSamples = 20;

export function share(hits: number, of: number): number {
  return of === 0 ? 0 : hits / of;
}

export function percent(part: number): string {
  return `${(part * 100).toFixed(1)} %`;
}
