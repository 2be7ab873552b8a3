import { floorRuntime, opRules, type Constraint } from './op-rules.ts';

export interface OpTableRow {
  op: string;
  /** Lowest runtime; null = every one. */
  since: number | null;
  evidence: 'measured' | 'reported' | 'documented' | 'recalled';
  highestVersionSeen: number;
  limits: string[];
}

/** The rules in words, for the documentation and `reef check --rules`. */
export function opTable(): OpTableRow[] {
  return Object.entries(opRules).toSorted(([one], [other]) => one.localeCompare(other)).map(([op, { since, evidence, seenVersion, constraints, wide, provenFrom }]) => ({
    op, since: since === floorRuntime ? null : since, evidence, highestVersionSeen: seenVersion, limits: [...constraints.map(inWords), ...(wide ? ['states may be 16 bits wide'] : []), ...(provenFrom ? [`run from ${provenFrom} on`] : [])],
  }));
}

function inWords(constraint: Constraint): string {
  switch (constraint.kind) {
    case 'constant': return constraint.inputs.length > 4 ? 'weights constant' : `input ${constraint.inputs.join(', ')} constant`;
    case 'no-fused-activation': return 'no fused activation';
    case 'equal-dilation': return 'same dilation in both directions, unless one kernel side is 1';
    case 'no-dilation': return `no dilation up to runtime ${constraint.upToRuntime}`;
    case 'reduce': return ['not over the batch', ...(constraint.channelsMultipleOf ? [`over channels only if a multiple of ${constraint.channelsMultipleOf}`] : []), ...(constraint.spatialOnlyUpToRuntime ? [`over channels not up to runtime ${constraint.spatialOnlyUpToRuntime}`] : [])].join('; ');
    case 'axis-not-batch': return 'not along the batch';
    case 'pad': return `not the batch; channels not up to runtime ${constraint.spatialOnlyUpToRuntime}`;
    case 'constant-zeros-of-two': return 'a constant only as zero padding of one other input';
    case 'default-weights': return 'default weights format';
    case 'no-kept-dims': return 'no keep_num_dims';
    case 'vector-output': return 'only the last output size above 1';
    case 'vector-alpha': return 'only the last size of the slope above 1';
    case 'rows': return `rows of at most ${constraint.maxRow} elements; more than one row not verified`;
    case 'resize-ratio': return `same size, or up to ${constraint.mapsUpTo} times from more than one point; above ${constraint.failsAbove} times never`;
    case 'unit-strides': return 'strides of 1, no ellipsis, no new axis';
    case 'no-relayout': return `only leading sizes up to runtime ${constraint.upToRuntime}`;
    case 'spatial-size': return `up to ${constraint.mapsUpTo} points; from ${constraint.failsFrom} never`;
    case 'output-points': return `output verified up to ${constraint.seenUpTo} points; from ${constraint.failsFrom} never`;
    case 'spreads-vector': return 'verified for one vector spread over a picture';
    case 'known-size': return constraint.elements === 0 ? 'small tensors; sizes not verified' : `verified up to ${constraint.elements} elements`;
  }
}
