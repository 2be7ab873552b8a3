import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ReefError } from '@reefkeeper/platform/errors';
import writeFileAtomic from 'write-file-atomic';
import { sleep } from './backoff.ts';

export type DiskTrouble = 'DISK_FULL' | 'DISK_READ_ONLY' | 'DISK_FAILING';

const troubles: Readonly<Record<string, DiskTrouble>> = { ENOSPC: 'DISK_FULL', EDQUOT: 'DISK_FULL', EROFS: 'DISK_READ_ONLY', EIO: 'DISK_FAILING' };

/** What kind of trouble with the disk an error is, however deep it lies; undefined where it is none. */
export function diskTroubleOf(thrown: unknown): DiskTrouble | undefined {
  for (let one = thrown; one instanceof Error; one = one.cause) {
    const found = troubles[(one as NodeJS.ErrnoException).code ?? ''];
    if (found) return found;
  }
  return undefined;
}

export function diskError(trouble: DiskTrouble, cause: unknown): ReefError {
  const [code, advice] = { DISK_FULL: ['disk.full', 'Free space on the device.'], DISK_READ_ONLY: ['disk.read_only', 'Check the card and mount it writable.'], DISK_FAILING: ['disk.failing', 'The card may be dying; replace it.'] }[trouble] as [string, string];
  return new ReefError(code, 'unavailable', `The agent's directory cannot be written (${(cause as Error).message}). ${advice}`, { cause });
}

/**
 * Whether the agent's directory can be written. Writers go on in memory when it cannot; as long as that lasts it is tried again, with
 * back-off, and who kept something in memory hears when it can.
 */
export class Disk {
  private met: DiskTrouble | null = null;
  private readonly listeners = new Set<() => void>();
  private readonly stopped = new AbortController();
  private trying: Promise<void> | undefined;

  constructor(private readonly dir: string, private readonly retry: { firstMs: number; maxMs: number } = { firstMs: 1_000, maxMs: 60_000 }) {}

  get trouble(): DiskTrouble | null {
    return this.met;
  }

  /** Trouble has begun, changed or ended. */
  onChange(listener: () => void): void {
    this.listeners.add(listener);
  }

  /** Runs a write. @returns whether it is on disk; false after trouble with the disk. @throws whatever else went wrong */
  async write(work: () => Promise<unknown>): Promise<boolean> {
    try {
      await work();
      return true;
    } catch (error) {
      const trouble = diskTroubleOf(error);
      if (!trouble) throw error;
      this.noted(trouble);
      return false;
    }
  }

  noted(trouble: DiskTrouble): void {
    if (trouble !== this.met) this.become(trouble);
    this.trying ??= this.tryAgain().finally(() => { this.trying = undefined; });
  }

  async stop(): Promise<void> {
    this.stopped.abort(new Error('stopped'));
    await this.trying;
  }

  private become(met: DiskTrouble | null): void {
    this.met = met;
    for (const listener of this.listeners) listener();
  }

  private async tryAgain(): Promise<void> {
    const { signal } = this.stopped;
    const file = join(this.dir, '.writable');
    for (let ms = this.retry.firstMs; ; ms = Math.min(this.retry.maxMs, ms * 2)) {
      await sleep(ms, signal).catch(() => {});
      if (signal.aborted) return;
      try {
        // More than a state file takes: one that has room for a byte only is of no use.
        await writeFileAtomic(file, Buffer.alloc(64 * 1024, 1));
        await rm(file, { force: true });
        return this.become(null);
      } catch (error) {
        const trouble = diskTroubleOf(error);
        if (trouble && trouble !== this.met) this.become(trouble);
      }
    }
  }
}
