import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const root = process.env['REEF_SHARED'] ?? join(import.meta.dirname, '../../../../shared');

/** The public models and compiler reports lie outside the repository; tests that need them are skipped where they are absent. */
export const sharedPresent = existsSync(join(root, 'edgetpu/pairs.json'));

export const sharedFile = (path: string): Buffer => readFileSync(join(root, path));
export const sharedModel = (path: string): Buffer => sharedFile(join('fixtures', path));
export const sharedJson = <T>(path: string): T => JSON.parse(sharedFile(path).toString('utf8')) as T;

export interface Pair {
  source: string;
  compiled: string;
  ops: Record<string, number>;
  mapped: Record<string, number>;
  cpu: Record<string, number>;
  fullyMapped: boolean;
  minRuntimeVersion: number[];
  parameterCachingTokens: string[];
  onChipParameterBytes: number;
  offChipParameterBytes: number;
  scratchBytes: number;
  instructionBytes: number;
  executableTypes: string[][];
}

export const pairs: Pair[] = sharedPresent ? sharedJson<Pair[]>('edgetpu/pairs.json') : [];
