import { stripVTControlCharacters } from 'node:util';
import { describe, expect, it } from 'vitest';
import { readModel } from '@reefkeeper/edgetpu';
import { compiledModel, TfliteBuilder } from '@reefkeeper/edgetpu/fixture';
import { checkModel, checkText, demands, operatorList, opRows, rules, rulesText, verdictWords, type CheckOptions, type CheckReport } from './check.ts';

type Make = (net: TfliteBuilder) => TfliteBuilder;
const built = (make: Make): Uint8Array => make(new TfliteBuilder()).build();
const checked = (bytes: Uint8Array, options?: CheckOptions, path = 'model.tflite'): CheckReport => checkModel({ path, model: readModel(bytes) }, options);
const textOf = (report: CheckReport): string => stripVTControlCharacters(checkText(report));

const whole: Make = (net) => net.output(net.softmax(net.dense(net.flatten(net.conv(net.input([1, 8, 8, 3]), 4)), 10)));
/** LEAKY_RELU in the middle: two operators map, one cannot, two stand behind it. */
const cut: Make = (net) => net.output(net.conv(net.conv(net.layer('LEAKY_RELU', net.depthwise(net.conv(net.input([1, 8, 8, 3]), 4)), [1, 8, 8, 4]), 8), 8));
const floatInput: Make = (net) => net.output(net.conv(net.quantise(net.input([1, 8, 8, 3], { type: 'FLOAT32', name: 'image' })), 4));
const perRowDense: Make = (net) => net.output(net.dense(net.input([1, 16]), 10, { perChannel: true }));

it.each<[string, Uint8Array, [partial: boolean, full: boolean, verified: boolean]]>([
  ['everything maps', built(whole), [true, true, true]],
  ['a part stays on the CPU', built(cut), [true, false, false]],
  ['larger than any public pair', built((net) => net.output(net.dense(net.input([1, 2100]), 2100))), [true, true, false]],
  ['float at the border', built(floatInput), [false, false, false]],
  ['a scale per row of a dense layer', built(perRowDense), [false, false, false]],
  ['nothing maps', built((net) => net.output(net.layer('LEAKY_RELU', net.input([1, 8]), [1, 8]))), [false, false, false]],
  ['compiled already', compiledModel(), [true, true, true]],
])('--require partial, full, verified: %s', (_, bytes, expected) => {
  expect(demands.map((require) => checked(bytes, { require }).passed)).toEqual(expected);
});

describe('what is said', () => {
  it('everything maps', () => {
    const text = textOf(checked(built(whole)));
    expect(text).toMatch(/verdict +fully mapped\n/);
    expect(text).toMatch(/operators +4 of 4 on the Edge TPU/);
    expect(text).toMatch(/runtime +14 and newer/);
    expect(text).toMatch(/parameters +about 4\.8 kB, all of it stays on the chip/);
    expect(text).toMatch(/CONV_2D@3 +1 +Mapped to Edge TPU/);
    expect(text).not.toMatch(/What to change|Faults/);
  });

  it('one line per cause; what only stands behind it is told once', () => {
    const report = checked(built(cut));
    expect(report.ops).toMatchObject([
      { op: 'CONV_2D@3', count: 1, mapped: true, operators: [0] }, { op: 'DEPTHWISE_CONV_2D@3', mapped: true },
      { op: 'LEAKY_RELU@1', status: 'Operation not supported', operators: [2] }, { op: 'CONV_2D@3', count: 2, status: 'More than one subgraph is not supported', operators: [3, 4] },
    ]);
    const text = textOf(report);
    expect(text).toContain('partly mapped, 3 operators on the CPU');
    expect(text).toMatch(/- LEAKY_RELU@1 \(operator 2\): The Edge TPU has no LEAKY_RELU\. Use RELU/);
    expect(text).toMatch(/- 2 operators \(operators 3-4\) would map, .*they take what the operators above make/);
  });

  it('float at the border is refused with name, shape and type; allowed on request, and still said', () => {
    const text = textOf(checked(built(floatInput)));
    expect(text).toMatch(/verdict +refused \(see the faults\)/);
    expect(text).toMatch(/error Input "image" FLOAT32 \[1, 8, 8, 3\] is float although the model is quantised.*quant\.float_input/);
    const allowed = checked(built(floatInput), { allowFloatIo: true, require: 'partial' });
    expect(allowed.passed).toBe(true);
    expect(textOf(allowed)).toMatch(/warning Input "image" FLOAT32/);
  });

  it('a float model: the fault says it once', () => {
    const text = textOf(checked(built((net) => net.output(net.layer('RELU', net.dense(net.input([1, 8], { type: 'FLOAT32' }), 4), [1, 4])))));
    expect(text).toMatch(/verdict +will not compile[^]*error The model is not quantised/);
    expect(text).not.toContain('What to change');
  });

  it('a dense layer with a scale per row is refused with the reason', () => {
    expect(textOf(checked(built(perRowDense)))).toMatch(/error Dense weights .* have 10 scales: older runtimes load this without an error and answer garbage.*quant\.per_channel_fully_connected/);
  });

  it('a file that only says edgetpu is unmasked, and judged as what it is', () => {
    const report = checked(built(whole), {}, 'models/mobilenet_edgetpu.tflite');
    expect(report).toMatchObject({ masked: true, passed: false, verdict: 'fully_mapped' });
    expect(textOf(report)).toMatch(/warning: The name says that it is compiled, but it holds no edgetpu-custom-op/);
    expect(checked(compiledModel(), {}, 'mobilenet_edgetpu.tflite')).toMatchObject({ masked: false, passed: true, verdict: 'already_compiled' });
  });

  it('a compiled part that cannot be read is no compiled model', () => {
    const damaged = built((net) => {
      const scores = net.tensor({ shape: [1, 4] });
      net.op('CUSTOM', [net.input([1, 4])], [scores], { customCode: 'edgetpu-custom-op', customOptions: Uint8Array.of(1, 2, 3, 4, 5) });
      return net.output(scores);
    });
    expect(() => checked(damaged)).toThrow(expect.objectContaining({ code: 'model.unreadable', message: expect.stringMatching(/^model\.tflite: .*damaged/) as string }));
  });

  it.each<[string, Parameters<typeof verdictWords>[0]]>([
    ['not verified; by the rules fully mapped', { verdict: 'not_verified', forecast: 'fully_mapped', cpuOps: 0, refused: false }],
    ['not verified; by the rules partly mapped, 1 operator on the CPU', { verdict: 'not_verified', forecast: 'partly_mapped', cpuOps: 1, refused: false }],
    ['will not compile', { verdict: 'will_not_compile', forecast: 'will_not_compile', cpuOps: 4, refused: true }],
    ['already compiled, 8 operators on the CPU', { verdict: 'already_compiled', forecast: 'already_compiled', cpuOps: 8, refused: false }],
    ['refused (see the faults); otherwise fully mapped', { verdict: 'fully_mapped', forecast: 'fully_mapped', cpuOps: 0, refused: true }],
  ])('%s', (words, analysis) => expect(verdictWords(analysis)).toBe(words));

  it.each([['operator 3', [3]], ['operators 1-3, 7', [1, 2, 3, 7]], ['operators 0, 2, 4, 6, 8, 10 and 2 more', [0, 2, 4, 6, 8, 10, 12, 14]]])('%s', (text, operators) => expect(operatorList(operators)).toBe(text));

  it('rows of one kind with different advice stay apart, mapped ones come first', () => {
    const op = { op: 'ADD', version: 2, versionSupport: 'ok' as const, reason: 'r' };
    expect(opRows([
      { ...op, index: 0, status: 'Operation not supported', mapped: false, advice: 'a' }, { ...op, index: 1, status: 'Operation not supported', mapped: false, advice: 'b' },
      { ...op, index: 2, status: 'Mapped to Edge TPU', mapped: true, advice: null }, { ...op, index: 3, status: 'Operation not supported', mapped: false, advice: 'a' },
    ]).map(({ operators }) => operators)).toEqual([[2], [0, 3], [1]]);
  });
});

it('the rules: every operator, and what limits it', () => {
  expect(rules().length).toBeGreaterThan(40);
  expect(stripVTControlCharacters(rulesText())).toMatch(/^operator +runtime from +version up to +known from +limits[^]*MAX_POOL_2D +any +2 +measured +no fused activation/);
});
