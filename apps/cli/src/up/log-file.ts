import { closeSync, fstatSync, mkdirSync, openSync, renameSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';

const mostBytes = 16 * 1024 ** 2;

/** A log of at most twice `limit` bytes: when full it becomes `<file>.1`, in place of the one before. A full disk loses lines, never the process that writes. */
export class RotatingLog {
  private fd: number | undefined;
  private bytes = 0;

  constructor(private readonly file: string, private readonly limit = mostBytes) {}

  write(line: string): void {
    try {
      this.fd ??= this.open();
      this.bytes += writeSync(this.fd, `${line}\n`);
      if (this.bytes > this.limit) this.rotate();
    } catch {
      this.close();
    }
  }

  close(): void {
    if (this.fd === undefined) return;
    closeSync(this.fd);
    this.fd = undefined;
  }

  private open(): number {
    mkdirSync(dirname(this.file), { recursive: true });
    const fd = openSync(this.file, 'a', 0o600);
    this.bytes = fstatSync(fd).size;
    return fd;
  }

  private rotate(): void {
    this.close();
    renameSync(this.file, `${this.file}.1`);
  }
}
