import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { partition, type DataFlow, type Subset } from './partition.ts';

/** TensorFlow Lite's own loop, word for word in its order of steps: slow, and the truth. */
function scanned({ tensors, operators }: DataFlow, mappable: boolean[]): Subset[] {
  const epochOf: number[] = tensors.map((_, tensor) => operators.some(({ outputs }) => outputs.includes(tensor)) ? -1 : -2);
  const done = operators.map(() => false);
  const subsets: Subset[] = [];
  for (;;) {
    let kind: boolean | null = null;
    const taken: number[] = [];
    for (let moved = true; moved;) {
      moved = false;
      for (const [index, { inputs, outputs }] of operators.entries()) {
        if (done[index] || inputs.some((tensor) => tensor >= 0 && epochOf[tensor] === -1)) continue;
        kind ??= mappable[index]!;
        if (kind !== mappable[index]) continue;
        done[index] = true;
        moved = true;
        taken.push(index);
        for (const tensor of outputs) if (tensor >= 0) epochOf[tensor] = subsets.length;
      }
    }
    if (taken.length === 0) return subsets;
    subsets.push({ mappable: kind!, operators: taken.toSorted((a, b) => a - b) });
  }
}

/** Operators each make one tensor of their own and take some of the earlier ones. */
const graphs = fc.array(fc.tuple(fc.array(fc.nat(30), { maxLength: 3 }), fc.boolean()), { maxLength: 25 }).map((rows) => ({
  graph: {
    tensors: Array.from({ length: rows.length + 2 }),
    operators: rows.map(([wants], index) => ({ inputs: [...wants.map((want) => want % (index + 2)), -1], outputs: [index + 2] })),
  },
  mappable: rows.map(([, flag]) => flag),
}));

describe('partition', () => {
  it('is what TensorFlow Lite does, on any graph', () => {
    fc.assert(fc.property(graphs, ({ graph, mappable }) => {
      expect(partition(graph, mappable)).toEqual(scanned(graph, mappable));
    }), { numRuns: 1000 });
  });

  it('is what TensorFlow Lite does even with cycles, shared outputs and self-loops', () => {
    const wild = fc.array(fc.record({ inputs: fc.array(fc.integer({ min: -1, max: 9 }), { maxLength: 3 }), outputs: fc.array(fc.integer({ min: -1, max: 9 }), { maxLength: 2 }) }), { maxLength: 12 });
    fc.assert(fc.property(wild, fc.infiniteStream(fc.boolean()), (operators, flags) => {
      const mappable = operators.map(() => flags.next().value as boolean);
      const graph = { tensors: Array.from({ length: 10 }), operators };
      expect(partition(graph, mappable).map((subset) => subset.operators)).toEqual(scanned(graph, mappable).map((subset) => subset.operators));
    }), { numRuns: 1000 });
  });

  it('every operator is in one subset, subsets alternate in kind, and nothing runs before what it needs', () => {
    fc.assert(fc.property(graphs, ({ graph, mappable }) => {
      const subsets = partition(graph, mappable);
      expect(subsets.flatMap(({ operators }) => operators).toSorted((a, b) => a - b)).toEqual(graph.operators.map((_, index) => index));
      const position = new Map(subsets.flatMap(({ operators }, at) => operators.map((index) => [index, at] as const)));
      for (const [at, subset] of subsets.entries()) {
        expect(subset.operators.every((index) => mappable[index] === subset.mappable)).toBe(true);
        if (at > 0) expect(subset.mappable).not.toBe(subsets[at - 1]!.mappable);
      }
      for (const [index, { inputs }] of graph.operators.entries()) for (const tensor of inputs) if (tensor >= 2) expect(position.get(tensor - 2)!).toBeLessThanOrEqual(position.get(index)!);
    }));
  });

  it('an unsupported operator cuts off what depends on it, not what stands behind it in the file', () => {
    // 0 -> 1 (CPU) -> 2, and 0 -> 3 on another branch.
    const graph = { tensors: Array.from({ length: 5 }), operators: [[0], [1], [2], [1]].map((inputs, index) => ({ inputs, outputs: [index + 1] })) };
    expect(partition(graph, [true, false, true, true])).toEqual([{ mappable: true, operators: [0, 3] }, { mappable: false, operators: [1] }, { mappable: true, operators: [2] }]);
  });

  it('stays linear on 200,000 alternating operators', () => {
    const operators = Array.from({ length: 200_000 }, (_, index) => ({ inputs: [index], outputs: [index + 1] }));
    expect(partition({ tensors: Array.from({ length: 200_001 }), operators }, operators.map((_, index) => index % 2 === 0))).toHaveLength(200_000);
  });
});
