import { z } from 'zod';
import type { TfliteMetadata } from '@reefkeeper/edgetpu';
import { ReefError } from '@reefkeeper/platform/errors';
import type { TensorSpec } from '@reefkeeper/bundle';
import type { BuildRequest } from './job.ts';

/** Of `tflite_metadata.json` the part that can be checked. AutoML writes no mean and no deviation into it. */
const described = z.looseObject({ imageWidth: z.number().optional(), imageHeight: z.number().optional(), imageChannels: z.number().optional() });

export interface FoundPreprocessing {
  preprocessing: BuildRequest['preprocessing'];
  warnings: string[];
}

/**
 * How pixels become the first input of an exported model. A quantised image input was made for pixels as they are: its scale and zero point
 * say which real numbers those stand for, and the metadata's own claim is taken only where it maps pixels into the input's range at all.
 * @throws ReefError `export.mixed`
 */
export function exportPreprocessing(input: TensorSpec | undefined, json: string | null, metadata: TfliteMetadata | null): FoundPreprocessing {
  const [, height, width, channels] = input?.shape ?? [];
  if (!input || input.shape.length !== 4) return { preprocessing: {}, warnings: [] };
  if (json !== null) checkDescription(json, { height, width, channels });
  const claim = metadata?.normalisation ?? null;
  // AutoML's own examples stretch.
  const resize = 'stretch' as const;
  const warnings: string[] = [];
  if (input.scale === null || (input.dtype !== 'uint8' && input.dtype !== 'int8')) {
    if (claim) return { preprocessing: { resize, mean: claim.mean, std: claim.std }, warnings };
    return { preprocessing: { resize }, warnings: ['The export does not say how pixels become numbers; -1 to 1 is taken. Give --mean and --std if the model was trained otherwise.'] };
  }
  const lowest = input.dtype === 'uint8' ? 0 : -128;
  const plain = { resize, mean: (input.zeroPoint ?? 0) - lowest, std: 1 / input.scale };
  if (!claim) return { preprocessing: plain, warnings };
  const quantised = (pixel: number) => (pixel - claim.mean[0]!) / claim.std[0]! / input.scale! + (input.zeroPoint ?? 0);
  const span = quantised(255) - quantised(0);
  const inside = span > 64 && span < 512 && quantised(127.5) > lowest && quantised(127.5) < lowest + 255;
  if (inside) return { preprocessing: { resize, mean: claim.mean, std: claim.std }, warnings };
  warnings.push(`The metadata in the file says mean ${claim.mean.join(', ')} and deviation ${claim.std.join(', ')}, which would put pixels at ${Math.round(quantised(0))} to ${Math.round(quantised(255))} of an input that holds ${lowest} to ${lowest + 255}; pixels are given as they are instead.`);
  return { preprocessing: plain, warnings };
}

function checkDescription(json: string, shape: { height: number | undefined; width: number | undefined; channels: number | undefined }): void {
  let parsed: unknown;
  try {
    parsed = JSON.parse(json);
  } catch (cause) {
    throw new ReefError('export.metadata_unreadable', 'invalid', 'tflite_metadata.json is not JSON. Export the model again.', { cause });
  }
  const found = described.safeParse(parsed);
  if (!found.success) return;
  const { imageHeight = shape.height, imageWidth = shape.width, imageChannels = shape.channels } = found.data;
  if (imageHeight !== shape.height || imageWidth !== shape.width || imageChannels !== shape.channels) {
    throw new ReefError('export.mixed', 'invalid', `tflite_metadata.json tells of images of ${imageHeight} x ${imageWidth} x ${imageChannels}, but the model takes ${shape.height} x ${shape.width} x ${shape.channels}: the folder holds parts of two exports. Export the model again, into an empty folder.`);
  }
}
