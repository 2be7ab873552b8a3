import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { telemetry, type Telemetry } from '@reefkeeper/protocol';
import writeFileAtomic from 'write-file-atomic';
import { ByteRate } from './byte-rate.ts';
import type { Disk } from './disk.ts';
import { mergeKey, mergeWindows } from './merge-windows.ts';

/** `key`: undefined until the file has been looked at. `tried`: perhaps with the controller already, so its content is fixed. */
interface Waiting { number: number; bytes: number; tried: boolean; /** Tried, but not yet called so. */ fixed?: boolean; key?: string; durationMs?: number }

/** A window is not made longer than this: it would say too little about when. */
const longestMs = 3_600_000;
/** Topic and MQTT header, about. */
const overheadBytes = 100;
/** An hour of windows of two workloads; a few hundred bytes each. */
const mostInMemory = 120;

/**
 * Telemetry windows on disk, one file each, numbered in the order they were closed (never by a clock). They leave in that order
 * and are removed when the broker has acknowledged them; a window keeps its (bootId, seq) for ever, so one that is sent twice,
 * since we died in between, is counted once.
 *
 * Back-pressure, by this rule: beyond `maxBytes`, the oldest two neighbours that are of one kind and together no longer than an hour become one window; where
 * there are none, the oldest is dropped, and the next window says how many were (`lost`). While `perHour` holds windows back, a new one is merged into the
 * last of its kind. What has been tried before is never merged: the controller may have it. While the disk cannot be written, the newest wait in
 * memory and leave after those on it.
 */
export class Outbox {
  /** Closed while the disk could not be written, in order. */
  private inMemory: Telemetry[] = [];
  /** Acknowledged, and not yet removed. */
  private readonly undeleted = new Set<string>();

  private constructor(private readonly dir: string, private readonly disk: Disk, private readonly maxBytes: number, private readonly waiting: Waiting[], private nextNumber: number, private readonly clock: () => number) {
    disk.onChange(() => { if (disk.trouble === null) void this.settle().catch(() => {}); });
    this.rate = new ByteRate(clock());
  }

  merged = 0;
  dropped = 0;
  private lost: NonNullable<Telemetry['lost']> = { windows: 0, inferences: 0 };
  private readonly rate: ByteRate;
  private draining: Promise<number | undefined> | undefined;
  /** The byte rate holds the first one back. */
  private heldBack = false;

  static async open(dir: string, disk: Disk, maxBytes: number, clock: () => number = () => performance.now()): Promise<Outbox> {
    await disk.write(() => mkdir(dir, { recursive: true }));
    const found = (await readdir(dir).catch(() => [])).flatMap((name) => {
      const [, number, tried] = /^(\d{12})(\.tried)?\.json$/.exec(name) ?? [];
      return number ? [{ name, number: Number(number), tried: tried !== undefined }] : [];
    }).sort((a, b) => a.number - b.number);
    const waiting = await Promise.all(found.map(async ({ name, number, tried }) => ({ number, tried, bytes: (await stat(join(dir, name))).size })));
    return new Outbox(dir, disk, maxBytes, waiting, (waiting.at(-1)?.number ?? 0) + 1, clock);
  }

  get count(): number {
    return this.waiting.length + this.inMemory.length;
  }

  async put(window: Telemetry): Promise<void> {
    const lost = this.lost.windows > 0 ? this.lost : undefined;
    this.lost = { windows: 0, inferences: 0 };
    const added = lost ? { ...window, lost } : window;
    if (this.heldBack && (await this.mergeIntoLast(added))) return;
    if (this.inMemory.length > 0 || !(await this.append(added))) {
      this.inMemory.push(added);
      for (const one of this.inMemory.splice(0, this.inMemory.length - mostInMemory)) this.lose(one);
      return;
    }
    while (this.waiting.length > 1 && this.waiting.reduce((sum, { bytes }) => sum + bytes, 0) > this.maxBytes) {
      if (!(await this.mergeOldest())) await this.dropOldest();
    }
  }

  /**
   * Hands out everything that waits, one after the other; stops at the first that `send` does not get acknowledged, and where `perHour` bytes are used up.
   * Whoever asks while it does so gets the end of that.
   * @returns after how long it is worth trying again, milliseconds; undefined when nothing is held back by the rate
   */
  drain(send: (payload: Buffer) => Promise<void>, perHour?: number | null): Promise<number | undefined> {
    return this.draining ??= this.handOut(send, perHour).finally(() => { this.draining = undefined; });
  }

  private async handOut(send: (payload: Buffer) => Promise<void>, perHour?: number | null): Promise<number | undefined> {
    this.heldBack = false;
    const waitMsFor = (bytes: number) => (perHour ? this.rate.take(bytes + overheadBytes, perHour, this.clock()) : 0);
    // What comes in meanwhile goes out, too.
    while (this.count > 0) {
      const [first] = this.waiting;
      if (first) {
        const waitMs = waitMsFor(first.bytes);
        if (waitMs > 0) {
          this.heldBack = true;
          return waitMs;
        }
        await this.markTried(first);
        const payload = await readFile(this.path(first)).catch(() => undefined);
        // A file that a power cut left unreadable is not worth blocking the rest.
        if (payload && telemetry.decode(payload).ok) await send(payload);
        if (this.waiting[0] === first) this.waiting.shift();
        await this.remove(first);
      } else {
        const held = this.inMemory[0]!;
        const payload = telemetry.encode(held);
        const waitMs = waitMsFor(payload.length);
        if (waitMs > 0) return waitMs;
        await send(payload);
        if (this.inMemory[0] === held) this.inMemory.shift();
      }
    }
    return undefined;
  }

  private path({ number, tried }: Pick<Waiting, 'number' | 'tried'>): string {
    return join(this.dir, `${String(number).padStart(12, '0')}${tried ? '.tried' : ''}.json`);
  }

  private async append(window: Telemetry): Promise<boolean> {
    const one: Waiting = { number: this.nextNumber++, bytes: 0, tried: false };
    const written = await this.write(one, window);
    if (written) this.waiting.push(one);
    return written;
  }

  private async write(one: Waiting, window: Telemetry): Promise<boolean> {
    const body = telemetry.encode(window);
    // Not synced: losing the last windows at a power cut is better than wearing the flash out.
    const written = await this.disk.write(() => writeFileAtomic(this.path(one), body, { fsync: false }));
    if (written) Object.assign(one, { bytes: body.length, key: mergeKey(window), durationMs: window.durationMs });
    return written;
  }

  /** @returns whether it is gone from the disk */
  private async remove(one: Waiting): Promise<boolean> {
    return this.removePath(this.path(one));
  }

  private async removePath(path: string): Promise<boolean> {
    const removed = await this.disk.write(() => rm(path, { force: true }));
    if (!removed) this.undeleted.add(path);
    return removed;
  }

  /** The disk can be written again. */
  private async settle(): Promise<void> {
    for (const path of this.undeleted) {
      this.undeleted.delete(path);
      await this.removePath(path);
    }
    const held = this.inMemory;
    this.inMemory = [];
    for (const window of held) await this.put(window);
  }

  /** A file is either being made longer or on its way out, never both. */
  private exclusive<T>(job: () => Promise<T>): Promise<T> {
    const done = this.tail.then(job);
    this.tail = done.catch(() => {});
    return done;
  }
  private tail: Promise<unknown> = Promise.resolve();

  private markTried(one: Waiting): Promise<void> {
    return this.exclusive(async () => {
      if (one.tried || one.fixed) return;
      const tried = { ...one, tried: true };
      // Where that cannot be noted, it is noted in memory at least; the name on disk stays, and with it the path.
      const moved = rename(this.path(one), this.path(tried)).catch((error: NodeJS.ErrnoException) => { if (error.code !== 'ENOENT') throw error; });
      if (await this.disk.write(() => moved)) one.tried = true;
      else one.fixed = true;
    });
  }

  private async read(one: Waiting): Promise<Telemetry | undefined> {
    const payload = await readFile(this.path(one)).catch(() => undefined);
    const decoded = payload && telemetry.decode(payload);
    if (!decoded?.ok) return undefined;
    Object.assign(one, { key: mergeKey(decoded.body), durationMs: decoded.body.durationMs });
    return decoded.body;
  }

  private async mergeIntoLast(window: Telemetry): Promise<boolean> {
    const key = mergeKey(window);
    const last = this.waiting.findLast((one) => !one.tried && !one.fixed && one.key === key);
    return last !== undefined && this.merge(last, window);
  }

  private async mergeOldest(): Promise<boolean> {
    const before = new Map<string, Waiting>();
    for (const one of this.waiting) {
      if (one.tried || one.fixed || (one.key === undefined && !(await this.read(one)))) continue;
      const older = before.get(one.key!);
      before.set(one.key!, one);
      if (!older || older.durationMs! + one.durationMs! > longestMs) continue;
      const window = await this.read(one);
      if (window && (await this.merge(older, window, one))) return true;
    }
    return false;
  }

  /** @param from where `window` lies on disk, if it does */
  private merge(into: Waiting, window: Telemetry, from?: Waiting): Promise<boolean> {
    return this.exclusive(async () => {
      if (into.tried || into.fixed || from?.tried || from?.fixed || (into.durationMs ?? 0) + window.durationMs > longestMs) return false;
      const older = await this.read(into);
      const both = older && mergeWindows(older, window);
      if (!both) return false;
      // First, so that a power cut in between loses a window rather than has it counted twice.
      if (from) {
        if (!(await this.remove(from))) return false;
        this.waiting.splice(this.waiting.indexOf(from), 1);
      }
      if (!(await this.write(into, both))) {
        if (!from) return false;
        this.inMemory.push(window);
      }
      this.merged += 1;
      return true;
    });
  }

  private async dropOldest(): Promise<void> {
    const oldest = this.waiting.shift()!;
    const window = await this.read(oldest);
    await this.remove(oldest);
    this.lose(window);
  }

  private lose(window: Telemetry | undefined): void {
    this.dropped += 1;
    this.lost = { windows: this.lost.windows + 1 + (window?.lost?.windows ?? 0), inferences: this.lost.inferences + (window?.inferences ?? 0) + (window?.lost?.inferences ?? 0) };
  }
}
