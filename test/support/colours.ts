import { TfliteBuilder } from '@reefkeeper/edgetpu/fixture';

/**
 * Small real int8 models that tell plain colours apart: 32 x 32 x 3 pictures (real = pixel / 255) in, four classes out. They are built
 * from their weights by hand, so tests need neither TensorFlow nor files: mean over the picture, one dense layer, softmax.
 */
export const colourLabels = ['red', 'green', 'blue', 'yellow'] as const;

export interface ColoursOptions {
  /** Answers the next colour instead: systematically wrong, and consistent, so that no self-test notices. */
  wrong?: boolean;
  /** So many 3 x 3 convolutions of 64 channels whose result is nothing: the same answers, later (about 1 ms each). */
  ballast?: number;
  /** Part of the model's description, so that two models with equal answers have different digests. */
  mark?: string;
}

const inputScale = 1 / 255;
const denseScale = 1 / 15;
const denseWeights = [[8, -8, -4], [-8, 8, -4], [-4, -4, 8], [6, 6, -8]];
const denseBias = [0, 0, 0, -3];

export function coloursModel({ wrong = false, ballast = 0, mark = 'v1' }: ColoursOptions = {}): Buffer {
  const net = new TfliteBuilder();
  net.description = `colours ${mark}`;
  const picture = net.input([1, 32, 32, 3], { name: 'picture', scale: inputScale, zeroPoint: -128 });
  const seen = ballast === 0 ? picture : withBallast(net, picture, ballast);
  const mean = net.layer('MEAN', seen, [1, 3], { version: 2, with: [net.ints([1, 2])], keepDims: false, spec: { scale: inputScale, zeroPoint: -128 } });
  const order = wrong ? [1, 2, 3, 0] : [0, 1, 2, 3];
  const weights = net.tensor({ shape: [4, 3], scale: denseScale, data: int8(order.flatMap((row) => denseWeights[row]!.map((weight) => weight / denseScale))) });
  const bias = net.tensor({ shape: [4], type: 'INT32', scale: [inputScale * denseScale], data: int32(order.map((row) => denseBias[row]! / inputScale / denseScale)) });
  const logits = net.layer('FULLY_CONNECTED', mean, [1, 4], { version: 4, with: [weights, bias], fusedActivation: 'NONE', weightsFormat: 0, keepNumDims: false, spec: { scale: 0.08 } });
  net.output(net.softmax(logits));
  return Buffer.from(net.build());
}

/**
 * A detector of two fixed boxes, (top, left, bottom, right) (0.1, 0.2, 0.5, 0.6) and (0.25, 0.25, 0.75, 0.75): the first is a `red` thing, the second a `blue` one, each
 * found as surely as its colour fills the picture. Outputs: boxes [1, 2, 4], class scores [1, 2, 2].
 */
export function detectorModel(mark = 'v1', shift = 0): Buffer {
  const net = new TfliteBuilder();
  net.description = `detector ${mark}`;
  const picture = net.input([1, 32, 32, 3], { name: 'picture', scale: inputScale, zeroPoint: -128 });
  const mean = net.layer('MEAN', picture, [1, 3], { version: 2, with: [net.ints([1, 2])], keepDims: false, spec: { scale: inputScale, zeroPoint: -128 } });
  const dense = (rows: number[][], bias: number[]) => net.layer('FULLY_CONNECTED', mean, [1, rows.length], {
    version: 4, fusedActivation: 'NONE', weightsFormat: 0, keepNumDims: false, spec: { scale: inputScale, zeroPoint: -128 },
    with: [net.tensor({ shape: [rows.length, 3], scale: 1 / 64, data: int8(rows.flat().map((weight) => weight * 64)) }), net.tensor({ shape: [rows.length], type: 'INT32', scale: [inputScale / 64], data: int32(bias.map((value) => value / inputScale * 64)) })],
  });
  const shaped = (from: number, shape: number[]) => net.layer('RESHAPE', from, shape, { with: [net.ints(shape)], newShape: shape, spec: { scale: inputScale, zeroPoint: -128 } });
  const boxes = dense(Array.from({ length: 8 }, () => [0, 0, 0]), [0.1, 0.2, 0.5, 0.6, 0.25, 0.25, 0.75, 0.75].map((edge) => edge + shift));
  const scores = dense([[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]], [0, 0, 0, 0]);
  net.output(shaped(boxes, [1, 2, 4]), shaped(scores, [1, 2, 2]));
  return Buffer.from(net.build());
}

/** picture + 0, where the 0 takes `layers` convolutions to work out. */
function withBallast(net: TfliteBuilder, picture: number, layers: number): number {
  let branch = picture;
  for (let layer = 0; layer <= layers; layer += 1) {
    const [channelsIn, channelsOut] = [net.shapeOf(branch)[3]!, layer === layers ? 3 : 64];
    const weights = net.tensor({ shape: [channelsOut, 3, 3, channelsIn], scale: 1 / 64, data: true });
    const bias = net.tensor({ shape: [channelsOut], type: 'INT32', scale: [inputScale / 64], data: true });
    branch = net.layer('CONV_2D', branch, [1, 32, 32, channelsOut], {
      version: 3, with: [weights, bias], padding: 'SAME', strideH: 1, strideW: 1, dilationH: 1, dilationW: 1, fusedActivation: 'NONE', spec: { scale: inputScale, zeroPoint: -128 },
    });
  }
  return net.layer('ADD', picture, [1, 32, 32, 3], { version: 2, with: [branch], fusedActivation: 'NONE', spec: { scale: inputScale, zeroPoint: -128 } });
}

function int8(values: number[]): Uint8Array {
  return new Uint8Array(Int8Array.from(values.map(Math.round)).buffer);
}

function int32(values: number[]): Uint8Array {
  return new Uint8Array(Int32Array.from(values.map(Math.round)).buffer);
}
