import type { TensorInfo } from '@reefkeeper/inference';
import { ReefError } from '@reefkeeper/platform/errors';
import type { Tensors } from './answer.ts';

/** Where an input of a segment comes from: that tensor of what `from` gives; 0 = the model's inputs, n = the outputs of the nth segment. */
export interface Source { from: number; tensor: number }

/**
 * How the segments of a model hang together: for each segment, where each of its inputs comes from. That is the tensor of the same name that the nearest
 * segment before gives, or the model itself is given; it has to be that tensor in every respect. The inputs of the first are the model's.
 * @throws ReefError `inference.segments_differ`
 */
export function wired(segments: readonly Tensors[]): Source[][] {
  return segments.map(({ inputs }, at) => {
    const given = [segments[0]!.inputs, ...segments.slice(0, at).map(({ outputs }) => outputs)];
    return inputs.map((input, index) => (at === 0 ? { from: 0, tensor: index } : sourceOf(input, at, given)));
  });
}

function sourceOf(input: TensorInfo, at: number, given: readonly (readonly TensorInfo[])[]): Source {
  for (let from = at; from >= 0; from -= 1) {
    const tensor = given[from]!.findIndex(({ name }) => name === input.name);
    if (tensor === -1) continue;
    const faults = differences(given[from]![tensor]!, input);
    if (faults.length > 0) throw differ(`Segment ${at + 1} takes ${input.name} otherwise than ${from === 0 ? 'the model' : `segment ${from}`} gives it: ${faults.join(', ')}.`);
    return { from, tensor };
  }
  throw differ(`Segment ${at + 1} takes ${input.name}, which nothing before it gives; there are ${given.flat().map(({ name }) => name).join(', ')}.`);
}

function differences(given: TensorInfo, taken: TensorInfo): string[] {
  const facts = [['shape', given.shape.join('x'), taken.shape.join('x')], ['type', given.dtype, taken.dtype], ['scale', given.scale, taken.scale], ['zero point', given.zeroPoint, taken.zeroPoint]] as const;
  return facts.filter(([, a, b]) => a !== b).map(([what, a, b]) => `${what} ${a} and ${b}`);
}

function differ(what: string): ReefError {
  return new ReefError('inference.segments_differ', 'invalid', `${what} The files are not segments of one model in this order; build the version again.`);
}
