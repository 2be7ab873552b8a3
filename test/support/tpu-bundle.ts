import { TfliteBuilder } from '@reefkeeper/edgetpu/fixture';
import { encodeGolden } from '@reefkeeper/bundle';
import { fakeAnswer } from '../../libs/inference/src/fake-edgetpu.fixture.ts';
import { compiledModel, type CompiledShape } from './compiled.ts';
import type { Fleet } from './fleet.ts';

/**
 * A signed bundle whose `edgetpu-14` variant runs on the stand-in for libedgetpu, with a self-test of exactly what that answers. With
 * `segments` it is cut for two of them instead (`edgetpu-14-x2`; those given are taken for the ones made here), with `whole` beside it. With
 * `cpu` there is a model of the same tensors for the CPU beside it; the two say different things, so the self-test is then lenient.
 */
export function publishForTpu(fleet: Fleet, version: number, options: CompiledShape & { cpu?: boolean; whole?: boolean; segments?: (Buffer | undefined)[] } = {}): { bundle: string; golden: { input: Buffer; output: Buffer } } {
  const { cpu = false, segments, whole: beside = !segments, ...shape } = options;
  const features = { name: 'features', shape: [1, 16] };
  const [whole, first, second] = [
    compiledModel({ compiler: `v${version}`, ...shape }),
    segments?.[0] ?? compiledModel({ compiler: `v${version}, 1`, ...shape, output: features }), segments?.[1] ?? compiledModel({ compiler: `v${version}, 2`, ...shape, input: features }),
  ];
  // Its bytes come to 248 modulo 256, which the stand-in answers alike whether in one or in two.
  const input = Buffer.from(Array.from({ length: 192 }, (_, at) => (at === 191 ? 209 : at * 7) & 0xff));
  const output = fakeAnswer([input], 10);
  const golden = encodeGolden({ cases: [{ input: [input], expect: { top1: null, outputs: [output], dtypes: ['uint8'], tolerance: { maxStepDiff: cpu ? 255 : 0 } } }] });
  const tensor = { dtype: 'uint8' as const, zeroPoint: 0 };
  const { bundle } = fleet.publish(version, {
    alter: (manifest) => ({
      ...manifest, labels: null,
      inputs: [{ ...tensor, name: 'picture', shape: [1, 8, 8, 3], scale: 1 / 255, preprocessing: { kind: 'image', width: 8, height: 8, channels: 3, resize: 'stretch', mean: [0], std: [255] } }],
      outputs: [{ ...tensor, name: 'scores', shape: [1, 10], scale: 1 / 256 }],
      variants: [
        ...(segments ? [{ name: 'edgetpu-14-x2', kind: 'edgetpu' as const, minRuntime: 14, file: fleet.put(first), moreSegments: [fleet.put(second)] }] : []),
        ...(beside ? [{ name: 'edgetpu-14', kind: 'edgetpu' as const, minRuntime: 14, file: fleet.put(whole) }] : []),
        ...(cpu ? [{ name: 'cpu-int8', kind: 'cpu-int8' as const, minRuntime: null, file: fleet.put(cpuTwin(version)) }] : []),
      ],
      golden: { ...fleet.put(golden), cases: 1 },
    }),
  });
  return { bundle, golden: { input, output } };
}

/** Takes and gives what `compiledModel` does. */
function cpuTwin(version: number): Buffer {
  const net = new TfliteBuilder();
  net.description = `twin ${version}`;
  const picture = net.input([1, 8, 8, 3], { name: 'picture', type: 'UINT8', scale: 1 / 255, zeroPoint: 0 });
  const pooled = net.layer('AVERAGE_POOL_2D', picture, [1, 1, 1, 3], { version: 2, filterHeight: 8, filterWidth: 8, strideH: 1, strideW: 1, padding: 'VALID', fusedActivation: 'NONE', spec: { type: 'UINT8', scale: 1 / 255, zeroPoint: 0 } });
  const flat = net.layer('RESHAPE', pooled, [1, 3], { version: 1, with: [net.ints([1, 3])], spec: { type: 'UINT8', scale: 1 / 255, zeroPoint: 0 } });
  const weights = net.tensor({ shape: [10, 3], type: 'UINT8', scale: 1 / 16, zeroPoint: 128, data: new Uint8Array(30).map((_, at) => 100 + at * 2) });
  const bias = net.tensor({ shape: [10], type: 'INT32', scale: [1 / 255 / 16], data: true });
  const logits = net.layer('FULLY_CONNECTED', flat, [1, 10], { version: 1, with: [weights, bias], fusedActivation: 'NONE', weightsFormat: 0, keepNumDims: false, spec: { type: 'UINT8', scale: 0.1, zeroPoint: 128 } });
  net.output(net.layer('SOFTMAX', logits, [1, 10], { version: 1, beta: 1, spec: { name: 'scores', type: 'UINT8', scale: 1 / 256, zeroPoint: 0 } }));
  return Buffer.from(net.build());
}
