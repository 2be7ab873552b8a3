import { mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { telemetry, type Telemetry } from '@reefkeeper/protocol';
import writeFileAtomic from 'write-file-atomic';

/**
 * Telemetry windows on disk, one file each, numbered in the order they were closed (never by a clock). They leave in that order
 * and are removed when the broker has acknowledged them; a window keeps its (bootId, seq) for ever, so one that is sent twice,
 * since we died in between, is counted once. Beyond `maxBytes` the oldest are dropped.
 */
export class Outbox {
  private constructor(private readonly dir: string, private readonly maxBytes: number, private readonly waiting: { name: string; bytes: number }[], private nextNumber: number) {}

  dropped = 0;
  private sending = false;

  static async open(dir: string, maxBytes: number): Promise<Outbox> {
    await mkdir(dir, { recursive: true });
    const names = (await readdir(dir)).filter((name) => /^\d{12}\.json$/.test(name)).sort();
    const waiting = await Promise.all(names.map(async (name) => ({ name, bytes: (await stat(join(dir, name))).size })));
    return new Outbox(dir, maxBytes, waiting, names.length === 0 ? 1 : Number(names.at(-1)!.slice(0, 12)) + 1);
  }

  get count(): number {
    return this.waiting.length;
  }

  async put(window: Telemetry): Promise<void> {
    const body = telemetry.encode(window);
    const name = `${String(this.nextNumber++).padStart(12, '0')}.json`;
    // Not synced: losing the last windows at a power cut is better than wearing the flash out.
    await writeFileAtomic(join(this.dir, name), body, { fsync: false });
    this.waiting.push({ name, bytes: body.length });
    let total = this.waiting.reduce((sum, { bytes }) => sum + bytes, 0);
    while (total > this.maxBytes && this.waiting.length > 1) {
      const oldest = this.waiting.shift()!;
      total -= oldest.bytes;
      this.dropped += 1;
      await rm(join(this.dir, oldest.name), { force: true });
    }
  }

  /** Hands out everything that waits, one after the other; stops at the first that `send` does not get acknowledged. */
  async drain(send: (payload: Buffer) => Promise<void>): Promise<void> {
    if (this.sending) return;
    this.sending = true;
    try {
      for (let first = this.waiting[0]; first; first = this.waiting[0]) {
        const payload = await readFile(join(this.dir, first.name)).catch(() => undefined);
        // A file that a power cut left unreadable is not worth blocking the rest.
        if (payload && telemetry.decode(payload).ok) await send(payload);
        await rm(join(this.dir, first.name), { force: true });
        if (this.waiting[0] === first) this.waiting.shift();
      }
    } finally {
      this.sending = false;
    }
  }
}
