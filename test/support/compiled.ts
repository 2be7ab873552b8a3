import { TfliteBuilder } from '@reefkeeper/edgetpu/fixture';

/** Shaped like a model compiled for the Edge TPU: 8 x 8 x 3 in, ten scores out, everything in one `edgetpu-custom-op`. The package inside is none. */
export function compiledModel(): Buffer {
  const net = new TfliteBuilder();
  const picture = net.input([1, 8, 8, 3], { name: 'picture', type: 'UINT8', scale: 1 / 255, zeroPoint: 0 });
  const scores = net.tensor({ name: 'scores', shape: [1, 10], type: 'UINT8', scale: 1 / 256, zeroPoint: 0 });
  net.op('CUSTOM', [picture], [scores], { customCode: 'edgetpu-custom-op', customOptions: Buffer.from('a package') });
  net.output(scores);
  return Buffer.from(net.build());
}
