/** One at a time, in the order asked. Who no longer wants to wait leaves the line without holding it up. */
export class Turns {
  private readonly line: { begin: () => void }[] = [];
  private taken = false;

  get waiting(): number {
    return this.line.length;
  }

  /** @returns what ends the turn; to be called exactly once. @throws the reason of `signal` */
  async take(signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    if (this.taken) {
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
    this.taken = true;
    return () => {
      const next = this.line.shift();
      // Stays taken: it passes from hand to hand, so nobody who asks now gets in between.
      if (next) next.begin();
      else this.taken = false;
    };
  }
}
