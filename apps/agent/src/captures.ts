import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { decodeBmp, isBmp } from '@reefkeeper/inference';
import { asReefError, ReefError } from '@reefkeeper/platform/errors';
import type { Logger } from '@reefkeeper/platform/logger';
import { captureFacts, type AgentConfig, type CaptureFacts } from '@reefkeeper/protocol';
import writeFileAtomic from 'write-file-atomic';
import { classesOf, type Answer, type Picture } from './answer.ts';
import type { Disk } from './disk.ts';

export type CaptureConfig = NonNullable<AgentConfig['capture']>;

/** Enough to label it by, and to learn from. */
const edgePixels = 1_024;
const maskMs = 10_000;
const maxMaskedBytes = 8 * 1024 * 1024;
const jpegQuality = 90;

export interface CaptureOptions {
  maxBytes: number;
  /** An executable that gets a JPEG on standard input and returns one on standard output, or nothing for "not this one". */
  mask: string | undefined;
  log: Logger;
  clock?: () => number;
}

/**
 * Pictures on which the model was not sure, kept for people to label: opt-in, so many an hour, never at the cost of an answer. Invariant: what is on disk is
 * masked already and has no metadata; a picture whose masking fails is forgotten. Beyond `maxBytes` the oldest go.
 */
export class Captures {
  private busy: Promise<void> | undefined;
  private sending = false;
  private lastMs: number;
  private readonly clock: () => number;

  private constructor(private readonly dir: string, private readonly disk: Disk, private readonly options: CaptureOptions, private readonly waiting: { id: string; bytes: number }[]) {
    this.clock = options.clock ?? (() => performance.now());
    // So that an agent that starts again and again takes no more than its share.
    this.lastMs = this.clock();
  }

  static async open(dir: string, disk: Disk, options: CaptureOptions): Promise<Captures> {
    await disk.write(() => mkdir(dir, { recursive: true, mode: 0o700 }));
    const found = await Promise.all((await readdir(dir).catch(() => [])).filter((name) => name.endsWith('.json')).map(async (name) => {
      const id = name.slice(0, -5);
      const picture = await stat(join(dir, `${id}.jpg`)).catch(() => undefined);
      return picture ? [{ id, bytes: picture.size, at: picture.mtimeMs }] : [];
    }));
    return new Captures(dir, disk, options, found.flat().sort((a, b) => a.at - b.at));
  }

  get count(): number {
    return this.waiting.length;
  }

  /** An answer that was just given. Returns at once. */
  offer(workload: string, picture: Picture, answer: Answer, config: CaptureConfig): void {
    const now = this.clock();
    if (this.busy || now - this.lastMs < 3_600_000 / config.perHour || (config.workloads && !config.workloads.includes(workload))) return;
    const [best, second] = classesOf(answer, 2) ?? [];
    const margin = best && best.score - (second?.score ?? 0);
    if (!best || margin === undefined || margin >= config.uncertainBelow) return;
    this.lastMs = now;
    const { slot } = answer;
    const facts: CaptureFacts = { workload, ...slot, prediction: best.label, score: clamped(best.score), margin: clamped(margin), takenAt: new Date().toISOString() };
    this.busy = this.keep(picture, facts, config).catch((error: unknown) => {
      const { code, message } = asReefError(error);
      this.options.log.warn({ workload, code, reason: message }, 'a picture was not captured');
    }).finally(() => { this.busy = undefined; });
  }

  /** Hands out what waits, oldest first, until `send` finds nobody. What is refused for good is removed. */
  async drain(send: (id: string, facts: CaptureFacts, jpeg: Buffer) => Promise<void>): Promise<void> {
    if (this.sending) return;
    this.sending = true;
    try {
      for (let first = this.waiting[0]; first; first = this.waiting[0]) {
        const [text, jpeg] = await Promise.all([readFile(this.path(first.id, 'json'), 'utf8'), readFile(this.path(first.id, 'jpg'))]).catch(() => []);
        const facts = captureFacts.safeParse(readJson(text));
        if (facts.success && jpeg) {
          try {
            await send(first.id, facts.data, jpeg);
          } catch (thrown) {
            const { code, kind, message } = asReefError(thrown);
            if (kind === 'unavailable' || kind === 'bug') return;
            this.options.log.warn({ code, reason: message }, 'a captured picture was refused');
          }
        }
        if (this.waiting[0] === first) this.waiting.shift();
        await this.remove(first.id);
      }
    } finally {
      this.sending = false;
    }
  }

  /** Resolves when nothing is being kept. */
  async settled(): Promise<void> {
    await this.busy;
  }

  private async keep(picture: Picture, facts: CaptureFacts, config: CaptureConfig): Promise<void> {
    const plain = await jpegOf(picture, config.masks);
    const { mask } = this.options;
    const masked = mask ? await maskedBy(mask, plain) : plain;
    if (!masked) return;
    const id = randomUUID();
    // The facts last: without them the picture is not there.
    const written = (await this.disk.write(() => writeFileAtomic(this.path(id, 'jpg'), masked, { fsync: false, mode: 0o600 }))) && (await this.disk.write(() => writeFileAtomic(this.path(id, 'json'), JSON.stringify(facts), { fsync: false, mode: 0o600 })));
    if (!written) return;
    this.waiting.push({ id, bytes: masked.length });
    for (let total = this.waiting.reduce((sum, { bytes }) => sum + bytes, 0); total > this.options.maxBytes && this.waiting.length > 0;) {
      const oldest = this.waiting.shift()!;
      total -= oldest.bytes;
      await this.remove(oldest.id);
    }
  }

  private path(id: string, kind: 'jpg' | 'json'): string {
    return join(this.dir, `${id}.${kind}`);
  }

  private async remove(id: string): Promise<void> {
    for (const kind of ['json', 'jpg'] as const) await this.disk.write(() => rm(this.path(id, kind), { force: true }));
  }
}

/** Upright, no larger than is needed, without metadata (a phone writes where it is), the rectangles black. */
export async function jpegOf(picture: Picture, masks: CaptureConfig['masks']): Promise<Buffer> {
  const { default: sharp } = await import('sharp').catch((cause: Error) => {
    throw new ReefError('image.decoder_missing', 'invalid', 'Pictures cannot be captured here: the image decoder is not installed (apt-get install reef-images).', { cause });
  });
  const content = typeof picture === 'string' ? await readFile(picture) : picture;
  const raw = Buffer.isBuffer(content) ? (isBmp(content) ? { ...decodeBmp(content), channels: 3 as const } : undefined) : content;
  const image = raw ? sharp(raw.pixels, { raw: { width: raw.width, height: raw.height, channels: raw.channels } }) : sharp(content as Buffer, { failOn: 'error', limitInputPixels: 64_000_000 });
  const { data, info } = await image.rotate().flatten({ background: '#000' }).toColourspace('srgb').resize(edgePixels, edgePixels, { fit: 'inside', withoutEnlargement: true }).raw().toBuffer({ resolveWithObject: true });
  for (const { left, top, width, height } of masks) {
    // Outwards, so that no border of a rectangle shows what it is to hide.
    const [x1, x2] = [Math.floor(left * info.width), Math.min(info.width, Math.ceil((left + width) * info.width))];
    const [y1, y2] = [Math.floor(top * info.height), Math.min(info.height, Math.ceil((top + height) * info.height))];
    for (let y = y1; y < y2; y += 1) data.fill(0, (y * info.width + x1) * info.channels, (y * info.width + Math.max(x1, x2)) * info.channels);
  }
  return sharp(data, { raw: { width: info.width, height: info.height, channels: info.channels } }).jpeg({ quality: jpegQuality }).toBuffer();
}

/** @returns undefined where the executable returns nothing: not this one. @throws ReefError `capture.mask_failed`, `image.unreadable` */
export async function maskedBy(executable: string, jpeg: Buffer, limitMs = maskMs): Promise<Buffer | undefined> {
  const failed = (why: string) => new ReefError('capture.mask_failed', 'invalid', `REEF_CAPTURE_MASK (${executable}) ${why}; the picture was forgotten.`);
  const out = await new Promise<Buffer>((resolve, reject) => {
    const child = spawn(executable, [], { stdio: ['pipe', 'pipe', 'ignore'], timeout: limitMs, killSignal: 'SIGKILL' });
    const chunks: Buffer[] = [];
    let bytes = 0;
    child.on('error', (error) => reject(failed(`cannot be run: ${error.message}`)));
    // It may not read what it is not interested in.
    child.stdin.on('error', () => {});
    child.stdout.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > maxMaskedBytes) child.kill('SIGKILL');
      else chunks.push(chunk);
    });
    child.on('close', (code, signal) => {
      if (bytes > maxMaskedBytes) reject(failed(`returned more than ${maxMaskedBytes} bytes`));
      else if (code !== 0) reject(failed(`ended with ${signal ?? `code ${code}`}`));
      else resolve(Buffer.concat(chunks));
    });
    child.stdin.end(jpeg);
  });
  // Read and written anew: nothing but pixels leaves this device.
  return out.length === 0 ? undefined : jpegOf(out, []).catch(() => { throw failed('did not return an image'); });
}

function clamped(score: number): number {
  return Math.min(1, Math.max(0, score));
}

function readJson(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? '');
  } catch {
    return undefined;
  }
}
