/** At most `width` at a time, begun in the order asked. Who no longer wants to wait leaves the line without holding it up. */
export class Turns {
  private readonly line: { begin: () => void }[] = [];
  private taken = 0;
  private width = 1;

  get waiting(): number {
    return this.line.length;
  }

  /** How many may have their turn at once from now on. */
  allow(width: number): void {
    this.width = width;
    this.next();
  }

  /** @returns what ends the turn; to be called exactly once. @throws the reason of `signal` */
  async take(signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    if (this.taken < this.width && this.line.length === 0) this.taken += 1;
    else {
      await new Promise<void>((resolve, reject) => {
        const place = { begin: () => {
          signal.removeEventListener('abort', leave);
          resolve();
        } };
        const leave = () => {
          this.line.splice(this.line.indexOf(place), 1);
          reject(signal.reason as Error);
        };
        signal.addEventListener('abort', leave, { once: true });
        this.line.push(place);
      });
    }
    return () => {
      this.taken -= 1;
      this.next();
    };
  }

  private next(): void {
    while (this.taken < this.width && this.line.length > 0) {
      // Taken for the one in line, so that nobody who asks now gets in between.
      this.taken += 1;
      this.line.shift()!.begin();
    }
  }
}
