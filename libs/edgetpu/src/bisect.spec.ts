import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { describePart, findFailingPart, type BisectOptions, type FailingPart, type OperatorRange } from './bisect.ts';
import { readModel, type TfliteModel } from './model.ts';
import { TfliteBuilder } from './tflite-builder.fixture.ts';

function chain(length: number): TfliteModel {
  const net = new TfliteBuilder();
  let last = net.input([1, 4, 4, 4]);
  for (let index = 0; index < length; index += 1) last = index % 2 === 0 ? net.conv(last, 4, { kernel: 1 }) : net.layer('RELU', last, [1, 4, 4, 4]);
  return readModel(net.output(last).build());
}

/** A compiler that fails on pieces for which `fails` holds. Every piece must be a model. */
async function bisect(model: TfliteModel, fails: (range: OperatorRange) => boolean, options: BisectOptions = {}): Promise<FailingPart | null> {
  return findFailingPart(model, async (bytes, range) => {
    expect(readModel(bytes).subgraphs[0]!.operators).toHaveLength(range.to - range.from);
    return !fails(range);
  }, options);
}
const holds = (...operators: number[]) => ({ from, to }: OperatorRange): boolean => operators.every((operator) => from <= operator && operator < to);

describe('findFailingPart', () => {
  it.each<[string, number, number[], [number, number]]>([
    ['one operator in the middle', 40, [17], [17, 18]], ['the first', 40, [0], [0, 1]], ['the last', 40, [39], [39, 40]], ['two that only fail together', 40, [10, 13], [10, 14]], ['the whole', 5, [0, 4], [0, 5]], ['the only one', 1, [0], [0, 1]],
  ])('%s', async (_, length, guilty, [from, to]) => {
    const found = await bisect(chain(length), holds(...guilty));
    expect(found).toMatchObject({ from, to, smallest: true });
    expect(readModel(found!.bytes).subgraphs[0]!.operators).toHaveLength(to - from);
  });

  it('a model that compiles', async () => expect(await bisect(chain(5), () => false)).toBeNull());

  it('1,000 operators take 25 runs at most, and each is told', async () => {
    const told: number[] = [];
    const found = await bisect(chain(1000), holds(700, 702), { onRun: ({ number }) => told.push(number) });
    expect(found).toMatchObject({ from: 700, to: 703 });
    expect(found!.runs).toBeLessThanOrEqual(25);
    expect(told).toEqual(Array.from({ length: found!.runs }, (_, index) => index + 1));
  });

  it('out of runs: the smallest known so far, and that it is not proven', async () => {
    const found = await bisect(chain(1000), holds(700), { maxRuns: 5 });
    expect(found).toMatchObject({ smallest: false, runs: 5 });
    expect(found!.from <= 700 && 700 < found!.to).toBe(true);
    expect(found!.to - found!.from).toBeLessThan(1000);
  });

  it('whatever fails, the part fails, cannot lose an end, and the runs are bounded', async () => {
    const model = chain(24);
    await fc.assert(fc.asyncProperty(fc.array(fc.nat(23), { minLength: 1, maxLength: 3 }), fc.nat(99), async (guilty, salt) => {
      // Some pieces around the guilty ones compile all the same: what a larger piece did says nothing of a smaller one.
      const fails = (range: OperatorRange): boolean => holds(...guilty)(range) && (range.to - range.from === 24 || (range.from * 7 + range.to * 13 + salt) % 5 !== 0);
      const found = await bisect(model, fails, { maxRuns: 200 });
      expect(fails(found!)).toBe(true);
      expect(found!.smallest).toBe(true);
      expect(found!.to - found!.from === 1 || !(fails({ from: found!.from + 1, to: found!.to }) || fails({ from: found!.from, to: found!.to - 1 }))).toBe(true);
      expect(found!.runs).toBeLessThanOrEqual(60);
    }), { numRuns: 200 });
  });

  it('is described by its operators and their tensors', () => {
    const [conv] = describePart(chain(3), { from: 2, to: 3 });
    expect(conv).toMatchObject({ index: 2, op: 'CONV_2D', version: 3, inputs: [{ shape: [1, 4, 4, 4], type: 'INT8' }, { shape: [4, 1, 1, 4] }, { type: 'INT32' }], outputs: [{ shape: [1, 4, 4, 4] }] });
  });
});
