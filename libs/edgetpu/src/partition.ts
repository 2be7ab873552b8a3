/** What the partition needs of a graph: who makes and who takes which tensor. */
export interface DataFlow {
  tensors: readonly unknown[];
  operators: readonly { inputs: readonly number[]; outputs: readonly number[] }[];
}

export interface Subset {
  mappable: boolean;
  /** Operator indices in file order. */
  operators: number[];
}

/**
 * TensorFlow Lite's greedy partition (`PartitionGraphIntoIndependentNodeSubsets`), which decides what a delegate gets: keep taking
 * ready operators of the current kind until none is left, then switch. A subset may so skip over operators of the other kind that
 * stand earlier in the file; only what depends on them has to wait. Operators in a cycle are in no subset.
 *
 * TensorFlow Lite scans all operators again and again; counting unmade inputs gives the same subsets in linear time.
 */
export function partition({ tensors, operators }: DataFlow, mappable: readonly boolean[]): Subset[] {
  const made = new Uint8Array(tensors.length);
  for (const { outputs } of operators) for (const tensor of outputs) if (tensor >= 0) made[tensor] = 1;
  const takers: number[][] = tensors.map(() => []);
  const missing = operators.map(({ inputs }, index) => {
    const needed = new Set(inputs.filter((tensor) => tensor >= 0 && made[tensor]));
    for (const tensor of needed) takers[tensor]!.push(index);
    return needed.size;
  });

  const ready = { true: [] as number[], false: [] as number[] };
  const key = (index: number): 'true' | 'false' => mappable[index] ? 'true' : 'false';
  for (const [index, count] of missing.entries()) if (count === 0) ready[key(index)].push(index);
  const done = new Uint8Array(tensors.length);

  const subsets: Subset[] = [];
  // The first ready operator in file order names the first kind; after that one kind is always used up.
  let kind: 'true' | 'false' = (ready.true[0] ?? Infinity) < (ready.false[0] ?? Infinity) ? 'true' : 'false';
  while (ready[kind].length > 0) {
    const subset: Subset = { mappable: kind === 'true', operators: [] };
    while (ready[kind].length > 0) {
      const pass = ready[kind];
      ready[kind] = [];
      for (const index of pass) {
        subset.operators.push(index);
        for (const tensor of operators[index]!.outputs) {
          if (tensor < 0 || done[tensor]) continue;
          done[tensor] = 1;
          for (const taker of takers[tensor]!) {
            missing[taker] = missing[taker]! - 1;
            if (missing[taker] === 0) ready[key(taker)].push(taker);
          }
        }
      }
    }
    subset.operators.sort((a, b) => a - b);
    subsets.push(subset);
    kind = kind === 'true' ? 'false' : 'true';
  }
  return subsets;
}
