import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import sharp from 'sharp';
import { create as createTar } from 'tar';
import { randomOf } from '@reefkeeper/platform/random';
import { TfliteBuilder } from '@reefkeeper/edgetpu/fixture';

export interface ExtractorOptions {
  features?: number;
  type?: 'INT8' | 'UINT8';
  /** Plain scores of four colours as the first output, the embedding as the second, as classifiers with two outputs have it. */
  withScores?: boolean;
  mark?: string;
}

/**
 * A small real extractor: 32 x 32 x 3 pictures in, an embedding out that says of which colour they are and how bright: mean over the picture, a dense layer of
 * fixed random directions, ReLU.
 */
export function embeddingModel({ features = 24, type = 'INT8', withScores = false, mark = 'v1' }: ExtractorOptions = {}): Buffer {
  const random = randomOf(7);
  const middle = type === 'INT8' ? 0 : 128;
  const low = type === 'INT8' ? -128 : 0;
  const net = new TfliteBuilder();
  net.description = `embedding ${mark}`;
  const picture = net.input([1, 32, 32, 3], { name: 'picture', type, scale: 1 / 255, zeroPoint: low });
  const mean = net.layer('MEAN', picture, [1, 3], { version: type === 'INT8' ? 2 : 1, with: [net.ints([1, 2])], keepDims: false, spec: { type, scale: 1 / 255, zeroPoint: low } });
  const dense = (units: number, name: string, fusedActivation: 'RELU' | 'NONE', scale: number, zeroPoint: number) => {
    const data = Uint8Array.from({ length: units * 3 }, () => (Math.round((random() - 0.5) * 250) + middle) & 0xff);
    const weights = net.tensor({ shape: [units, 3], type, scale: 1 / 64, zeroPoint: middle, data });
    const bias = net.tensor({ shape: [units], type: 'INT32', scale: [1 / 255 / 64], data: true });
    return net.layer('FULLY_CONNECTED', mean, [1, units], { version: type === 'INT8' ? 4 : 1, with: [weights, bias], fusedActivation, weightsFormat: 0, keepNumDims: false, spec: { name, type, scale, zeroPoint } });
  };
  const embedding = dense(features, 'embedding', 'RELU', 4 / 255, low);
  if (withScores) net.output(dense(4, 'scores', 'NONE', 8 / 255, middle), embedding);
  else net.output(embedding);
  return Buffer.from(net.build());
}

const shades: Record<string, [number, number, number]> = { red: [220, 20, 20], green: [20, 200, 30], blue: [20, 30, 220], yellow: [230, 220, 20] };

/** PNGs of each colour in many shades, in a folder of its name. @returns what is in it */
export async function colourFolders(dir: string, each: number, colours: readonly string[] = Object.keys(shades)): Promise<string[]> {
  const files: string[] = [];
  for (const colour of colours) {
    for (let shade = 0; shade < each; shade += 1) {
      const [r, g, b] = shades[colour]!.map((value) => Math.round(value * (0.6 + (0.4 * shade) / each))) as [number, number, number];
      const file = `${colour}/${shade}.png`;
      await mkdir(dirname(join(dir, file)), { recursive: true });
      await sharp({ create: { width: 64, height: 48, channels: 3, background: { r, g, b } } }).png().toFile(join(dir, file));
      files.push(file);
    }
  }
  return files;
}

/** The same as an archive, with other files among them. */
export async function colourArchive(each: number, colours?: readonly string[], others: Record<string, string | Buffer> = {}): Promise<Buffer> {
  const dir = await mkdtemp(join(tmpdir(), 'reef-colours-'));
  try {
    const files = await colourFolders(join(dir, 'images'), each, colours);
    for (const [name, content] of Object.entries(others)) {
      await mkdir(dirname(join(dir, 'images', name)), { recursive: true });
      await writeFile(join(dir, 'images', name), content);
      files.push(name);
    }
    await createTar({ gzip: true, file: join(dir, 'images.tar.gz'), cwd: dir }, files.map((file) => `images/${file}`));
    return await readFile(join(dir, 'images.tar.gz'));
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
