import { TfliteBuilder } from '@reefkeeper/edgetpu/fixture';

/** Expansion, channels, repeats, stride of the first: table 2 of "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (arXiv 1801.04381). */
const stages = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]] as const;

/** MobileNet v2 1.0 at 224 x 224, int8, 1,000 classes: layer by layer as published, with weights that mean nothing. */
export function mobilenetV2(): Buffer {
  const net = new TfliteBuilder();
  net.description = 'mobilenet v2 1.0 224';
  let last = net.conv(net.input([1, 224, 224, 3], { name: 'picture', scale: 1 / 128, zeroPoint: 0 }), 32, { stride: 2 });
  for (const [expansion, channels, repeats, firstStride] of stages) {
    for (let repeat = 0; repeat < repeats; repeat += 1) {
      const stride = repeat === 0 ? firstStride : 1;
      const [from, channelsIn] = [last, net.shapeOf(last)[3]!];
      const wide = expansion === 1 ? from : net.conv(from, channelsIn * expansion, { kernel: 1 });
      const narrow = net.conv(net.depthwise(wide, { stride }), channels, { kernel: 1, fusedActivation: 'NONE' });
      last = stride === 1 && channelsIn === channels ? net.add(from, narrow) : narrow;
    }
  }
  last = net.conv(last, 1_280, { kernel: 1 });
  const pooled = net.layer('AVERAGE_POOL_2D', last, [1, 1, 1, 1_280], { version: 2, filterHeight: 7, filterWidth: 7, strideH: 1, strideW: 1, padding: 'VALID', fusedActivation: 'NONE' });
  net.output(net.softmax(net.dense(net.flatten(pooled), 1_000)));
  return Buffer.from(net.build());
}
