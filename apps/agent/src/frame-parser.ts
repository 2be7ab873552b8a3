/**
 * Cuts a stream of raw frames of one size into frames, wherever its chunks begin and end. Rows may be padded; the padding is left out. Of several frames in
 * one chunk only the last comes out: who looks wants the newest.
 */
export class FrameParser {
  private frame: Buffer;
  /** Bytes of the frame at hand that are here, padding included. */
  private filled = 0;
  private readonly stride: number;
  private readonly height: number;
  /** Frames seen, those that were dropped included. */
  seen = 0;

  constructor(private readonly row: number, height: number, stride = row) {
    if (row < 1 || height < 1 || stride < row) throw new RangeError(`no frame has rows of ${row} bytes, ${stride} apart, ${height} of them`);
    this.stride = stride;
    this.height = height;
    this.frame = Buffer.allocUnsafe(row * height);
  }

  /** @returns the last frame that is whole now, in memory of its own; undefined while none is */
  push(chunk: Uint8Array): Buffer | undefined {
    const size = this.stride * this.height;
    let newest: Buffer | undefined;
    let at = 0;
    // What is followed by a whole frame in the same chunk is stale already: it is counted and not copied.
    const ends = this.filled + chunk.length;
    const whole = Math.floor(ends / size);
    if (whole > 1) {
      this.seen += whole - 1;
      at = (whole - 1) * size - this.filled;
      this.filled = 0;
    }
    while (at < chunk.length) {
      const take = Math.min(size - this.filled, chunk.length - at);
      this.copy(chunk, at, take);
      at += take;
      this.filled += take;
      if (this.filled < size) break;
      newest = this.frame;
      this.frame = Buffer.allocUnsafe(this.row * this.height);
      this.filled = 0;
      this.seen += 1;
    }
    return newest;
  }

  private copy(chunk: Uint8Array, from: number, bytes: number): void {
    if (this.stride === this.row) {
      this.frame.set(chunk.subarray(from, from + bytes), this.filled);
      return;
    }
    for (let done = 0; done < bytes;) {
      const [line, column] = [Math.floor((this.filled + done) / this.stride), (this.filled + done) % this.stride];
      const take = Math.min(this.stride - column, bytes - done);
      const useful = Math.max(0, Math.min(take, this.row - column));
      if (useful > 0) this.frame.set(chunk.subarray(from + done, from + done + useful), line * this.row + column);
      done += take;
    }
  }
}
