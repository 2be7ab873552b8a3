import { describe, expect, it } from 'vitest';
import { analyze, type Analysis, type AnalyzeOptions } from './analyze.ts';
import { inspectCompiled } from './compiled.ts';
import { readModel, type KnownOptions } from './model.ts';
import { status } from './rules.ts';
import { sharedModel, sharedPresent } from './shared.fixture.ts';
import { TfliteBuilder, type TensorSpec } from './tflite-builder.fixture.ts';

const judged = (net: TfliteBuilder, options?: AnalyzeOptions): Analysis => analyze(readModel(net.build()), options);
const codes = (analysis: Analysis): string[] => analysis.faults.map(({ code }) => code);

/** A convolution, one operator under test, and what the analyzer says about the latter. */
function oneOp(op: string, input: number[], output: number[], {
  constants = () => [], runtime, spec, before = false, inputSpec, ...options
}: { constants?: (net: TfliteBuilder) => number[]; runtime?: number; spec?: Omit<TensorSpec, 'shape'>; before?: boolean; inputSpec?: Omit<TensorSpec, 'shape'>; version?: number } & Partial<KnownOptions> = {}): Analysis['ops'][number] & { unverified: string[] } {
  const net = new TfliteBuilder();
  const from = net.input(input, inputSpec);
  const others = constants(net);
  const result = net.tensor({ shape: output, ...spec });
  net.op(op, before ? [...others, from] : [from, ...others], [result], options);
  net.output(result);
  const analysis = judged(net, runtime === undefined ? {} : { minRuntime: runtime });
  return { ...analysis.ops[0]!, unverified: analysis.unverified.map(({ message }) => message) };
}

const ints = (...values: number[]) => (net: TfliteBuilder): number[] => [net.ints(values)];
const open = (net: TfliteBuilder): number[] => [net.input([2], { type: 'INT8', name: 'computed' })];

describe('one operator by itself', () => {
  it.each<[string, ReturnType<typeof oneOp>]>([
    ['ADD', oneOp('ADD', [1, 8, 8, 4], [1, 8, 8, 4], { version: 2 })],
    ['AVERAGE_POOL_2D', oneOp('AVERAGE_POOL_2D', [1, 8, 8, 4], [1, 4, 4, 4], { version: 2, fusedActivation: 'NONE' })],
    ['MEAN over height and width', oneOp('MEAN', [1, 7, 7, 30], [1, 30], { constants: ints(1, 2), version: 2 })],
    ['MEAN over 4 channels', oneOp('MEAN', [1, 7, 7, 4], [1, 7, 7], { constants: ints(3), version: 2 })],
    ['MEAN over 64x128', oneOp('MEAN', [1, 64, 128, 3], [1, 3], { constants: ints(1, 2), version: 2 })],
    ['SOFTMAX of 16,384', oneOp('SOFTMAX', [1, 16_384], [1, 16_384], { version: 2 })],
    ['RESIZE_BILINEAR by two', oneOp('RESIZE_BILINEAR', [1, 6, 6, 8], [1, 12, 12, 8], { constants: ints(12, 12), version: 3 })],
    ['RESIZE_BILINEAR to the same size', oneOp('RESIZE_BILINEAR', [1, 1, 1, 8], [1, 1, 1, 8], { constants: ints(1, 1) })],
    ['PAD of the picture', oneOp('PAD', [1, 8, 8, 3], [1, 9, 9, 3], { constants: (net) => [net.tensor({ shape: [4, 2], type: 'INT32', data: new Uint8Array(Int32Array.from([0, 0, 0, 1, 0, 1, 0, 0]).buffer) })], version: 2 })],
    ['QUANTIZE from 8 to 8 bits', oneOp('QUANTIZE', [1, 8], [1, 8], { inputSpec: { type: 'UINT8' }, runtime: 12 })],
    ['TILE', oneOp('TILE', [1, 1, 1, 8], [1, 4, 4, 8], { constants: ints(1, 4, 4, 1) })],
    ['CONCATENATION with zeros', oneOp('CONCATENATION', [1, 4, 4, 4], [1, 4, 4, 8], { constants: (net) => [net.tensor({ shape: [1, 4, 4, 4], data: true })], version: 2, axis: 3, fusedActivation: 'NONE' })],
    ['SPLIT over channels', oneOp('SPLIT', [1, 4, 4, 4], [1, 4, 4, 2], { constants: (net) => [net.tensor({ shape: [], type: 'INT32', data: new Uint8Array(Int32Array.from([3]).buffer) })], before: true })],
  ])('%s maps', (_, op) => {
    expect(op).toMatchObject({ mapped: true, status: status.mapped, reason: null });
    expect(op.unverified).toEqual([]);
  });

  it.each<[string, ReturnType<typeof oneOp>, string, RegExp]>([
    ['LEAKY_RELU', oneOp('LEAKY_RELU', [1, 8], [1, 8]), status.unsupported, /MAXIMUM/],
    ['TOPK_V2, by its first output', (() => { const net = new TfliteBuilder(); const [values, places] = [net.tensor({ shape: [1, 3] }), net.tensor({ shape: [1, 3], type: 'INT32' })]; net.op('TOPK_V2', [net.input([1, 8]), net.ints([3])], [values, places]); net.output(values, places); return { ...judged(net).ops[0]!, unverified: [] }; })(), status.unsupported, /edgetpu-rules/],
    ['an operator from the future', oneOp('SEGMENT_SUM', [1, 8], [1, 8]), status.unsupported, /edgetpu-rules/],
    ['a custom operator on float', oneOp('CUSTOM', [1, 8], [1, 8], { customCode: 'PosenetDecoderOp', spec: { type: 'FLOAT32' } } as never), status.type, /very end/],
    ['ARG_MAX', oneOp('ARG_MAX', [1, 8], [1], { spec: { type: 'INT32' } }), status.type, /on the host/],
    ['DEQUANTIZE', oneOp('DEQUANTIZE', [1, 8], [1, 8], { spec: { type: 'FLOAT32' } }), status.type, /inference_output_type/],
    ['QUANTIZE from float', oneOp('QUANTIZE', [1, 8], [1, 8], { inputSpec: { type: 'FLOAT32' } }), status.unspecified, /inference_input_type/],
    ['a batch of two', oneOp('ADD', [2, 8, 8, 4], [2, 8, 8, 4]), status.rank, /batch size 1/],
    ['five dimensions', oneOp('ADD', [1, 2, 8, 8, 4], [1, 2, 8, 8, 4]), status.rank, /three sizes/],
    ['pooling with an activation', oneOp('MAX_POOL_2D', [1, 8, 8, 4], [1, 4, 4, 4], { fusedActivation: 'RELU' }), status.unspecified, /layer of its own/],
    ['MEAN over the batch', oneOp('MEAN', [1, 7, 7, 4], [7, 7, 4], { constants: ints(0), version: 2 }), status.unspecified, /channels only/],
    ['MEAN over 3 channels', oneOp('MEAN', [1, 7, 7, 3], [1, 7, 7], { constants: ints(-1), version: 2 }), status.unspecified, /number of channels/],
    ['MEAN over 256x128', oneOp('MEAN', [1, 256, 128, 3], [1, 3], { constants: ints(1, 2), version: 2 }), status.unspecified, /two steps/],
    ['MEAN over channels on runtime 12', oneOp('MEAN', [1, 7, 7, 4], [1, 7, 7], { constants: ints(3), version: 2, runtime: 12 }), status.unspecified, /13 or newer/],
    ['SOFTMAX of 16,385', oneOp('SOFTMAX', [1, 16_385], [1, 16_385]), status.unspecified, /on the host/],
    ['RESIZE_BILINEAR from one point', oneOp('RESIZE_BILINEAR', [1, 1, 1, 8], [1, 12, 12, 8], { constants: ints(12, 12) }), status.unspecified, /in steps of 2/],
    ['RESIZE_BILINEAR by 15', oneOp('RESIZE_BILINEAR', [1, 33, 33, 8], [1, 513, 513, 8], { constants: ints(513, 513) }), status.unspecified, /in steps of 2/],
    ['RESHAPE to a computed shape', oneOp('RESHAPE', [1, 8], [8], { constants: open }), status.notConstant, /Freeze/],
    ['FULLY_CONNECTED with computed weights', oneOp('FULLY_CONNECTED', [1, 8], [1, 8], { constants: open }), status.notConstant, /Freeze/],
    ['FULLY_CONNECTED that keeps dimensions', oneOp('FULLY_CONNECTED', [1, 1, 8], [1, 1, 8], { keepNumDims: true, version: 5 }), status.version, /Flatten/],
    ['FULLY_CONNECTED with many rows', oneOp('FULLY_CONNECTED', [4, 8], [4, 8]), status.unspecified, /1x1 convolution/],
    ['CONCATENATION with a constant', oneOp('CONCATENATION', [1, 4], [1, 8], { constants: (net) => [net.tensor({ shape: [1, 4], data: Uint8Array.of(0, 0, 1, 0) })] }), status.unspecified, /ADD/],
    ['STRIDED_SLICE in steps of two', oneOp('STRIDED_SLICE', [1, 8], [1, 4], { constants: (net) => [net.ints([0, 0]), net.ints([1, 8]), net.ints([1, 2])] }), status.unspecified, /strided convolution/],
    ['PACK along the batch', oneOp('PACK', [1, 8], [2, 1, 8], { axis: 0 }), status.unspecified, /another axis/],
    ['TRANSPOSE on runtime 13', oneOp('TRANSPOSE', [1, 2, 8], [1, 8, 2], { constants: ints(0, 2, 1), runtime: 13 }), status.unsupported, /runtime 14/],
    ['EXPAND_DIMS on runtime 12', oneOp('EXPAND_DIMS', [1, 8], [1, 1, 8], { constants: ints(1), runtime: 12 }), status.unsupported, /runtime 13/],
    ['PAD of the batch', oneOp('PAD', [1, 2, 2], [2, 2, 2], { constants: ints(0, 1, 0, 0, 0, 0) }), status.unspecified, /height, width/],
  ])('%s does not, and the advice helps', (_, op, expected, advice) => {
    expect(op).toMatchObject({ mapped: false, status: expected });
    expect(op.reason!.length).toBeGreaterThan(10);
    expect(op.advice).toMatch(advice);
  });

  it.each<[string, ReturnType<typeof oneOp>, RegExp]>([
    ['RESIZE_BILINEAR by three', oneOp('RESIZE_BILINEAR', [1, 6, 6, 8], [1, 18, 18, 8], { constants: ints(18, 18) }), /between 2 and 4/],
    ['RESHAPE of 200,000 elements', oneOp('RESHAPE', [1, 200_000], [1, 200, 1000], { constants: ints(1, 200, 1000) }), /94400/],
    ['SOFTMAX version 3', oneOp('SOFTMAX', [1, 8], [1, 8], { version: 3 }), /version 3 was never seen/],
    ['SOFTMAX over a picture', oneOp('SOFTMAX', [1, 8, 8, 4], [1, 8, 8, 4]), /one row is documented/],
    ['RSQRT', oneOp('RSQRT', [1, 8], [1, 8]), /only from memory/],
    ['MEAN over 128x128', oneOp('MEAN', [1, 128, 128, 3], [1, 3], { constants: ints(1, 2) }), /largest seen/],
  ])('%s maps as far as anyone knows', (_, op, doubt) => {
    expect(op.mapped).toBe(true);
    expect(op.unverified.join()).toMatch(doubt);
  });

  it('dilation: unequal only where one kernel side is 1', () => {
    const dilated = (kernel: [number, number], dilationH: number, dilationW: number): boolean => {
      const net = new TfliteBuilder();
      net.output(net.conv(net.input([1, 16, 16, 4]), 8, { kernel, dilationH, dilationW }));
      return judged(net).ops[0]!.mapped;
    };
    expect([dilated([3, 3], 2, 2), dilated([3, 1], 4, 1), dilated([3, 3], 2, 1)]).toEqual([true, true, false]);
  });
});

/** conv -> one unsupported operator in the middle -> conv, and a branch that goes round it. */
function cutInTheMiddle(): TfliteBuilder {
  const net = new TfliteBuilder();
  const first = net.conv(net.input([1, 16, 16, 3]), 8);
  const cut = net.layer('LEAKY_RELU', first, [1, 16, 16, 8]);
  const after = net.conv(cut, 8);
  const branch = net.depthwise(first);
  return net.output(net.add(after, branch));
}

describe('the whole model', () => {
  it('everything maps', () => {
    const net = new TfliteBuilder();
    net.output(net.softmax(net.dense(net.flatten(net.depthwise(net.conv(net.input([1, 16, 16, 3]), 8, { perChannel: true }), { perChannel: true })), 10)));
    const analysis = judged(net);
    expect(analysis).toMatchObject({ verdict: 'fully_mapped', refused: false, mappedOps: 5, cpuOps: 0, faults: [], unverified: [], parameters: { fit: 'fits', streamedBytes: 0, complete: true } });
    expect(analysis.summary).toBe('All 5 operators map to the Edge TPU.');
  });

  it('an unsupported operator cuts off what depends on it, and its name is in the reason', () => {
    const { ops, verdict, summary } = judged(cutInTheMiddle());
    expect(verdict).toBe('partly_mapped');
    expect(ops.map(({ status }) => status)).toEqual([status.mapped, status.unsupported, status.subgraph, status.mapped, status.subgraph]);
    expect(ops[2]!.reason).toContain('operator 1 (LEAKY_RELU)');
    expect(summary).toMatch(/2 of 5 operators.*operator 1, LEAKY_RELU/);
  });

  it('a float QUANTIZE in front cuts nothing', () => {
    const net = new TfliteBuilder();
    net.output(net.conv(net.quantise(net.input([1, 8, 8, 3], { type: 'FLOAT32' })), 8));
    const analysis = judged(net, { allowFloatIo: true });
    expect(analysis.ops.map(({ mapped }) => mapped)).toEqual([false, true]);
    expect(analysis).toMatchObject({ verdict: 'partly_mapped', refused: false });
  });

  it('larger than any public pair: not verified', () => {
    const net = new TfliteBuilder();
    net.output(net.dense(net.input([1, 2100]), 2100));
    expect(judged(net)).toMatchObject({ verdict: 'not_verified', forecast: 'fully_mapped', unverified: [{ code: 'model_size' }] });
  });

  it('ends in detection post-processing: not verified, and its float outputs are no error', () => {
    const net = new TfliteBuilder();
    const features = net.conv(net.input([1, 8, 8, 3]), 8);
    const boxes = net.tensor({ shape: [1, 20, 4], type: 'FLOAT32' });
    net.op('CUSTOM', [features], [boxes], { customCode: 'TFLite_Detection_PostProcess' });
    net.output(boxes);
    const analysis = judged(net);
    expect(analysis).toMatchObject({ verdict: 'not_verified', forecast: 'partly_mapped', refused: false, ops: [{ mapped: true }, { op: 'TFLite_Detection_PostProcess', status: status.type }] });
    expect(analysis.faults).toMatchObject([{ code: 'quant.float_output', severity: 'warning' }]);
  });

  it('nothing maps: said before the compiler makes a useless file', () => {
    const net = new TfliteBuilder();
    net.output(net.layer('LEAKY_RELU', net.input([1, 8]), [1, 8]));
    expect(judged(net)).toMatchObject({ verdict: 'will_not_compile', refused: true, faults: [{ code: 'op.nothing_maps' }] });
  });

  it('an old minimum runtime', () => {
    const net = new TfliteBuilder();
    const pooled = net.layer('SUM', net.conv(net.input([1, 8, 8, 3]), 8), [1, 8], { with: [net.ints([1, 2])] });
    net.output(pooled);
    expect([12, 13].map((minRuntime) => judged(net, { minRuntime }).mappedOps)).toEqual([1, 2]);
  });
});

describe('faults of quantisation and shape', () => {
  it('float at the border: refused with names, shapes and types; allowed on request', () => {
    const net = new TfliteBuilder();
    const picture = net.input([1, 224, 224, 3], { type: 'FLOAT32', name: 'serving_default_image' });
    net.output(net.dequantise(net.dense(net.flatten(net.conv(net.quantise(picture), 8, { stride: 32 })), 10)));
    const strict = judged(net);
    expect(strict.refused).toBe(true);
    expect(strict.faults).toMatchObject([
      { code: 'quant.float_input', severity: 'error', tensor: { name: 'serving_default_image', shape: [1, 224, 224, 3], type: 'FLOAT32' } },
      { code: 'quant.float_output', severity: 'error', tensor: { shape: [1, 10], type: 'FLOAT32' } },
    ]);
    expect(strict.faults[0]!.message).toContain('"serving_default_image" FLOAT32 [1, 224, 224, 3]');
    const allowed = judged(net, { allowFloatIo: true });
    expect(allowed).toMatchObject({ refused: false, verdict: 'partly_mapped', faults: [{ severity: 'warning' }, { severity: 'warning' }] });
  });

  it('a dense layer with a scale per row is refused, whatever the compiler thinks', () => {
    const net = new TfliteBuilder();
    net.output(net.dense(net.input([1, 16]), 10, { perChannel: true }));
    expect(judged(net)).toMatchObject({ forecast: 'fully_mapped', refused: true, faults: [{ code: 'quant.per_channel_fully_connected', severity: 'error', op: 0 }] });
  });

  it('a float model is not quantised; neither is one with 8-bit weights only', () => {
    const net = new TfliteBuilder();
    const input = net.input([1, 8], { type: 'FLOAT32' });
    net.output(net.dense(input, 4));
    expect(judged(net)).toMatchObject({ verdict: 'will_not_compile', faults: [{ code: 'quant.not_quantized', fatal: true }] });
  });

  it('16-bit activations are named as such', () => {
    const net = new TfliteBuilder();
    net.output(net.layer('ADD', net.input([1, 8], { type: 'INT16' }), [1, 8], { spec: { type: 'INT16' } }));
    expect(codes(judged(net))).toContain('quant.wide_activations');
  });

  it('a float island inside is a warning', () => {
    const net = new TfliteBuilder();
    const island = net.layer('ELU', net.dequantise(net.conv(net.input([1, 8, 8, 3]), 8)), [1, 8, 8, 8]);
    net.output(net.conv(net.quantise(island), 8));
    expect(judged(net)).toMatchObject({ verdict: 'partly_mapped', refused: false, faults: [{ code: 'quant.float_ops', severity: 'warning' }] });
  });

  const withBias = (bias: Omit<TensorSpec, 'shape'>): Analysis => {
    const net = new TfliteBuilder();
    const weights = net.tensor({ shape: [4, 8], scale: 1 / 64, data: true });
    net.output(net.layer('FULLY_CONNECTED', net.input([1, 8]), [1, 4], { with: [weights, net.tensor({ shape: [4], data: true, ...bias })], version: 4 }));
    return judged(net);
  };
  it('a bias of another type', () => expect(codes(withBias({ type: 'INT8' }))).toEqual(['quant.bias_type']));
  it('a bias whose scale is not input times weights', () => expect(withBias({ type: 'INT32', scale: [1 / 64] }).faults).toMatchObject([{ code: 'quant.bias_scale', severity: 'warning' }]));
  it('a bias as it should be', () => expect(codes(withBias({ type: 'INT32', scale: [1 / 64 / 128] }))).toEqual([]));
  it('a scale of zero', () => {
    const net = new TfliteBuilder();
    net.output(net.conv(net.input([1, 8, 8, 3], { scale: 0 }), 8));
    expect(codes(judged(net))).toContain('quant.zero_scale');
  });

  it('an open batch in the signature is a warning, a shape known only at run time an error', () => {
    const signed = new TfliteBuilder();
    signed.output(signed.conv(signed.input([1, 8, 8, 3], { shapeSignature: [-1, 8, 8, 3] }), 8));
    expect(judged(signed)).toMatchObject({ verdict: 'fully_mapped', faults: [{ code: 'shape.open_signature', severity: 'warning' }] });
    const dynamic = new TfliteBuilder();
    const features = dynamic.conv(dynamic.input([1, 8, 8, 3]), 8);
    dynamic.output(dynamic.layer('RESHAPE', features, [1, 512], { with: [dynamic.input([2], { type: 'INT32', name: 'size' })] }));
    expect(judged(dynamic)).toMatchObject({ verdict: 'will_not_compile', faults: [{ code: 'shape.dynamic', op: 1, tensor: { name: 'size' } }] });
    const open = new TfliteBuilder();
    open.output(open.conv(open.input([-1, 8, 8, 3]), 8));
    expect(codes(judged(open))).toContain('shape.dynamic');
  });

  it('a batch of 8', () => {
    const net = new TfliteBuilder();
    net.output(net.layer('ADD', net.input([8, 4, 4, 3]), [8, 4, 4, 3]));
    expect(codes(judged(net))).toEqual(['shape.batch', 'op.nothing_maps']);
  });

  it('an operator version the compiler cannot read', () => {
    const net = new TfliteBuilder();
    net.output(net.conv(net.input([1, 8, 8, 3]), 8, { version: 6 }));
    expect(judged(net)).toMatchObject({ verdict: 'will_not_compile', ops: [{ versionSupport: 'refused', status: status.version }], faults: [{ code: 'op.version_refused', op: 0 }] });
  });

  it('an activation larger than the chip', () => {
    const net = new TfliteBuilder();
    net.output(net.conv(net.input([1, 1024, 1024, 3]), 16));
    expect(judged(net)).toMatchObject({ verdict: 'not_verified', faults: [{ code: 'size.large_activation', severity: 'warning' }] });
  });
});

describe('a file that only says edgetpu', () => {
  const net = new TfliteBuilder();
  net.output(net.conv(net.input([1, 8, 8, 3]), 8));
  it('is not taken for a compiled one', () => expect(() => inspectCompiled(net.build())).toThrow(expect.objectContaining({ code: 'model.not_compiled' })));

  it('a compiled part whose package is damaged is refused', () => {
    const broken = new TfliteBuilder();
    const output = broken.tensor({ shape: [1, 8] });
    broken.op('CUSTOM', [broken.input([1, 8])], [output], { customCode: 'edgetpu-custom-op', customOptions: Uint8Array.of(1, 2, 3, 4, 5) });
    broken.output(output);
    expect(() => inspectCompiled(broken.build())).toThrow(expect.objectContaining({ code: 'model.unreadable' }));
    expect(analyze(readModel(broken.build())).verdict).toBe('already_compiled');
  });

  it.skipIf(!sharedPresent)('damaged public packages: every byte of the head in turn', () => {
    const bytes = sharedModel('coral/tools/split_concat_edgetpu.tflite');
    const at = bytes.indexOf('DWN1');
    for (let index = at - 8; index < at + 400; index += 1) {
      const damaged = Uint8Array.from(bytes);
      damaged[index] = 255 - damaged[index]!;
      try {
        inspectCompiled(damaged);
      } catch (thrown) {
        expect((thrown as { code?: string }).code).toBe('model.unreadable');
      }
    }
  });
});
