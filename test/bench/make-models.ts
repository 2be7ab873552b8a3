// Writes the models that the benchmarks measure by default into the folder given: run with the sources' condition and type stripping.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { TfliteBuilder } from '@reefkeeper/edgetpu/fixture';
import { coloursModel } from '../support/colours.ts';

const folder = process.argv[2]!;
writeFileSync(join(folder, 'colours.tflite'), coloursModel());
writeFileSync(join(folder, 'colours-slow.tflite'), coloursModel({ ballast: 6 }));
writeFileSync(join(folder, 'separable-narrow.tflite'), separable(8));
writeFileSync(join(folder, 'separable-wide.tflite'), separable(256));

/** Built as MobileNet is: 26 pairs of depthwise and 1x1 convolutions, here all `width` wide. */
function separable(width: number): Uint8Array {
  const net = new TfliteBuilder();
  let last = net.conv(net.input([1, 64, 64, 3]), width, { stride: 2 });
  for (let block = 0; block < 26; block += 1) last = net.conv(net.depthwise(last), width, { kernel: 1 });
  return net.output(net.softmax(net.dense(net.flatten(net.layer('AVERAGE_POOL_2D', last, [1, 1, 1, width], { version: 2, fusedActivation: 'NONE' })), 100))).build();
}
