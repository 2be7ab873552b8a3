import { driftBins } from '@reefkeeper/protocol';

/** Each window weighs by its scores and is cleared of what chance alone adds, about (bins - 1) * (1 / reference + 1 / window). */
export function driftSums(window: string): string {
  const number = (key: string, type = 'float8') => `(${window}.drift ->> '${key}')::${type}`;
  return `sum(${number('psi')} * ${number('current')} - ${driftBins - 1} * (1 + ${number('current')} / ${number('reference')})) AS psi, sum(${number('current', 'bigint')}) AS scores`;
}

export function driftOf({ psi, scores }: { psi: number | null; scores: string | null }): { psi: number; scores: number } | null {
  return psi === null ? null : { psi: psi / Number(scores), scores: Number(scores) };
}
