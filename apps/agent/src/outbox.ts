import { mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { telemetry, type Telemetry } from '@reefkeeper/protocol';
import writeFileAtomic from 'write-file-atomic';
import type { Disk } from './disk.ts';

/** An hour of windows of two workloads; a few hundred bytes each. */
const mostInMemory = 120;

/**
 * Telemetry windows on disk, one file each, numbered in the order they were closed (never by a clock). They leave in that order
 * and are removed when the broker has acknowledged them; a window keeps its (bootId, seq) for ever, so one that is sent twice,
 * since we died in between, is counted once. Beyond `maxBytes` the oldest are dropped. While the disk cannot be written, the newest wait in
 * memory and leave after those on it.
 */
export class Outbox {
  /** Closed while the disk could not be written, in order. */
  private inMemory: Telemetry[] = [];
  /** Acknowledged, and not yet removed. */
  private readonly undeleted = new Set<string>();

  private constructor(private readonly dir: string, private readonly disk: Disk, private readonly maxBytes: number, private readonly waiting: { name: string; bytes: number }[], private nextNumber: number) {
    disk.onChange(() => { if (disk.trouble === null) void this.settle().catch(() => {}); });
  }

  dropped = 0;
  private sending = false;

  static async open(dir: string, disk: Disk, maxBytes: number): Promise<Outbox> {
    await disk.write(() => mkdir(dir, { recursive: true }));
    const names = (await readdir(dir).catch(() => [])).filter((name) => /^\d{12}\.json$/.test(name)).sort();
    const waiting = await Promise.all(names.map(async (name) => ({ name, bytes: (await stat(join(dir, name))).size })));
    return new Outbox(dir, disk, maxBytes, waiting, names.length === 0 ? 1 : Number(names.at(-1)!.slice(0, 12)) + 1);
  }

  get count(): number {
    return this.waiting.length + this.inMemory.length;
  }

  async put(window: Telemetry): Promise<void> {
    const body = telemetry.encode(window);
    const name = `${String(this.nextNumber++).padStart(12, '0')}.json`;
    // Not synced: losing the last windows at a power cut is better than wearing the flash out.
    if (this.inMemory.length > 0 || !(await this.disk.write(() => writeFileAtomic(join(this.dir, name), body, { fsync: false })))) {
      this.inMemory.push(window);
      this.dropped += this.inMemory.splice(0, this.inMemory.length - mostInMemory).length;
      return;
    }
    this.waiting.push({ name, bytes: body.length });
    let total = this.waiting.reduce((sum, { bytes }) => sum + bytes, 0);
    while (total > this.maxBytes && this.waiting.length > 1) {
      const oldest = this.waiting.shift()!;
      total -= oldest.bytes;
      this.dropped += 1;
      await this.remove(oldest.name);
    }
  }

  private async remove(name: string): Promise<void> {
    if (!(await this.disk.write(() => rm(join(this.dir, name), { force: true })))) this.undeleted.add(name);
  }

  /** The disk can be written again. */
  private async settle(): Promise<void> {
    for (const name of this.undeleted) {
      this.undeleted.delete(name);
      await this.remove(name);
    }
    const held = this.inMemory;
    this.inMemory = [];
    for (const window of held) await this.put(window);
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
        if (this.waiting[0] === first) this.waiting.shift();
        await this.remove(first.name);
      }
      for (let first = this.inMemory[0]; first; first = this.inMemory[0]) {
        await send(telemetry.encode(first));
        if (this.inMemory[0] === first) this.inMemory.shift();
      }
    } finally {
      this.sending = false;
    }
  }
}
