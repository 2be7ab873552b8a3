import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Question } from './answer.ts';
import { imageInput, type Pixels } from './runner.ts';

/** `label`: what is known to be on it, a class name or index. */
export type Frame = { path: string; label: string | null } | { pixels: Pixels; label: null };

export function imageOf(frame: Frame): string | Pixels {
  return 'path' in frame ? frame.path : frame.pixels;
}

export function questionOf(frame: Frame): Question {
  return { label: frame.label, picture: imageOf(frame), prepare: async (model) => [await imageInput(model, imageOf(frame))] };
}

/** Endless: the folder's images in name order, again and again. The folder is read anew at each round, so files may come and go. */
export class FolderFrames {
  private round: Frame[] = [];
  private at = 0;

  constructor(private readonly dir: string) {}

  async next(): Promise<Frame | undefined> {
    if (this.at >= this.round.length) {
      this.round = await list(this.dir);
      this.at = 0;
    }
    return this.round[this.at++];
  }
}

async function list(dir: string): Promise<Frame[]> {
  const names = (await readdir(dir).catch(() => [])).filter((name) => /\.(jpe?g|png|webp|gif|tiff?|bmp)$/i.test(name)).sort();
  const labels = await readFile(join(dir, 'labels.csv'), 'utf8').then(parseLabels, () => new Map<string, string>());
  return names.map((name) => ({ path: join(dir, name), label: labels.get(name) ?? null }));
}

/** Lines `file,label`; a header of exactly these words is skipped. A label may hold commas, a file name may not. */
export function parseLabels(csv: string): Map<string, string> {
  const labels = new Map<string, string>();
  for (const line of csv.split(/\r?\n/)) {
    const comma = line.indexOf(',');
    if (comma < 1 || line === 'file,label') continue;
    labels.set(unquoted(line.slice(0, comma)), unquoted(line.slice(comma + 1)));
  }
  return labels;
}

function unquoted(text: string): string {
  const trimmed = text.trim();
  return /^".*"$/.test(trimmed) ? trimmed.slice(1, -1).replaceAll('""', '"') : trimmed;
}
