import { readFile } from 'node:fs/promises';
import { ReefError } from '@reefkeeper/platform/errors';
import { decodeBmp, isBmp } from './bmp.ts';
import type { TensorInfo } from './tensor.ts';

/** How an image becomes the model's input. Has the shape of the bundle manifest's `preprocessing`. */
export interface ImagePreprocessing {
  kind: 'image';
  width: number;
  height: number;
  channels: 1 | 3;
  /** `stretch` to the size; `center-crop`: the largest centred square (of the target's ratio), then scaled. */
  resize: 'stretch' | 'center-crop';
  /** real = (pixel - mean) / std, pixels 0 to 255; one value for all channels or one per channel. */
  mean: number[];
  std: number[];
}

/**
 * Decodes an image file (JPEG, PNG, WebP, GIF, TIFF, uncompressed BMP) and scales it bilinearly.
 * @param file a path or the file's bytes
 * @param maxPixels images with more are refused before they are decoded
 * @returns height x width x channels bytes, row by row
 * @throws ReefError `image.unreadable`, `image.decoder_missing`
 */
export async function readImage(file: string | Buffer, wanted: ImagePreprocessing, maxPixels = 0x3fff * 0x3fff): Promise<Buffer> {
  const { default: sharp } = await import('sharp').catch((cause: NodeJS.ErrnoException) => {
    if (cause.code !== 'ERR_MODULE_NOT_FOUND') throw cause;
    throw new ReefError('image.decoder_missing', 'invalid', 'Image files cannot be read here: the decoder is not installed. On a device: apt-get install reef-images (raw frames need none).', { cause });
  });
  try {
    const content = typeof file === 'string' && /\.bmp$/i.test(file) ? await readFile(file) : file;
    // libvips does not know BMP.
    const bitmap = typeof content !== 'string' && isBmp(content) ? decodeBmp(content, maxPixels) : undefined;
    const picture = bitmap ? sharp(bitmap.pixels, { raw: { width: bitmap.width, height: bitmap.height, channels: 3 } }) : sharp(content, { failOn: 'error', limitInputPixels: maxPixels });
    const upright = picture.rotate().flatten({ background: '#000' });
    const colours = wanted.channels === 1 ? upright.greyscale() : upright.toColourspace('srgb');
    const { data, info } = await colours.resize(wanted.width, wanted.height, { fit: wanted.resize === 'stretch' ? 'fill' : 'cover', position: 'centre', kernel: 'linear', fastShrinkOnLoad: false }).raw().toBuffer({ resolveWithObject: true });
    if (info.channels === wanted.channels) return data;
    throw new Error(`${info.channels} channels instead of ${wanted.channels}`);
  } catch (cause) {
    const name = typeof file === 'string' ? file : 'The image';
    throw new ReefError('image.unreadable', 'invalid', `${name} cannot be read as an image: ${(cause as Error).message}`, { cause });
  }
}

/**
 * Scales raw RGB or grey pixels (a camera's frame, a request's body) bilinearly with half-pixel centres and without antialiasing, which is what
 * `tf.image.resize` does by default. Files go through `readImage`, whose decoder scales faster and smooths when it shrinks.
 * @param pixels height x width x 3 (or 1) bytes, row by row
 * @returns wanted.height x wanted.width x wanted.channels bytes
 * @throws ReefError `inference.input_size`
 */
export function resizePixels(pixels: Uint8Array, from: { width: number; height: number; channels: 1 | 3 }, wanted: Pick<ImagePreprocessing, 'width' | 'height' | 'channels' | 'resize'>): Buffer {
  if (pixels.length !== from.width * from.height * from.channels || pixels.length === 0) throw new ReefError('inference.input_size', 'invalid', `A frame of ${from.width} x ${from.height} x ${from.channels} has ${from.width * from.height * from.channels} bytes, not ${pixels.length}.`);
  // A camera's child has scaled it already.
  if (from.width === wanted.width && from.height === wanted.height && from.channels === wanted.channels) return Buffer.from(pixels.buffer, pixels.byteOffset, pixels.byteLength);
  // center-crop: the largest centred part with the target's proportions.
  const scale = Math.min(from.width / wanted.width, from.height / wanted.height);
  const [cropWidth, cropHeight] = wanted.resize === 'stretch' ? [from.width, from.height] : [wanted.width * scale, wanted.height * scale];
  const columns = taps(from.width, cropWidth, wanted.width);
  const rows = taps(from.height, cropHeight, wanted.height);
  const { channels } = from;
  const stride = from.width * channels;
  const scaled = Buffer.allocUnsafe(wanted.width * wanted.height * channels);
  let at = 0;
  for (const { first: top, second: bottom, weight: down } of rows) {
    const [topRow, bottomRow] = [top * stride, bottom * stride];
    for (const { first, second, weight } of columns) {
      const [left, right] = [first * channels, second * channels];
      for (let channel = 0; channel < channels; channel += 1) {
        const above = pixels[topRow + left + channel]! * (1 - weight) + pixels[topRow + right + channel]! * weight;
        const below = pixels[bottomRow + left + channel]! * (1 - weight) + pixels[bottomRow + right + channel]! * weight;
        scaled[at] = Math.round(above * (1 - down) + below * down);
        at += 1;
      }
    }
  }
  return channels === wanted.channels ? scaled : otherChannels(scaled, channels);
}

/** For each target position the two source positions beside its centre, and how much of the second. */
function taps(size: number, part: number, target: number): { first: number; second: number; weight: number }[] {
  const start = (size - part) / 2;
  return Array.from({ length: target }, (_, index) => {
    const centre = Math.min(size - 1, Math.max(0, start + ((index + 0.5) * part) / target - 0.5));
    const first = Math.floor(centre);
    return { first, second: Math.min(size - 1, first + 1), weight: centre - first };
  });
}

/** Colour to grey by ITU-R BT.601 luma; grey to colour three times the same. */
function otherChannels(pixels: Buffer, channels: 1 | 3): Buffer {
  if (channels === 1) return Buffer.from(Uint8Array.from({ length: pixels.length * 3 }, (_, at) => pixels[Math.floor(at / 3)]!));
  return Buffer.from(Uint8Array.from({ length: pixels.length / 3 }, (_, at) => Math.round(0.299 * pixels[at * 3]! + 0.587 * pixels[at * 3 + 1]! + 0.114 * pixels[at * 3 + 2]!)));
}

/**
 * Turns pixels into the input tensor's bytes: q = round((pixel - mean) / std / scale) + zeroPoint, clamped to the type.
 * There are only 256 pixel values, so each channel is a table.
 * @param pixels height x width x channels bytes
 * @throws ReefError `inference.input_size`, `inference.input_type`
 */
export function quantisePixels(pixels: Uint8Array, wanted: ImagePreprocessing, input: Pick<TensorInfo, 'dtype' | 'scale' | 'zeroPoint'>): Buffer {
  const { channels, width, height } = wanted;
  if (pixels.length !== width * height * channels) throw new ReefError('inference.input_size', 'invalid', `An image of ${width} x ${height} x ${channels} has ${width * height * channels} bytes, not ${pixels.length}.`);
  if (input.dtype === 'float32') {
    const out = new Float32Array(pixels.length);
    for (let at = 0; at < pixels.length; at += 1) out[at] = real(pixels[at]!, at % channels, wanted);
    return Buffer.from(out.buffer);
  }
  if ((input.dtype !== 'int8' && input.dtype !== 'uint8') || input.scale === null) throw new ReefError('inference.input_type', 'invalid', `Images can be given to int8, uint8 and float32 inputs, not to ${input.dtype}.`);
  const [low, high] = input.dtype === 'int8' ? [-128, 127] : [0, 255];
  const tables = Array.from({ length: channels }, (_, channel) => Uint8Array.from({ length: 256 }, (_pixel, value) =>
    Math.min(high, Math.max(low, Math.round(real(value, channel, wanted) / input.scale!) + (input.zeroPoint ?? 0))) & 0xff));
  const out = Buffer.allocUnsafe(pixels.length);
  if (channels === 3) {
    const [r, g, b] = tables as [Uint8Array, Uint8Array, Uint8Array];
    for (let at = 0; at < pixels.length; at += 3) {
      out[at] = r[pixels[at]!]!;
      out[at + 1] = g[pixels[at + 1]!]!;
      out[at + 2] = b[pixels[at + 2]!]!;
    }
  } else {
    for (let at = 0; at < pixels.length; at += 1) out[at] = tables[0]![pixels[at]!]!;
  }
  return out;
}

function real(pixel: number, channel: number, { mean, std }: ImagePreprocessing): number {
  return (pixel - (mean[channel] ?? mean[0]!)) / (std[channel] ?? std[0]!);
}
